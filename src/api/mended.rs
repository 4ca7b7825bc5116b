//! Reads that meet a damaged segment: it is repaired, and what was asked for is read again.
//!
//! Takes a read that may be made several times, gives its result. Nearly always that is the first one's, and costs
//! nothing more. It does not own repairs ([`Backend::repair`]), nor how long one is waited for.

use std::future::Future;

use super::backend::Backend;
use crate::error::{Error, Result};

/// The most segments that are repaired for one answer: a page goes through many.
const REPAIRS_MAX: usize = 16;

/// The result of a read that may need repairs.
///
/// # Errors
/// The read's own; why a segment cannot be repaired.
pub(super) async fn mended<B, T, F>(backend: &B, mut read: impl FnMut() -> F) -> Result<T>
where
    B: Backend,
    F: Future<Output = Result<T>>,
{
    match read().await {
        // Boxed: the common read does not carry it.
        Err(damage) if damage.damaged_segment().is_some() => Box::pin(mend(backend, read, damage)).await,
        result => result,
    }
}

async fn mend<B, T, F>(backend: &B, mut read: impl FnMut() -> F, mut damage: Error) -> Result<T>
where
    B: Backend,
    F: Future<Output = Result<T>>,
{
    let mut repaired = Vec::new();
    loop {
        let segment = damage.damaged_segment();
        if segment.is_none() || repaired.contains(&segment) || repaired.len() == REPAIRS_MAX {
            return Err(damage);
        }
        backend.repair(damage).await?;
        repaired.push(segment);
        match read().await {
            Err(next) => damage = next,
            done => return done,
        }
    }
}
