//! Whether the archive is away, by what downloads have come to.
//!
//! ```text
//!  closed ── FAILURES in a row found it away ──► open ── REST later, one download at a time ──► tried
//!    ▲                                             ▲                                              │
//!    └──────────────── it gave something ──────────┼──────────────────────────────────────────────┤
//!                                                  └──────────────── it is still away ────────────┘
//! ```
//!
//! A circuit breaker: each download of a store that does not answer takes seconds to say so, and readers who wait for that
//! learn no more than from the last one. Takes how downloads end, gives whether the next one may begin. Pure but for its
//! arguments.

use std::time::Duration;

use tokio::time::Instant;

use crate::archive::progress::Failure;

/// Downloads in a row after which the archive is taken to be away: a single one may fail by itself.
const FAILURES: u32 = 3;

/// How long it is left alone after each failure, and when a reader may ask again.
pub(super) const REST: Duration = Duration::from_secs(1);

/// How long a download that tries it is waited for before the next one does: stores give up long before.
const TRY: Duration = Duration::from_secs(60);

/// A download that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) at: Instant,
    pub(super) failure: Failure,
    /// The store's own words.
    pub(super) why: String,
    /// What readers were told.
    pub(super) told: String,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Outage {
    last: Option<Failed>,
    /// How many in a row found the store away.
    away: u32,
    /// When the download began that finds out whether it is back.
    tried_at: Option<Instant>,
}

impl Outage {
    /// The last download, if it came to nothing.
    pub(super) const fn last(&self) -> Option<&Failed> {
        self.last.as_ref()
    }

    /// Why no download may begin now; none where one may, and then it does.
    pub(super) fn refuse(&mut self, now: Instant) -> Option<String> {
        let last = self.last.as_ref().filter(|_| self.away >= FAILURES)?;
        let rests = now < last.at + REST;
        let is_tried = self.tried_at.is_some_and(|at| now < at + TRY);
        if rests || is_tried {
            return Some(last.why.clone());
        }
        self.tried_at = Some(now);
        None
    }

    /// A download came to nothing. Whether it is the first since one did not.
    pub(super) fn note_failure(&mut self, failed: Failed) -> bool {
        self.away = match failed.failure {
            Failure::Away => self.away.saturating_add(1),
            // It answers.
            Failure::Refused | Failure::Full | Failure::Broken => 0,
        };
        self.tried_at = None;
        self.last.replace(failed).is_none()
    }

    /// The archive gave what was asked for.
    pub(super) fn note_success(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(at: Instant, failure: Failure) -> Failed {
        Failed { at, failure, why: "why".into(), told: "told".into() }
    }

    #[test]
    fn it_opens_by_failures_in_a_row_and_closes_by_one_success() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        for _ in 0..2 {
            assert!(outage.note_failure(failed(now, Failure::Away)), "it is told once");
            assert!(!outage.note_failure(failed(now, Failure::Away)));
            assert_eq!(outage.refuse(now), None);
            outage.note_success();
            assert_eq!(outage.last(), None);
        }
        for failure in [Failure::Away, Failure::Away, Failure::Broken, Failure::Away, Failure::Away] {
            outage.note_failure(failed(now, failure));
            assert_eq!(outage.refuse(now), None, "a store that answers is there");
        }
        outage.note_failure(failed(now, Failure::Away));
        assert_eq!(outage.refuse(now).as_deref(), Some("why"));
        outage.note_success();
        assert_eq!(outage.refuse(now), None);
    }

    #[test]
    fn one_at_a_time_tries_whether_it_is_back() {
        let (mut outage, began) = (Outage::default(), Instant::now());
        for _ in 0..3 {
            outage.note_failure(failed(began, Failure::Away));
        }
        let later = began + REST;
        assert!(outage.refuse(later - Duration::from_millis(1)).is_some());
        assert_eq!(outage.refuse(later), None);
        assert!(outage.refuse(later).is_some(), "one does");
        // It never ended.
        assert_eq!(outage.refuse(later + TRY), None);
        outage.note_failure(failed(later + TRY, Failure::Away));
        assert!(outage.refuse(later + TRY).is_some());
        assert_eq!(outage.refuse(later + TRY + REST), None);
    }
}
