//! Layers of settings, from where each came, and how they lie over one another.
//!
//! A [`Layer`] takes names and raw values and keeps what the table accepts; [`Settings`] is all layers
//! merged: one value and one origin for every key. It does not read files, variables or flags.

use std::{fmt, path::PathBuf};

use super::{
    Config,
    foreign::foreign,
    kind::{Kind, Raw, Value, quote},
    schema::{Held, KEYS, Key, SECTIONS, environment_name, find, is_section},
    value::parse_host,
};
use crate::error::{Code, Error, Result};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A built-in profile.
    Profile(&'static str),
    /// A line of a file, from 1.
    File { path: PathBuf, line: usize },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::File { path, line } => {
                // A path may hold a line break, and this text goes into one-line messages and comments.
                let path = path.to_string_lossy().replace(char::is_control, "?");
                write!(f, "{path} line {line}")
            }
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// An error about the configuration; `message` is the one thing the operator reads.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidConfig, message)
}

/// One value of a layer.
#[derive(Clone, Debug)]
struct Setting {
    key: &'static str,
    /// The name it was given by, for messages.
    spelling: String,
    value: Value,
    origin: Origin,
    /// The port that stood behind a bind address: it gives way to nothing, but may be said twice.
    from_address: bool,
}

/// The settings of one layer; a key stands in it at most once.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    settings: Vec<Setting>,
}

impl Layer {
    /// Adds a value under a present or an older name.
    ///
    /// # Errors
    /// `InvalidConfig`: the name is unknown or known from elsewhere, the value is not accepted, or the
    /// layer has the key already.
    pub fn add(&mut self, name: &str, raw: &Raw, origin: Origin) -> Result<()> {
        let Some((key, scale)) = find(name) else { return Err(unknown(name, &origin)) };
        if let Kind::Bind { port: port_key } = key.kind
            && let Raw::Text(text) | Raw::Untyped(text) = raw
            && let Some((_, Some(port))) = parse_host(text)
        {
            self.insert(port_key, name, Value::Int(port.into()), origin.clone(), true)?;
        }
        let value = read(key, scale, raw).map_err(|accepted| refused(key, name, raw, &origin, &accepted))?;
        self.insert(key.name, name, value, origin, false)
    }

    /// Whether the layer says anything about a key.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.settings.iter().any(|setting| setting.key == key)
    }

    /// The profile that the layer asks for.
    #[must_use]
    pub fn profile(&self) -> Option<&str> {
        self.settings.iter().find_map(|setting| match &setting.value {
            Value::Text(name) if setting.key == "profile" => Some(&name[..]),
            _ => None,
        })
    }

    fn insert(
        &mut self,
        key: &'static str,
        name: &str,
        value: Value,
        origin: Origin,
        from_address: bool,
    ) -> Result<()> {
        if let Some(other) = self.settings.iter_mut().find(|setting| setting.key == key) {
            if (from_address || other.from_address) && value == other.value {
                return Ok(());
            }
            return Err(invalid(format!(
                "{key} is set twice: by {} ({}) and by {name} ({origin}); accepted is one of the two",
                other.spelling, other.origin
            )));
        }
        self.settings.push(Setting { key, spelling: name.into(), value, origin, from_address });
        Ok(())
    }
}

/// Reads a value, or says what is accepted and why this one is not.
fn read(key: &Key, scale: u64, raw: &Raw) -> Result<Value, String> {
    let kind = in_units_of(key.kind, scale);
    let value = kind.read(raw).map(|value| match value {
        Value::Int(number) => Value::Int(number * scale),
        value => value,
    });
    match key.held {
        Held::NotBuilt { .. } => {
            let today = key.value_in(&Config::default());
            if value.as_ref() == Some(&today) {
                return Ok(today);
            }
            Err(format!("this is not built yet: accepted value is {}", key.kind.write(&today)))
        }
        Held::Config { .. } => value.ok_or_else(|| {
            let accepts = kind.accepts();
            match (&kind, raw) {
                (Kind::OneOf { names, planned }, Raw::Text(text) | Raw::Untyped(text)) => {
                    if planned.contains(&&text[..]) {
                        format!("this is not built yet: accepted is {accepts}")
                    } else {
                        let near = nearest(text, names.iter().copied());
                        format!(
                            "accepted is {accepts}{}",
                            near.map(|near| format!(" (the nearest is {near})")).unwrap_or_default()
                        )
                    }
                }
                _ => format!("accepted is {accepts}"),
            }
        }),
    }
}

/// The bounds of a key as seen through an older name that counts in larger units.
fn in_units_of(kind: Kind, scale: u64) -> Kind {
    match kind {
        Kind::Int { min, max } => Kind::Int { min: min.div_ceil(scale), max: max / scale },
        kind => kind,
    }
}

fn refused(key: &Key, name: &str, raw: &Raw, origin: &Origin, accepted: &str) -> Error {
    let shown = if key.secret { "(a secret)".into() } else { raw.shown() };
    let now = match find(name) {
        Some((_, scale)) if scale > 1 => format!(", an older name of {} in units of {scale},", key.name),
        _ if name != key.name => format!(", an older name of {},", key.name),
        _ => String::new(),
    };
    invalid(format!("{name}{now} is {shown} ({origin}): {accepted}"))
}

fn unknown(name: &str, origin: &Origin) -> Error {
    if let Some(instead) = foreign(name) {
        return invalid(format!("{name} ({origin}) is not a setting here: {instead}"));
    }
    let (name, near) = match origin {
        Origin::Environment(variable) => {
            let variables: Vec<String> = KEYS.iter().map(|key| environment_name(key.name)).collect();
            (&variable[..], nearest(variable, variables.iter().map(String::as_str)).map(str::to_owned))
        }
        _ => (name, nearest_key(name).map(str::to_owned)),
    };
    invalid(format!(
        "{} ({origin}) is not a setting; {}",
        quote(name).trim_matches('"'),
        near.map_or("--generate-config - shows all there are".into(), |near| format!(
            "the nearest is {near}"
        ))
    ))
}

/// An unknown section without keys, or a value where a section belongs.
pub(super) fn not_a_section(name: &str, origin: &Origin) -> Error {
    if is_section(name) {
        return invalid(format!("{name} ({origin}) is a section: accepted is [{name}] with keys below it"));
    }
    if find(name).is_some() {
        return invalid(format!("{name} ({origin}) is a key: accepted is {name} = VALUE, not a section"));
    }
    if let Some(instead) = foreign(name) {
        return invalid(format!("{name} ({origin}) is not a setting here: {instead}"));
    }
    let near = nearest(name, SECTIONS.iter().map(|(section, _)| *section));
    invalid(format!(
        "[{}] ({origin}) is not a section; {}",
        quote(name).trim_matches('"'),
        near.map_or("--generate-config - shows all there are".into(), |near| format!(
            "the nearest is [{near}]"
        ))
    ))
}

/// The key most like a name. Names that end alike are near, wherever they stand, since the usual
/// mistake besides a slip of the finger is the wrong section.
fn nearest_key(name: &str) -> Option<&'static str> {
    let leaf = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |candidate: &str| {
        let whole = strsim::normalized_damerau_levenshtein(name, candidate);
        let ends = strsim::normalized_damerau_levenshtein(&leaf(name), &leaf(candidate));
        whole.max(0.9 * ends) + 0.1 * whole
    };
    let spellings = KEYS.iter().flat_map(|key| key.spellings().map(move |(spelling, _)| (key, spelling)));
    spellings
        .map(|(key, spelling)| (key, likeness(spelling)))
        .filter(|(_, likeness)| *likeness >= LIKENESS_MIN)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(key, _)| key.name)
}

/// Names less alike than this have nothing to do with one another: better no advice than a far-fetched one.
const LIKENESS_MIN: f64 = 0.5;

/// The candidate most like a text, if one is like it at all.
pub(super) fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (candidate, strsim::normalized_damerau_levenshtein(text, candidate)))
        .filter(|(_, likeness)| *likeness >= LIKENESS_MIN)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(candidate, _)| candidate)
}

/// All layers merged: the configuration, and where each value came from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The values.
    pub config: Config,
    /// The origin of each key's value, in the order of [`KEYS`].
    origins: Vec<Origin>,
}

impl Settings {
    /// Lays the layers over the defaults; later layers win.
    #[must_use]
    pub fn merge(layers: &[Layer]) -> Self {
        let mut settings = Self { config: Config::default(), origins: vec![Origin::Default; KEYS.len()] };
        for layer in layers {
            settings.lay(layer);
        }
        settings
    }

    /// Where a key's value came from.
    #[must_use]
    pub fn origin(&self, name: &str) -> &Origin {
        KEYS.iter().position(|key| key.name == name).map_or(&Origin::Default, |at| &self.origins[at])
    }

    fn lay(&mut self, layer: &Layer) {
        for setting in &layer.settings {
            let Some(at) = KEYS.iter().position(|key| key.name == setting.key) else { continue };
            if let Held::Config { set, .. } = KEYS[at].held {
                set(&mut self.config, &setting.value);
            }
            self.origins[at] = setting.origin.clone();
        }
    }
}
