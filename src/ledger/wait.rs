//! How a synchronous caller waits for asynchronous work, whoever it is.
//!
//! Takes a future or a closure, gives its result. It does not own a runtime: a caller may itself be on a thread
//! of one, where entering another is a panic.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Parks this thread until the future is done. The future must not need a runtime's timers or sockets, only be
/// woken.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}

/// Does the work on a thread of its own and waits for it: what blocks on a runtime may not do so on a thread of
/// another. For what is rare; starting the thread costs some tens of microseconds.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_thread_is_woken_from_another() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let teller = thread::spawn(move || tell.send(7));
        assert_eq!(wait(told), Ok(7));
        teller.join().unwrap().unwrap();
    }

    #[tokio::test]
    async fn waiting_is_possible_on_a_runtimes_own_thread() {
        let nested = || tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { 7 });
        assert_eq!(apart(nested), 7);
        assert_eq!(wait(async { 8 }), 8);
    }
}
