//! A cluster in one process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use crate::config::{InitialNode, Overrides, Settings};
use crate::node::operation::{ChangeRequest, Get, GetAnswer, Service, Terms, TopologyError, Write};
use crate::node::view::PlanView;
use crate::node::{Clock, Instruments, Node, Process, Randomness, Seams, StartError};
use crate::peer::loopback::LoopbackNetwork;
use crate::peer::{Handler, PeerAddress};
use crate::protocol::causality::{Content, Record, Shown, Value};
use crate::protocol::cluster::{ClusterState, Role};
use crate::protocol::operation::{Condition, OperationError, Seen, WriteAnswer};
use crate::storage::schema::record_key;
use crate::storage::{BoxFuture, Cached, Durability, MemoryStore, Space, Store};
use crate::telemetry::Metrics;
use crate::types::{Bucket, Key, KeyPath, Level, NodeId, PartitionCount, RequestId, Weight, Zone};

/// Wall time that follows the paused clock.
struct TestClock(Instant);

impl Clock for TestClock {
    fn wall_ms(&self) -> u64 {
        1_700_000_000_000 + self.0.elapsed().as_millis() as u64
    }
}

/// Hands messages to a node that is made after its transport.
#[derive(Default)]
struct LateHandler(OnceLock<Weak<Node>>);

impl LateHandler {
    fn node(&self) -> Option<Arc<Node>> {
        self.0.get().and_then(Weak::upgrade)
    }
}

impl Handler for LateHandler {
    fn call(self: Arc<Self>, request: Bytes) -> BoxFuture<'static, Bytes> {
        match self.node() {
            Some(node) => node.call(request),
            None => Box::pin(std::future::pending()),
        }
    }

    fn receive(self: Arc<Self>, message: Bytes) {
        if let Some(node) = self.node() {
            node.receive(message);
        }
    }
}

/// One running node.
pub(super) struct Member {
    process: Process,
    pub(super) node: Arc<Node>,
    pub(super) store: Arc<MemoryStore>,
    pub(super) metrics: Arc<Metrics>,
}

/// A cluster, its network and its disks.
pub(super) struct World {
    pub(super) network: LoopbackNetwork,
    members: BTreeMap<usize, Member>,
    /// What is on the disks of nodes that don't run.
    disks: BTreeMap<usize, MemoryStore>,
    template: Settings,
    size: usize,
    starts: u64,
    begun: Instant,
    /// Nodes whose next start takes everything in from the others.
    to_rebuild: BTreeSet<usize>,
    /// Nodes that are no founders; whether they apply for themselves.
    joiners: BTreeMap<usize, bool>,
}

pub(super) fn id(i: usize) -> NodeId {
    NodeId::new(&format!("node-{i}")).expect("valid")
}

pub(super) fn address(i: usize) -> PeerAddress {
    PeerAddress::new(&format!("127.0.0.1:{}", 9000 + i)).expect("valid")
}

pub(super) fn path(bucket: &str, key: &str) -> KeyPath {
    let bucket = Bucket::new(bucket).expect("valid");
    KeyPath { bucket, key: Key::new(key.as_bytes().to_vec()).expect("valid") }
}

impl World {
    /// `size` nodes, 1 to `size`, not started.
    pub(super) fn new(size: usize) -> Self {
        let loaded = Settings::load(None, std::iter::empty(), Overrides::default());
        let mut template = loaded.expect("the defaults are right").settings;
        template.partitions = PartitionCount::new(16).expect("a power of two");
        template.initial_nodes = (1..=size)
            .map(|i| InitialNode {
                id: id(i),
                peer: address(i),
                zone: Zone::default(),
                weight: Weight::default(),
            })
            .collect();
        Self {
            network: LoopbackNetwork::new(7),
            members: BTreeMap::new(),
            disks: BTreeMap::new(),
            template,
            size,
            starts: 0,
            begun: Instant::now(),
            to_rebuild: BTreeSet::new(),
            joiners: BTreeMap::new(),
        }
    }

    /// Changes the settings of all nodes that start from now on.
    pub(super) fn configure(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.template);
        self
    }

    pub(super) fn durability(&self) -> Durability {
        self.template.durability
    }

    /// All nodes, started and serving.
    pub(super) async fn started(mut self) -> Self {
        let all: Vec<usize> = (1..=self.size).collect();
        self.start(&all).await;
        self
    }

    /// Starts nodes at once; they must come to serve.
    pub(super) async fn start(&mut self, which: &[usize]) {
        for outcome in self.try_start(which).await {
            outcome.expect("it starts");
        }
    }

    /// Starts a node that joins later, or that waits to be applied for another reason; it need not
    /// come to serve.
    pub(super) async fn start_candidate(&mut self, i: usize, applies: bool) {
        if i > self.size {
            self.joiners.insert(i, applies);
        }
        let member = self.open(i).await.expect("it opens");
        let node = Arc::clone(&member.node);
        self.members.insert(i, member);
        tokio::spawn(async move { node.start().await });
    }

    /// Whether a node serves.
    pub(super) fn serves(&self, i: usize) -> bool {
        *self.members[&i].node.phase().borrow() == super::super::Phase::Serving
    }

    /// The cluster state that a node works with.
    pub(super) fn state(&self, i: usize) -> ClusterState {
        self.members[&i].node.layout().expect("it has one").state.clone()
    }

    /// Begins a change through a node.
    pub(super) async fn change(
        &self,
        through: usize,
        request: ChangeRequest,
    ) -> Result<PlanView, TopologyError> {
        self.members[&through].node.apply(request).await
    }

    /// Waits until nothing of a transition is left, and every node that serves knows.
    pub(super) async fn settled(&self, seconds: u64) {
        let is_settled = |world: &Self| {
            let serving = world.members.keys().filter(|i| world.serves(**i));
            let states: Vec<ClusterState> = serving.map(|i| world.state(*i)).collect();
            let is_quiet = |state: &ClusterState| {
                let leaves = state.nodes.iter().any(|node| node.role == Role::Leaving);
                state.transition.is_none() && state.former.is_empty() && !leaves
            };
            states.iter().all(is_quiet) && states.windows(2).all(|two| two[0] == two[1])
        };
        self.within(seconds, "the transition ends", is_settled).await;
    }

    /// Starts nodes at once.
    pub(super) async fn try_start(&mut self, which: &[usize]) -> Vec<Result<(), StartError>> {
        let mut opened = Vec::new();
        for i in which {
            opened.push(self.open(*i).await);
        }
        let starts = opened.iter().map(|outcome| async move {
            match outcome {
                Ok(member) => member.node.start().await,
                Err(_) => Ok(()),
            }
        });
        let started = join_all(starts).await;
        let mut outcomes = Vec::new();
        for ((i, opened), started) in which.iter().zip(opened).zip(started) {
            let kept = opened.map(|member| drop(self.members.insert(*i, member)));
            outcomes.push(kept.and(started));
        }
        outcomes
    }

    async fn open(&mut self, i: usize) -> Result<Member, StartError> {
        let disk = self.disks.remove(&i);
        let store = Arc::new(disk.unwrap_or_else(|| MemoryStore::new(self.durability())));
        let handler = Arc::new(LateHandler::default());
        let mut settings = self.template.clone();
        settings.id = id(i);
        settings.advertise_peer = address(i);
        if let Some(applies) = self.joiners.get(&i) {
            settings.join = settings.initial_nodes.drain(..).map(|node| node.peer).collect();
            settings.auto_join = *applies;
        }
        self.starts += 1;
        let metrics = Arc::new(Metrics::new());
        let process = Process::simulated(tracing::Span::none());
        let seams = Seams {
            store: Arc::clone(&store) as Arc<dyn Store>,
            transport: self.network.attach(address(i), Arc::clone(&handler) as Arc<dyn Handler>),
            clock: Arc::new(TestClock(self.begun)),
            random: Randomness::from_seed(1_000 * self.starts + i as u64),
            metrics: Arc::clone(&metrics),
            process: process.clone(),
            instruments: Instruments::default(),
            has_lost_data: false,
            rebuild: self.to_rebuild.remove(&i),
        };
        let node = Node::open(Arc::new(settings), seams).await?;
        let is_first = handler.0.set(Arc::downgrade(&node)).is_ok();
        assert!(is_first, "a handler serves one node");
        Ok(Member { process, node, store, metrics })
    }

    pub(super) fn member(&self, i: usize) -> &Member {
        &self.members[&i]
    }

    /// Pulls the plug: only what was synced is found again.
    pub(super) fn crash(&mut self, i: usize) {
        let member = self.members.remove(&i).expect("it runs");
        member.process.kill();
        self.network.detach(&address(i));
        self.disks.insert(i, member.store.crash());
    }

    /// Stops a node cleanly.
    pub(super) async fn stop(&mut self, i: usize) {
        let member = self.members.remove(&i).expect("it runs");
        member.node.stop().await;
        self.network.detach(&address(i));
        self.disks.insert(i, member.store.crash());
    }

    /// Takes the disk out of a node that does not run.
    pub(super) fn take_disk(&mut self, i: usize) -> MemoryStore {
        self.disks.remove(&i).expect("it stopped")
    }

    /// Puts a disk into a node that does not run.
    pub(super) fn put_disk(&mut self, i: usize, disk: MemoryStore) {
        assert!(!self.members.contains_key(&i), "it runs");
        self.disks.insert(i, disk);
    }

    /// Has a node that does not run start with an empty disk, and fill it from the others.
    pub(super) fn wipe(&mut self, i: usize) {
        self.put_disk(i, MemoryStore::new(self.durability()));
        self.to_rebuild.insert(i);
    }

    /// Waits until something is so, for so many seconds at most.
    pub(super) async fn within(&self, seconds: u64, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        while !is_so(self) {
            assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a node's disk has of a key; `None`: nothing.
    pub(super) fn stored(&self, i: usize, key: &KeyPath) -> Option<Record> {
        let member = &self.members[&i];
        let vnode = member.node.layout()?.state.vnode_of(key);
        match member.store.get_cached(Space::Records, &record_key(vnode, key)) {
            Ok(Cached::Hit(Some(bytes))) => Record::from_stored_bytes(bytes).ok(),
            _ => None,
        }
    }

    /// How many entries a node's disk has in a space.
    pub(super) fn count(&self, i: usize, space: Space) -> usize {
        self.members[&i].store.entries(space).len()
    }

    /// Whether all nodes hold the same of a key, and something.
    pub(super) fn is_everywhere(&self, key: &KeyPath) -> bool {
        let mut stored = self.members.keys().map(|i| self.stored(*i, key));
        let first = stored.next().flatten();
        first.is_some() && stored.all(|other| other == first)
    }

    /// No node's trees are other than what its records make.
    pub(super) async fn assert_trees_are_right(&self) {
        for (i, member) in &self.members {
            assert_eq!(member.node.wrong_trees().await, Vec::<String>::new(), "node-{i}");
        }
    }

    /// Lets the failure detectors come to a view.
    pub(super) async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(5)).await;
    }

    /// How often actors were retired on a node.
    pub(super) fn retired(&self, i: usize) -> f64 {
        self.metric(i, "starling_actors_retired_total")
    }

    /// The sum of a metric over its labels.
    pub(super) fn metric(&self, i: usize, name: &str) -> f64 {
        let text = self.members[&i].metrics.encode();
        let is_it =
            |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let value = |line: &str| line.rsplit(' ').next().and_then(|v| v.parse::<f64>().ok());
        text.lines().filter(is_it).filter_map(value).sum()
    }

    pub(super) fn put(&self, through: usize, key: &KeyPath, value: &str) -> Request<'_> {
        let body = Bytes::copy_from_slice(value.as_bytes());
        let content = Content::Value(Value { body, ..Value::default() });
        self.request(through, key, content)
    }

    pub(super) fn delete(&self, through: usize, key: &KeyPath) -> Request<'_> {
        self.request(through, key, Content::Tombstone)
    }

    fn request(&self, through: usize, key: &KeyPath, content: Content) -> Request<'_> {
        Request {
            world: self,
            through,
            write: Write {
                path: key.clone(),
                content,
                seen: Seen::OwnRead,
                conditions: Vec::new(),
                terms: terms(None),
            },
        }
    }

    /// Reads at a level.
    pub(super) async fn get_at(
        &self,
        through: usize,
        key: &KeyPath,
        level: Level,
    ) -> Result<GetAnswer, OperationError> {
        let get = Get { path: key.clone(), version: None, terms: terms(Some(level)) };
        self.members[&through].node.get(get).await
    }

    /// Reads at a level, where other nodes may stand in for replicas.
    pub(super) async fn get_sloppy(
        &self,
        through: usize,
        key: &KeyPath,
        level: Level,
    ) -> Result<GetAnswer, OperationError> {
        let terms = Terms { sloppy: Some(true), ..terms(Some(level)) };
        self.members[&through].node.get(Get { path: key.clone(), version: None, terms }).await
    }

    /// Reads at quorum.
    pub(super) async fn get(&self, through: usize, key: &KeyPath) -> GetAnswer {
        self.get_at(through, key, Level::Quorum).await.expect("the read succeeds")
    }

    /// The values that a quorum read shows, sorted.
    pub(super) async fn values(&self, through: usize, key: &KeyPath) -> Vec<String> {
        values_of(&self.get(through, key).await)
    }
}

/// The values that an answer shows, sorted; `-` for a tombstone beside a value.
pub(super) fn values_of(answer: &GetAnswer) -> Vec<String> {
    let versions = match &answer.shown {
        Shown::Nothing { .. } => Vec::new(),
        Shown::One(version) => vec![version],
        Shown::Siblings(versions) => versions.iter().collect(),
    };
    let text = |value: &Value| String::from_utf8_lossy(&value.body).into_owned();
    let mut values: Vec<String> =
        versions.into_iter().map(|v| v.value().map_or("-".into(), text)).collect();
    values.sort();
    values
}

pub(super) fn terms(level: Option<Level>) -> Terms {
    Terms {
        level,
        sloppy: None,
        deadline: Instant::now() + Duration::from_secs(5),
        request_id: RequestId::from_random(1),
    }
}

/// A write to be sent.
pub(super) struct Request<'a> {
    world: &'a World,
    through: usize,
    write: Write,
}

impl Request<'_> {
    pub(super) fn level(mut self, level: Level) -> Self {
        self.write.terms.level = Some(level);
        self
    }

    pub(super) fn within(mut self, timeout: Duration) -> Self {
        self.write.terms.deadline = Instant::now() + timeout;
        self
    }

    /// With the context that an answer brought.
    pub(super) fn context(mut self, token: &str) -> Self {
        let node = &self.world.members[&self.through].node;
        let context = node.open_context(token, &self.write.path).expect("our own token");
        self.write.seen = Seen::Token(context);
        self
    }

    pub(super) fn sloppy(mut self) -> Self {
        self.write.terms.sloppy = Some(true);
        self
    }

    pub(super) fn seen_nothing(mut self) -> Self {
        self.write.seen = Seen::Nothing;
        self
    }

    pub(super) fn only_if(mut self, condition: Condition) -> Self {
        self.write.conditions.push(condition);
        self
    }

    pub(super) async fn send(self) -> Result<WriteAnswer, OperationError> {
        self.world.members[&self.through].node.write(self.write).await
    }

    pub(super) async fn ok(self) -> WriteAnswer {
        self.send().await.expect("the write succeeds")
    }
}
