//! How heavy work is kept from holding up what runs beside it.
//!
//! Takes a closure and how many bytes it goes through, gives its result. It does not own threads.

use tokio::runtime::{Handle, RuntimeFlavor};

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

/// Lets every other thread go before the calling one, where the system can do that: for work that may take any time.
pub fn give_way_to_others() {
    // Without it the work is done all the same.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, LOWEST_PRIORITY);
}

/// The largest of Linux' nice values.
#[cfg(target_os = "linux")]
const LOWEST_PRIORITY: i32 = 19;
