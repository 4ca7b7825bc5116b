//! What a node calls out to whoever may hear it, as the bytes of one datagram.
//!
//! Takes an [`Announcement`] and the key of the cluster's secret, gives bytes; and back, if they were made with
//! that key. It does not own whether an announcement is new, or whom it concerns: see
//! [`discovery`](super::discovery).
//!
//! ```text
//!  0    8      9      10        18           26          34        42
//!  │magic│version│flags│ node id │incarnation │ timestamp │sequence │ cluster id: u8  length, ASCII
//!  │  8  │   1   │  1  │   u64   │    u64     │   u64 ms  │   u64   │ raft:       u16 length, HOST:PORT
//!                                                                    │ http:       u16 length, HOST:PORT
//!                                                                    │ MAC [32]
//! ```
//!
//! Integers are little-endian; flag bit 0 says that the node has state. Magic and version come first, so that a
//! later format can be told from noise; the MAC comes last and is keyed BLAKE3 of all before it, under a key
//! that serves nothing else. Without a secret the key is known to everybody, and the MAC is a checksum.

use std::fmt;

use crate::{
    config::value::parse_host_port,
    types::{NodeId, TimestampMs},
};

/// No announcement is longer, in bytes: one datagram that no network has to cut in pieces.
pub const ANNOUNCEMENT_BYTES_MAX: usize =
    HEAD_BYTES + (1 + CLUSTER_ID_BYTES_MAX) + 2 * (2 + ADDRESS_BYTES_MAX) + MAC_BYTES;

const MAGIC: [u8; 8] = *b"scribe/a";
const VERSION: u8 = 1;
const HAS_STATE: u8 = 1;
const HEAD_BYTES: usize = 42;
const MAC_BYTES: usize = 32;
const CLUSTER_ID_BYTES_MAX: usize = 64;
/// A DNS name has at most 253 bytes.
const ADDRESS_BYTES_MAX: usize = 260;
const KEY_CONTEXT: &str = "scribe-ledger 2026-11-21 announcement v1";

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// The cluster it belongs to; empty while there is none.
    pub cluster_id: String,
    /// Its id, positive.
    pub node_id: NodeId,
    /// Which of the processes or directories with this id it is.
    pub incarnation: u64,
    /// Where members reach it, `HOST:PORT`.
    pub raft_addr: String,
    /// Where clients reach it, `HOST:PORT`.
    pub http_addr: String,
    /// Whether it has a log.
    pub has_state: bool,
}

/// One announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Of whom.
    pub presence: Presence,
    /// When, by the announcing node's clock.
    pub timestamp_ms: TimestampMs,
    /// The how manieth of its process.
    pub sequence: u64,
}

/// The key that a cluster's announcements are authenticated with.
#[derive(Clone)]
pub struct AnnouncementKey([u8; 32]);

impl AnnouncementKey {
    /// The key of this secret.
    #[must_use]
    pub fn of(secret: &[u8]) -> Self {
        Self(blake3::derive_key(KEY_CONTEXT, secret))
    }
}

impl fmt::Debug for AnnouncementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnnouncementKey")
    }
}

/// Why bytes are no announcement for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unreadable {
    /// Somebody else's datagram.
    Foreign,
    /// Of a format that this build does not know.
    Version(u8),
    /// Made with another secret, or damaged on the way.
    Secret,
    /// Made with this secret, and yet not well formed.
    Malformed,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("it is no announcement of a node"),
            Self::Version(version) => write!(f, "its format is {version}, this build knows {VERSION}"),
            Self::Secret => f.write_str("it was made with another cluster.secret"),
            Self::Malformed => f.write_str("it is not well formed"),
        }
    }
}

impl Announcement {
    /// The datagram, or `None` when the presence has an id or an address that none can carry.
    #[must_use]
    pub fn encode(&self, key: &AnnouncementKey) -> Option<Vec<u8>> {
        let presence = &self.presence;
        if !presence.is_sound() {
            return None;
        }
        let mut bytes = Vec::with_capacity(ANNOUNCEMENT_BYTES_MAX);
        bytes.extend(MAGIC);
        bytes.extend([VERSION, u8::from(presence.has_state) * HAS_STATE]);
        for number in [presence.node_id, presence.incarnation, self.timestamp_ms, self.sequence] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.push(u8::try_from(presence.cluster_id.len()).ok()?);
        bytes.extend(presence.cluster_id.as_bytes());
        for address in [&presence.raft_addr, &presence.http_addr] {
            bytes.extend(u16::try_from(address.len()).ok()?.to_le_bytes());
            bytes.extend(address.as_bytes());
        }
        let mac = blake3::keyed_hash(&key.0, &bytes);
        bytes.extend(mac.as_bytes());
        Some(bytes)
    }

    /// Reads a datagram. Nothing in it is looked at before its MAC is right, but for what says that it has one.
    ///
    /// # Errors
    /// Why it is none for this node.
    pub fn decode(datagram: &[u8], key: &AnnouncementKey) -> Result<Self, Unreadable> {
        match datagram.strip_prefix(&MAGIC).and_then(|rest| rest.first()) {
            Some(&VERSION) => {}
            Some(&version) => return Err(Unreadable::Version(version)),
            None => return Err(Unreadable::Foreign),
        }
        let (signed, mac) = datagram.split_last_chunk::<MAC_BYTES>().ok_or(Unreadable::Secret)?;
        // This comparison takes the same time wherever the two differ.
        if blake3::keyed_hash(&key.0, signed) != blake3::Hash::from_bytes(*mac) {
            return Err(Unreadable::Secret);
        }
        Self::read(&signed[MAGIC.len() + 1..])
            .filter(|announcement| announcement.presence.is_sound())
            .ok_or(Unreadable::Malformed)
    }

    /// What stands between version and MAC.
    fn read(body: &[u8]) -> Option<Self> {
        let mut rest = Rest(body);
        let flags = rest.array::<1>()?[0];
        let [node_id, incarnation, timestamp_ms, sequence] =
            [rest.number()?, rest.number()?, rest.number()?, rest.number()?];
        let cluster_length = rest.array::<1>()?[0];
        let cluster_id = rest.text(cluster_length.into())?;
        let mut address = || {
            let length = u16::from_le_bytes(rest.array()?);
            rest.text(length.into())
        };
        let (raft_addr, http_addr) = (address()?, address()?);
        if !rest.0.is_empty() || flags & !HAS_STATE != 0 {
            return None;
        }
        let has_state = flags & HAS_STATE != 0;
        let presence = Presence { cluster_id, node_id, incarnation, raft_addr, http_addr, has_state };
        Some(Self { presence, timestamp_ms, sequence })
    }
}

impl Presence {
    /// Whether it is what a node can be, and fits into an announcement.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let is_address = |text: &str| text.len() <= ADDRESS_BYTES_MAX && parse_host_port(text).is_some();
        self.node_id > 0
            && self.cluster_id.len() <= CLUSTER_ID_BYTES_MAX
            && self.cluster_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && is_address(&self.raft_addr)
            && is_address(&self.http_addr)
    }
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, length: usize) -> Option<String> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(head).ok().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> AnnouncementKey {
        AnnouncementKey::of(b"a secret")
    }

    fn any_announcement() -> impl Strategy<Value = Announcement> {
        let address = || "([a-z0-9]{1,40}\\.)?[a-z]{1,20}:[1-9][0-9]{0,3}|\\[::1\\]:80|10\\.0\\.0\\.1:9001";
        let numbers = (1u64.., any::<u64>(), any::<u64>(), any::<u64>());
        ("[0-9a-f-]{0,64}", numbers, address(), address(), any::<bool>()).prop_map(
            |(
                cluster_id,
                (node_id, incarnation, timestamp_ms, sequence),
                raft_addr,
                http_addr,
                has_state,
            )| {
                let presence = Presence { cluster_id, node_id, incarnation, raft_addr, http_addr, has_state };
                Announcement { presence, timestamp_ms, sequence }
            },
        )
    }

    fn simple() -> Announcement {
        let presence = Presence {
            cluster_id: "c0ffee".into(),
            node_id: 2,
            incarnation: 3,
            raft_addr: "127.0.0.1:9002".into(),
            http_addr: "127.0.0.1:8002".into(),
            has_state: true,
        };
        Announcement { presence, timestamp_ms: 4, sequence: 5 }
    }

    /// `body` as if somebody who knows the secret had made it.
    fn signed(body: &[u8]) -> Vec<u8> {
        [body, blake3::keyed_hash(&key().0, body).as_bytes()].concat()
    }

    #[test]
    fn the_bytes_are_those_of_the_drawing() {
        let mut body = b"scribe/a\x01\x01".to_vec();
        for number in [2u64, 3, 4, 5] {
            body.extend(number.to_le_bytes());
        }
        body.extend(b"\x06c0ffee\x0e\x00127.0.0.1:9002\x0e\x00127.0.0.1:8002");
        assert_eq!(simple().encode(&key()).unwrap(), signed(&body));
        assert_eq!(Announcement::decode(&signed(&body), &key()), Ok(simple()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let bytes = simple().encode(&key()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            Announcement::decode(&flipped, &key()).unwrap_err();
        }
        for length in 0..bytes.len() {
            Announcement::decode(&bytes[..length], &key()).unwrap_err();
        }
        Announcement::decode(&[&bytes[..], b"\0"].concat(), &key()).unwrap_err();
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        let bytes = simple().encode(&key()).unwrap();
        assert_eq!(Announcement::decode(&bytes, &AnnouncementKey::of(b"")), Err(Unreadable::Secret));
        assert_eq!(Announcement::decode(b"hello", &key()), Err(Unreadable::Foreign));
        assert_eq!(Announcement::decode(b"scribe/a\x02", &key()), Err(Unreadable::Version(2)));
        let body = &bytes[..bytes.len() - MAC_BYTES];
        let with = |at: usize, byte: u8| {
            let mut body = body.to_vec();
            body[at] = byte;
            Announcement::decode(&signed(&body), &key())
        };
        assert_eq!(with(9, 0x03), Err(Unreadable::Malformed), "an unknown flag");
        assert_eq!(with(10, 0), Err(Unreadable::Malformed), "node 0");
        assert_eq!(with(HEAD_BYTES, 255), Err(Unreadable::Malformed), "a length beyond the end");
        assert_eq!(with(HEAD_BYTES, 5), Err(Unreadable::Malformed), "a length too short");
        assert_eq!(with(HEAD_BYTES + 1, b'\n'), Err(Unreadable::Malformed), "a line break for the log");
        assert_eq!(with(HEAD_BYTES + 1, 0xff), Err(Unreadable::Malformed), "no text");
        let longer = signed(&[body, b"\0"].concat());
        assert_eq!(Announcement::decode(&longer, &key()), Err(Unreadable::Malformed), "something at the end");
    }

    #[test]
    fn what_no_announcement_can_carry_is_not_made() {
        let refused = |change: fn(&mut Presence)| {
            let mut announcement = simple();
            change(&mut announcement.presence);
            assert_eq!(announcement.encode(&key()), None, "{announcement:?}");
        };
        refused(|presence| presence.node_id = 0);
        refused(|presence| presence.cluster_id = "a".repeat(CLUSTER_ID_BYTES_MAX + 1));
        refused(|presence| presence.raft_addr.clear());
        refused(|presence| presence.http_addr = "127.0.0.1:0".into());
        refused(|presence| presence.http_addr = format!("{}:1", "a".repeat(ADDRESS_BYTES_MAX)));
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(announcement in any_announcement(), secret in any::<Vec<u8>>()) {
            let key = AnnouncementKey::of(&secret);
            let bytes = announcement.encode(&key).unwrap();
            prop_assert!(bytes.len() <= ANNOUNCEMENT_BYTES_MAX);
            prop_assert_eq!(Announcement::decode(&bytes, &key), Ok(announcement));
            let other = AnnouncementKey::of(&[&secret[..], b"2"].concat());
            prop_assert_eq!(Announcement::decode(&bytes, &other), Err(Unreadable::Secret));
        }

        #[test]
        fn no_bytes_panic_signed_or_not(
            noise in prop::collection::vec(any::<u8>(), 0..200), announcement in any_announcement(),
            at in any::<prop::sample::Index>(), keep in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            prop_assert!(Announcement::decode(&noise, &key()).is_err());
            let mut body = announcement.encode(&key()).unwrap();
            body.truncate(body.len() - MAC_BYTES);
            let at = at.index(body.len());
            body[at] = byte;
            for body in [&body[..], &body[..keep.index(body.len())], &[&MAGIC[..], &[VERSION], &noise].concat()] {
                if let Ok(read) = Announcement::decode(&signed(body), &key()) {
                    // Whatever is taken is sound: it goes out again as the same bytes.
                    prop_assert_eq!(read.encode(&key()), Some(signed(body)));
                }
            }
        }
    }
}
