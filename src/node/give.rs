//! Giving out what another node takes in, and telling one that lets go what is lacking here
//! (correctness, section 7, rules 11, 12 and 15).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::calls::PeerFailure;
use super::imprint::{Deleted, DeletedKind, decode_digest, leaf_of};
use super::instruments::PlantedBug;
use super::layout::{Layout, Peer};
use super::replica::Place;
use super::{Node, Phase};
use crate::peer::messages::{Answer, DigestPage, Page, Refusal, Reply, Request, SameRoot};
use crate::storage::schema::{parse_record_key, parse_tree_key, record_key, tree_key, vnode_range};
use crate::storage::{ReadError, ScanLimit, Space};
use crate::types::{KeyPath, ReplicationFactor, VnodeId};

/// How long one request may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How many digests one message has.
const DIGESTS: ScanLimit = ScanLimit { entries: 8_192, bytes: 1 << 20 };

/// How much is read at once.
const PAGE: ScanLimit = ScanLimit { entries: 4_096, bytes: 1 << 20 };

/// How much is looked through for a husk.
const FEW: ScanLimit = ScanLimit { entries: 16, bytes: 16 << 10 };

/// The records of one message, in bytes; a single larger one goes alone.
pub(super) const RECORD_BYTES: usize = 1 << 20;

impl Node {
    /// Asks a holder of a vnode, which may be this node itself.
    pub(super) async fn ask_holder(
        self: &Arc<Self>,
        layout: &Layout,
        peer: &Arc<Peer>,
        request: Request,
    ) -> Result<Answer, PeerFailure> {
        let (at, deadline) = (&layout.stamp, Instant::now() + CALL_TIMEOUT);
        if Arc::ptr_eq(peer, layout.this()) {
            let answered = match request {
                Request::Push { vnode, records } => {
                    self.answer_push(at, vnode, records, &peer.id, deadline).await
                }
                other => self.answer_taker(other).await,
            };
            return answered.map_err(PeerFailure::Refused);
        }
        let phase = self.phase();
        tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::Stopping) => {
                Err(PeerFailure::Refused(Refusal::NotServing))
            }
            answer = self.call(at, peer, request, deadline, None) => answer,
        }
    }

    /// Asks a holder which of these vnodes have the same root there; one answer for each.
    pub(super) async fn same_roots(
        self: &Arc<Self>,
        layout: &Layout,
        peer: &Arc<Peer>,
        roots: Vec<(VnodeId, u64)>,
    ) -> Result<Vec<Option<SameRoot>>, PeerFailure> {
        let asked = roots.len();
        match self.ask_holder(layout, peer, Request::SameRoots(roots)).await? {
            Answer::SameRoots(same) if same.len() == asked => Ok(same),
            _ => Err(PeerFailure::WrongAnswer),
        }
    }

    /// Answers a node that takes in a vnode, or asks which of its records are lacking.
    pub(super) async fn answer_taker(self: &Arc<Self>, request: Request) -> Reply {
        match request {
            Request::Page { vnode, after, max_bytes, to } => {
                if to.is_some() {
                    self.refuse_as_source(vnode)?;
                }
                self.answer_page(vnode, after, max_bytes, to).await
            }
            Request::Digests { vnode, to, after, root } => {
                self.refuse_as_source(vnode)?;
                let page = self.digests(vnode, to, root, after).await;
                page.map(Answer::Digests).map_err(|_| Refusal::StoreFailed)
            }
            Request::Husks { vnode, to, after } => {
                self.refuse_as_source(vnode)?;
                self.husks(vnode, to, after).await.map(Answer::Page)
            }
            Request::Fetch { vnode, paths } => {
                self.refuse_as_source(vnode)?;
                self.answer_fetch(vnode, paths).await
            }
            Request::Lacks { vnode, entries } => {
                self.owned(vnode)?;
                let lacking = self.lacking(vnode, entries).await;
                lacking.map(Answer::Lacks).map_err(|_| Refusal::StoreFailed)
            }
            Request::SameRoots(roots) => {
                let mut same = Vec::with_capacity(roots.len());
                for (vnode, root) in roots {
                    same.push(self.same_root(vnode, root).await);
                }
                Ok(Answer::SameRoots(same))
            }
            _ => Err(Refusal::Malformed),
        }
    }

    /// Only complete replicas of the present sets are taken in from.
    fn refuse_as_source(&self, vnode: VnodeId) -> Result<(), Refusal> {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        self.owned(vnode)?;
        if layout.replicas_of(vnode).local.is_none() {
            Err(Refusal::NoReplica)
        } else if self.vnodes.is_incomplete(vnode) || self.quarantine.has_any_of(vnode) {
            Err(Refusal::Incomplete)
        } else {
            Ok(())
        }
    }

    /// Whether a key that is found in a vnode is at home there, and goes to this table. What an earlier
    /// transition has left there, and waits to be brought and dropped, is at home elsewhere.
    pub(super) fn goes_to(
        &self,
        layout: &Layout,
        vnode: VnodeId,
        path: &KeyPath,
        to: ReplicationFactor,
    ) -> bool {
        let is_at_home = layout.state.factor_of(&path.bucket) == vnode.table
            || self.instruments.has(PlantedBug::LeftoversTakenIn);
        is_at_home && layout.state.next_factor_of(&path.bucket) == to
    }

    /// A page of the digests that go to a table. Nothing is listed for a taking vnode with this root, if
    /// it is this one's too: what it holds is the same.
    async fn digests(
        &self,
        vnode: VnodeId,
        to: ReplicationFactor,
        root: Option<u64>,
        after: Option<KeyPath>,
    ) -> Result<DigestPage, ReadError> {
        let (purge, promised) =
            (self.vnodes.purge_number(vnode), self.vnodes.promised_purge(vnode));
        if root.is_some() && root == self.trees.known_root(vnode) {
            return Ok(DigestPage { entries: Vec::new(), next: None, purge, promised });
        }
        let (entries, next) = self.digests_after(vnode, after).await?;
        let layout = self.layout().expect("only a node in a layout is asked");
        let entries =
            entries.into_iter().filter(|(path, _)| self.goes_to(&layout, vnode, path, to));
        Ok(DigestPage { entries: entries.collect(), next, purge, promised })
    }

    /// What to say of a vnode if it has this root.
    async fn same_root(&self, vnode: VnodeId, root: u64) -> Option<SameRoot> {
        self.refuse_as_source(vnode).ok()?;
        let (purge, promised) =
            (self.vnodes.purge_number(vnode), self.vnodes.promised_purge(vnode));
        if self.trees.known_root(vnode) != Some(root) {
            return None;
        }
        let first = self.store.scan(Space::Deletes, vnode_range(vnode), FEW).await;
        let may_have_husks = first.map_or(true, |first| {
            first.next.is_some() || first.entries.iter().any(|(_, value)| may_be_husk(value))
        });
        Some(SameRoot { purge, promised, may_have_husks })
    }

    /// Digests of a vnode in the order of its leaves, and behind which key to go on.
    pub(super) async fn digests_after(
        &self,
        vnode: VnodeId,
        after: Option<KeyPath>,
    ) -> Result<(Vec<(KeyPath, u64)>, Option<KeyPath>), ReadError> {
        let shape = self.shape();
        let mut range = vnode_range(vnode);
        if let Some(after) = after {
            let key = tree_key(vnode, leaf_of(shape, &after).0, &after);
            range = range.resume_behind(&key);
        }
        let page = self.store.scan(Space::Trees, range, DIGESTS).await?;
        let mut entries = Vec::with_capacity(page.entries.len());
        let mut last = None;
        for (key, value) in &page.entries {
            let Ok((_, _, path)) = parse_tree_key(key) else { continue };
            last = Some(path.clone());
            match decode_digest(key, value) {
                Some(digest) => entries.push((path, digest)),
                // It is there: what it is, is compared with the record.
                None => {
                    self.trees.doubt(vnode);
                    entries.push((path, 0));
                }
            }
        }
        Ok((entries, page.next.and(last)))
    }

    /// A page of a vnode's husks, all of them: whoever passes over this replica relies on it.
    async fn husks(
        self: &Arc<Self>,
        vnode: VnodeId,
        to: ReplicationFactor,
        after: Option<KeyPath>,
    ) -> Result<Page, Refusal> {
        let layout = self.layout().expect("only a node in a layout is asked");
        let purge = self.vnodes.purge_number(vnode);
        let mut range = vnode_range(vnode);
        if let Some(after) = after {
            range = range.resume_behind(&record_key(vnode, &after));
        }
        let page = self.store.scan(Space::Deletes, range, PAGE).await;
        let page = page.map_err(|_| Refusal::StoreFailed)?;
        let (mut records, mut last) = (Vec::new(), None);
        for (key, value) in &page.entries {
            let Ok((_, path)) = parse_record_key(key) else { continue };
            last = Some(path.clone());
            if !may_be_husk(value) || !self.goes_to(&layout, vnode, &path, to) {
                continue;
            }
            if let Some(carried) = self.carried(&Place::new(vnode, path.clone())).await? {
                records.push((path, carried.record));
            }
        }
        Ok(Page { records, purge, next: page.next.and(last) })
    }

    async fn answer_fetch(self: &Arc<Self>, vnode: VnodeId, paths: Vec<KeyPath>) -> Reply {
        let mut records = Vec::new();
        let mut bytes = 0;
        for path in paths {
            if bytes >= RECORD_BYTES {
                break;
            }
            let carried = self.carried(&Place::new(vnode, path)).await?;
            bytes += carried.as_ref().map_or(0, |carried| carried.record.len());
            records.push(carried);
        }
        Ok(Answer::Fetched { records })
    }
}

/// Whether a deleted record is a husk. Where the index is damaged, the record tells what it is; one too
/// many does no harm.
fn may_be_husk(value: &[u8]) -> bool {
    Deleted::decode(value).map_or(true, |deleted| deleted.kind == DeletedKind::Husk)
}
