//! Which objects of the archive are still to be looked for, and what is known to be wrong with those that were, and with
//! the newest checkpoint.
//!
//! Takes what was found, gives which objects come next and what to tell. Pure but for its log lines.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    time::Duration,
};

use tokio::time::Instant;

use super::lost::{Found, REQUESTS};
use crate::{
    archive::ObjectRef,
    error::{Code, Error},
    types::SegmentId,
};

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Audit {
    waiting: VecDeque<ObjectRef>,
    /// When the next ones may be looked for; none for at once.
    not_before: Option<Instant>,
    wrong: BTreeMap<SegmentId, Error>,
    wrong_checkpoint: Option<Error>,
}

impl Audit {
    /// Begins anew with these.
    pub(super) fn begin(&mut self, objects: Vec<ObjectRef>) {
        self.wrong.retain(|id, _| usize::try_from(id.0).is_ok_and(|id| id < objects.len()));
        self.waiting = objects.into();
        self.not_before = None;
    }

    /// Whether some are to be looked for now.
    pub(super) fn is_due(&self) -> bool {
        !self.waiting.is_empty() && self.not_before.is_none_or(|at| at <= Instant::now())
    }

    /// Some of them.
    pub(super) fn next(&mut self) -> Vec<ObjectRef> {
        let count = self.waiting.len().min(REQUESTS);
        self.waiting.drain(..count).collect()
    }

    /// These could not be looked for: they are after `retry`.
    pub(super) fn postpone(&mut self, objects: Vec<ObjectRef>, retry: Duration) {
        self.waiting.extend(objects);
        self.not_before = Some(Instant::now() + retry);
    }

    /// What was found of those. What may pass is looked for again after `retry`.
    pub(super) fn note(&mut self, found: Vec<(ObjectRef, Found)>, archive: &str, retry: Duration) {
        for (object, found) in found {
            let (id, name) = (object.segment, object.name());
            let error = match found {
                Found::There => {
                    if self.wrong.remove(&id).is_some() {
                        tracing::info!(archive, object = %name, "an object of the archive is there again");
                    }
                    continue;
                }
                Found::PutBack => {
                    self.wrong.remove(&id);
                    tracing::warn!(archive, object = %name, "the archive had lost an object: it is put back");
                    continue;
                }
                Found::Lost(what) => Error::new(Code::Corrupt, what),
                Found::Failed(error) => {
                    self.waiting.push_back(object);
                    self.not_before = Some(Instant::now() + retry);
                    error
                }
            };
            let before = self.wrong.insert(id, error.clone());
            if before.is_none_or(|before| before.message() != error.message()) {
                tracing::error!(archive, %error, "the archive lacks an object; nothing else waits for it");
            }
        }
    }

    /// What is wrong with the newest checkpoint; nothing where it is there.
    pub(super) fn note_checkpoint(&mut self, wrong: Option<Error>, archive: &str) {
        let before = mem::replace(&mut self.wrong_checkpoint, wrong);
        let message = |error: &Error| error.message().to_owned();
        match &self.wrong_checkpoint {
            Some(error) if before.as_ref().map(message) != Some(message(error)) => {
                tracing::error!(archive, %error, "the archive's newest checkpoint is damaged; nothing else waits for it");
            }
            None if before.is_some() => tracing::info!(archive, "the archive's newest checkpoint is whole"),
            _ => {}
        }
    }

    /// The first that is wrong.
    pub(super) fn wrong(&self) -> Option<&Error> {
        self.wrong.values().next().or(self.wrong_checkpoint.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Epoch;

    fn object(id: u64) -> ObjectRef {
        ObjectRef { epoch: Epoch::FIRST, segment: SegmentId(id), bytes: 1, hash: [id as u8; 32] }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_asked_again_and_what_is_wrong_is_told_until_it_is_there() {
        let mut audit = Audit::default();
        assert!(!audit.is_due() && audit.wrong().is_none());
        audit.begin((0..20).map(object).collect());
        let first = audit.next();
        assert_eq!((first.len(), first[0]), (REQUESTS, object(0)));
        let away = Error::new(Code::Unavailable, "away");
        let found = vec![
            (object(0), Found::There),
            (object(1), Found::Failed(away)),
            (object(2), Found::Lost("gone".into())),
        ];
        audit.note(found, "here", Duration::from_secs(5));
        assert_eq!(audit.wrong().map(Error::message), Some("away"));
        assert!(!audit.is_due(), "the store is left alone for a while");
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(audit.is_due());
        assert_eq!(audit.next(), [16, 17, 18, 19, 1].map(object), "nothing is forgotten");
        audit.note(vec![(object(1), Found::PutBack)], "here", Duration::ZERO);
        assert_eq!(audit.wrong().map(Error::message), Some("gone"), "it stays so");
        assert!(!audit.is_due(), "until all are looked for anew");
        audit.begin((0..3).map(object).collect());
        let all = audit.next();
        audit.postpone(all.clone(), Duration::from_secs(5));
        assert!(!audit.is_due() && audit.wrong().is_some(), "nothing new is known");
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!((audit.is_due(), audit.next()), (true, all));
        audit.note(vec![(object(2), Found::There)], "here", Duration::ZERO);
        assert!(audit.wrong().is_none());
    }

    #[test]
    fn a_damaged_checkpoint_is_told_behind_objects_and_until_it_is_there() {
        let mut audit = Audit::default();
        audit.note_checkpoint(Some(Error::new(Code::Corrupt, "spoiled")), "here");
        audit.note(vec![(object(1), Found::Lost("gone".into()))], "here", Duration::ZERO);
        assert_eq!(audit.wrong().map(Error::message), Some("gone"));
        audit.note(vec![(object(1), Found::PutBack)], "here", Duration::ZERO);
        audit.begin(Vec::new());
        assert_eq!(audit.wrong().map(Error::message), Some("spoiled"));
        audit.note_checkpoint(None, "here");
        assert!(audit.wrong().is_none());
    }
}
