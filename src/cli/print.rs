//! How answers look: a table for people, JSON for scripts.
//!
//! JSON is one document a command, on one line; a watch is a line for every record. Bytes that are UTF-8 stand as `key` and `value`, others as
//! `key_b64` and `value_b64`. Tables escape what a terminal would take as a command.

use std::io::{self, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::ValueEnum;
use serde_json::{Map, Value as Json, json};

mod verdict;

pub use self::verdict::Visited;
pub(super) use self::verdict::{Terms, left_behind_json};
use crate::{
    client::{Item, Version, Written},
    types::{Op, Record},
};

/// Characters of a value that a table shows.
const VALUE_CHARS_MAX: usize = 80;

/// What answers look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

/// Writes answers to `out`, buffered. An error is the reader's going away or a full disk.
#[derive(Debug)]
pub struct Printer<W: Write> {
    format: Format,
    out: io::BufWriter<W>,
    items: usize,
    keys_only: bool,
}

impl<W: Write> Printer<W> {
    pub(super) fn new(format: Format, out: W) -> Self {
        Self { format, out: io::BufWriter::with_capacity(1 << 16, out), items: 0, keys_only: false }
    }

    pub(super) const fn format(&self) -> Format {
        self.format
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    pub(super) fn written(&mut self, key: &[u8], written: Written) -> io::Result<()> {
        if self.format == Format::Table {
            let note = if written.replayed { " (replayed)" } else { "" };
            return writeln!(self.out, "seq {}{note}", written.seq);
        }
        let mut object = Map::new();
        insert_bytes(&mut object, "key", key);
        object.insert("seq".to_owned(), written.seq.0.into());
        object.insert("replayed".to_owned(), written.replayed.into());
        self.line(&Json::Object(object))
    }

    pub(super) fn item(&mut self, item: &Item) -> io::Result<()> {
        self.line(&item_json(item))
    }

    pub(super) fn begin_items(&mut self, keys_only: bool) -> io::Result<()> {
        self.keys_only = keys_only;
        match self.format {
            Format::Table if keys_only => Ok(()),
            Format::Table => writeln!(self.out, "{:>12}  {:<32}  VALUE", "SEQ", "KEY"),
            Format::Json => write!(self.out, "{{\"items\":["),
        }
    }

    /// One item of a list. A list is printed page by page, so that it may be longer than memory.
    pub(super) fn list_item(&mut self, item: &Item) -> io::Result<()> {
        self.items += 1;
        match self.format {
            Format::Table if self.keys_only => writeln!(self.out, "{}", printable(&item.key, usize::MAX)),
            Format::Table => {
                let value = printable(item.value.as_deref().unwrap_or_default(), VALUE_CHARS_MAX);
                writeln!(self.out, "{:>12}  {:<32}  {value}", item.seq.0, printable(&item.key, usize::MAX))
            }
            Format::Json => {
                let comma = if self.items > 1 { "," } else { "" };
                write!(self.out, "{comma}{}", item_json(item))
            }
        }
    }

    pub(super) fn end_items(&mut self, next_cursor: Option<&str>) -> io::Result<()> {
        match self.format {
            Format::Table => Ok(()),
            Format::Json => writeln!(self.out, "],\"next_cursor\":{}}}", json!(next_cursor)),
        }
    }

    pub(super) fn history(&mut self, key: &[u8], versions: &[Version]) -> io::Result<()> {
        if self.format == Format::Table {
            writeln!(self.out, "{:>12}  {:<6}  {:>13}  VALUE", "SEQ", "OP", "TIMESTAMP_MS")?;
            for version in versions {
                let time = version.timestamp_ms.map_or_else(String::new, |ms| ms.to_string());
                let value = printable(version.value.as_deref().unwrap_or_default(), VALUE_CHARS_MAX);
                writeln!(self.out, "{:>12}  {:<6}  {time:>13}  {value}", version.seq.0, version.op.name())?;
            }
            return Ok(());
        }
        let mut object = Map::new();
        insert_bytes(&mut object, "key", key);
        object.insert("versions".to_owned(), versions.iter().map(version_json).collect());
        self.line(&Json::Object(object))
    }

    /// A document of the server: as it is in JSON, one `path.to.field  value` a line in a table.
    pub(super) fn document(&mut self, document: &Json) -> io::Result<()> {
        if self.format == Format::Json {
            return self.line(document);
        }
        let mut rows = Vec::new();
        flatten(String::new(), document, &mut rows);
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in rows {
            writeln!(self.out, "{name:<width$}  {value}")?;
        }
        Ok(())
    }

    /// Begins a watch.
    pub(super) fn begin_records(&mut self) -> io::Result<()> {
        if self.format == Format::Table {
            writeln!(self.out, "{:>12}  {:<6}  {:<32}  VALUE", "SEQ", "OP", "KEY")?;
        }
        self.flush()
    }

    /// One record of a watch.
    pub(super) fn record(&mut self, record: &Record) -> io::Result<()> {
        let Record { seq, op, timestamp_ms, key, value } = record;
        if self.format == Format::Table {
            let (key, value) = (printable(key, usize::MAX), printable(value, VALUE_CHARS_MAX));
            return writeln!(self.out, "{:>12}  {:<6}  {key:<32}  {value}", seq.0, op.name());
        }
        let mut object = Map::new();
        object.insert("seq".to_owned(), seq.0.into());
        object.insert("op".to_owned(), op.name().into());
        object.insert("timestamp_ms".to_owned(), (*timestamp_ms).into());
        insert_bytes(&mut object, "key", key);
        if *op == Op::Put {
            insert_bytes(&mut object, "value", value);
        }
        self.line(&Json::Object(object))
    }

    /// Shows what was printed so far.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn line(&mut self, document: &Json) -> io::Result<()> {
        writeln!(self.out, "{document}")
    }
}

fn item_json(item: &Item) -> Json {
    let mut object = Map::new();
    insert_bytes(&mut object, "key", &item.key);
    if let Some(value) = &item.value {
        insert_bytes(&mut object, "value", value);
    }
    object.insert("seq".to_owned(), item.seq.0.into());
    if let Some(time) = item.timestamp_ms {
        object.insert("timestamp_ms".to_owned(), time.into());
    }
    Json::Object(object)
}

fn version_json(version: &Version) -> Json {
    let mut object = Map::new();
    object.insert("seq".to_owned(), version.seq.0.into());
    object.insert("op".to_owned(), version.op.name().into());
    if let Some(time) = version.timestamp_ms {
        object.insert("timestamp_ms".to_owned(), time.into());
    }
    if let Some(value) = &version.value {
        insert_bytes(&mut object, "value", value);
    }
    Json::Object(object)
}

fn insert_bytes(object: &mut Map<String, Json>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_b64"), STANDARD.encode(bytes).into()),
    };
}

/// Text as it is; control characters and bytes that are no text as `\n`, `\u{1b}`, `\xff`.
pub(super) fn printable(bytes: &[u8], chars_max: usize) -> String {
    let mut out = String::with_capacity(bytes.len().min(chars_max));
    let mut chars = 0;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if chars == chars_max {
                out.push('…');
                return out;
            }
            chars += 1;
            if character.is_control() { out.extend(character.escape_default()) } else { out.push(character) }
        }
        for byte in chunk.invalid() {
            if chars == chars_max {
                out.push('…');
                return out;
            }
            chars += 1;
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

fn flatten(name: String, value: &Json, rows: &mut Vec<(String, String)>) {
    let join = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        Json::Object(fields) if !fields.is_empty() => {
            for (field, value) in fields {
                flatten(join(field), value, rows);
            }
        }
        Json::Array(values) if !values.is_empty() => {
            for (number, value) in values.iter().enumerate() {
                flatten(join(&number.to_string()), value, rows);
            }
        }
        Json::String(text) => rows.push((name, printable(text.as_bytes(), usize::MAX))),
        Json::Null => rows.push((name, "-".to_owned())),
        other => rows.push((name, other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::Seq;

    fn printed(format: Format, print: impl FnOnce(&mut Printer<&mut Vec<u8>>)) -> String {
        let mut bytes = Vec::new();
        let mut printer = Printer::new(format, &mut bytes);
        print(&mut printer);
        printer.finish().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn item(key: &'static [u8], value: Option<&'static [u8]>) -> Item {
        let value = value.map(Bytes::from_static);
        Item { key: Bytes::from_static(key), value, seq: Seq(4), timestamp_ms: Some(5) }
    }

    #[test]
    fn a_terminal_is_never_given_control_bytes() {
        assert_eq!(printable(b"a\x1b[2J\n\xff\xc3\xa4", 80), "a\\u{1b}[2J\\n\\xff\u{e4}");
        assert_eq!(printable(b"abcdef", 3), "abc…");
    }

    #[test]
    fn json_tells_text_from_bytes() {
        let text = printed(Format::Json, |p| p.item(&item(b"k", Some(b"v\n"))).unwrap());
        assert_eq!(text, "{\"key\":\"k\",\"value\":\"v\\n\",\"seq\":4,\"timestamp_ms\":5}\n");
        let text = printed(Format::Json, |p| p.item(&item(b"\xff", Some(b"\xff"))).unwrap());
        assert_eq!(text, "{\"key_b64\":\"/w==\",\"value_b64\":\"/w==\",\"seq\":4,\"timestamp_ms\":5}\n");
    }

    #[test]
    fn a_list_is_one_document_over_all_pages() {
        let text = printed(Format::Json, |p| {
            p.begin_items(true).unwrap();
            p.list_item(&item(b"a", None)).unwrap();
            p.list_item(&item(b"b", None)).unwrap();
            p.end_items(Some("c\"")).unwrap();
        });
        let document: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(document["items"][1]["key"], "b");
        assert_eq!(document["next_cursor"], "c\"");
    }

    #[test]
    fn documents_become_rows() {
        let text = printed(Format::Table, |p| {
            p.document(&json!({"role":"leader","log":{"applied":3},"members":[{"id":1}],"error":null}))
                .unwrap();
        });
        assert_eq!(text, "role          leader\nlog.applied   3\nmembers.0.id  1\nerror         -\n");
    }

    #[test]
    fn history_shows_deletes_without_a_value() {
        let versions = [Version { seq: Seq(9), op: Op::Delete, timestamp_ms: Some(1), value: None }];
        let text = printed(Format::Json, |p| p.history(b"k", &versions).unwrap());
        assert_eq!(text, "{\"key\":\"k\",\"versions\":[{\"seq\":9,\"op\":\"delete\",\"timestamp_ms\":1}]}\n");
    }
}
