//! Reads that may wait for the disk, away from the threads that serve everybody.

use super::{backend::Backend, mended::mended};
use crate::error::{Code, Error, Result};

/// Runs a read where it may block; once more, if it meets damage that can be repaired.
///
/// # Errors
/// The read's own; [`Code::Internal`] when it panicked.
pub(super) async fn blocking<B: Backend, T: Send + 'static>(
    backend: &B,
    read: impl Fn() -> Result<T> + Clone + Send + 'static,
) -> Result<T> {
    mended(backend, || {
        #[expect(clippy::disallowed_methods, reason = "reads of files take long; simulations run no servers")]
        let read = tokio::task::spawn_blocking(read.clone());
        async { read.await.unwrap_or_else(|_| Err(Error::new(Code::Internal, "the server made a mistake"))) }
    })
    .await
}
