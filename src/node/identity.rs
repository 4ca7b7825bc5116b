//! Who a data directory belongs to.
//!
//! Takes the disk and who wants the directory, gives its [`Identity`] or says why it is not theirs. It does
//! not own the lock, nor anything else in the directory.
//!
//! ```text
//! { "format": 1, "node_id": 1, "cluster_id": "32 hex digits", "incarnation": "16 hex digits",
//!   "joined": true, "embedded": true }
//! ```
//!
//! The cluster's id ends with `-2` and so on where it goes on with a ledger that was restored: that is its epoch.
//!
//! The incarnation tells this directory from any other that claims the node's id. `joined` stands only where the
//! node came to a ledger that others had founded: without a log it waits to be counted in, and founds nothing.
//!
//! `embedded` stands only in the directory of an embedded ledger: a program's own ledger is no
//! member of any cluster, and a server that came upon it by a mistaken path would become its owner.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::restore;
use crate::{
    env::{Env, OpenMode},
    error::{Code, Error, Result},
    types::NodeId,
};

/// Version of the directory's layout that this build writes.
pub(super) const DIRECTORY_FORMAT: u32 = 1;

/// Most bytes that are read of the file; it has about a hundred and fifty.
const IDENTITY_BYTES_MAX: u64 = 1 << 16;

pub(super) const FILE: &str = "identity.json";

/// Who a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of the directory's layout.
    pub format: u32,
    /// The member that owns it.
    pub node_id: NodeId,
    /// The ledger it is a part of: 128 random bits in hex, drawn by its founder.
    pub cluster_id: String,
    /// Which of the directories with this node's id it is: 64 random bits, never zero.
    #[serde(with = "hex_word")]
    pub incarnation: u64,
    /// Whether it came to a ledger that others had founded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joined: bool,
    /// Whether a program has it for itself, without a server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub embedded: bool,
}

impl Identity {
    /// Which life of its ledger the cluster is: 1 for one that founded it, one more with each restore.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        let epoch = self.cluster_id.split_once('-').and_then(|(_, epoch)| epoch.parse().ok());
        epoch.unwrap_or(1)
    }

    /// The id that the cluster was given, without its epoch.
    #[must_use]
    pub fn cluster(&self) -> &str {
        self.cluster_id.split_once('-').map_or(&self.cluster_id, |(cluster, _)| cluster)
    }
}

/// Who wants to use a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A program that embeds the ledger.
    Embedded,
    /// A server. It makes an embedded directory its own only if it may adopt one.
    Server {
        /// Whether it was told to: `node.adopt_embedded`.
        adopt: bool,
    },
}

/// What an empty directory is claimed for.
#[derive(Clone, Debug, Default)]
pub struct Fresh {
    /// The ledger that others have founded; `None` to found one.
    pub joins: Option<String>,
    /// The incarnation that others have been told; drawn where there is none.
    pub incarnation: Option<u64>,
}

/// Reads who the directory belongs to, or claims an empty one.
///
/// # Errors
/// [`Code::InvalidConfig`] when it is another's, [`Code::Corrupt`] when that cannot be told,
/// [`Code::Io`] when the disk fails.
pub fn open(env: &Env, data_dir: &Path, node_id: NodeId, claim: Claim, fresh: Fresh) -> Result<Identity> {
    if let Some(mut identity) = find(env, data_dir)? {
        if check(&identity, data_dir, node_id, claim)? == Ownership::Adopted {
            identity.embedded = false;
            write(env, data_dir, &identity)?;
            tracing::info!(data_dir = %data_dir.display(), "an embedded ledger is this node's from now on");
        }
        return Ok(identity);
    }
    restore::refuse_unfinished(env, data_dir)?;
    for (what, dir) in [("a log", "wal"), ("segments", "segments")] {
        if env.io.list(&data_dir.join(dir)).is_ok_and(|files| !files.is_empty()) {
            return Err(Error::new(
                Code::Corrupt,
                format!("{} holds {what} but no {FILE}: restore it from a backup", data_dir.display()),
            ));
        }
    }
    let Fresh { joins, incarnation } = fresh;
    let joined = joins.is_some();
    let cluster_id =
        joins.unwrap_or_else(|| format!("{:016x}{:016x}", env.rng.next_u64(), env.rng.next_u64()));
    let incarnation = incarnation.unwrap_or_else(|| env.rng.next_u64()).max(1);
    let embedded = claim == Claim::Embedded;
    let identity = Identity { format: DIRECTORY_FORMAT, node_id, cluster_id, incarnation, joined, embedded };
    write(env, data_dir, &identity)?;
    Ok(identity)
}

/// Who the directory belongs to, if it does to anybody.
///
/// # Errors
/// [`Code::Corrupt`] when that cannot be told, [`Code::Io`] when the disk fails.
pub fn find(env: &Env, data_dir: &Path) -> Result<Option<Identity>> {
    let path = data_dir.join(FILE);
    let names =
        env.io.list(data_dir).map_err(|e| Error::io(format!("looking for {}", path.display()), &e))?;
    names.iter().any(|name| name == FILE).then(|| read(env, &path)).transpose()
}

/// A word as 16 hex digits: JSON's numbers are exact only up to 2^53.
mod hex_word {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(word: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{word:016x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        u64::from_str_radix(&String::deserialize(deserializer)?, 16).map_err(D::Error::custom)
    }
}

fn read(env: &Env, path: &Path) -> Result<Identity> {
    let reading = |e| Error::io(format!("reading {}", path.display()), &e);
    let file = env.io.open(path, OpenMode::Read).map_err(reading)?;
    let mut bytes = vec![0; file.len().map_err(reading)?.min(IDENTITY_BYTES_MAX) as usize];
    file.read_at(&mut bytes, 0).map_err(reading)?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Error::new(Code::Corrupt, format!("{} is damaged ({e}): restore it from a backup", path.display()))
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Ownership {
    Kept,
    Adopted,
}

/// Whether a directory is for who claims it.
fn check(identity: &Identity, data_dir: &Path, node_id: NodeId, claim: Claim) -> Result<Ownership> {
    let dir = data_dir.display();
    if identity.format != DIRECTORY_FORMAT {
        let format = identity.format;
        return Err(Error::new(
            Code::Corrupt,
            format!(
                "{dir}/{FILE} has layout {format}, this build knows {DIRECTORY_FORMAT}: use a newer build"
            ),
        ));
    }
    let owner = identity.node_id;
    let refused = |why: String| Err(Error::new(Code::InvalidConfig, why));
    match (identity.embedded, claim) {
        (false, Claim::Embedded) => refused(format!(
            "{dir} belongs to node {owner} of a server: read it through that server, or open another directory"
        )),
        (true, Claim::Server { adopt: false }) => refused(format!(
            "{dir} holds an embedded ledger: choose another --data-dir, or make it this node's for good with \
             --adopt-embedded (node.adopt_embedded)"
        )),
        _ if owner != node_id => refused(format!(
            "{dir} belongs to node {owner}, but node.id is {node_id}: use its id, or another --data-dir"
        )),
        (true, Claim::Server { adopt: true }) => Ok(Ownership::Adopted),
        (true, Claim::Embedded) | (false, Claim::Server { .. }) => Ok(Ownership::Kept),
    }
}

/// Makes a directory its owner's, durably.
///
/// # Errors
/// [`Code::Io`], [`Code::DiskFull`].
pub(super) fn write(env: &Env, data_dir: &Path, identity: &Identity) -> Result<()> {
    let path = data_dir.join(FILE);
    let write = || -> std::io::Result<()> {
        let draft = data_dir.join("identity.json.new");
        let file = env.io.open(&draft, OpenMode::Buffered)?;
        let bytes = serde_json::to_vec_pretty(identity)?;
        file.set_len(0)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        env.io.rename(&draft, &path)?;
        // From here on the directory is theirs, also after a crash.
        env.io.sync_dir(data_dir)
    };
    write().map_err(|e| Error::io(format!("writing {}", path.display()), &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real::real_env;

    const SERVER: Claim = Claim::Server { adopt: false };
    const ADOPTING: Claim = Claim::Server { adopt: true };

    /// Directories of earlier builds say nothing about being embedded, and are written as they were.
    #[test]
    fn a_server_writes_what_it_always_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let owner = open(&real_env(), dir.path(), 3, SERVER, Fresh::default()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        let expected = format!(
            "{{\n  \"format\": 1,\n  \"node_id\": 3,\n  \"cluster_id\": \"{}\",\n  \"incarnation\": \"{:016x}\"\n}}",
            owner.cluster_id, owner.incarnation
        );
        assert_eq!(text, expected);
        assert_eq!(open(&real_env(), dir.path(), 3, SERVER, Fresh::default()).unwrap(), owner);
        let error = open(&real_env(), dir.path(), 1, Claim::Embedded, Fresh::default()).err().unwrap();
        assert_eq!(error.code(), Code::InvalidConfig);
        assert!(error.message().contains("belongs to node 3 of a server"), "{error}");
    }

    #[test]
    fn an_embedded_directory_is_adopted_only_on_request_and_for_good() {
        let (env, dir) = (real_env(), tempfile::tempdir().unwrap());
        let first = open(&env, dir.path(), 1, Claim::Embedded, Fresh::default()).unwrap();
        assert!(first.embedded);
        let refused = |id, claim| open(&env, dir.path(), id, claim, Fresh::default()).err().unwrap();
        assert!(refused(1, SERVER).message().contains("--adopt-embedded"));
        assert!(refused(2, ADOPTING).message().contains("belongs to node 1"), "and nothing is changed");
        assert_eq!(open(&env, dir.path(), 1, Claim::Embedded, Fresh::default()).unwrap(), first);

        let adopted = open(&env, dir.path(), 1, ADOPTING, Fresh::default()).unwrap();
        assert_eq!(adopted, Identity { embedded: false, ..first });
        assert_eq!(open(&env, dir.path(), 1, SERVER, Fresh::default()).unwrap(), adopted);
        assert!(refused(1, Claim::Embedded).message().contains("belongs to node 1 of a server"));
    }

    #[test]
    fn damage_is_named_with_its_file() {
        let (env, dir) = (real_env(), tempfile::tempdir().unwrap());
        let path = dir.path().join(FILE);
        for (bytes, says) in [
            (&b""[..], "damaged"),
            (b"{\"format\":1", "damaged"),
            (b"\xff\x00", "damaged"),
            (b"{\"format\":2,\"node_id\":1,\"cluster_id\":\"\",\"incarnation\":\"1\"}", "layout 2"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = open(&env, dir.path(), 1, SERVER, Fresh::default()).err().unwrap();
            assert_eq!(error.code(), Code::Corrupt);
            assert!(error.message().contains(says) && error.message().contains("identity.json"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        for (part, file) in [("wal", "wal-1-1.log"), ("segments", "segment-1.seg")] {
            std::fs::create_dir(dir.path().join(part)).unwrap();
            std::fs::write(dir.path().join(part).join(file), b"").unwrap();
            assert!(
                open(&env, dir.path(), 1, SERVER, Fresh::default())
                    .err()
                    .unwrap()
                    .message()
                    .contains("no identity.json")
            );
            std::fs::remove_dir_all(dir.path().join(part)).unwrap();
        }
        assert!(!path.exists(), "none is made up");
    }
}
