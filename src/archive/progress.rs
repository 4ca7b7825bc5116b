//! What a node knows of its archive, for whoever asks the node: how it fares, which objects it has, what it cost.
//!
//! The archive stage writes it, status, metrics and the list of segments read it. Objects are known from the store's
//! manifest, which a leader reads before it goes on with it: 64 bytes of memory each, nothing on disk. So a member that
//! has not led since its start knows that a segment is archived and not under which name: that is not worth a request
//! for each segment on every member, nor a copy on each disk that could contradict the manifest.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::object::ObjectRef;
use crate::{
    error::{Code, Error},
    types::SegmentId,
};

/// How an archive fares, as one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// This node archives nothing, by its configuration.
    #[default]
    Off,
    /// The store has not been asked yet.
    Starting,
    /// The store does what it is asked.
    Ok,
    /// It does not.
    Failing(Failure),
}

/// What kind of trouble an archive is in, by what can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The store does not answer: it is tried again.
    Away,
    /// It refuses, belongs to another ledger, or this node's disk fails: an operator has to act.
    Refused,
    /// The store, or this node's disk, has no room.
    Full,
    /// What is in the store is not what was written, or not this ledger: nothing more is archived until that is put
    /// right.
    Broken,
}

impl Failure {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Away, Self::Refused, Self::Full, Self::Broken];

    /// What an error of the store, or on the way to it, means.
    #[must_use]
    pub const fn of(error: &Error) -> Self {
        match error.code() {
            Code::DiskFull => Self::Full,
            Code::Io => Self::Refused,
            Code::Corrupt | Code::NotFound | Code::Internal => Self::Broken,
            _ => Self::Away,
        }
    }

    /// Its name in status and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Refused => "refused",
            Self::Full => "full",
            Self::Broken => "broken",
        }
    }
}

impl Condition {
    /// Its name in status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Starting => "starting",
            Self::Ok => "ok",
            Self::Failing(failure) => failure.name(),
        }
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Progress {
    place: String,
    now: Mutex<Now>,
    objects: Mutex<Vec<ObjectRef>>,
    uploaded: AtomicU64,
    raw_bytes: AtomicU64,
    stored_bytes: AtomicU64,
    errors: [AtomicU64; Failure::ALL.len()],
}

#[derive(Clone, Debug, Default)]
struct Now {
    condition: Condition,
    why: Option<String>,
    ok_at: Option<Instant>,
    /// What is wrong although the store does what it is asked.
    wrong: Option<(Failure, String)>,
}

/// What has been uploaded by this node since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Segments.
    pub objects: u64,
    /// Bytes of their local files.
    pub raw_bytes: u64,
    /// Bytes of their objects.
    pub stored_bytes: u64,
}

impl Progress {
    /// Of an archive at this place, a path or an URL, that has not been asked yet.
    #[must_use]
    pub fn of(place: impl Into<String>) -> Arc<Self> {
        let now = Now { condition: Condition::Starting, ..Now::default() };
        Arc::new(Self { place: place.into(), now: Mutex::new(now), ..Self::default() })
    }

    /// Of a node that archives nothing.
    #[must_use]
    pub fn off() -> Arc<Self> {
        Arc::default()
    }

    /// Where the archive is; none for a node that archives nothing.
    #[must_use]
    pub fn place(&self) -> Option<&str> {
        (!self.place.is_empty()).then_some(&*self.place)
    }

    /// Whether this node archives when it leads.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.now.lock().condition != Condition::Off
    }

    /// How it fares, and why it does not.
    #[must_use]
    pub fn now(&self) -> (Condition, Option<String>) {
        match self.now.lock().clone() {
            Now { condition: Condition::Ok, wrong: Some((failure, why)), .. } => {
                (Condition::Failing(failure), Some(why))
            }
            Now { condition, why, .. } => (condition, why),
        }
    }

    /// What is wrong with an object that was archived, if anything is: told while nothing worse is.
    pub fn note_wrong(&self, error: Option<&Error>) {
        self.now.lock().wrong = error.map(|error| (Failure::of(error), error.message().to_owned()));
    }

    /// The store does what it is asked; how it fared before.
    pub fn note_ok(&self) -> Condition {
        let mut now = self.now.lock();
        now.why = None;
        now.ok_at = Some(Instant::now());
        std::mem::replace(&mut now.condition, Condition::Ok)
    }

    /// Something failed; how it fared before, and why.
    pub fn note_failure(&self, error: &Error) -> (Condition, Option<String>) {
        let failure = Failure::of(error);
        if let Some(count) = self.errors.get(failure as usize) {
            count.fetch_add(1, Relaxed);
        }
        let mut now = self.now.lock();
        let why = now.why.replace(error.message().to_owned());
        (std::mem::replace(&mut now.condition, Condition::Failing(failure)), why)
    }

    /// When the store was last seen to do what it is asked.
    #[must_use]
    pub fn ok_at(&self) -> Option<Instant> {
        self.now.lock().ok_at
    }

    /// A segment's object is in the store, and read back; `raw_bytes` are those of its local file.
    pub fn note_uploaded(&self, object: &ObjectRef, raw_bytes: u64) {
        self.uploaded.fetch_add(1, Relaxed);
        self.raw_bytes.fetch_add(raw_bytes, Relaxed);
        self.stored_bytes.fetch_add(object.bytes, Relaxed);
    }

    /// The objects from this segment on, by the manifest; later ones are forgotten.
    pub fn note_objects(&self, from: SegmentId, objects: impl IntoIterator<Item = ObjectRef>) {
        let mut known = self.objects.lock();
        known.truncate(usize::try_from(from.0).unwrap_or(usize::MAX));
        known.extend(objects);
    }

    /// The objects of all segments, by number, as far as this node has read the manifest.
    #[must_use]
    pub fn objects(&self) -> Vec<ObjectRef> {
        self.objects.lock().clone()
    }

    /// What this node has uploaded since its start.
    #[must_use]
    pub fn uploaded(&self) -> Uploaded {
        Uploaded {
            objects: self.uploaded.load(Relaxed),
            raw_bytes: self.raw_bytes.load(Relaxed),
            stored_bytes: self.stored_bytes.load(Relaxed),
        }
    }

    /// How often each kind of trouble was met since the start.
    #[must_use]
    pub fn errors(&self) -> [(Failure, u64); Failure::ALL.len()] {
        Failure::ALL.map(|failure| {
            (failure, self.errors.get(failure as usize).map_or(0, |count| count.load(Relaxed)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Epoch, StoreError, Trouble};

    #[test]
    fn trouble_is_counted_by_its_kind_and_shown_until_it_is_over() {
        let progress = Progress::of("s3://bucket");
        assert_eq!((progress.now().0, progress.is_on()), (Condition::Starting, true));
        for (trouble, name) in [
            (Trouble::Away, "away"),
            (Trouble::Denied, "refused"),
            (Trouble::Full, "full"),
            (Trouble::Broken, "broken"),
        ] {
            progress.note_failure(&StoreError::new(trouble, "why").into());
            assert_eq!(progress.now().0.name(), name);
            assert_eq!(progress.now().1.as_deref(), Some("why"));
        }
        assert!(progress.errors().iter().all(|(_, count)| *count == 1), "{:?}", progress.errors());
        assert_eq!(progress.note_ok(), Condition::Failing(Failure::Broken));
        assert_eq!(progress.now(), (Condition::Ok, None));
        progress.note_wrong(Some(&Error::new(Code::Corrupt, "gone")));
        assert_eq!(progress.now(), (Condition::Failing(Failure::Broken), Some("gone".into())));
        assert_eq!(progress.note_ok(), Condition::Ok);
        assert_eq!(progress.now().1.as_deref(), Some("gone"), "the store does what it is asked");
        progress.note_wrong(None);
        assert_eq!(progress.now(), (Condition::Ok, None));
        assert!(!Progress::off().is_on() && Progress::off().place().is_none());
    }

    #[test]
    fn objects_are_those_of_the_manifest_that_was_read_last() {
        let progress = Progress::of("/archive");
        let object =
            |n| ObjectRef { epoch: Epoch::FIRST, segment: SegmentId(n), bytes: n, hash: [n as u8; 32] };
        progress.note_objects(SegmentId(0), [object(0), object(1)]);
        progress.note_objects(SegmentId(2), [object(2)]);
        assert_eq!(progress.objects(), [object(0), object(1), object(2)]);
        progress.note_objects(SegmentId(1), []);
        assert_eq!(progress.objects(), [object(0)]);
    }
}
