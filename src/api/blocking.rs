//! Reads that may wait for the disk, away from the threads that serve everybody.

use super::problem::Problem;
use crate::error::{Code, Result};

/// Runs a read where it may block.
///
/// # Errors
/// The read's own; 500 when it panicked.
pub(super) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Problem> {
    #[expect(clippy::disallowed_methods, reason = "reads of files take long; simulations run no servers")]
    let read = tokio::task::spawn_blocking(read);
    Ok(read.await.map_err(|_| Problem::new(Code::Internal, "the server made a mistake"))??)
}
