//! A timer that is exact to microseconds, for requests that are due at a time. The runtime's own is
//! exact to a millisecond, which is longer than a request takes.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub(super) struct Timer {
    file: AsyncFd<OwnedFd>,
}

impl Timer {
    /// A timer of this thread's runtime.
    ///
    /// # Errors
    /// What the system says.
    #[expect(
        deprecated,
        reason = "its successor is unsafe to call; the file is owned, and so safe"
    )]
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self { file: AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)? })
    }

    /// Waits until then; not at all if that is over.
    ///
    /// # Errors
    /// What the system says.
    pub async fn wait_until(&self, due: Instant) -> io::Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(left) };
        timerfd_settime(self.file.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        // It may still be called readable from the time before.
        let mut expirations = [0; 8];
        loop {
            let mut ready = self.file.readable().await?;
            let read =
                |file: &AsyncFd<OwnedFd>| Ok(rustix::io::read(file.get_ref(), &mut expirations)?);
            if let Ok(read) = ready.try_io(read) {
                return read.map(drop);
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::Timer;

    #[tokio::test]
    async fn it_never_wakes_before_it_is_time() {
        let timer = Timer::new().expect("a timer");
        for microseconds in [1, 50, 700, 1_500, 0] {
            let due = Instant::now() + Duration::from_micros(microseconds);
            timer.wait_until(due).await.expect("the time");
            assert!(Instant::now() >= due, "{microseconds} µs");
        }
    }
}
