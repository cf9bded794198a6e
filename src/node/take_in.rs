//! Taking in what a transition brings to this node (correctness, section 7, rules 10 to 12 and 17).
//!
//! ```text
//! prepare   the bulk: all records of one old replica, page by page
//! switch    the passes over every old replica (`pass_over`)
//! ```
//!
//! A vnode is taken in from those that hold its keys now: the same vnode of others and, where
//! buckets come from another table, the vnodes of that table. Each vnode's progress is on disk and
//! belongs to one transition; after a crash the bulk begins again as a pass, which moves only what
//! is not there yet. Whatever comes is merged, never written over a record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Node;
use super::calls::PeerFailure;
use super::instruments::PlantedBug;
use super::layout::{Layout, Peer};
use super::pace::Pace;
use super::taken_in::{self, TakenIn};
use crate::peer::messages::{Answer, Carried, Progress, Refusal, Request};
use crate::protocol::cluster::{TransitionId, TransitionPhase};
use crate::storage::{Batch, Syncing};
use crate::types::{KeyPath, ReplicationFactor, VnodeId};

/// How long one request may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How many vnodes are taken in at once; while clients are being served, one.
const VNODES_TOGETHER: usize = 4;

/// While clients are served, a rest is so many times the work before it: all that stay take in at once when
/// nodes leave, and the writes of a transition go to more nodes meanwhile.
const RESTS: u32 = 8;

/// The records of one page, in bytes.
const PAGE_BYTES: u32 = 1 << 20;

/// The same while clients are being served.
const PAGE_BYTES_BESIDE_CLIENTS: u32 = 64 << 10;

/// What is merged of a page at once while clients are being served: they wait for it.
const PIECE_BYTES_BESIDE_CLIENTS: usize = 16 << 10;

/// A vnode that is to be taken in.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) vnode: VnodeId,
    /// Of which tables' vnodes; the bulk is needed of them.
    pub(super) from: Vec<ReplicationFactor>,
    /// This node holds it already and has to pass over the others, as the set shrinks.
    is_retained: bool,
}

impl Node {
    /// Takes in what transitions bring here, until the node stops.
    pub(super) fn spawn_taking_in(self: &Arc<Self>) {
        self.spawn_in_each_epoch(Self::take_in_all);
    }

    /// Takes in what can be; whether there is more to do in this epoch.
    async fn take_in_all(self: Arc<Self>) -> bool {
        let layout = self.layout().expect("only a serving node takes in");
        let jobs = self.jobs(&layout);
        let mut open = false;
        let mut left = jobs.as_slice();
        // Who knows; the first one shows.
        self.take_ins.beside_clients.store(true, Ordering::Relaxed);
        self.pass_over_equal(&layout, &jobs).await;
        while !left.is_empty() {
            if self.phase.borrow().is_over() || self.is_past(&layout.stamp) {
                return true;
            }
            let beside_clients = self.take_ins.beside_clients.load(Ordering::Relaxed);
            let most = if beside_clients { 1 } else { VNODES_TOGETHER };
            let (together, rest) = left.split_at(most.min(left.len()));
            left = rest;
            let mut pace = self.pace_of_taking_in();
            let mut has_failed = false;
            let taken = together.iter().map(|job| self.take_in(&layout, job));
            for (job, taken) in together.iter().zip(futures_util::future::join_all(taken).await) {
                has_failed |= taken.is_err();
                if let Err(why) = &taken {
                    tracing::debug!(vnode = %job.vnode, %why, "a vnode can't be taken in yet");
                }
                self.take_ins.failed(job.vnode, taken.err().map(|why| format!("{why:#}")));
            }
            open |= has_failed;
            self.take_ins.beside_clients.store(pace.are_clients_served(), Ordering::Relaxed);
            // Each piece of a vnode has had its rest; what fails at once has not.
            if has_failed {
                pace.rest(0).await;
            }
        }
        open
    }

    /// What the running transition asks of this node.
    fn jobs(&self, layout: &Layout) -> Vec<Job> {
        let Some(transition) = &layout.state.transition else { return Vec::new() };
        let own: BTreeSet<VnodeId> = layout.own_vnodes().into_iter().collect();
        let moved = layout.state.moved_buckets(transition);
        let to = |bucket: &crate::types::Bucket| layout.state.next_factor_of(bucket);
        let job = |vnode: VnodeId| {
            let is_retained = own.contains(&vnode);
            let before = layout.present_holders(vnode).len();
            let size = |tables: &[crate::protocol::ring::Table]| {
                let table = tables.iter().find(|table| table.factor() == vnode.table);
                table.map_or(0, |table| table.replica_count(vnode.partition))
            };
            let shrinks = size(&transition.tables) < size(&layout.state.tables)
                && !self.instruments.has(PlantedBug::ShrinkWithoutTakeIn);
            let mut from: BTreeSet<ReplicationFactor> = moved
                .iter()
                .filter(|(bucket, _)| to(bucket) == vnode.table)
                .map(|(_, from)| *from)
                .collect();
            if before > 0 && (!is_retained || shrinks) {
                from.insert(vnode.table);
            }
            (!from.is_empty()).then(|| Job { vnode, from: from.into_iter().collect(), is_retained })
        };
        layout.next_vnodes().into_iter().filter_map(job).collect()
    }

    async fn take_in(self: &Arc<Self>, layout: &Arc<Layout>, job: &Job) -> anyhow::Result<()> {
        let transition = layout.state.transition.as_ref().expect("jobs are of a transition");
        let by = layout.state.transition_id().expect("there is one");
        match transition.phase {
            TransitionPhase::Prepare => self.take_bulk(layout, job, by).await,
            TransitionPhase::Switch => self.pass_over_all(layout, job, by).await,
        }
    }

    /// Takes in one old replica of each source.
    async fn take_bulk(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        job: &Job,
        by: TransitionId,
    ) -> anyhow::Result<()> {
        if self.take_ins.get(job.vnode, by).has_bulk {
            return Ok(());
        }
        let is_first_try = self.take_ins.touch(job.vnode) || !self.holds_records(job.vnode).await?;
        for table in &job.from {
            // What is retained has its own bulk.
            if *table == job.vnode.table && job.is_retained {
                continue;
            }
            self.take_bulk_of(layout, job, *table, is_first_try).await?;
        }
        let mut taken = self.take_ins.get(job.vnode, by);
        taken.has_bulk = true;
        self.keep_taken(layout, [(job.vnode, taken)].into()).await
    }

    async fn take_bulk_of(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        job: &Job,
        table: ReplicationFactor,
        is_first_try: bool,
    ) -> anyhow::Result<()> {
        let mut holders = self.old_holders(layout, job.vnode, table);
        if holders.is_empty() {
            return Ok(());
        }
        // Spread over all of them; this node itself costs the least.
        let first = job.vnode.partition.index() % holders.len();
        holders.rotate_left(first);
        holders.sort_by_key(|peer| !Arc::ptr_eq(peer, layout.this()));
        let mut failure = None;
        for peer in holders.iter().filter(|peer| peer.is_up()) {
            // At first hardly more is here than what clients have written since: to list it would cost
            // more than to send it along.
            let taken = match is_first_try && failure.is_none() {
                true => self.take_pages(layout, job.vnode, table, peer).await,
                false => self.pass_over(layout, job.vnode, table, peer).await,
            };
            match taken {
                Ok(()) => return Ok(()),
                Err(why) => failure = Some(why.context(peer.id.to_string())),
            }
        }
        let down = || anyhow::anyhow!("no old replica of {} is up", job.vnode);
        Err(failure.unwrap_or_else(down))
    }

    /// Keeps how far vnodes are taken in.
    pub(super) async fn keep_taken(
        &self,
        layout: &Layout,
        taken_in: BTreeMap<VnodeId, TakenIn>,
    ) -> anyhow::Result<()> {
        if taken_in.is_empty() {
            return Ok(());
        }
        self.refuse_stale(&layout.stamp)?;
        let mut batch = Batch::default();
        taken_in.iter().for_each(|(vnode, taken)| taken_in::put(&mut batch, *vnode, taken));
        // What was taken in is fsynced with it: all that was committed before is.
        let kept = self.store.commit(batch, Syncing::Always).await;
        kept.inspect_err(|_| self.disk.suspect())?;
        taken_in.into_iter().for_each(|(vnode, taken)| self.take_ins.set(vnode, taken));
        Ok(())
    }

    /// The pace of what is taken in.
    pub(super) fn pace_of_taking_in(self: &Arc<Self>) -> Pace {
        Pace::new(self, self.settings.streaming.max_bytes_per_second).resting(RESTS)
    }

    /// Copies all records of an old replica.
    async fn take_pages(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        vnode: VnodeId,
        table: ReplicationFactor,
        peer: &Arc<Peer>,
    ) -> anyhow::Result<()> {
        let source = VnodeId { table, ..vnode };
        let mut pace = self.pace_of_taking_in();
        let mut after: Option<KeyPath> = None;
        loop {
            let to = Some(vnode.table);
            let max_bytes = match self.is_beside_clients(&pace) {
                true => PAGE_BYTES_BESIDE_CLIENTS,
                false => PAGE_BYTES,
            };
            let request = Request::Page { vnode: source, after, max_bytes, to };
            let Answer::Page(page) = self.ask_holder(layout, peer, request).await? else {
                return Err(PeerFailure::WrongAnswer.into());
            };
            if table == vnode.table {
                self.vnodes.take_purge(vnode, page.purge, page.purge, &*self.store).await?;
            }
            let (records, next) = page.carried();
            self.take_records(layout, vnode, records, peer, &mut pace).await?;
            match next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Whether what is taken in is in the way of clients: as far as is known, or the last ones were.
    fn is_beside_clients(&self, pace: &Pace) -> bool {
        self.take_ins.beside_clients.load(Ordering::Relaxed) || pace.are_clients_served()
    }

    /// Merges what was taken from a peer, all of it, or it fails; while clients are being served in
    /// pieces, with a rest behind each.
    pub(super) async fn take_records(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        vnode: VnodeId,
        mut records: Vec<(KeyPath, Carried)>,
        peer: &Arc<Peer>,
        pace: &mut Pace,
    ) -> anyhow::Result<()> {
        loop {
            let rest = match self.is_beside_clients(pace) {
                true => records.split_off(end_of_piece(&records, PIECE_BYTES_BESIDE_CLIENTS)),
                false => Vec::new(),
            };
            let bytes = self.take_piece(layout, vnode, records, peer).await?;
            pace.rest(bytes).await;
            if rest.is_empty() {
                return Ok(());
            }
            records = rest;
        }
    }

    /// The same at once. Returns its size in bytes.
    async fn take_piece(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        vnode: VnodeId,
        records: Vec<(KeyPath, Carried)>,
        peer: &Arc<Peer>,
    ) -> anyhow::Result<u64> {
        let bytes = records.iter().map(|(_, carried)| carried.record.len() as u64).sum();
        self.take_ins.moved(bytes);
        let deadline = Instant::now() + CALL_TIMEOUT;
        let transition = layout.state.transition.as_ref();
        // No read counts it yet: it is fsynced before it counts as taken in.
        let syncing = match transition.map(|transition| transition.phase) {
            Some(TransitionPhase::Prepare) => Syncing::Later,
            _ => Syncing::AsConfigured,
        };
        let from = (&peer.id, syncing);
        let merged = self.merge_all(&layout.stamp, vnode, records, from, deadline).await;
        for (_, merged) in merged {
            match merged {
                // Nothing can be taken from what is no record.
                Err(Refusal::Malformed) => self.metrics.alarm("malformed-record"),
                merged => drop(merged?),
            }
        }
        Ok(bytes)
    }

    /// How far this node is with what the present state asks of it.
    pub(super) async fn progress(self: &Arc<Self>) -> Progress {
        let layout = self.layout().expect("only a serving node is asked");
        let jobs = self.jobs(&layout);
        let by = layout.state.transition_id();
        let phase = layout.state.transition.as_ref().map(|transition| transition.phase);
        let mut waiting_for = self.take_ins.failures();
        let mut done = 0;
        let mut all = true;
        for job in &jobs {
            let taken = self.take_ins.get(job.vnode, by.expect("jobs are of a transition"));
            let is_done = match phase {
                Some(TransitionPhase::Switch) => {
                    let open = self.open_passes(&layout, job, &taken);
                    let names = open.iter().filter(|peer| !peer.is_up());
                    waiting_for.extend(names.map(|peer| peer.id.to_string()));
                    open.is_empty() && !self.vnodes.is_incomplete(job.vnode)
                }
                _ => taken.has_bulk,
            };
            done += u32::from(is_done);
            all &= is_done;
        }
        let has_dropped = self.has_let_go(&layout);
        Progress {
            has_bulk: all,
            has_passed: phase == Some(TransitionPhase::Switch) && all,
            has_dropped,
            has_hints: self.keeps_hints().await,
            vnodes_total: jobs.len() as u32,
            vnodes_done: done,
            bytes: self.take_ins.bytes(),
            bytes_per_second: self.take_ins.rate(),
            waiting_for: waiting_for.into_iter().collect(),
        }
    }
}

/// How many of the first records make so many bytes; one at least, if there is one.
fn end_of_piece(records: &[(KeyPath, Carried)], bytes: usize) -> usize {
    let mut before = 0;
    let is_within = |(_, carried): &&(KeyPath, Carried)| {
        let is_within = before < bytes;
        before += carried.record.len();
        is_within
    };
    records.iter().take_while(is_within).count()
}
