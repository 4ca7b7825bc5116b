//! Stage 7, index: feeds the index with what is sealed, several segments at a time.
//!
//! Nobody waits for it: until a segment is in the index, its own filter and key table answer. It does not own the
//! index nor when a run is due ([`Sealed::feed_index`]).

use std::{sync::Arc, time::Duration};

use super::{
    gauge::Gauge,
    worker::{Bell, Next, Worker},
};
use crate::{error::Result, sealed::Sealed};

/// The stage.
pub struct FeedIndex {
    sealed: Arc<Sealed>,
    seal: Bell,
    gauge: Arc<Gauge>,
}

impl FeedIndex {
    /// Feeds the index of `sealed`; wakes `seal`, which may have waited for it.
    #[must_use]
    pub fn new(sealed: Arc<Sealed>, seal: Bell, gauge: Arc<Gauge>) -> Self {
        Self { sealed, seal, gauge }
    }
}

impl Worker for FeedIndex {
    const NAME: &'static str = "index";
    const LINGER: Duration = Duration::ZERO;
    const FINISHES: bool = false;

    fn work(&mut self) -> Result<Next> {
        let _stay = self.gauge.enter(self.sealed.unindexed() as u64, 0);
        if !self.sealed.feed_index()? {
            return Ok(Next::Rung);
        }
        self.seal.ring();
        Ok(Next::Now)
    }
}
