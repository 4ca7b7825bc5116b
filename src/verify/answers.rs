//! What a server answers, read as strictly as a verifier has to. Pure: no I/O.
//!
//! Takes JSON documents as they came, gives their parts. Nothing in them is believed yet: what they prove is
//! for [`visit`](super::visit) to say. Fields that are not needed are passed over, so that a server may say
//! more.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value as Json;

use crate::{
    proof::{
        Hash, ProofError,
        key::VerifierKey,
        leaf::{LEAF_BYTES, Leaf},
    },
    types::{Op, Seq, TimestampMs},
};

/// Most keys that a log is believed to have.
const KEYS_MAX: usize = 1_000;

/// `GET /api/v1/proofs/consistency?from=&to=`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConsistencyAnswer {
    /// Records of the earlier tree.
    pub from: u64,
    /// Records of the later one.
    pub to: u64,
    /// Its root, as the server says.
    pub from_root: Hash,
    /// Its root, as the server says.
    pub to_root: Hash,
    /// The proof.
    pub hashes: Vec<Hash>,
}

/// `GET /api/v1/proofs/inclusion/{seq}?size=`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct InclusionAnswer {
    /// Position of the record.
    pub leaf_index: u64,
    /// Records of the tree.
    pub tree_size: u64,
    /// The record's leaf.
    #[serde(deserialize_with = "leaf")]
    pub leaf: Leaf,
    /// Its hash, as the server says.
    pub leaf_hash: Hash,
    /// The tree's root, as the server says.
    pub root_hash: Hash,
    /// The proof.
    pub siblings: Vec<Hash>,
}

/// `GET /api/v1/records/{seq}`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordAnswer {
    /// Its position.
    pub seq: Seq,
    /// What it did.
    pub op: Op,
    /// When.
    pub timestamp_ms: TimestampMs,
    /// To which key.
    pub key: Vec<u8>,
    /// With which value; none for a delete.
    pub value: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct RawRecord {
    seq: u64,
    op: String,
    timestamp_ms: u64,
    key: Option<String>,
    key_b64: Option<String>,
    value: Option<String>,
    value_b64: Option<String>,
}

impl ConsistencyAnswer {
    /// Reads it.
    ///
    /// # Errors
    /// [`ProofError::Malformed`] for a document of another shape, or hashes that are not hashes.
    pub fn read(document: Json) -> Result<Self, ProofError> {
        read("a consistency proof", document)
    }
}

impl InclusionAnswer {
    /// Reads it.
    ///
    /// # Errors
    /// As [`ConsistencyAnswer::read`]; also for bytes that are not a leaf.
    pub fn read(document: Json) -> Result<Self, ProofError> {
        read("an inclusion proof", document)
    }
}

impl RecordAnswer {
    /// Reads it.
    ///
    /// # Errors
    /// As [`ConsistencyAnswer::read`].
    pub fn read(document: Json) -> Result<Self, ProofError> {
        let raw: RawRecord = read("a record", document)?;
        let malformed = |what: String| ProofError::Malformed(format!("the answer is not a record: {what}"));
        let op = match raw.op.as_str() {
            "put" => Op::Put,
            "delete" => Op::Delete,
            other => return Err(malformed(format!("op {other:?}"))),
        };
        let bytes = |text: Option<String>, coded: Option<String>| match coded {
            Some(coded) => STANDARD.decode(coded).map(Some).map_err(|e| malformed(format!("base64: {e}"))),
            None => Ok(text.map(String::into_bytes)),
        };
        let key = bytes(raw.key, raw.key_b64)?.ok_or_else(|| malformed("it has no key".to_owned()))?;
        let value = bytes(raw.value, raw.value_b64)?;
        if value.is_some() != (op == Op::Put) {
            return Err(malformed(format!("a {} and its value do not go together", op.name())));
        }
        Ok(Self { seq: Seq(raw.seq), op, timestamp_ms: raw.timestamp_ms, key, value })
    }
}

/// The verifier keys of `GET /api/v1/keys`: an array of vkeys, alone or under `keys`.
///
/// # Errors
/// [`ProofError::Malformed`] for anything else, and for a key that is not one.
pub fn keys(document: Json) -> Result<Vec<VerifierKey>, ProofError> {
    let listed = match document {
        Json::Object(mut fields) => fields.remove("keys").unwrap_or(Json::Null),
        other => other,
    };
    let keys: Vec<String> = read("a list of keys", listed)?;
    if keys.len() > KEYS_MAX {
        return Err(ProofError::Malformed(format!("a log has at most {KEYS_MAX} keys, not {}", keys.len())));
    }
    keys.iter().map(|key| key.parse()).collect()
}

fn read<T: for<'a> Deserialize<'a>>(what: &str, document: Json) -> Result<T, ProofError> {
    serde_json::from_value(document)
        .map_err(|error| ProofError::Malformed(format!("the answer is not {what}: {error}")))
}

/// A leaf in lower-case hex: as a hash, it has one spelling.
fn leaf<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Leaf, D::Error> {
    let text = String::deserialize(deserializer)?;
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    let bytes = bytes.filter(|_| rest.is_empty());
    let bytes = bytes
        .ok_or_else(|| de::Error::custom(format!("a leaf is {} lower-case hex digits", 2 * LEAF_BYTES)))?;
    Leaf::decode(&bytes).map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proof::key::Signer;

    #[test]
    fn a_record_is_read_whichever_way_its_bytes_are_given() {
        let text = json!({"key":"k","value":"v","op":"put","seq":3,"timestamp_ms":9,"leaf":"…"});
        let record = RecordAnswer::read(text).unwrap();
        let value = Some(b"v".to_vec());
        let expected = RecordAnswer { seq: Seq(3), op: Op::Put, timestamp_ms: 9, key: b"k".to_vec(), value };
        assert_eq!(record, expected);
        let bytes = json!({"key":"?","key_b64":"/w==","value":null,"op":"delete","seq":3,"timestamp_ms":9});
        let record = RecordAnswer::read(bytes).unwrap();
        assert_eq!((record.key, record.value), (vec![0xff], None));
    }

    #[test]
    fn answers_of_another_shape_are_refused() {
        for document in [
            json!(null),
            json!({"key":"k","value":"v","op":"merge","seq":3,"timestamp_ms":9}),
            json!({"key":"k","op":"put","seq":3,"timestamp_ms":9}),
            json!({"key":"k","value":"v","op":"delete","seq":3,"timestamp_ms":9}),
            json!({"value":"v","op":"put","seq":3,"timestamp_ms":9}),
            json!({"key_b64":"*","value":"v","op":"put","seq":3,"timestamp_ms":9}),
            json!({"key":"k","value":"v","op":"put","seq":-3,"timestamp_ms":9}),
        ] {
            assert!(RecordAnswer::read(document.clone()).is_err(), "{document}");
        }
        let hash = Hash::EMPTY_ROOT.to_string();
        let answer = json!({"from":1,"to":2,"from_root":hash,"to_root":hash,"hashes":[hash]});
        assert!(ConsistencyAnswer::read(answer.clone()).is_ok());
        for (field, value) in
            [("from", json!("1")), ("hashes", json!(["00"])), ("to_root", json!(hash.to_uppercase()))]
        {
            let mut bad = answer.clone();
            bad[field] = value;
            assert!(ConsistencyAnswer::read(bad).is_err(), "{field}");
        }
    }

    #[test]
    fn leaves_have_one_spelling() {
        let leaf = Leaf::of(Op::Put, Seq(1), 2, b"k", b"v");
        let hex: String = leaf.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        let hash = Hash::EMPTY_ROOT.to_string();
        let answer = |leaf: &str| {
            let document = json!({
                "leaf_index":1,"tree_size":2,"leaf":leaf,"leaf_hash":hash,"root_hash":hash,"siblings":[]
            });
            InclusionAnswer::read(document)
        };
        assert_eq!(answer(&hex).unwrap().leaf, leaf);
        for bad in ["", "0", "zz", &hex[1..], &hex[2..], &hex.to_uppercase(), &format!("{hex}00")] {
            assert!(answer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_listed_alone_or_by_name() {
        let key = Signer::from_seed("log", &[1; 32]).unwrap().verifier_key().clone();
        let text = key.to_string();
        assert_eq!(keys(json!([text])).unwrap(), std::slice::from_ref(&key));
        assert_eq!(keys(json!({"keys":[text, text]})).unwrap(), [key.clone(), key]);
        for bad in [json!({}), json!("x"), json!(["x"]), json!([1]), json!(vec![text; KEYS_MAX + 1])] {
            assert!(keys(bad).is_err());
        }
    }
}
