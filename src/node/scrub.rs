//! The scrub: slowly, one vnode after another, every record is compared with its checksum and with
//! its digest in the hash tree (correctness, section 5).

use std::sync::Arc;
use std::time::Duration;

use super::Node;
use super::pace::Pace;
use super::trees::Scrubbed;
use crate::types::VnodeId;

/// How often a node without vnodes looks whether it has some.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What it reads a second at most, in bytes.
const BYTES_PER_SECOND: u64 = 16 << 20;

impl Node {
    /// Scrubs one vnode after another, all within `repair.scrub_interval`, until the node stops.
    pub(super) fn spawn_scrubbing(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn_background(async move {
            let phase = node.phase();
            let mut last: Option<VnodeId> = None;
            loop {
                let layout = node.layout().expect("only a serving node scrubs");
                let vnodes = layout.own_vnodes();
                let every = match vnodes.len() as u32 {
                    0 => LOOK_EVERY,
                    count => node.settings.repair.scrub_interval / count,
                };
                let over = phase.wait_for(|phase| phase.is_over());
                if tokio::time::timeout(every, over).await.is_ok() {
                    return;
                }
                let following = vnodes.iter().find(|vnode| last.is_none_or(|last| **vnode > last));
                let Some(vnode) = following.or(vnodes.first()) else { continue };
                last = Some(*vnode);
                let mut pace = Pace::new(&node, BYTES_PER_SECOND);
                match node.tasks.track(node.scrub_vnode(*vnode, &mut pace)).await {
                    Ok(Scrubbed { corrupt: 0, mismatched: 0, records }) => {
                        node.metrics.scrubbed(records);
                    }
                    Ok(found) => {
                        node.metrics.scrubbed(found.records);
                        tracing::error!(%vnode, ?found, "the scrub has found damage");
                        node.repair.wake.notify_one();
                    }
                    Err(error) => {
                        tracing::error!(%vnode, %error, "scrubbing failed");
                        node.note_unreadable(*vnode, &error).await;
                    }
                }
            }
        });
    }
}
