//! The bytes of a Raft entry: how many records travel, are agreed on and are kept as one.
//!
//! Takes operations as they were decoded from a client's body ([`Draft`]), gives the immutable bytes
//! that the log stores and every replica applies ([`Batch`], read in place through [`BatchView`]).
//! It does not own sequence numbers, time or conditions' outcomes: `apply` decides those, from these
//! bytes alone.
//!
//! ```text
//! entry  = kind u8 = 1 | rkyv archive of Batch (root at the end)
//! Batch  = timestamp_ms | ops[] | conditions[] | groups[] | blob
//! op     = op u8 | 0 u8 | key_len u16 | value_len u32 | offset u32     (12 bytes)
//! blob   = key value key value …                                       (offset points at the key)
//! ```
//!
//! The heads stand apart from the blob so that apply walks 12-byte rows without touching values, and
//! a slot is found by its number without walking at all. Conditions and idempotency groups are rare,
//! so they are side tables that name the operation they belong to instead of a field in every head.

use bytes::Bytes;
use rkyv::{Archive, Serialize, rancor};

use crate::{
    error::{Code, Error, Result},
    state::entry::{self, KIND_BATCH},
    types::{KEY_BYTES_MAX, Op, RESERVED_KEY_PREFIX, TimestampMs, VALUE_BYTES_MAX},
};

/// What must be true of the key's newest version, at apply, for a write to happen.
#[derive(Archive, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// `If-None-Match: *`: never written, or deleted.
    Absent,
    /// `If-Match: *`: written and not deleted.
    Present,
    /// `If-Match: "SEQ"`: its newest version is exactly this one, and not a tombstone.
    At(u64),
}

/// One operation's row. Everything else about it is found from here.
#[derive(Archive, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OpHead {
    op: u8,
    reserved: u8,
    key_len: u16,
    value_len: u32,
    offset: u32,
}

/// The operations `first_op .. first_op + op_count` are one client request with an idempotency key.
#[derive(Archive, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IdempotencyGroup {
    /// Number of the group's first operation in the batch.
    pub first_op: u32,
    /// How many operations it has, at least one.
    pub op_count: u32,
    /// BLAKE3 of the client's key, cut to 128 bits.
    pub key_hash: [u8; 16],
    /// BLAKE3 of operations, keys, values and conditions, cut to 128 bits.
    pub content_hash: [u8; 16],
}

/// A condition and the operation it guards.
#[derive(Archive, Serialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpCondition {
    /// Number of the operation in the batch.
    pub op: u32,
    /// What must hold.
    pub condition: Condition,
}

/// One Raft entry's worth of operations, in the order they will be numbered.
#[derive(Archive, Serialize, Debug, Default)]
pub struct Batch {
    timestamp_ms: u64,
    ops: Vec<OpHead>,
    conditions: Vec<OpCondition>,
    groups: Vec<IdempotencyGroup>,
    blob: Vec<u8>,
}

/// One client request while its body is being decoded: atomic, in order, not yet proposed.
#[derive(Debug, Default)]
pub struct Draft {
    ops: Vec<OpHead>,
    blob: Vec<u8>,
    condition: Option<Condition>,
    idempotency_key: Option<String>,
}

impl Draft {
    /// An empty request.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for this many operations with this many key and value bytes, so that decoding a body of
    /// known size does not move what it has decoded.
    #[must_use]
    pub fn with_capacity(ops: usize, bytes: usize) -> Self {
        Self { ops: Vec::with_capacity(ops), blob: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Appends a put.
    ///
    /// # Errors
    /// [`Code::InvalidKey`] for an empty, long or reserved key, [`Code::TooLarge`] for a value over
    /// 64 MiB or a request beyond the 32-bit offsets of the format.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::new(
                Code::TooLarge,
                format!("a value has at most {VALUE_BYTES_MAX} bytes, this one has {}", value.len()),
            ));
        }
        self.push(Op::Put, key, value)
    }

    /// Appends to the value of the put that came last, so that a value which arrives in parts is held once.
    ///
    /// # Errors
    /// [`Code::TooLarge`] as [`Draft::put`]; [`Code::Internal`] when the last operation is no put.
    pub fn extend_value(&mut self, part: &[u8]) -> Result<()> {
        let Some(head) = self.ops.last_mut().filter(|head| head.op == Op::Put as u8) else {
            return Err(Error::new(Code::Internal, "there is no put to extend"));
        };
        let len = head.value_len as usize + part.len();
        if len > VALUE_BYTES_MAX {
            let message = format!("a value has at most {VALUE_BYTES_MAX} bytes, this one has {len}");
            return Err(Error::new(Code::TooLarge, message));
        }
        if self.blob.len() + part.len() > REQUEST_BYTES_MAX {
            return Err(request_too_large());
        }
        head.value_len = u32::try_from(len).map_err(|_| request_too_large())?;
        self.blob.extend_from_slice(part);
        Ok(())
    }

    /// Makes room for this many more key and value bytes, and for no more than them.
    pub fn reserve(&mut self, bytes: usize) {
        self.blob.reserve_exact(bytes);
    }

    /// Appends a delete. A key that was never written is fine: the tombstone is recorded all the same.
    ///
    /// # Errors
    /// As [`Draft::put`].
    pub fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.push(Op::Delete, key, &[])
    }

    fn push(&mut self, op: Op, key: &[u8], value: &[u8]) -> Result<()> {
        check_client_key(key)?;
        let offset = self.blob.len();
        if offset + key.len() + value.len() > REQUEST_BYTES_MAX {
            return Err(request_too_large());
        }
        self.ops.push(OpHead {
            op: op as u8,
            reserved: 0,
            key_len: u16::try_from(key.len()).map_err(|_| request_too_large())?,
            value_len: u32::try_from(value.len()).map_err(|_| request_too_large())?,
            offset: u32::try_from(offset).map_err(|_| request_too_large())?,
        });
        self.blob.extend_from_slice(key);
        self.blob.extend_from_slice(value);
        Ok(())
    }

    /// Guards the request by a condition. Only single-operation requests carry one.
    pub fn set_condition(&mut self, condition: Condition) {
        self.condition = Some(condition);
    }

    /// Names the request, so that a retry with the same content gets the first answer again.
    pub fn set_idempotency_key(&mut self, key: String) {
        self.idempotency_key = Some(key);
    }

    /// How many operations it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// What it costs in memory and in the log, in bytes: the measure of every budget of the pipeline.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.blob.len() + self.ops.len() * size_of::<OpHead>()
    }

    fn group(&self, first_op: u32) -> Option<IdempotencyGroup> {
        let key = self.idempotency_key.as_ref()?;
        let mut content = blake3::Hasher::new();
        for head in &self.ops {
            content.update(&[head.op]);
            content.update(&head.key_len.to_le_bytes());
            content.update(&head.value_len.to_le_bytes());
        }
        content.update(&self.blob);
        match self.condition {
            None => content.update(&[0]),
            Some(Condition::Absent) => content.update(&[1]),
            Some(Condition::Present) => content.update(&[2]),
            Some(Condition::At(seq)) => content.update(&[3]).update(&seq.to_le_bytes()),
        };
        Some(IdempotencyGroup {
            first_op,
            op_count: u32::try_from(self.ops.len()).unwrap_or(u32::MAX),
            key_hash: first_16(blake3::hash(key.as_bytes())),
            content_hash: first_16(content.finalize()),
        })
    }
}

fn request_too_large() -> Error {
    Error::new(Code::TooLarge, "one request holds at most 1 GiB")
}

/// The most key and value bytes of one entry: what the archive's 32-bit relative offsets can span,
/// with room for the tables.
const REQUEST_BYTES_MAX: usize = 1 << 30;

fn first_16(hash: blake3::Hash) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&hash.as_bytes()[..16]);
    out
}

/// Whether a record may have this key.
///
/// # Errors
/// [`Code::InvalidKey`] with the rule that it breaks.
pub fn check_key(key: &[u8]) -> Result<()> {
    if key.is_empty() {
        return Err(Error::new(Code::InvalidKey, "a key has at least one byte"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::new(
            Code::InvalidKey,
            format!("a key has at most {KEY_BYTES_MAX} bytes, this one has {}", key.len()),
        ));
    }
    Ok(())
}

/// Whether a client may write this key. What the ledger writes itself, anybody may read.
fn check_client_key(key: &[u8]) -> Result<()> {
    check_key(key)?;
    if key.starts_with(RESERVED_KEY_PREFIX) {
        return Err(Error::new(Code::InvalidKey, "keys that begin with \\0scribe\\0 belong to the ledger"));
    }
    Ok(())
}

impl Batch {
    /// Appends a whole request behind those already there and returns the number of its first operation.
    pub fn append(&mut self, draft: Draft) -> u32 {
        let first_op = u32::try_from(self.ops.len()).unwrap_or(u32::MAX);
        self.groups.extend(draft.group(first_op));
        if let Some(condition) = draft.condition {
            self.conditions.push(OpCondition { op: first_op, condition });
        }
        if self.ops.is_empty() {
            // The common bulk case: one request is the whole batch and nothing is moved.
            self.ops = draft.ops;
            self.blob = draft.blob;
            return first_op;
        }
        let shift = u32::try_from(self.blob.len()).unwrap_or(u32::MAX);
        self.ops.extend(draft.ops.iter().map(|head| OpHead { offset: head.offset + shift, ..*head }));
        self.blob.extend_from_slice(&draft.blob);
        first_op
    }

    /// Whether one more request of this many bytes still fits the format.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.blob.len() + bytes <= REQUEST_BYTES_MAX
    }

    /// How many operations it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Its size in bytes, as [`Draft::bytes`] counts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.blob.len() + self.ops.len() * size_of::<OpHead>()
    }

    /// Closes it with the leader's time and gives the bytes that the log will carry.
    ///
    /// # Errors
    /// [`Code::Internal`] when the archive cannot be built, which only a lack of memory can cause.
    pub fn encode(mut self, timestamp_ms: TimestampMs) -> Result<Bytes> {
        self.timestamp_ms = timestamp_ms;
        let room = self.bytes() + self.groups.len() * size_of::<IdempotencyGroup>() + 256;
        entry::encode(KIND_BATCH, &self, room)
    }
}

/// The same entry with another time: the leader's, where another member has encoded it.
///
/// # Errors
/// [`Code::Corrupt`] when it is too short to be a batch.
pub fn restamp(entry: &Bytes, timestamp_ms: TimestampMs) -> Result<Bytes> {
    // The archive's root is its end, and its fields lie as they are declared.
    let at = entry.len().checked_sub(size_of::<ArchivedBatch>()).map(|root| {
        let at = root + std::mem::offset_of!(ArchivedBatch, timestamp_ms);
        at..at + size_of::<TimestampMs>()
    });
    let at = at.ok_or_else(|| Error::new(Code::Corrupt, "not a batch entry: too short"))?;
    let mut bytes = entry.to_vec();
    bytes[at].copy_from_slice(&timestamp_ms.to_le_bytes());
    Ok(bytes.into())
}

/// A batch read in place, checked once: every access afterwards is in bounds.
#[derive(Clone, Debug)]
pub struct BatchView {
    bytes: Bytes,
}

/// One operation of a [`BatchView`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpView<'a> {
    /// What it does.
    pub op: Op,
    /// To which key.
    pub key: &'a [u8],
    /// With which value; empty for a delete.
    pub value: &'a [u8],
}

impl BatchView {
    /// Takes an entry's bytes and checks all of them: the archive, and every head against the blob.
    ///
    /// # Errors
    /// [`Code::Corrupt`] when they are not a batch that [`Batch::encode`] could have written.
    pub fn open(entry: Bytes) -> Result<Self> {
        let corrupt = |what: &str| Error::new(Code::Corrupt, format!("not a batch entry: {what}"));
        if entry.first() != Some(&KIND_BATCH) {
            return Err(corrupt("the kind byte is another"));
        }
        let bytes = entry.slice(1..);
        let batch = rkyv::access::<ArchivedBatch, rancor::Error>(&bytes)
            .map_err(|error| corrupt(&error.to_string()))?;
        let blob = batch.blob.len() as u64;
        let count = batch.ops.len() as u64;
        for head in batch.ops.iter() {
            let end = u64::from(head.offset.to_native())
                + u64::from(head.key_len.to_native())
                + u64::from(head.value_len.to_native());
            if Op::from_byte(head.op).is_none() || head.key_len == 0 || end > blob {
                return Err(corrupt("an operation points outside its blob"));
            }
        }
        if batch.conditions.iter().any(|c| u64::from(c.op.to_native()) >= count) {
            return Err(corrupt("a condition names an operation that is not there"));
        }
        if !batch.conditions.is_sorted_by(|a, b| a.op.to_native() < b.op.to_native()) {
            return Err(corrupt("its conditions are not in order, one for an operation"));
        }
        let mut free_from = 0;
        for group in batch.groups.iter() {
            let first = u64::from(group.first_op.to_native());
            let end = first + u64::from(group.op_count.to_native());
            if first < free_from || group.op_count == 0 || end > count {
                return Err(corrupt("an idempotency group is out of place"));
            }
            free_from = end;
        }
        Ok(Self { bytes })
    }

    #[allow(unsafe_code)]
    fn archived(&self) -> &ArchivedBatch {
        // SAFETY: `open` ran the validated `access` over these very bytes, and `Bytes` is immutable.
        // Validating again on every slot read would cost more than the read.
        unsafe { rkyv::access_unchecked::<ArchivedBatch>(&self.bytes) }
    }

    /// The leader's time when it proposed the batch.
    #[must_use]
    pub fn timestamp_ms(&self) -> TimestampMs {
        self.archived().timestamp_ms.into()
    }

    /// How many operations it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.archived().ops.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size of the entry in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The operation with this number; panics beyond [`BatchView::len`].
    #[must_use]
    pub fn op(&self, number: usize) -> OpView<'_> {
        let batch = self.archived();
        let head = &batch.ops[number];
        let key_at = u32::from(head.offset) as usize;
        let value_at = key_at + u16::from(head.key_len) as usize;
        let end = value_at + u32::from(head.value_len) as usize;
        OpView {
            op: if head.op == Op::Delete as u8 { Op::Delete } else { Op::Put },
            key: &batch.blob[key_at..value_at],
            value: &batch.blob[value_at..end],
        }
    }

    /// Shares a part of the entry that [`BatchView::op`] showed, without copying it.
    #[must_use]
    pub fn share(&self, part: &[u8]) -> Bytes {
        self.bytes.slice_ref(part)
    }

    /// All operations in order.
    pub fn ops(&self) -> impl ExactSizeIterator<Item = OpView<'_>> {
        (0..self.len()).map(|number| self.op(number))
    }

    /// The conditions, in operation order.
    pub fn conditions(&self) -> impl Iterator<Item = OpCondition> + '_ {
        self.archived().conditions.iter().map(|c| OpCondition {
            op: c.op.into(),
            condition: match c.condition {
                ArchivedCondition::Absent => Condition::Absent,
                ArchivedCondition::Present => Condition::Present,
                ArchivedCondition::At(seq) => Condition::At(seq.into()),
            },
        })
    }

    /// The idempotency groups, in operation order, never overlapping.
    pub fn groups(&self) -> impl Iterator<Item = IdempotencyGroup> + '_ {
        self.archived().groups.iter().map(|g| IdempotencyGroup {
            first_op: g.first_op.into(),
            op_count: g.op_count.into(),
            key_hash: g.key_hash,
            content_hash: g.content_hash,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_condition() -> impl Strategy<Value = Option<Condition>> {
        prop_oneof![
            Just(None),
            Just(Some(Condition::Absent)),
            Just(Some(Condition::Present)),
            any::<u64>().prop_map(|seq| Some(Condition::At(seq))),
        ]
    }

    type DraftModel = (Vec<(bool, Vec<u8>, Vec<u8>)>, Option<Condition>, Option<String>);

    fn any_draft() -> impl Strategy<Value = DraftModel> {
        let op = (
            any::<bool>(),
            prop::collection::vec(1u8..255, 1..40),
            prop::collection::vec(any::<u8>(), 0..200),
        );
        (prop::collection::vec(op, 1..8), any_condition(), prop::option::of("[a-z]{1,9}"))
    }

    #[test]
    fn a_value_in_parts_is_the_same_operation() {
        let (mut whole, mut parts) = (Draft::new(), Draft::new());
        for draft in [&mut whole, &mut parts] {
            draft.put(b"a", b"1").unwrap();
        }
        whole.put(b"b", b"value").unwrap();
        parts.put(b"b", b"").unwrap();
        parts.reserve(5);
        for part in [&b"va"[..], b"", b"lue"] {
            parts.extend_value(part).unwrap();
        }
        assert_eq!((&whole.ops, &whole.blob), (&parts.ops, &parts.blob));
        assert_eq!(Draft::new().extend_value(b"x").unwrap_err().code(), Code::Internal);
        parts.delete(b"b").unwrap();
        assert_eq!(parts.extend_value(b"x").unwrap_err().code(), Code::Internal);
        parts.put(b"c", &vec![0; VALUE_BYTES_MAX]).unwrap();
        assert_eq!(parts.extend_value(b"x").unwrap_err().code(), Code::TooLarge);
    }

    fn build(model: &[DraftModel]) -> Batch {
        let mut batch = Batch::default();
        for (ops, condition, idempotency_key) in model {
            let mut draft = Draft::new();
            for (put, key, value) in ops {
                if *put { draft.put(key, value) } else { draft.delete(key) }.unwrap();
            }
            if let Some(condition) = condition {
                draft.set_condition(*condition);
            }
            if let Some(key) = idempotency_key {
                draft.set_idempotency_key(key.clone());
            }
            batch.append(draft);
        }
        batch
    }

    proptest! {
        #[test]
        fn a_batch_reads_back_as_it_was_built(model in prop::collection::vec(any_draft(), 1..6), time in any::<u64>()) {
            let view = BatchView::open(build(&model).encode(time).unwrap()).unwrap();
            prop_assert_eq!(view.timestamp_ms(), time);
            let expected: Vec<_> = model.iter().flat_map(|(ops, ..)| ops).collect();
            prop_assert_eq!(view.len(), expected.len());
            for (seen, (put, key, value)) in view.ops().zip(expected) {
                prop_assert_eq!(seen.op, if *put { Op::Put } else { Op::Delete });
                prop_assert_eq!(seen.key, &key[..]);
                prop_assert_eq!(seen.value, if *put { &value[..] } else { &[] });
            }
            prop_assert_eq!(view.conditions().count(), model.iter().filter(|(_, c, _)| c.is_some()).count());
            prop_assert_eq!(view.groups().count(), model.iter().filter(|(_, _, k)| k.is_some()).count());
        }

        #[test]
        fn damaged_bytes_never_panic(model in prop::collection::vec(any_draft(), 1..4), at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()) {
            let whole = build(&model).encode(7).unwrap();
            let mut flipped = whole.to_vec();
            flipped[at.index(whole.len())] ^= 1 << bit;
            for bytes in [Bytes::from(flipped), whole.slice(..cut.index(whole.len()))] {
                if let Ok(view) = BatchView::open(bytes) {
                    for op in view.ops() {
                        std::hint::black_box((op.key.len(), op.value.len()));
                    }
                    std::hint::black_box((view.conditions().count(), view.groups().count()));
                }
            }
        }
    }

    #[test]
    fn keys_are_checked_with_the_rule_they_break() {
        let mut draft = Draft::new();
        for (key, says) in [
            (&b""[..], "at least one byte"),
            (&[b'k'; KEY_BYTES_MAX + 1][..], "at most 1024 bytes"),
            (&b"\0scribe\0epoch"[..], "belong to the ledger"),
        ] {
            let error = draft.put(key, b"v").unwrap_err();
            assert_eq!(error.code(), Code::InvalidKey);
            assert!(error.message().contains(says), "{error}");
        }
        draft.put(&[b'k'; KEY_BYTES_MAX], b"").unwrap();
        assert_eq!(draft.len(), 1);
    }

    /// Apply walks operations and conditions side by side: one out of order would guard nothing.
    #[test]
    fn conditions_out_of_order_are_no_batch() {
        let condition = |op| OpCondition { op, condition: Condition::Absent };
        for (ops, fine) in [([0, 1], true), ([1, 0], false), ([1, 1], false)] {
            let mut batch = build(&[(vec![(true, vec![1], vec![]), (true, vec![2], vec![])], None, None)]);
            batch.conditions = ops.map(condition).into();
            assert_eq!(BatchView::open(batch.encode(1).unwrap()).is_ok(), fine, "{ops:?}");
        }
    }

    #[test]
    fn content_hash_covers_everything_the_client_said() {
        let group = |ops: &[(&[u8], &[u8])], condition| {
            let mut draft = Draft::new();
            ops.iter().for_each(|(k, v)| draft.put(k, v).unwrap());
            draft.set_idempotency_key("retry-1".into());
            if let Some(condition) = condition {
                draft.set_condition(condition);
            }
            draft.group(0).unwrap().content_hash
        };
        let first = group(&[(b"k", b"v")], None);
        assert_eq!(first, group(&[(b"k", b"v")], None));
        assert_ne!(first, group(&[(b"k", b"w")], None));
        assert_ne!(first, group(&[(b"kv", b"")], None), "the border between key and value counts");
        assert_ne!(first, group(&[(b"k", b"v")], Some(Condition::Absent)));
        assert_ne!(
            group(&[(b"k", b"v")], Some(Condition::At(1))),
            group(&[(b"k", b"v")], Some(Condition::At(2)))
        );
    }
}
