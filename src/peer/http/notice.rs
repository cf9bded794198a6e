//! Log lines that an outsider can cause at will, so at most one a second is written.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

const PAUSE: Duration = Duration::from_secs(1);

/// Writes a line at level `warn`, unless one was written within the last second; the next one
/// tells how many were left out.
#[derive(Debug, Default)]
pub(super) struct Notice {
    last: Mutex<(Option<Instant>, u64)>,
}

impl Notice {
    pub(super) fn warn(&self, what: &str, detail: &dyn fmt::Display) {
        tracing::debug!(%detail, "{what}");
        let now = Instant::now();
        let mut last = self.last.lock().expect("nothing panics while it holds the times");
        if last.0.is_some_and(|at| now - at < PAUSE) {
            last.1 += 1;
            return;
        }
        let (_, left_out) = std::mem::replace(&mut *last, (Some(now), 0));
        drop(last);
        tracing::warn!(%detail, left_out, "{what}");
    }
}
