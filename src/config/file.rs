//! Configuration files: TOML in, a layer out.
//!
//! Every value keeps the line it stood on, so that a message can name it. Values are taken in the order
//! of the file: the first mistake is the one reported.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::{
    kind::Raw,
    layers::{Layer, Origin, invalid, not_a_section},
    profile,
    schema::is_section,
};
use crate::error::Result;

/// The layer that a file on disk holds.
///
/// # Errors
/// `InvalidConfig`: the file cannot be read, is not UTF-8 or not TOML, or a setting in it is wrong.
pub fn file_layer(path: &Path) -> Result<Layer> {
    let bytes = std::fs::read(path).map_err(|error| {
        invalid(format!("the configuration file {} cannot be read: {error}", path.display()))
    })?;
    bytes_layer(&bytes, |line| Origin::File { path: path.into(), line })
}

/// The layer of a built-in profile.
///
/// # Errors
/// `InvalidConfig`: there is no such profile, or its file is wrong, which a test rules out.
pub fn profile_layer(name: &str) -> Result<Layer> {
    let known = profile::NAMES.into_iter().find(|known| *known == name);
    let (Some(name), Some(text)) = (known, profile::text(name)) else {
        return Err(invalid(format!("there is no profile {name}")));
    };
    bytes_layer(text.as_bytes(), |_| Origin::Profile(name))
}

/// The layer in the bytes of a file; `origin` makes the origin of a line.
///
/// # Errors
/// `InvalidConfig`: the bytes are not UTF-8 or not TOML, or a setting in them is wrong.
pub fn bytes_layer(bytes: &[u8], origin: impl Fn(usize) -> Origin) -> Result<Layer> {
    let line_at = |offset: usize| 1 + bytes.iter().take(offset).filter(|byte| **byte == b'\n').count();
    let text = std::str::from_utf8(bytes).map_err(|error| {
        invalid(format!("{}: this is not UTF-8 text", origin(line_at(error.valid_up_to()))))
    })?;
    // The error's own text quotes the line, which may hold a secret; its message does not.
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_at(error.span().map_or(0, |span| span.start));
        invalid(format!("{}: this is not TOML: {}", origin(line), error.message().replace('\n', ", ")))
    })?;
    let mut leaves = Vec::new();
    collect("", table.get_ref(), &mut leaves);
    leaves.sort_by_key(|leaf| leaf.offset);
    let mut layer = Layer::default();
    for leaf in leaves {
        let origin = origin(line_at(leaf.offset));
        match leaf.raw {
            Some(raw) if !is_section(&leaf.name) => layer.add(&leaf.name, &raw, origin)?,
            _ => return Err(not_a_section(&leaf.name, &origin)),
        }
    }
    Ok(layer)
}

/// A key with its value, or a table that is no section, with none.
struct Leaf {
    name: String,
    offset: usize,
    raw: Option<Raw>,
}

fn collect(prefix: &str, table: &DeTable<'_>, leaves: &mut Vec<Leaf>) {
    for (key, value) in table {
        let name =
            if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        let offset = key.span().start;
        match value.get_ref() {
            DeValue::Table(inner) => {
                let known_as_key = super::schema::find(&name).is_some();
                if known_as_key || inner.is_empty() && !is_section(&name) {
                    leaves.push(Leaf { name, offset, raw: None });
                } else {
                    collect(&name, inner, leaves);
                }
            }
            value => leaves.push(Leaf { name, offset, raw: Some(raw(value)) }),
        }
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Int(number),
            Err(_) => Raw::Other("an integer beyond all bounds".into()),
        },
        DeValue::Boolean(value) => Raw::Bool(*value),
        DeValue::Float(number) => Raw::Other(number.as_str().into()),
        DeValue::Datetime(time) => Raw::Other(time.to_string()),
        DeValue::Array(items) => items
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .map_or_else(|| Raw::Other("a list with other things than texts".into()), Raw::List),
        DeValue::Table(_) => Raw::Other("a table".into()),
    }
}
