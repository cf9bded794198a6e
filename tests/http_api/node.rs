//! A node that answers what it is told to, and keeps what it was asked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use starling::http::{HttpLimits, Load, Observer, listen, serve};
use starling::node::operation::{
    Acks, BucketChange, ChangeRequest, EtagSet, Get, GetAnswer, OperationError, Reached,
    RecoverRequest, ReplicaOutcome, ReplicaReport, Service, TopologyError, Write, WriteAnswer,
};
use starling::node::view::{
    BalanceView, BucketView, ClusterView, ExplainReplica, ExplainVersion, ExplainView, HintsView,
    LevelView, NodeRole, NodeState, NodeView, PairView, PartitionView, PlanView, Readiness,
    RepairView, RingView,
};
use starling::protocol::causality::{Content, Context, Dot, Resolve, Shown, Text, Value, Version};
use starling::types::{ActorId, Bucket, Epoch, HlcStamp, KeyPath, NodeId, RequestId};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::{Client, head};

pub const SET: &str = "000000000000000000000000000000ab";
pub const VERSION_1: &str = "0000000000000001-1";
pub const VERSION_2: &str = "0000000000000002-1";
pub const ACKS: Acks = Acks { got: 2, required: 2, n: 3 };

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the node does with the next operations.
pub enum Step {
    Found(Shown, usize),
    Wrote(WriteAnswer),
    Fails(OperationError),
    Panics,
    /// Does not answer before it is told to go on.
    Waits,
}

#[derive(Default)]
pub struct Script {
    steps: Mutex<VecDeque<Step>>,
    pub gets: Mutex<Vec<Get>>,
    pub writes: Mutex<Vec<Write>>,
    pub not_ready: Mutex<Option<String>>,
    pub go_on: Notify,
    pub waiting: Notify,
    ids: AtomicU64,
    pub open: AtomicI64,
    pub refused: AtomicU64,
    pub changes: Mutex<Vec<ChangeRequest>>,
    /// What the next change is refused with.
    pub refused_change: Mutex<Option<TopologyError>>,
    pub finished: Mutex<Vec<(&'static str, String, String)>>,
}

pub fn dot(actor: u64) -> Dot {
    Dot::new(ActorId::new(actor), 1).expect("in range")
}

pub fn value(body: impl Into<bytes::Bytes>) -> Value {
    Value { body: body.into(), ..Value::default() }
}

/// Written at 1994-11-06T08:49:37.042Z.
pub fn version(actor: u64, content: Content) -> Version {
    Version::new(dot(actor), HlcStamp::new(784_111_777_042, 0), content)
}

pub fn one(body: impl Into<bytes::Bytes>) -> Step {
    Step::Found(Shown::One(version(1, Content::Value(value(body)))), 1)
}

/// A JPEG with metadata, and a tombstone.
pub fn siblings(body: &'static [u8]) -> Step {
    let full = Value {
        content_type: Some(Text::from("image/jpeg")),
        content_encoding: Some(Text::from("gzip")),
        meta: vec![(Text::from("colour"), Text::from("red"))],
        body: bytes::Bytes::from_static(body),
    };
    let versions = vec![version(1, Content::Value(full)), version(2, Content::Tombstone)];
    Step::Found(Shown::Siblings(versions), 2)
}

pub fn wrote() -> Step {
    Step::Wrote(WriteAnswer {
        version: dot(1),
        siblings: 1,
        set: Some(EtagSet(0xab)),
        context: "the-new-context-token".into(),
        acks: ACKS,
        epoch: Epoch::new(7),
    })
}

/// Two replicas answered, as [`ACKS`] says.
pub fn answered() -> Reached {
    Reached { acks: ACKS, ..reached() }
}

pub fn reached() -> Reached {
    let report =
        |node: &str, outcome| ReplicaReport { node: NodeId::new(node).expect("valid"), outcome };
    Reached {
        acks: Acks { got: 1, required: 2, n: 3 },
        replicas: vec![
            report("a", ReplicaOutcome::Ok),
            report("b", ReplicaOutcome::Timeout),
            report("c", ReplicaOutcome::DiskFull),
        ],
    }
}

impl Script {
    pub fn then(&self, step: Step) {
        self.steps.lock().expect("no panic").push_back(step);
    }

    fn next(&self) -> Step {
        self.steps.lock().expect("no panic").pop_front().unwrap_or_else(|| one("default"))
    }

    pub fn last_write(&self) -> Write {
        self.writes.lock().expect("no panic").last().expect("a write").clone()
    }

    pub fn last_get(&self) -> Get {
        self.gets.lock().expect("no panic").last().expect("a read").clone()
    }

    async fn wait(&self) {
        self.waiting.notify_one();
        self.go_on.notified().await;
    }
}

fn found(shown: Shown, siblings: usize) -> GetAnswer {
    let context = "a-context-token-made-up".into();
    let set = EtagSet(0xab);
    GetAnswer { shown, siblings, set, context, reached: answered(), epoch: Epoch::new(7) }
}

impl Service for Script {
    fn get(&self, get: Get) -> BoxFuture<'_, Result<GetAnswer, OperationError>> {
        self.gets.lock().expect("no panic").push(get);
        Box::pin(async {
            match self.next() {
                Step::Found(shown, siblings) => Ok(found(shown, siblings)),
                Step::Fails(error) => Err(error),
                Step::Panics => panic!("as told"),
                Step::Waits => {
                    self.wait().await;
                    Ok(found(Shown::One(version(1, Content::Value(value("late")))), 1))
                }
                Step::Wrote(_) => panic!("a read met a write's answer"),
            }
        })
    }

    fn write(&self, write: Write) -> BoxFuture<'_, Result<WriteAnswer, OperationError>> {
        self.writes.lock().expect("no panic").push(write);
        Box::pin(async {
            match self.next() {
                Step::Fails(error) => Err(error),
                Step::Panics => panic!("as told"),
                Step::Wrote(wrote) => Ok(wrote),
                _ => match wrote() {
                    Step::Wrote(wrote) => Ok(wrote),
                    _ => unreachable!("it is one"),
                },
            }
        })
    }

    fn open_context(&self, token: &str, _: &KeyPath) -> Result<Context, String> {
        match token {
            "a-good-context-token" => Ok(Context::default()),
            _ => Err("the token is not one of this cluster's".into()),
        }
    }

    fn explain(
        &self,
        _: KeyPath,
        _: Instant,
    ) -> BoxFuture<'_, Result<ExplainView, OperationError>> {
        let version = ExplainVersion {
            version: VERSION_1.into(),
            deleted: false,
            bytes: 3,
            modified: "1994-11-06T08:49:37.042Z".into(),
        };
        let replica = ExplainReplica {
            node: NodeId::new("a").expect("valid"),
            reachable: true,
            incomplete: false,
            versions: Some(vec![version]),
            leaf_hash: None,
            hints: 0,
        };
        let token = "00000000000000ff".into();
        let view = ExplainView { token, partition: 5, n: 3, replicas: vec![replica] };
        Box::pin(async { Ok(view) })
    }

    fn cluster(&self) -> Result<ClusterView, OperationError> {
        if let Some(why) = &*self.not_ready.lock().expect("no panic") {
            return Err(OperationError::NotReady(why.clone()));
        }
        let node = |id: &str| NodeView {
            id: NodeId::new(id).expect("valid"),
            zone: "default".into(),
            http: None,
            peer: "127.0.0.1:1".into(),
            weight: 1.0,
            state: NodeState::Up,
            role: NodeRole::Member,
            vnodes: 1,
            software: None,
        };
        Ok(ClusterView {
            cluster_id: "00".into(),
            recovery: 0,
            epoch: 7,
            layout_version: 1,
            replication_factor: 3,
            partitions: 1_024,
            this_node: NodeId::new("a").expect("valid"),
            nodes: vec![node("a"), node("b"), node("c")],
            transition: None,
            under_replicated: 0,
        })
    }

    fn ring(&self, n: Option<u8>) -> Result<Option<RingView>, OperationError> {
        let partition = PartitionView {
            id: 0,
            start: "0000000000000000".into(),
            end: "003fffffffffffff".into(),
            replicas: vec![NodeId::new("a").expect("valid")],
        };
        let view = RingView { layout_version: 1, partitions: vec![partition] };
        Ok(matches!(n, None | Some(3)).then_some(view))
    }

    fn bucket(&self, _: &Bucket) -> BucketView {
        BucketView {
            n: 3,
            r: LevelView::Name("quorum".into()),
            w: LevelView::Count(2),
            resolve: Resolve::Siblings,
            sloppy: false,
        }
    }

    fn repair(&self) -> Result<RepairView, OperationError> {
        let node = NodeId::new("node-2").expect("valid");
        let hints = HintsView { target: "node-2".into(), count: 1, bytes: 10, oldest_seconds: 2 };
        let pair = PairView {
            node,
            vnodes: 1_024,
            oldest_proof_seconds: 1.5,
            records_repaired: 7,
            bytes_moved: 70,
        };
        Ok(RepairView { debt_seconds: 1.5, hints: vec![hints], pairs: vec![pair] })
    }

    fn begin_repair(&self, accept_loss: bool) -> BoxFuture<'_, Result<u64, OperationError>> {
        Box::pin(std::future::ready(Ok(if accept_loss { 3 } else { 0 })))
    }

    fn plan(&self, request: ChangeRequest) -> BoxFuture<'_, Result<PlanView, TopologyError>> {
        self.changes.lock().expect("no panic").push(request);
        let refused = self.refused_change.lock().expect("no panic").take();
        let balance = BalanceView { before: 1.25, after: 1.0 };
        let (moves, violations) = (Vec::new(), vec!["4 nodes vote".into()]);
        let view = PlanView { epoch: 7, moves, balance, violations, eta_seconds: 9 };
        Box::pin(std::future::ready(refused.map_or(Ok(view), Err)))
    }

    fn apply(&self, request: ChangeRequest) -> BoxFuture<'_, Result<PlanView, TopologyError>> {
        self.plan(request)
    }

    fn abort(&self) -> BoxFuture<'_, Result<(), TopologyError>> {
        let refused = self.refused_change.lock().expect("no panic").take();
        Box::pin(std::future::ready(refused.map_or(Ok(()), Err)))
    }

    fn recover(&self, _: RecoverRequest) -> BoxFuture<'_, Result<(), TopologyError>> {
        self.abort()
    }

    fn change_bucket(
        &self,
        bucket: Bucket,
        change: Option<BucketChange>,
    ) -> BoxFuture<'_, Result<(BucketView, bool), TopologyError>> {
        let n = change.and_then(|change| change.n).unwrap_or(3);
        let view = BucketView { n, ..self.bucket(&bucket) };
        Box::pin(std::future::ready(Ok((view, n != 3))))
    }

    fn buckets(&self) -> Vec<(Bucket, BucketView)> {
        let bucket = Bucket::new("named").expect("valid");
        vec![(bucket.clone(), self.bucket(&bucket))]
    }

    fn readiness(&self) -> Readiness {
        let why = self.not_ready.lock().expect("no panic").clone();
        why.map_or(Readiness::Ready, Readiness::NotReady)
    }

    fn epoch(&self) -> Epoch {
        Epoch::new(7)
    }

    fn new_request_id(&self) -> RequestId {
        RequestId::from_random(self.ids.fetch_add(1, Ordering::Relaxed).into())
    }

    fn wall_ms(&self) -> u64 {
        784_111_777_042
    }
}

/// The script, as whoever counts.
pub struct Counts(Arc<Script>);

impl Observer for Counts {
    fn request_finished(
        &self,
        operation: &'static str,
        level: &'static str,
        outcome: &'static str,
        _: f64,
    ) {
        let seen = (operation, level.to_owned(), outcome.to_owned());
        self.0.finished.lock().expect("no panic").push(seen);
    }

    fn connection_opened(&self) {
        self.0.open.fetch_add(1, Ordering::Relaxed);
    }

    fn connection_closed(&self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn connection_refused(&self) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
    }

    fn load(&self, _: Load) {}

    fn metrics_text(&self) -> String {
        "# TYPE starling_up gauge\nstarling_up 1\n".into()
    }
}

/// A server, for one test.
pub struct Server {
    pub address: SocketAddr,
    pub script: Arc<Script>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// Limits of which none is met by accident.
pub fn limits() -> HttpLimits {
    HttpLimits { max_value_bytes: 1_000_000, ..HttpLimits::default() }
}

pub const SHORT: Duration = Duration::from_millis(300);

impl Server {
    pub async fn start() -> Self {
        Self::with(limits()).await
    }

    pub async fn with(limits: HttpLimits) -> Self {
        let listener = listen(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let script = Arc::new(Script::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let observer = Arc::new(Counts(Arc::clone(&script)));
        let service = Arc::clone(&script);
        let stopped = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, service, observer, limits, stopped));
        Self { address, script, stop: Some(stop), task }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.address).await
    }

    /// How many of so many requests at once are taken.
    pub async fn answers_at_once(&self, count: usize) -> usize {
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = self.client().await;
            self.script.then(Step::Waits);
            client.send(head("GET", "/v1/kv/b/k", &[])).await;
            clients.push(client);
        }
        let releasing = async {
            loop {
                self.script.go_on.notify_waiters();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let counting = async {
            let mut taken = 0;
            for client in &mut clients {
                taken += usize::from(client.reply("GET").await.status == 200);
            }
            taken
        };
        tokio::select! {
            () = releasing => unreachable!("it goes on"),
            taken = counting => taken,
        }
    }

    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    pub async fn stopped(self) {
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, self.task).await.expect("it stops").expect("no panic");
    }
}
