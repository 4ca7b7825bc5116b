//! How heavy work is kept from holding up what runs beside it.
//!
//! Takes a closure and how many bytes it goes through, gives its result.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::oneshot,
};

use crate::error::{Code, Error, Result};

/// Bytes of work above which other tasks of the thread should not have to wait for it: most of a millisecond.
pub const HEAVY_BYTES: usize = 256 << 10;

/// Runs work on `bytes` bytes without holding up the tasks behind it: when there is much to do and the
/// runtime has more threads, they are handed to another one first. A simulation has one thread and no
/// other.
pub fn without_blocking_others<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if bytes >= HEAVY_BYTES && flavor.is_ok_and(|flavor| flavor == RuntimeFlavor::MultiThread) {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

/// Runs work on a thread of its own, before which those go that serve somebody: for long work that nobody waits for. A
/// simulation has one thread, which does it at once.
///
/// # Errors
/// [`Code::Internal`] when the work panicked, or there is no thread to be had.
pub async fn behind_others<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if flavor.is_ok_and(|flavor| flavor != RuntimeFlavor::MultiThread) {
        return Ok(work());
    }
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name("behind".into()).spawn(move || {
        give_way_to_others(Priority::Low);
        // Whoever has given it up is not told.
        drop(tell.send(work()));
    });
    thread.map_err(|e| Error::new(Code::Internal, format!("starting a thread: {e}")))?;
    told.await.map_err(|_| Error::new(Code::Internal, "work behind the scenes panicked"))
}

/// How far a thread stands behind others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// It gets about a tenth of a core that another thread wants, too.
    Low,
    /// It gets next to nothing of one.
    Lowest,
}

/// Lets other threads go before the calling one, where the system can do that: for work that may take its time.
pub fn give_way_to_others(priority: Priority) {
    // Linux' nice values, which are those of a thread there. Without it the work is done all the same.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(
        None,
        match priority {
            Priority::Low => 10,
            Priority::Lowest => 19,
        },
    );
    #[cfg(not(target_os = "linux"))]
    let _ = priority;
}
