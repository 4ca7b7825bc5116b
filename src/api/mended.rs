//! Reads that meet a damaged segment, or a cold one: it is repaired, or what is needed of it fetched, and what was asked
//! for is read again.
//!
//! Takes a read that may be made several times, gives its result. Nearly always that is the first one's, and costs
//! nothing more. It does not own either ([`Backend::mend`]), nor how long one is waited for.

use std::future::Future;

use super::backend::Backend;
use crate::error::{Error, Result};

/// The most segments that are repaired for one answer: a page goes through many.
const REPAIRS_MAX: usize = 16;

/// How often cold blocks are fetched for one answer: a walk finds out with each what comes next.
const FETCHES_MAX: usize = 1_000;

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
        Err(error) if can_be_mended(&error) => Box::pin(mend(backend, read, error)).await,
        result => result,
    }
}

fn can_be_mended(error: &Error) -> bool {
    error.damaged_segment().is_some() || !error.cold_blocks().is_empty()
}

async fn mend<B, T, F>(backend: &B, mut read: impl FnMut() -> F, mut error: Error) -> Result<T>
where
    B: Backend,
    F: Future<Output = Result<T>>,
{
    let (mut repaired, mut fetched) = (Vec::new(), Vec::new());
    loop {
        if !can_be_mended(&error) {
            return Err(error);
        }
        match error.damaged_segment() {
            // Kept until the answer is there: the next try finds all that was fetched for the ones before.
            None if fetched.len() < FETCHES_MAX => fetched.push(backend.mend(error).await?),
            segment @ Some(_) if !repaired.contains(&segment) && repaired.len() < REPAIRS_MAX => {
                drop(backend.mend(error).await?);
                repaired.push(segment);
            }
            _ => return Err(error),
        }
        match read().await {
            Err(next) => error = next,
            done => return done,
        }
    }
}
