//! What two members say before they trust each other, as bytes, and when they object to what was said.
//!
//! ```text
//!  "SCRB" │ u16 version │ u8 kind │ u16 length │ body, `length` bytes ≤ 1 KiB     integers little-endian
//!                          1 hello     nonce[32] │ u64 node id │ u64 wanted id │ u64 incarnation │ u64 life
//!                                      │ u32 feature level │ u8 lane │ u32 line │ u8 has a secret │ u8 length │ cluster id
//!                          2 proof     32 bytes, or none without a secret
//!                          3 go        nothing
//!                          4 refusal   why, UTF-8
//! ```
//!
//! The header and the refusal are the same in every version to come, so that members of different versions can tell
//! each other why they do not talk.

use bytes::{Buf, BufMut};

use crate::{
    env::{ANYBODY, Lane},
    types::NodeId,
};

/// The version spoken here.
pub(super) const VERSION: u16 = 1;

/// How every message begins.
const MAGIC: [u8; 4] = *b"SCRB";

/// Bytes before a body.
pub(super) const HEADER_BYTES: usize = 9;

/// Longest body: all that is ever allocated for a stranger.
pub(super) const BODY_BYTES_MAX: usize = 1 << 10;

/// Bytes of a hello before the cluster id.
const FIXED_BYTES: usize = 32 + 4 * 8 + 4 + 1 + 4 + 1 + 1;

/// Longest cluster id.
const CLUSTER_ID_BYTES_MAX: usize = 255;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Hello = 1,
    Proof = 2,
    Go = 3,
    Refusal = 4,
}

/// A message from its header on, ready to be sent.
pub(super) fn message(kind: Kind, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.put_slice(&MAGIC);
    bytes.put_u16_le(VERSION);
    bytes.put_u8(kind as u8);
    bytes.put_u16_le(body.len() as u16);
    bytes.put_slice(body);
    bytes
}

/// A refusal with this reason, or as much of it as fits.
pub(super) fn refusal(why: &str) -> Vec<u8> {
    message(Kind::Refusal, &why.as_bytes()[..why.floor_char_boundary(BODY_BYTES_MAX)])
}

/// What a refusal's body says, fit for a log line.
pub(super) fn reason(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The beginning of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub version: u16,
    /// As it was sent: kinds of other versions are unknown here.
    pub kind: u8,
    pub length: usize,
}

impl Header {
    /// Reads it; `None` if this is no member of any cluster, or its body is too long to be one's.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Option<Self> {
        let mut bytes = bytes.strip_prefix(&MAGIC)?;
        let (version, kind, length) = (bytes.get_u16_le(), bytes.get_u8(), bytes.get_u16_le() as usize);
        (length <= BODY_BYTES_MAX).then_some(Self { version, kind, length })
    }
}

/// Who one is, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    /// Never used before.
    pub nonce: [u8; 32],
    pub node_id: NodeId,
    /// Whom one wants to talk to, or [`ANYBODY`].
    pub wanted: NodeId,
    pub incarnation: u64,
    /// Tells processes apart that run on the same directory, or on copies of it.
    pub life: u64,
    pub feature_level: u32,
    pub lane: Lane,
    /// Tells the dialer's connections apart: a new one with the same number takes the place of the old one.
    pub line: u32,
    pub has_secret: bool,
    /// Empty while one belongs to none.
    pub cluster_id: String,
}

impl Hello {
    /// The message, or `None` if the cluster id cannot be sent.
    pub fn encode(&self) -> Option<Vec<u8>> {
        if !is_cluster_id(self.cluster_id.as_bytes()) {
            return None;
        }
        let mut body = Vec::with_capacity(FIXED_BYTES + self.cluster_id.len());
        body.put_slice(&self.nonce);
        body.put_u64_le(self.node_id);
        body.put_u64_le(self.wanted);
        body.put_u64_le(self.incarnation);
        body.put_u64_le(self.life);
        body.put_u32_le(self.feature_level);
        body.put_u8(self.lane as u8);
        body.put_u32_le(self.line);
        body.put_u8(u8::from(self.has_secret));
        body.put_u8(self.cluster_id.len() as u8);
        body.put_slice(self.cluster_id.as_bytes());
        Some(message(Kind::Hello, &body))
    }

    /// Reads a hello's body, or `None` if it is none.
    pub fn decode(mut body: &[u8]) -> Option<Self> {
        if body.len() < FIXED_BYTES || body.len() - FIXED_BYTES != usize::from(body[FIXED_BYTES - 1]) {
            return None;
        }
        let mut nonce = [0; 32];
        body.copy_to_slice(&mut nonce);
        let (node_id, wanted) = (body.get_u64_le(), body.get_u64_le());
        let (incarnation, life) = (body.get_u64_le(), body.get_u64_le());
        let feature_level = body.get_u32_le();
        let lane = *Lane::ALL.get(usize::from(body.get_u8()))?;
        let line = body.get_u32_le();
        let has_secret = match body.get_u8() {
            0 => false,
            1 => true,
            _ => return None,
        };
        body.advance(1);
        if node_id == ANYBODY || !is_cluster_id(body) {
            return None;
        }
        let cluster_id = String::from_utf8(body.to_vec()).ok()?;
        Some(Self {
            nonce,
            node_id,
            wanted,
            incarnation,
            life,
            feature_level,
            lane,
            line,
            has_secret,
            cluster_id,
        })
    }
}

/// Whether these bytes can be a cluster id: short, and harmless in a log line.
fn is_cluster_id(bytes: &[u8]) -> bool {
    bytes.len() <= CLUSTER_ID_BYTES_MAX && bytes.iter().all(u8::is_ascii_graphic)
}

/// Why two nodes should not talk, after what they have said; `address` is the answerer's. Both ends ask this, so that
/// either one's word is enough.
///
/// # Errors
/// The reason, in words that are right on both ends.
pub(super) fn object(dialer: &Hello, answerer: &Hello, address: &str) -> Result<(), String> {
    let (from, to) = (dialer.node_id, answerer.node_id);
    if dialer.has_secret != answerer.has_secret {
        let (with, without) = if dialer.has_secret { (from, to) } else { (to, from) };
        return Err(format!("node {with} has a cluster secret, node {without} has none"));
    }
    if from == to {
        return Err(format!("both nodes have id {to}"));
    }
    if dialer.wanted != ANYBODY && dialer.wanted != to {
        return Err(format!("node {} was expected at {address}, node {to} answers there", dialer.wanted));
    }
    let (theirs, ours) = (&dialer.cluster_id, &answerer.cluster_id);
    if theirs != ours && !theirs.is_empty() && !ours.is_empty() {
        return Err(format!("node {from} {BELONGS} {theirs}, node {to} to cluster {ours}"));
    }
    Ok(())
}

const BELONGS: &str = "belongs to cluster";

/// Why a process is refused whose node is connected from another one.
pub(super) fn runs_twice(id: NodeId, other: std::net::SocketAddr) -> String {
    format!(
        "{TWICE} {id} is connected from {other}: two run on one data directory and a copy of it; stop one of them"
    )
}

const TWICE: &str = "another process of node";

/// Whether this is why two nodes do not talk: it passes where the other process has ended and its connections have not.
pub(super) fn is_double(why: &str) -> bool {
    why.starts_with(TWICE)
}

/// Whether this is why two nodes do not talk: refusals are texts, also on the wire.
pub fn is_of_another_cluster(why: &str) -> bool {
    why.contains(BELONGS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_hello() -> impl Strategy<Value = Hello> {
        let ids = (1..=u64::MAX, any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
        let rest = (0..Lane::ALL.len(), any::<u32>(), any::<bool>(), "[!-~]{0,255}");
        (any::<[u8; 32]>(), ids, rest).prop_map(|(nonce, ids, (lane, line, has_secret, cluster_id))| {
            let (node_id, wanted, incarnation, life, feature_level) = ids;
            let lane = Lane::ALL[lane];
            Hello {
                nonce,
                node_id,
                wanted,
                incarnation,
                life,
                feature_level,
                lane,
                line,
                has_secret,
                cluster_id,
            }
        })
    }

    fn body(message: &[u8]) -> &[u8] {
        let (header, body) = message.split_first_chunk().unwrap();
        assert_eq!(Header::decode(*header).unwrap().length, body.len());
        body
    }

    proptest! {
        #[test]
        fn a_hello_comes_back(hello in any_hello()) {
            let message = hello.encode().unwrap();
            prop_assert_eq!(Hello::decode(body(&message)), Some(hello));
        }

        #[test]
        fn every_byte_of_a_hello_counts(hello in any_hello(), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
            let message = hello.encode().unwrap();
            let mut damaged = body(&message).to_vec();
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
            prop_assert_ne!(Hello::decode(&damaged), Some(hello));
        }

        #[test]
        fn a_part_of_a_hello_is_none(hello in any_hello(), at in any::<prop::sample::Index>()) {
            let message = hello.encode().unwrap();
            let body = body(&message);
            prop_assert_eq!(Hello::decode(&body[..at.index(body.len())]), None);
        }

        #[test]
        fn garbage_is_no_hello_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Hello::decode(&bytes);
            if let Some(header) = bytes.first_chunk() {
                let _ = Header::decode(*header);
            }
        }
    }

    fn hello(node_id: NodeId) -> Hello {
        Hello {
            nonce: [0; 32],
            node_id,
            wanted: 2,
            incarnation: 7,
            life: 9,
            feature_level: 1,
            lane: Lane::Control,
            line: 4,
            has_secret: true,
            cluster_id: "c1".into(),
        }
    }

    #[test]
    fn reasons_name_what_is_wrong() {
        let why = |change: fn(&mut Hello, &mut Hello)| {
            let (mut dialer, mut answerer) = (hello(1), hello(2));
            change(&mut dialer, &mut answerer);
            object(&dialer, &answerer, "db2:9001").err().unwrap_or_default()
        };
        assert_eq!(why(|_, _| ()), "");
        assert_eq!(why(|dialer, _| dialer.cluster_id.clear()), "", "it joins");
        assert_eq!(why(|_, answerer| answerer.cluster_id.clear()), "");
        assert_eq!(why(|dialer, _| dialer.wanted = ANYBODY), "");
        assert_eq!(
            why(|dialer, _| dialer.cluster_id = "c9".into()),
            "node 1 belongs to cluster c9, node 2 to cluster c1"
        );
        assert!(is_of_another_cluster(&why(|dialer, _| dialer.cluster_id = "c9".into())));
        assert!(!is_of_another_cluster(&why(|dialer, _| dialer.node_id = 2)));
        assert_eq!(
            why(|_, answerer| answerer.node_id = 5),
            "node 2 was expected at db2:9001, node 5 answers there"
        );
        assert_eq!(why(|dialer, _| dialer.node_id = 2), "both nodes have id 2");
        assert_eq!(
            why(|dialer, _| dialer.has_secret = false),
            "node 2 has a cluster secret, node 1 has none"
        );
    }

    #[test]
    fn a_refusal_is_cut_to_fit_and_cannot_forge_a_line() {
        let long = refusal(&"ä".repeat(BODY_BYTES_MAX));
        assert!(reason(body(&long)).chars().all(|c| c == 'ä'));
        assert_eq!(reason(b"no\nnode 7 is \xff fine"), "no node 7 is \u{fffd} fine");
    }

    #[test]
    fn what_begins_otherwise_is_no_member() {
        assert_eq!(Header::decode(*b"GET / HTT"), None);
        assert_eq!(Header::decode(*b"SCRB\x01\x00\x01\x01\x04"), None, "1,025 bytes");
        let other = Header { version: 9, kind: 200, length: 1_024 };
        assert_eq!(Header::decode(*b"SCRB\x09\x00\xc8\x00\x04"), Some(other));
    }

    #[test]
    fn a_cluster_id_that_cannot_be_sent_is_not() {
        for bad in ["a b", "ä", &"x".repeat(256)] {
            assert_eq!(Hello { cluster_id: bad.into(), ..hello(1) }.encode(), None);
        }
    }
}
