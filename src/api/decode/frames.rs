//! `application/vnd.scribe.batch`: a run of binary frames.
//!
//! Takes pieces of a body in order, appends to a [`Draft`]. This is the bulk path at its fastest: a frame
//! that lies whole in its piece is read where it lies, and only one that straddles two pieces is put
//! together first. It does not own the body's size limit: the caller counts.
//!
//! ```text
//! op u8 (1 put, 2 delete) | 0 u8 | key_len u16 | value_len u32 | key | value      little-endian
//! ```
//!
//! The fixed part comes first so that one bounds check tells whether the frame is whole.

use super::{at, malformed};
use crate::{
    error::{Code, Error, Result},
    state::batch::Draft,
    types::{KEY_BYTES_MAX, Op, VALUE_BYTES_MAX},
};

/// Size of a frame's fixed part.
const HEAD_BYTES: usize = 8;

/// Reads frames from a body that arrives in pieces.
#[derive(Debug, Default)]
pub struct Frames {
    /// The frame that was cut by the end of the last piece.
    carry: Vec<u8>,
    /// How many frames were read.
    index: u64,
}

/// A frame's fixed part, checked.
#[derive(Clone, Copy)]
struct Head {
    op: Op,
    key_len: usize,
    value_len: usize,
}

impl Head {
    #[inline]
    fn read(bytes: &[u8; HEAD_BYTES]) -> Result<Self> {
        let [op, reserved, key0, key1, value0, value1, value2, value3] = *bytes;
        let head = Self {
            op: Op::from_byte(op).ok_or_else(|| bad_op(op))?,
            key_len: usize::from(u16::from_le_bytes([key0, key1])),
            value_len: u32::from_le_bytes([value0, value1, value2, value3]) as usize,
        };
        if reserved != 0 {
            return Err(malformed("the reserved byte is not 0"));
        }
        // Lengths are checked before the bytes they announce are waited for, so that a wrong one is named
        // as such and never makes us gather 4 GiB.
        if head.key_len == 0 || head.key_len > KEY_BYTES_MAX || head.value_len > VALUE_BYTES_MAX {
            return Err(bad_length(head));
        }
        if head.op == Op::Delete && head.value_len != 0 {
            return Err(malformed("a delete has no value, this one announces one"));
        }
        Ok(head)
    }

    fn frame_bytes(self) -> usize {
        HEAD_BYTES + self.key_len + self.value_len
    }

    /// Appends the operation; `body` is exactly key and value.
    #[inline]
    fn push(self, body: &[u8], draft: &mut Draft) -> Result<()> {
        let (key, value) = body.split_at(self.key_len);
        match self.op {
            Op::Put => draft.put(key, value),
            Op::Delete => draft.delete(key),
        }
    }
}

#[cold]
fn bad_op(op: u8) -> Error {
    malformed(format!("the operation is 1 (put) or 2 (delete), not {op}"))
}

#[cold]
fn bad_length(head: Head) -> Error {
    if head.value_len > VALUE_BYTES_MAX {
        let message = format!("a value has at most {VALUE_BYTES_MAX} bytes, this one has {}", head.value_len);
        return Error::new(Code::TooLarge, message);
    }
    let message = format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one has {}", head.key_len);
    Error::new(Code::InvalidKey, message)
}

impl Frames {
    /// Reads all frames that end in this piece.
    ///
    /// # Errors
    /// `Malformed`, `InvalidKey` or `TooLarge`, naming the record by its number from 0.
    pub fn push(&mut self, mut piece: &[u8], draft: &mut Draft) -> Result<()> {
        if !self.carry.is_empty() {
            piece = self.finish_carried(piece, draft)?;
        }
        while let Some((head, rest)) = piece.split_first_chunk::<HEAD_BYTES>() {
            let head = Head::read(head).map_err(|error| self.here(&error))?;
            let body_len = head.key_len + head.value_len;
            if rest.len() < body_len {
                break;
            }
            let (body, rest) = rest.split_at(body_len);
            head.push(body, draft).map_err(|error| self.here(&error))?;
            self.index += 1;
            piece = rest;
        }
        self.carry.extend_from_slice(piece);
        Ok(())
    }

    /// Completes the frame that the last piece cut, as far as this piece allows; gives what is left of it.
    fn finish_carried<'a>(&mut self, mut piece: &'a [u8], draft: &mut Draft) -> Result<&'a [u8]> {
        self.take_until(&mut piece, HEAD_BYTES);
        let Some(head) = self.carry.first_chunk::<HEAD_BYTES>() else { return Ok(piece) };
        let head = Head::read(head).map_err(|error| self.here(&error))?;
        self.take_until(&mut piece, head.frame_bytes());
        if self.carry.len() == head.frame_bytes() {
            head.push(&self.carry[HEAD_BYTES..], draft).map_err(|error| self.here(&error))?;
            self.index += 1;
            if self.carry.capacity() > CARRY_KEPT_BYTES {
                self.carry = Vec::new();
            }
            self.carry.clear();
        }
        Ok(piece)
    }

    fn take_until(&mut self, piece: &mut &[u8], len: usize) {
        let missing = len.saturating_sub(self.carry.len()).min(piece.len());
        let (taken, rest) = piece.split_at(missing);
        self.carry.extend_from_slice(taken);
        *piece = rest;
    }

    /// Ends the body.
    ///
    /// # Errors
    /// `Malformed` when it ends inside a frame.
    pub fn finish(self) -> Result<()> {
        if self.carry.is_empty() {
            return Ok(());
        }
        Err(self.here(&malformed("the body ends inside this frame")))
    }

    fn here(&self, error: &Error) -> Error {
        at(format_args!("record {}", self.index), error)
    }
}

/// A carry buffer larger than this is given back once its frame is done.
const CARRY_KEPT_BYTES: usize = 1 << 20;

/// Appends one frame to `out`: the encoder's side, for clients and tests.
pub fn encode(out: &mut Vec<u8>, op: Op, key: &[u8], value: &[u8]) {
    out.push(op as u8);
    out.push(0);
    out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::decode::testing::{cut_into_pieces, same_outcome, seen};

    fn decode(pieces: &[&[u8]]) -> Result<Draft> {
        let (mut frames, mut draft) = (Frames::default(), Draft::new());
        for piece in pieces {
            frames.push(piece, &mut draft)?;
        }
        frames.finish()?;
        Ok(draft)
    }

    fn body(ops: &[(Op, Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut body = Vec::new();
        ops.iter().for_each(|(op, key, value)| encode(&mut body, *op, key, value));
        body
    }

    fn any_ops() -> impl Strategy<Value = Vec<(Op, Vec<u8>, Vec<u8>)>> {
        let op = (
            any::<bool>(),
            prop::collection::vec(any::<u8>(), 1..20),
            prop::collection::vec(any::<u8>(), 0..40),
        );
        prop::collection::vec(op, 0..8).prop_map(|ops| {
            ops.into_iter()
                .map(|(put, key, value)| if put { (Op::Put, key, value) } else { (Op::Delete, key, vec![]) })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_operations(ops in any_ops(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let whole = body(&ops);
            let draft = decode(&cut_into_pieces(&whole, &cuts)).unwrap();
            prop_assert_eq!(seen(draft), ops);
            let bytes: Vec<&[u8]> = whole.chunks(1).collect();
            prop_assert_eq!(decode(&bytes).unwrap().len(), decode(&[&whole]).unwrap().len());
        }

        #[test]
        fn damage_never_panics_and_is_told_alike_however_split(ops in any_ops(), noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3), cut in any::<prop::sample::Index>(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let mut whole = body(&ops);
            whole.push(1);
            for (at, byte) in noise {
                let at = at.index(whole.len());
                whole[at] = byte;
            }
            whole.truncate(cut.index(whole.len() + 1));
            same_outcome(decode(&[&whole]), decode(&cut_into_pieces(&whole, &cuts)));
        }
    }

    #[test]
    fn each_rule_is_named_with_its_record() {
        let good = body(&[(Op::Put, b"k".to_vec(), b"v".to_vec())]);
        let with = |tail: &[u8]| {
            let mut whole = good.clone();
            whole.extend_from_slice(tail);
            decode(&[&whole]).unwrap_err()
        };
        for (tail, code, says) in [
            (&[3, 0, 1, 0, 0, 0, 0, 0, b'k'][..], Code::Malformed, "not 3"),
            (&[1, 9, 1, 0, 0, 0, 0, 0, b'k'], Code::Malformed, "reserved"),
            (&[1, 0, 0, 0, 0, 0, 0, 0], Code::InvalidKey, "1 to 1024"),
            (&[1, 0, 1, 4, 0, 0, 0, 0], Code::InvalidKey, "has 1025"),
            (&[1, 0, 1, 0, 1, 0, 0, 4], Code::TooLarge, "at most"),
            (&[2, 0, 1, 0, 1, 0, 0, 0, b'k', b'v'], Code::Malformed, "delete"),
            (&[1, 0, 1, 0, 2, 0, 0, 0, b'k', b'v'], Code::Malformed, "ends inside"),
            (&[1, 0, 1], Code::Malformed, "ends inside"),
        ] {
            let error = with(tail);
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().starts_with("record 1: ") && error.message().contains(says), "{error}");
        }
    }
}
