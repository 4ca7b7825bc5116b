//! The pipeline's byte budget: what bounds memory however slow the disk is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::error::{Code, Error, Result};

/// Bytes of requests admitted and not yet answered.
#[derive(Debug)]
pub struct Budget {
    used_bytes: AtomicUsize,
    bytes_max: usize,
}

impl Budget {
    /// An unused budget.
    #[must_use]
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { used_bytes: AtomicUsize::new(0), bytes_max })
    }

    /// Takes room for one request.
    ///
    /// # Errors
    /// [`Code::Overloaded`] when others use too much now, [`Code::TooLarge`] when it never fits.
    pub fn room(self: &Arc<Self>, bytes: usize) -> Result<Room> {
        self.take(bytes)?;
        Ok(Room { budget: self.clone(), bytes })
    }

    fn take(&self, bytes: usize) -> Result<()> {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        match self.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(_) if bytes > self.bytes_max => Err(Error::new(
                Code::TooLarge,
                format!("a request of {bytes} bytes never fits into pipeline.ingest_bytes_max ({})", self.bytes_max),
            )),
            Err(used) => Err(Error::new(
                Code::Overloaded,
                format!(
                    "{used} of {} bytes of writes are under way (pipeline.ingest_bytes_max); nothing was written",
                    self.bytes_max
                ),
            )
            .retry_after(Duration::from_millis(500))),
        }
    }
}

/// A request's part of the budget, given back when it is dropped: with its answer.
#[derive(Debug)]
pub struct Room {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Room {
    /// Grows to `bytes` in all; returns by how many it grew.
    ///
    /// # Errors
    /// As [`Budget::room`].
    pub fn grow_to(&mut self, bytes: usize) -> Result<usize> {
        let more = bytes.saturating_sub(self.bytes);
        self.budget.take(more)?;
        self.bytes += more;
        Ok(more)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_refused_when_it_is_gone_and_comes_back_with_the_answer() {
        let budget = Budget::new(100);
        let mut first = budget.room(60).unwrap();
        assert_eq!(budget.room(50).unwrap_err().code(), Code::Overloaded);
        assert_eq!(budget.room(101).unwrap_err().code(), Code::TooLarge);
        assert_eq!(first.grow_to(100).unwrap(), 40);
        assert_eq!(first.grow_to(90).unwrap(), 0, "never shrinks");
        assert!(budget.room(1).is_err());
        drop(first);
        assert!(budget.room(100).is_ok());
    }
}
