//! `application/x-ndjson`: one JSON object a line.
//!
//! Takes pieces of a body in order, appends to a [`Draft`]. A line that lies whole in its piece is parsed
//! where it lies, with its strings borrowed wherever they have no escapes. It does not own the body's size
//! limit: the caller counts.

use super::{at, malformed};
use crate::{
    api::fields::{Fields, is_object},
    error::{Error, Result},
    state::batch::Draft,
};

/// Reads lines from a body that arrives in pieces.
#[derive(Debug, Default)]
pub struct Ndjson {
    /// The line that was cut by the end of the last piece.
    carry: Vec<u8>,
    /// Number of the last line begun, from 1 as editors count.
    line: u64,
}

impl Ndjson {
    /// Bytes of a line whose end has not come.
    pub fn held_bytes(&self) -> usize {
        self.carry.len()
    }

    /// Reads all lines that end in this piece.
    ///
    /// # Errors
    /// `Malformed`, `InvalidKey` or `TooLarge`, naming the line by its number from 1.
    pub fn push(&mut self, mut piece: &[u8], draft: &mut Draft) -> Result<()> {
        while let Some(end) = memchr::memchr(b'\n', piece) {
            let (line, rest) = (&piece[..end], &piece[end + 1..]);
            if self.carry.is_empty() {
                self.line(line, draft)?;
            } else {
                self.carry.extend_from_slice(line);
                let carried = std::mem::take(&mut self.carry);
                self.line(&carried, draft)?;
            }
            piece = rest;
        }
        self.carry.extend_from_slice(piece);
        Ok(())
    }

    /// Ends the body; the last line needs no newline.
    ///
    /// # Errors
    /// As [`Ndjson::push`].
    pub fn finish(mut self, draft: &mut Draft) -> Result<()> {
        let last = std::mem::take(&mut self.carry);
        self.line(&last, draft)
    }

    fn line(&mut self, line: &[u8], draft: &mut Draft) -> Result<()> {
        self.line += 1;
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        operation(line, draft).map_err(|error| at(format_args!("line {}", self.line), &error))
    }
}

fn operation(line: &[u8], draft: &mut Draft) -> Result<()> {
    if !is_object(line) {
        return Err(malformed("not a JSON object"));
    }
    let mut fields: Fields<'_> = serde_json::from_slice(line).map_err(|error| json_error(&error))?;
    let (key, value) = (fields.take_key()?, fields.take_value()?);
    match fields.op.as_ref().map_or("put", |op| &op.0) {
        "put" => draft.put(&key, &value.ok_or_else(|| malformed("a put needs a \"value\""))?),
        "delete" if value.is_some() => Err(malformed("a delete has no \"value\"")),
        "delete" => draft.delete(&key),
        other => Err(malformed(format!("\"op\" is \"put\" or \"delete\", not {other:?}"))),
    }
}

/// serde_json's message without its line number: there is one line, and ours is the number that counts.
fn json_error(error: &serde_json::Error) -> Error {
    let text = error.to_string();
    let message = text.rfind(" at line ").map_or(&text[..], |end| &text[..end]);
    malformed(format!("column {}: {message}", error.column()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        api::decode::testing::{cut_into_pieces, same_outcome, seen},
        error::Code,
        types::Op,
    };

    fn decode(pieces: &[&[u8]]) -> Result<Draft> {
        let (mut lines, mut draft) = (Ndjson::default(), Draft::new());
        for piece in pieces {
            lines.push(piece, &mut draft)?;
        }
        lines.finish(&mut draft)?;
        Ok(draft)
    }

    #[test]
    fn all_spellings() {
        let body = concat!(
            "{\"key\":\"a\",\"value\":\"1\"}\r\n",
            "\n",
            "  \r\n",
            "{\"op\":\"put\",\"key_b64\":\"/w==\",\"value_b64\":\"AAE=\"}\n",
            "{\"op\":\"put\",\"key\":\"esc\\u00e9\\n\",\"value\":\"\"}\n",
            "{\"op\":\"delete\",\"key\":\"a\",\"value\":null}",
        );
        let ops = seen(decode(&[body.as_bytes()]).unwrap());
        assert_eq!(
            ops,
            [
                (Op::Put, b"a".to_vec(), b"1".to_vec()),
                (Op::Put, vec![0xff], vec![0, 1]),
                (Op::Put, "esc\u{e9}\n".as_bytes().to_vec(), vec![]),
                (Op::Delete, b"a".to_vec(), vec![]),
            ]
        );
    }

    #[test]
    fn each_rule_is_named_with_its_line() {
        for (line, code, says) in [
            (&b"{"[..], Code::Malformed, "EOF"),
            (b"[]", Code::Malformed, "not a JSON object"),
            (b"[\"put\",\"k\",null,\"v\"]", Code::Malformed, "not a JSON object"),
            (b"{\"key\":\"k\"}", Code::Malformed, "needs a \"value\""),
            (b"{\"value\":\"v\"}", Code::Malformed, "\"key\" is missing"),
            (b"{\"key\":\"k\",\"value\":1}", Code::Malformed, "string"),
            (b"{\"key\":\"k\",\"valeu\":\"v\"}", Code::Malformed, "valeu"),
            (b"{\"key\":\"k\",\"key\":\"k\",\"value\":\"v\"}", Code::Malformed, "duplicate"),
            (b"{\"key\":\"k\",\"key_b64\":\"aw==\",\"value\":\"v\"}", Code::Malformed, "not both"),
            (b"{\"key\":\"k\",\"value\":\"v\",\"value_b64\":\"dg==\"}", Code::Malformed, "not both"),
            (b"{\"key\":\"k\",\"value_b64\":\"!\"}", Code::Malformed, "\"value_b64\" is not base64"),
            (b"{\"op\":\"PUT\",\"key\":\"k\",\"value\":\"v\"}", Code::Malformed, "\"PUT\""),
            (b"{\"op\":\"delete\",\"key\":\"k\",\"value\":\"v\"}", Code::Malformed, "no \"value\""),
            (b"{\"key\":\"k\",\"value\":\"\xff\"}", Code::Malformed, "unicode"),
            (b"{\"key\":\"\",\"value\":\"v\"}", Code::InvalidKey, "at least one byte"),
            (b"{\"key\":\"k\",\"value\":\"v\"} x", Code::Malformed, "trailing"),
        ] {
            let mut body = b"{\"key\":\"k\",\"value\":\"v\"}\n\n".to_vec();
            body.extend_from_slice(line);
            let error = decode(&[&body]).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().starts_with("line 3: ") && error.message().contains(says), "{error}");
            assert!(!error.message().contains("at line"), "{error}");
        }
    }

    fn any_line() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => (".{1,8}", ".{0,12}").prop_map(|(key, value)| serde_json::json!({"key": key, "value": value}).to_string()),
            2 => ".{1,8}".prop_map(|key| serde_json::json!({"op": "delete", "key": key}).to_string()),
            1 => Just(String::new()),
        ]
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_operations(lines in prop::collection::vec(any_line(), 0..6), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let whole = lines.join("\n");
            same_outcome(decode(&[whole.as_bytes()]), decode(&cut_into_pieces(whole.as_bytes(), &cuts)));
        }

        #[test]
        fn damage_never_panics_and_is_told_alike_however_split(lines in prop::collection::vec(any_line(), 0..6), noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let mut whole = lines.join("\n").into_bytes();
            whole.push(b' ');
            for (at, byte) in noise {
                let at = at.index(whole.len());
                whole[at] = byte;
            }
            same_outcome(decode(&[&whole]), decode(&cut_into_pieces(&whole, &cuts)));
        }
    }
}
