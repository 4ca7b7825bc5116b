//! A timer finer than the runtime's, which counts in milliseconds.

use std::{io, time::Instant};

#[cfg(target_os = "linux")]
use tokio::io::unix::AsyncFd;

/// Wakes at a time, to some ten microseconds on an idle machine.
#[cfg(target_os = "linux")]
pub struct Timer(AsyncFd<std::os::fd::OwnedFd>);

#[cfg(target_os = "linux")]
impl Timer {
    /// Has to be called inside the runtime.
    #[allow(unsafe_code)]
    pub fn new() -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: an `OwnedFd` is open, and stays the same descriptor, for as long as it lives.
        let fd = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) };
        Ok(Self(fd?))
    }

    /// Waits until then.
    pub async fn until(&self, at: Instant) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let wait = at.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        timerfd_settime(
            self.0.get_ref(),
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: zero, it_value: value },
        )?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut expirations = [0; 8];
            match rustix::io::read(self.0.get_ref(), &mut expirations) {
                Ok(_) => {
                    ready.clear_ready();
                    return Ok(());
                }
                // An older setting's readiness.
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Wakes at a time, to a millisecond.
#[cfg(not(target_os = "linux"))]
pub struct Timer;

#[cfg(not(target_os = "linux"))]
impl Timer {
    pub fn new() -> io::Result<Self> {
        Ok(Self)
    }

    /// Waits until then.
    pub async fn until(&self, at: Instant) -> io::Result<()> {
        tokio::time::sleep_until(at.into()).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_wakes_when_it_should_again_and_again_and_after_being_dropped_half_way() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let timer = Timer::new().unwrap();
            timer.until(Instant::now() - Duration::from_secs(1)).await.unwrap();
            for _ in 0..20 {
                let given_up = tokio::time::timeout(
                    Duration::from_millis(1),
                    timer.until(Instant::now() + Duration::from_secs(60)),
                );
                assert!(given_up.await.is_err());
                let at = Instant::now() + Duration::from_micros(300);
                timer.until(at).await.unwrap();
                assert!(Instant::now() >= at);
            }
        });
    }
}
