//! What a verifier remembers of a log between two visits: its keys and the newest checkpoint that held.
//!
//! ```text
//! { "format": 1, "origin": "scribe/…/1", "keys": [vkey, …], "checkpoint": the signed note }
//! FILE.evidence-<16 hex digits>.json     what did not fit together, once something did not
//! ```
//!
//! Whoever can write this file can make a verifier believe another log, so that it belongs to the one who
//! verifies. It is replaced as a whole or not at all: a crash leaves the checkpoint before.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    env::{Io, OpenMode, Rng},
    error::{Code, Error, Result},
    proof::{Hash, checkpoint::Checkpoint, key::VerifierKey, note::Note},
};

const FORMAT: u32 = 1;

/// Most bytes that are read of a state file: the longest note, escaped, and its keys.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Longest file name that is made of an origin as it is.
const NAME_BYTES_MAX: usize = 120;

/// See the head of this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    keys: Vec<VerifierKey>,
    note: String,
    checkpoint: Checkpoint,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    origin: String,
    keys: Vec<String>,
    checkpoint: String,
}

impl Remembered {
    /// What is to be remembered of a note that these keys vouch for.
    pub(super) const fn new(keys: Vec<VerifierKey>, note: String, checkpoint: Checkpoint) -> Self {
        Self { keys, note, checkpoint }
    }

    /// The keys that are believed.
    #[must_use]
    pub fn keys(&self) -> &[VerifierKey] {
        &self.keys
    }

    /// The signed note.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// What it says.
    #[must_use]
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The name of the file that remembers a log, whatever characters its origin has.
    #[must_use]
    pub fn file_name(origin: &str) -> String {
        let mut name = String::new();
        for byte in origin.bytes() {
            let is_plain =
                byte.is_ascii_alphanumeric() || b"-_".contains(&byte) || (byte == b'.' && !name.is_empty());
            if is_plain { name.push(char::from(byte)) } else { name.push_str(&format!("%{byte:02X}")) }
        }
        if name.len() > NAME_BYTES_MAX {
            name = format!("%{}", Hash::of(origin.as_bytes()));
        }
        name + ".json"
    }

    /// Reads a state file; none when there is none.
    ///
    /// # Errors
    /// [`Code::Corrupt`] when it is not one, or its own signature does not hold; [`Code::Io`].
    pub fn load(io: &dyn Io, path: &Path) -> Result<Option<Self>> {
        let bytes = match read(io, path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("reading {}", path.display()), &error)),
        };
        Self::decode(&bytes).map(Some).map_err(|why| {
            let what = format!(
                "{} is not what a verification has remembered ({why}): restore it, or remove it to begin anew, \
                 believing the server once more",
                path.display()
            );
            Error::new(Code::Corrupt, what)
        })
    }

    /// Puts it in the place of what the file has.
    ///
    /// # Errors
    /// [`Code::Io`]; the file is as it was then.
    pub fn store(&self, io: &dyn Io, rng: &dyn Rng, path: &Path) -> Result<()> {
        replace(io, rng, path, &self.encode())
            .map_err(|e| Error::io(format!("writing {}", path.display()), &e))
    }

    fn encode(&self) -> Vec<u8> {
        let stored = Stored {
            format: FORMAT,
            origin: self.checkpoint.origin().to_owned(),
            keys: self.keys.iter().map(ToString::to_string).collect(),
            checkpoint: self.note.clone(),
        };
        let mut bytes = json!(stored).to_string().into_bytes();
        bytes.push(b'\n');
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let stored: Stored = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if stored.format != FORMAT {
            return Err(format!("its format is {}, this build knows {FORMAT}", stored.format));
        }
        let keys = stored.keys.iter().map(|key| key.parse()).collect::<Result<Vec<VerifierKey>, _>>();
        let keys = keys.map_err(|e| e.to_string())?;
        let opened = Note::parse(stored.checkpoint.as_bytes())
            .and_then(|note| Checkpoint::open(&note, &keys).map(|(checkpoint, _)| checkpoint));
        let checkpoint = opened.map_err(|e| e.to_string())?;
        if checkpoint.origin() != stored.origin {
            return Err("its checkpoint is of another log".to_owned());
        }
        Ok(Self { keys, note: stored.checkpoint, checkpoint })
    }
}

/// Keeps what a server has signed and what contradicts it, beside the state file; the same evidence is kept
/// once. Gives its file.
///
/// # Errors
/// [`Code::Io`].
pub fn keep_evidence(
    io: &dyn Io,
    rng: &dyn Rng,
    state: &Path,
    server: &str,
    found: &str,
    remembered: Option<&Remembered>,
    served: &str,
) -> Result<PathBuf> {
    let remembered = remembered.map(Remembered::note);
    let notes = json!({ "remembered": remembered, "served": served });
    let hash = Hash::of(notes.to_string().as_bytes()).to_string();
    let mut name = state.as_os_str().to_owned();
    name.push(format!(".evidence-{}.json", &hash[..16]));
    let path = PathBuf::from(name);
    let evidence = json!({ "server": server, "found": found, "remembered": remembered, "served": served });
    replace(io, rng, &path, format!("{evidence:#}\n").as_bytes())
        .map_err(|e| Error::io(format!("writing {}", path.display()), &e))?;
    Ok(path)
}

fn read(io: &dyn Io, path: &Path) -> io::Result<Vec<u8>> {
    let file = io.open(path, OpenMode::Read)?;
    let bytes = file.len()?;
    if bytes > FILE_BYTES_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is too large to be a state file"));
    }
    let mut out = vec![0; bytes as usize];
    file.read_at(&mut out, 0)?;
    Ok(out)
}

fn replace(io: &dyn Io, rng: &dyn Rng, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    io.create_dir_all(dir)?;
    // Two verifications at once do not write the same draft.
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}.tmp", rng.next_u64()));
    let draft = PathBuf::from(draft);
    let write = || {
        let file = io.open(&draft, OpenMode::Buffered)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        io.rename(&draft, path)
        // From here on it is what the next verification begins with.
    };
    if let Err(error) = write() {
        // It may not be there; nothing reads it either way.
        let _ = io.remove(&draft);
        return Err(error);
    }
    io.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{env::real::OsRng, proof::key::Signer, sim::SimIo};

    fn remembered(size: u64) -> Remembered {
        let signer = Signer::from_seed("log/1", &[1; 32]).unwrap();
        let checkpoint = Checkpoint::new("log/1", size, Hash::of(&[1])).unwrap();
        let note = checkpoint.sign(&signer).unwrap().to_string();
        Remembered::new(vec![signer.verifier_key().clone()], note, checkpoint)
    }

    #[test]
    fn what_is_stored_is_remembered_and_damage_is_not_believed() {
        let (io, path) = (SimIo::new(1), Path::new("/home/state.json"));
        assert_eq!(Remembered::load(&io, path).unwrap(), None);
        for size in [7, 8] {
            remembered(size).store(&io, &OsRng, path).unwrap();
            assert_eq!(Remembered::load(&io, path).unwrap(), Some(remembered(size)));
        }
        assert_eq!(io.list(Path::new("/home")).unwrap(), ["state.json"], "no draft is left");
        let bytes = remembered(8).encode();
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            // The line end is no part of the document; everything else is.
            assert!(Remembered::decode(&bytes).is_err() || at + 1 == bytes.len(), "byte {at}");
        }
    }

    #[test]
    fn evidence_holds_both_notes_and_is_kept_once() {
        let (io, state) = (SimIo::new(1), Path::new("/home/state.json"));
        let keep = |found| {
            keep_evidence(&io, &OsRng, state, "http://h:1", found, Some(&remembered(8)), "served\n").unwrap()
        };
        let path = keep("it shrank");
        assert_eq!(keep("it shrank again"), path);
        assert_eq!(io.list(Path::new("/home")).unwrap().len(), 1);
        let evidence: serde_json::Value = serde_json::from_slice(&read(&io, &path).unwrap()).unwrap();
        assert_eq!(evidence["remembered"], remembered(8).note());
        assert_eq!(
            (&evidence["served"], &evidence["found"]),
            (&json!("served\n"), &json!("it shrank again"))
        );
    }

    #[test]
    fn an_origin_makes_a_file_name_and_no_path() {
        assert_eq!(Remembered::file_name("scribe/a1/1"), "scribe%2Fa1%2F1.json");
        assert_eq!(Remembered::file_name("../x"), "%2E.%2Fx.json");
        assert_eq!(Remembered::file_name("a%b"), "a%25b.json");
        let long = Remembered::file_name(&"x".repeat(1_000));
        assert!(long.len() < NAME_BYTES_MAX && long.starts_with('%'), "{long}");
        assert_ne!(long, Remembered::file_name(&"x".repeat(1_001)));
    }
}
