//! The key that this member signs checkpoints with.
//!
//! ```text
//! data_dir/signing.key     "scribe signing key 1\n", then the Ed25519 seed, base64, and a line end; mode 0600
//! ```
//!
//! Drawn once, at the first start, or by the restore that makes the directory; never part of a backup. Whoever has it can sign in this member's name, and
//! whoever loses it gets a new one under the same name, which verifiers have to be told of.

use std::path::Path;

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::{
    env::{Env, OpenMode},
    error::{Code, Error, Result},
    proof::key::Signer,
};

pub(super) const FILE: &str = "signing.key";

const HEADER: &str = "scribe signing key 1\n";

/// Bytes of the file: header, 44 digits, line end.
const FILE_BYTES: u64 = HEADER.len() as u64 + 45;

/// The key of a data directory, drawn if there is none, for signing under `origin`.
///
/// # Errors
/// [`Code::Corrupt`] when the file is not a key; [`Code::Io`]; [`Code::InvalidConfig`] for an origin that cannot
/// name a key.
pub fn open(env: &Env, data_dir: &Path, origin: &str) -> Result<Signer> {
    let path = data_dir.join(FILE);
    let names =
        env.io.list(data_dir).map_err(|e| Error::io(format!("looking for {}", path.display()), &e))?;
    let seed = if names.iter().any(|name| name == FILE) { read(env, &path)? } else { draw(env, data_dir)? };
    Signer::from_seed(origin, &seed).map_err(|error| {
        Error::new(Code::InvalidConfig, format!("ledger.origin = {origin:?} cannot name a key: {error}"))
    })
}

fn read(env: &Env, path: &Path) -> Result<[u8; 32]> {
    let reading = |e| Error::io(format!("reading {}", path.display()), &e);
    let file = env.io.open(path, OpenMode::Read).map_err(reading)?;
    let mut bytes = vec![0; file.len().map_err(reading)?.min(2 * FILE_BYTES) as usize];
    file.read_at(&mut bytes, 0).map_err(reading)?;
    let text = std::str::from_utf8(&bytes).ok();
    let digits = text.and_then(|text| text.strip_prefix(HEADER)).and_then(|text| text.strip_suffix('\n'));
    let seed = digits.and_then(|digits| BASE64_STANDARD.decode(digits).ok());
    seed.and_then(|seed| seed.try_into().ok()).ok_or_else(|| {
        Error::new(
            Code::Corrupt,
            format!(
                "{} is damaged: restore it; or remove it, and tell verifiers of the key that is drawn then",
                path.display()
            ),
        )
    })
}

fn draw(env: &Env, data_dir: &Path) -> Result<[u8; 32]> {
    let words: [[u8; 8]; 4] = std::array::from_fn(|_| env.rng.next_u64().to_le_bytes());
    let seed: [u8; 32] = std::array::from_fn(|n| words[n / 8][n % 8]);
    let path = data_dir.join(FILE);
    tracing::info!(path = %path.display(), "a signing key is drawn: verifiers that know an older one have to be told");
    let draft = data_dir.join("signing.key.tmp");
    let write = || {
        let file = env.io.open(&draft, OpenMode::Buffered)?;
        #[cfg(unix)]
        if let Some(native) = env.io.native_path(&draft) {
            use std::os::unix::fs::PermissionsExt;
            // Before there is anything to be read in it.
            std::fs::set_permissions(native, std::fs::Permissions::from_mode(0o600))?;
        }
        let text = format!("{HEADER}{}\n", BASE64_STANDARD.encode(seed));
        file.set_len(0)?;
        file.write_at(text.as_bytes(), 0)?;
        file.sync()?;
        env.io.rename(&draft, &path)?;
        env.io.sync_dir(data_dir)
    };
    write().map_err(|e| Error::io(format!("writing {}", path.display()), &e))?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::real::real_env;

    #[test]
    fn a_key_is_drawn_once_and_is_nobody_elses_to_read() {
        let (env, dir) = (real_env(), tempfile::tempdir().unwrap());
        let key = open(&env, dir.path(), "log").unwrap().verifier_key().clone();
        assert_eq!(*open(&env, dir.path(), "log").unwrap().verifier_key(), key);
        let path = dir.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.len() as u64, FILE_BYTES);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        for damaged in
            ["", &text[1..], &text[..text.len() - 1], &text.replace('\n', "\n\n"), &format!("{text}x")]
        {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(open(&env, dir.path(), "log").unwrap_err().code(), Code::Corrupt, "{damaged:?}");
        }
        let other = tempfile::tempdir().unwrap();
        assert_ne!(*open(&env, other.path(), "log").unwrap().verifier_key(), key);
        assert_eq!(open(&env, other.path(), "a+b").unwrap_err().code(), Code::InvalidConfig);
    }
}
