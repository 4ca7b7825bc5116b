//! A data directory before a node starts on it: whose it is, and making it somebody's.
//!
//! What other nodes are told of this one before it starts has to be on disk first, so that a crash in between does
//! not make another node of it.

use std::path::Path;

use super::{Founding, Identity, archiving::STAGING_FILE, identity, lock};
use crate::{
    config::Config,
    env::{Env, Io},
    error::{Error, Result},
};

/// What a data directory says of its node.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whose it is.
    pub identity: Identity,
    /// Whether it holds a log or segments.
    pub has_log: bool,
}

/// Looks at a data directory, which need not exist; changes nothing.
///
/// # Errors
/// [`Code::Corrupt`](crate::error::Code::Corrupt) when the identity is damaged,
/// [`Code::Io`](crate::error::Code::Io) when the disk fails.
pub fn look(env: &Env, data_dir: &Path) -> Result<Option<Found>> {
    let Some(identity) = identity::find(env, data_dir)? else { return Ok(None) };
    let holds = |dir: &str| {
        let names = env.io.list(&data_dir.join(dir));
        names.map(|names| !names.is_empty()).map_err(|e| Error::io(format!("listing {dir}"), &e))
    };
    Ok(Some(Found { has_log: holds("wal")? || holds("segments")?, identity }))
}

/// Makes an empty data directory this node's, durably; one that is already stays as it is.
///
/// # Errors
/// As [`Node::start`](super::Node::start).
pub fn claim(env: &Env, config: &Config, founding: &Founding) -> Result<Identity> {
    let data_dir = config.node.data_dir.as_path();
    let creating = |e| Error::io(format!("creating data directory {}", data_dir.display()), &e);
    env.io.create_dir_all(data_dir).map_err(creating)?;
    let _lock = lock(&*env.io, data_dir)?;
    let (claim, fresh) = founding.claim(config);
    identity::open(env, data_dir, config.node.id, claim, fresh)
}

/// Empties the data directory of a node that gives its ledger up, the identity first: whatever a crash leaves is
/// nobody's.
///
/// # Errors
/// [`Code::Io`](crate::error::Code::Io) when the disk fails or another process uses the directory.
pub fn abandon(env: &Env, data_dir: &Path) -> Result<()> {
    let _lock = lock(&*env.io, data_dir)?;
    let io = &*env.io;
    let failed = |e| Error::io(format!("emptying {}", data_dir.display()), &e);
    // Without the log first: a directory with a log and no identity is taken for a damaged one.
    for dir in ["wal", "segments"] {
        remove_files(io, &data_dir.join(dir)).map_err(failed)?;
    }
    for name in ["proven", "catching-up", "signing.key", STAGING_FILE, identity::FILE] {
        remove_file(io, &data_dir.join(name)).map_err(failed)?;
    }
    io.sync_dir(data_dir).map_err(failed)?;
    Ok(())
}

pub(super) fn remove_files(io: &dyn Io, dir: &Path) -> std::io::Result<()> {
    let names = io.list(dir)?;
    for name in &names {
        io.remove(&dir.join(name))?;
    }
    if names.is_empty() { Ok(()) } else { io.sync_dir(dir) }
}

fn remove_file(io: &dyn Io, path: &Path) -> std::io::Result<()> {
    match io.remove(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
