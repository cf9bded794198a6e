//! What operators ask and are told about the layout: plans, changes, the view of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Node;
use super::layout::{Layout, Peer};
use super::operation::{BucketChange, ChangeRequest, RecoverRequest, TopologyError};
use super::recovery::RecoverError;
use super::register::ProposeError;
use super::transitions::Unfit;
use super::view::{
    BalanceView, BucketView, ClusterView, MoveView, NodeRole, NodeState, NodeView, PlanView,
    TransitionView,
};
use crate::peer::messages::{Candidate, Progress};
use crate::protocol::cluster::{
    BucketProperties, Change, ChangeError, ClusterNode, ClusterState, Joiner, Role, TransitionPhase,
};
use crate::protocol::ring::{Member, Table};
use crate::types::{Bucket, NodeId, ReplicationFactor, VnodeId};

/// How long a candidate has to say who it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How fast a plan expects data to move where no limit is set, in bytes a second.
const EXPECTED_RATE: u64 = 64 << 20;

impl Node {
    /// What a change would move; changes nothing.
    pub(super) async fn plan(
        self: &Arc<Self>,
        request: ChangeRequest,
    ) -> Result<PlanView, TopologyError> {
        let layout = self.serving()?;
        self.refuse_other_epoch(&layout, &request)?;
        let change = self.resolve(&layout, request).await?;
        let after = layout.state.begun(&change)?;
        Ok(self.plan_view(&layout, &after))
    }

    /// Begins a change.
    pub(super) async fn apply(
        self: &Arc<Self>,
        request: ChangeRequest,
    ) -> Result<PlanView, TopologyError> {
        let layout = self.serving()?;
        self.refuse_other_epoch(&layout, &request)?;
        let only_at = request.epoch.is_some().then_some(layout.state.epoch);
        let change = self.resolve(&layout, request).await?;
        // Told before anything is asked of anybody.
        layout.state.begun(&change)?;
        self.check_change(&change).await?;
        let after = self.begin_change(&change, only_at).await?;
        Ok(self.plan_view(&layout, &after))
    }

    /// Goes back to the old layout.
    pub(super) async fn abort(self: &Arc<Self>) -> Result<(), TopologyError> {
        let asked = self.serving()?.state.transition_id();
        // Not one that begins while this is being decided.
        self.propose(|state| state.aborted_if(asked)).await?;
        Ok(())
    }

    /// Has the survivors go on without the lost.
    pub(super) async fn recover(
        self: &Arc<Self>,
        request: RecoverRequest,
    ) -> Result<(), TopologyError> {
        let RecoverRequest { survivors, lost } = request;
        self.force_recovery(&survivors, &lost).await?;
        Ok(())
    }

    /// Gives a bucket other properties, or the defaults again; whether data has to move for that.
    pub(super) async fn change_bucket(
        self: &Arc<Self>,
        bucket: Bucket,
        change: Option<BucketChange>,
    ) -> Result<(BucketView, bool), TopologyError> {
        let layout = self.serving()?;
        let own = change.map(|change| change.properties(&layout.state)).transpose()?;
        let change = Change { buckets: [(bucket.clone(), own)].into(), ..Change::default() };
        let state = match self.begin_change(&change, None).await {
            Err(ProposeError::Change(ChangeError::Nothing)) => layout.state.clone(),
            begun => begun?,
        };
        let moves = state.transition.as_ref().is_some_and(|t| t.begun == state.epoch);
        let layout = self.layout().expect("a serving node has a layout");
        let n = state.next_factor_of(&bucket).get();
        Ok((BucketView { n, ..self.bucket_view_at(&layout, &bucket) }, moves))
    }

    fn refuse_other_epoch(
        &self,
        layout: &Layout,
        request: &ChangeRequest,
    ) -> Result<(), TopologyError> {
        match request.epoch {
            Some(epoch) if epoch != layout.state.epoch.get() => Err(TopologyError::EpochChanged),
            _ => Ok(()),
        }
    }

    /// Finds out what a request leaves open: which data directories its joiners have, and where
    /// they are reached.
    async fn resolve(
        self: &Arc<Self>,
        layout: &Layout,
        request: ChangeRequest,
    ) -> Result<Change, TopologyError> {
        let candidates: BTreeMap<NodeId, Candidate> = self
            .transitions
            .candidates()
            .into_iter()
            .map(|candidate| (candidate.joiner.id.clone(), candidate))
            .collect();
        let taking_places: BTreeSet<&NodeId> = request.replace.values().collect();
        let (mut join, mut named) = (Vec::new(), BTreeMap::new());
        for asked in &request.join {
            let known = candidates.get(&asked.id);
            let peer = asked.peer.clone().or(known.map(|c| c.joiner.peer.clone()));
            let peer = peer.ok_or_else(|| TopologyError::unreached(&asked.id))?;
            let found = self.describe(&peer, Instant::now() + ASK_TIMEOUT).await;
            let found = found.ok_or_else(|| TopologyError::unreached(&asked.id))?;
            if found.joiner.id != asked.id {
                return Err(TopologyError::from(Unfit::SomebodyElse(asked.id.clone())));
            }
            let joiner = Joiner {
                zone: asked.zone.clone().unwrap_or(found.joiner.zone.clone()),
                weight: asked.weight.unwrap_or(found.joiner.weight),
                peer,
                ..found.joiner
            };
            match taking_places.contains(&asked.id) {
                true => drop(named.insert(asked.id.clone(), joiner)),
                false => join.push(joiner),
            }
        }
        let mut replace = BTreeMap::new();
        for (old, new) in request.replace {
            let known = candidates.get(&new).map(|candidate| candidate.joiner.clone());
            let joiner = match named.remove(&new).or(known) {
                Some(joiner) => joiner,
                None => self.come_back(layout, &old, &new).await?,
            };
            replace.insert(old, joiner);
        }
        Ok(Change {
            join,
            replace,
            leave: request.leave,
            dead: request.dead,
            weight: request.weight,
            zone: request.zone,
            buckets: BTreeMap::new(),
            accept_loss: request.accept_loss,
        })
    }

    /// A node that is replaced by itself is looked for where it was.
    async fn come_back(
        self: &Arc<Self>,
        layout: &Layout,
        old: &NodeId,
        new: &NodeId,
    ) -> Result<Joiner, TopologyError> {
        let listed = layout.state.node(old).filter(|_| old == new);
        let peer = listed.map(|node| node.peer.clone());
        let peer = peer.ok_or_else(|| TopologyError::unreached(new))?;
        let found = self.describe(&peer, Instant::now() + ASK_TIMEOUT).await;
        Ok(found.ok_or_else(|| TopologyError::unreached(new))?.joiner)
    }

    fn plan_view(&self, layout: &Layout, after: &ClusterState) -> PlanView {
        let state = &layout.state;
        let Some(transition) = &after.transition else {
            return PlanView {
                epoch: state.epoch.get(),
                moves: Vec::new(),
                balance: BalanceView { before: 1.0, after: 1.0 },
                violations: Vec::new(),
                eta_seconds: 0,
            };
        };
        let bytes_of_vnode = self.bytes_of_vnode(layout);
        let mut moves: BTreeMap<NodeId, MoveView> = BTreeMap::new();
        let mut count = |node: &NodeId, comes: bool| {
            let entry = moves.entry(node.clone()).or_insert_with(|| MoveView::of(node.clone()));
            let (vnodes, bytes) = match comes {
                true => (&mut entry.vnodes_in, &mut entry.bytes_in),
                false => (&mut entry.vnodes_out, &mut entry.bytes_out),
            };
            *vnodes += 1;
            *bytes += bytes_of_vnode;
        };
        let before = holdings(&state.tables, &state.nodes);
        let next = holdings(&transition.tables, &transition.nodes);
        next.difference(&before).for_each(|(node, ..)| count(node, true));
        before.difference(&next).for_each(|(node, ..)| count(node, false));
        let members_before: Vec<Member> = members(&state.nodes);
        let members_after: Vec<Member> = members(&transition.nodes);
        let rate = match self.settings.streaming.max_bytes_per_second {
            0 => EXPECTED_RATE,
            rate => rate,
        };
        let most = moves.values().map(|entry| entry.bytes_in).max().unwrap_or_default();
        PlanView {
            epoch: state.epoch.get(),
            balance: BalanceView {
                before: state.main_table().balance(&members_before),
                after: main_table(transition.tables.as_slice(), state.replication_factor)
                    .map_or(1.0, |table| table.balance(&members_after)),
            },
            violations: violations(&transition.tables, &members_after, state),
            moves: moves.into_values().collect(),
            eta_seconds: most.div_ceil(rate),
        }
    }

    /// About how much a vnode holds, as far as this node's own tell.
    fn bytes_of_vnode(&self, layout: &Layout) -> u64 {
        let own = layout.own_vnodes().len() as u64;
        let figures = self.store.statistics();
        (figures.disk_bytes + figures.memtable_bytes).checked_div(own).unwrap_or_default()
    }

    /// The cluster, as far as this node knows.
    pub(super) fn cluster_view(&self) -> Result<ClusterView, super::operation::OperationError> {
        let layout = self.serving()?;
        let state = &layout.state;
        let mut nodes: BTreeMap<(NodeId, u8), NodeView> = BTreeMap::new();
        for node in &state.nodes {
            let peer = layout.peer(&node.id).filter(|peer| peer.incarnation == node.incarnation);
            let role = match node.role {
                Role::Member => NodeRole::Member,
                Role::Leaving | Role::Lost => NodeRole::Leaving,
            };
            let view = self.node_view(&layout, node, role, peer);
            nodes.insert((node.id.clone(), 0), view);
        }
        for node in state.joining() {
            let view = self.node_view(&layout, node, NodeRole::Joining, layout.peer(&node.id));
            nodes.insert((node.id.clone(), 1), view);
        }
        for candidate in self.transitions.candidates() {
            let joiner = &candidate.joiner;
            if !state.lists(&joiner.id, joiner.incarnation) {
                nodes.insert((joiner.id.clone(), 2), candidate_view(&candidate));
            }
        }
        let n = state.replication_factor.get() as usize;
        let main = state.main_table();
        let short = state.partitions.iter().filter(|p| main.replica_count(*p) < n).count();
        Ok(ClusterView {
            cluster_id: state.cluster.to_string(),
            recovery: state.recovery.get(),
            epoch: state.epoch.get(),
            layout_version: state.layout_version.get(),
            replication_factor: state.replication_factor.get(),
            partitions: state.partitions.get(),
            this_node: self.settings.id.clone(),
            nodes: nodes.into_values().collect(),
            transition: self.transition_view(state),
            under_replicated: short as u32,
        })
    }

    fn node_view(
        &self,
        layout: &Layout,
        node: &ClusterNode,
        role: NodeRole,
        peer: Option<&Arc<Peer>>,
    ) -> NodeView {
        let is_me = peer.is_some_and(|peer| Arc::ptr_eq(peer, layout.this()));
        let told = self.membership.told(&node.id).filter(|_| peer.is_some());
        let hello = is_me.then(|| self.hello());
        let tells = told.map(|told| (told.http, told.software));
        let (http, software) = hello.map(|hello| (hello.http, hello.software)).or(tells).unzip();
        let state = &layout.state;
        let held = |table: &Table| table.vnodes_of(&node.id).count();
        let next = state.transition.iter().flat_map(|transition| &transition.tables);
        NodeView {
            id: node.id.clone(),
            zone: node.zone.to_string(),
            http,
            peer: node.peer.clone(),
            weight: node.weight.as_f64(),
            state: match peer {
                Some(_) if is_me => NodeState::Up,
                Some(peer) => peer.state(),
                None => NodeState::Down,
            },
            role,
            vnodes: match role {
                NodeRole::Joining => next.map(held).sum(),
                _ => state.tables.iter().map(held).sum(),
            },
            software,
        }
    }

    fn transition_view(&self, state: &ClusterState) -> Option<TransitionView> {
        let progress = self.transitions.progress();
        let said: Vec<&Progress> = progress.values().flatten().collect();
        let silent = progress.iter().filter(|(_, said)| said.is_none()).map(|(id, _)| id.clone());
        let mut waiting_for: BTreeSet<String> = silent.map(String::from).collect();
        waiting_for.extend(said.iter().flat_map(|said| said.waiting_for.iter().cloned()));
        let sum = |of: fn(&Progress) -> u64| said.iter().map(|said| of(said)).sum::<u64>();
        let (phase, to) = match &state.transition {
            Some(transition) => (transition.phase.name(), state.layout_version.get() + 1),
            // The new sets alone: what was held before is being dropped.
            None if !state.former.is_empty() => ("finish", state.layout_version.get()),
            None => return None,
        };
        let moving = matches!(&state.transition, Some(t) if t.phase == TransitionPhase::Prepare);
        let total = sum(|said| u64::from(said.vnodes_total));
        let done = sum(|said| u64::from(said.vnodes_done));
        let bytes = sum(|said| said.bytes);
        let rate = sum(|said| said.bytes_per_second);
        let expected = bytes.checked_mul(total).and_then(|all| all.checked_div(done));
        let eta = expected.map(|all| all.saturating_sub(bytes)).and_then(|b| b.checked_div(rate));
        Some(TransitionView {
            from_layout: to.saturating_sub(1),
            to_layout: to,
            phase,
            partitions_total: total as u32,
            partitions_done: done as u32,
            bytes_moved: bytes,
            eta_seconds: if moving { eta } else { None },
            waiting_for: waiting_for.into_iter().collect(),
        })
    }
}

fn candidate_view(candidate: &Candidate) -> NodeView {
    let Candidate { joiner, http, software, .. } = candidate;
    NodeView {
        id: joiner.id.clone(),
        zone: joiner.zone.to_string(),
        http: Some(http.clone()),
        peer: joiner.peer.clone(),
        weight: joiner.weight.as_f64(),
        state: NodeState::Up,
        role: NodeRole::Candidate,
        vnodes: 0,
        software: Some(software.clone()),
    }
}

fn members(nodes: &[ClusterNode]) -> Vec<Member> {
    nodes.iter().filter(|node| node.role == Role::Member).map(ClusterNode::member).collect()
}

fn main_table(tables: &[Table], factor: ReplicationFactor) -> Option<&Table> {
    tables.iter().find(|table| table.factor() == factor)
}

/// Who holds what: nodes by name and disk.
fn holdings(
    tables: &[Table],
    nodes: &[ClusterNode],
) -> BTreeSet<(NodeId, crate::types::DataIncarnation, VnodeId)> {
    let mut held = BTreeSet::new();
    for table in tables {
        for node in nodes {
            for partition in table.vnodes_of(&node.id) {
                let vnode = VnodeId { table: table.factor(), partition };
                held.insert((node.id.clone(), node.incarnation, vnode));
            }
        }
    }
    held
}

/// What a planned layout does not hold that one would wish for.
fn violations(tables: &[Table], members: &[Member], state: &ClusterState) -> Vec<String> {
    let mut found = Vec::new();
    let n = usize::from(state.replication_factor.get());
    let holders = members.iter().filter(|m| m.weight != crate::types::Weight::ZERO).count();
    if holders < n {
        found.push(format!(
            "{holders} nodes hold data: every partition has {holders} of {n} replicas; add nodes"
        ));
    }
    if members.len() > 1 && members.len().is_multiple_of(2) {
        found.push(format!(
            "{} nodes vote: an even number tolerates no more losses than one less",
            members.len()
        ));
    }
    for table in tables {
        let crowded = table.zone_violations(members).len();
        if crowded > 0 {
            found.push(format!(
                "{crowded} partitions of the table for n = {} span fewer zones than there are",
                table.factor().get()
            ));
        }
    }
    found
}

impl TopologyError {
    fn unreached(node: &NodeId) -> Self {
        Unfit::NotReached(node.clone()).into()
    }
}

impl From<ChangeError> for TopologyError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::TransitionRunning
            | ChangeError::StillDropping(_)
            | ChangeError::StillDroppingTable(_) => Self::Running(error.to_string()),
            ChangeError::NoTransition => Self::NoTransition,
            ChangeError::EpochChanged => Self::EpochChanged,
            other => Self::Wrong(other.to_string()),
        }
    }
}

impl From<ProposeError> for TopologyError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Change(change) => change.into(),
            ProposeError::NoMajority => Self::NoMajority(error.to_string()),
        }
    }
}

impl From<Unfit> for TopologyError {
    fn from(error: Unfit) -> Self {
        match error {
            Unfit::Alive(_) => Self::Alive(error.to_string()),
            other => Self::Wrong(other.to_string()),
        }
    }
}

impl From<RecoverError> for TopologyError {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::HasMajority => Self::Alive(error.to_string()),
            RecoverError::NotKept(..) => Self::NoMajority(error.to_string()),
            other => Self::Wrong(other.to_string()),
        }
    }
}

impl BucketChange {
    /// Checked against the cluster.
    fn properties(self, state: &ClusterState) -> Result<BucketProperties, TopologyError> {
        let wrong = |why: String| TopologyError::Wrong(why);
        let n = self.n.map(|n| {
            ReplicationFactor::new(n).map_err(|error| wrong(format!("n is wrong: {error}")))
        });
        let n = n.transpose()?;
        let size = n.unwrap_or(state.replication_factor).get();
        if let Some(r) = self.r {
            r.for_read(size).map_err(|error| wrong(format!("r is wrong: {error}")))?;
        }
        if let Some(w) = self.w {
            w.for_write(size).map_err(|error| wrong(format!("w is wrong: {error}")))?;
        }
        let n = n.filter(|n| *n != state.replication_factor);
        let BucketChange { r, w, resolve, sloppy, .. } = self;
        Ok(BucketProperties { n, r, w, resolve, sloppy })
    }
}
