//! Mending incomplete vnodes: taking in, from every other replica, whatever it holds
//! (correctness, section 3, incomplete vnodes).
//!
//! All other replicas of the set are taken in, each from beginning to end. So afterwards this
//! vnode holds all that survives on any of them, whether or not they are complete themselves, and
//! counts again. What is written meanwhile arrives as ordinary writes. Records merge; they never
//! overwrite.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::layout::Peer;
use super::replica::Place;
use super::{Node, Phase};
use crate::peer::messages::{Answer, Page, Refusal, Reply, Request};
use crate::protocol::causality::{DecodeError, Summary};
use crate::protocol::cluster::StateStamp;
use crate::storage::schema::{parse_record_key, record_key, vnode_range};
use crate::storage::{ReadError, ScanLimit, Space, Syncing};
use crate::types::{KeyPath, ReplicationFactor, VnodeId};

/// How long to wait before trying again what could not be mended.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// The same where only damaged keys are left, whose other copies may be damaged too.
const RETRY_KEYS_EVERY: Duration = Duration::from_secs(10);

/// How long one page may take.
pub(super) const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The size of one page.
const PAGE_BYTES: u32 = 1 << 20;

/// The largest page that is given out.
const MAX_PAGE_BYTES: u32 = 4 << 20;

impl Node {
    /// Mends what is incomplete, now and whenever it is told, until the node stops.
    pub(super) fn spawn_mending(self: &Arc<Self>) {
        let node = Arc::clone(self);
        self.tasks.spawn_background(async move {
            let phase = node.phase();
            loop {
                let open = node.tasks.track(node.mend_all()).await;
                let damaged = node.tasks.track(node.mend_quarantined()).await;
                let wait = async {
                    match (open, damaged) {
                        (0, 0) => node.mend.notified().await,
                        (0, _) => {
                            let found = node.mend.notified();
                            drop(tokio::time::timeout(RETRY_KEYS_EVERY, found).await);
                        }
                        _ => tokio::time::sleep(RETRY_EVERY).await,
                    }
                };
                tokio::select! {
                    biased;
                    _ = phase.wait_for(|phase| *phase == Phase::Stopping) => return,
                    () = wait => {}
                }
            }
        });
    }

    /// Tries to mend every incomplete vnode; how many are left.
    async fn mend_all(self: &Arc<Self>) -> usize {
        let incomplete = self.vnodes.incomplete();
        self.metrics.incomplete_vnodes(incomplete.len());
        for vnode in incomplete {
            if *self.phase.borrow() != Phase::Serving {
                return 0;
            }
            match self.mend_vnode(vnode).await {
                Ok(records) => tracing::info!(%vnode, records, "the vnode is complete again"),
                Err(why) => tracing::warn!(%vnode, %why, "the vnode can't be mended yet"),
            }
        }
        let open = self.vnodes.incomplete().len();
        self.metrics.incomplete_vnodes(open);
        open
    }

    async fn mend_vnode(self: &Arc<Self>, vnode: VnodeId) -> anyhow::Result<usize> {
        let findings = self.vnodes.findings();
        let layout = self.layout().expect("only a serving node mends");
        let set = layout.replicas_of(vnode);
        let mut records = 0;
        let others = set.indices().filter(|replica| !set.is_here(*replica));
        let others: Vec<&Arc<Peer>> =
            others.map(|replica| set.peer(replica)).filter(|peer| !peer.is_gone()).collect();
        // Alone by now, it has all that there is.
        anyhow::ensure!(set.places() == 1 || !others.is_empty(), "no other replica holds it");
        for peer in others {
            records += self.take_in_whole(&set.at, vnode, peer).await?;
        }
        let is_complete = self.vnodes.mark_complete(vnode, findings, &*self.store).await?;
        anyhow::ensure!(is_complete, "more was found missing meanwhile");
        Ok(records)
    }

    /// Takes in all that one peer holds of a vnode; how many records.
    async fn take_in_whole(
        self: &Arc<Self>,
        at: &StateStamp,
        vnode: VnodeId,
        peer: &Peer,
    ) -> anyhow::Result<usize> {
        let mut after: Option<KeyPath> = None;
        let mut taken = 0;
        loop {
            let deadline = Instant::now() + PAGE_TIMEOUT;
            let (after_key, max_bytes) = (after.take(), PAGE_BYTES);
            let request = Request::Page { vnode, after: after_key, max_bytes, to: None };
            let phase = self.phase();
            let answer = tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase == Phase::Stopping) => {
                    anyhow::bail!("the node is stopping")
                }
                answer = self.call(at, peer, request, deadline, None) => answer?,
            };
            let page = match answer {
                Answer::Page(page) => page,
                _ => anyhow::bail!("{} answered what was not asked for", peer.id),
            };
            taken += page.records.len();
            let (records, next) = page.carried();
            after = next;
            let from = (&peer.id, Syncing::AsConfigured);
            for (_, merged) in self.merge_all(at, vnode, records, from, deadline).await {
                match merged {
                    // Nothing can be taken from what is no record.
                    Err(Refusal::Malformed) => self.metrics.alarm("malformed-record"),
                    merged => drop(merged?),
                }
            }
            if after.is_none() {
                return Ok(taken);
            }
        }
    }

    /// A scan of a vnode has failed: where what is stored is damaged, nobody knows which keys are.
    pub(super) async fn note_unreadable(self: &Arc<Self>, vnode: VnodeId, error: &ReadError) {
        if matches!(error, ReadError::Corrupt { .. }) {
            self.note_corrupt(vnode);
            if let Err(refusal) = self.mark_incomplete(vnode).await {
                tracing::error!(%vnode, %refusal, "could not keep that the vnode is incomplete");
            }
        }
    }

    /// Gives out a page of a vnode's records.
    pub(super) async fn answer_page(
        self: &Arc<Self>,
        vnode: VnodeId,
        after: Option<KeyPath>,
        max_bytes: u32,
        to: Option<ReplicationFactor>,
    ) -> Reply {
        self.owned(vnode)?;
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let mut range = vnode_range(vnode);
        if let Some(after) = after {
            range = range.resume_behind(&record_key(vnode, &after));
        }
        let limit = ScanLimit { entries: 4_096, bytes: max_bytes.min(MAX_PAGE_BYTES) as usize };
        let purge = self.vnodes.purge_number(vnode);
        let page = match self.store.scan(Space::Records, range, limit).await {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(%vnode, %error, "scanning failed");
                self.note_unreadable(vnode, &error).await;
                return Err(Refusal::StoreFailed);
            }
        };
        let mut records = Vec::with_capacity(page.entries.len());
        let mut last = None;
        for (key, stored) in page.entries {
            let (_, path) = parse_record_key(&key).map_err(|_| Refusal::StoreFailed)?;
            last = Some(path.clone());
            if to.is_some_and(|to| !self.goes_to(&layout, vnode, &path, to)) {
                continue;
            }
            match Summary::from_stored_bytes(&stored) {
                // Husks too: where all others have stripped a deleted key, nothing else shows here that
                // it was deleted.
                Ok(_) => records.push((path, stored)),
                // Well, but not to be understood: what is left out must not count as taken in.
                Err(error @ DecodeError::NewerFormat { .. }) => {
                    tracing::error!(key = ?path, %vnode, %error, "a record can't be given out");
                    return Err(Refusal::StoreFailed);
                }
                // Left out: whoever takes this in finds the key with the others.
                Err(_) => {
                    self.note_corrupt(vnode);
                    self.drop_if_corrupt(&Place::new(vnode, path)).await;
                }
            }
        }
        let next = page.next.and(last);
        Ok(Answer::Page(Page { records, purge, next }))
    }
}
