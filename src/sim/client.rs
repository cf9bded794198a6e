//! A simulated client: works off its script, one step after the other, and remembers what it was
//! told of each key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::history::{Claim, Known, Outcome, Reach, Request, ValueId, request_id};
use super::scenario::{Call, KeyKind, Step, With};
use super::world::World;
use crate::node::Node;
use crate::node::operation::{Get, GetAnswer, Service, Terms, Write};
use crate::protocol::causality::{Content, Dot, Shown, Value, Version};
use crate::protocol::operation::{Acks, Condition, EtagSet, OperationError, Seen, WriteAnswer};
use crate::storage::BoxFuture;
use crate::types::{KeyPath, Level};

/// How long a client waits beyond its timeout for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a write in doubt is tried again.
const RETRIES: u32 = 2;

/// See the module's head.
pub struct Client {
    number: usize,
    world: Arc<World>,
    random: StdRng,
    memory: BTreeMap<usize, Memory>,
}

/// What a client remembers of a key.
#[derive(Clone, Debug, Default)]
struct Memory {
    token: Option<String>,
    known: Known,
    set: Option<EtagSet>,
    /// A write's answer was lost, and no token came: the next one would not build on it.
    is_lost: bool,
}

/// What an operation came to.
enum Answer {
    Read(Box<Result<GetAnswer, OperationError>>),
    Wrote(Box<Result<WriteAnswer, OperationError>>),
}

/// Why a request was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoAnswer {
    /// Nobody took it.
    Refused,
    /// Somebody may be at it.
    Lost,
}

/// A write to be sent.
#[derive(Clone)]
struct Sending {
    content: Content,
    value: Option<ValueId>,
    token: Option<String>,
    claim: Claim,
    conditions: Vec<Condition>,
    attempt: u32,
}

impl Client {
    /// The client of this number.
    pub fn new(number: usize, world: Arc<World>) -> Self {
        let seed = world.scenario.seed ^ 0xc11e_0000 ^ number as u64;
        let random = StdRng::seed_from_u64(seed);
        Self { number, world, random, memory: BTreeMap::new() }
    }

    /// Works off the script.
    pub async fn run(mut self) {
        let world = Arc::clone(&self.world);
        for (number, step) in world.scenario.clients[self.number].steps.iter().enumerate() {
            if !world.only.has_step(self.number, number) {
                continue;
            }
            world.pause(Duration::from_millis(step.think_ms)).await;
            self.step(step).await;
        }
    }

    async fn step(&mut self, step: &Step) {
        match step.call {
            Call::Get => drop(self.get(step).await),
            Call::GetTwice => {
                self.get(step).await;
                let node = (step.node + 1) % self.world.scenario.nodes;
                self.get(&Step { node, ..step.clone() }).await;
            }
            Call::Put(with) => self.put(step, with, Vec::new()).await,
            Call::Delete(with) => self.delete(step, with).await,
            Call::ReadModifyWrite => {
                if self.get(step).await {
                    self.put(step, With::Context, Vec::new()).await;
                }
            }
            Call::PutIfNothing => {
                self.put(step, With::OwnRead, vec![Condition::NothingLive]).await;
            }
            Call::PutIfUnchanged => {
                let set = self.memory.get(&step.key).and_then(|memory| memory.set);
                let unchanged =
                    set.map_or(Condition::NothingLive, |set| Condition::SetIsOneOf(vec![set]));
                self.put(step, With::OwnRead, vec![unchanged]).await;
            }
        }
    }

    /// Reads; says whether it was answered.
    async fn get(&mut self, step: &Step) -> bool {
        let path = self.world.path(step.key);
        let number = self.world.history.begin(self.number, step.key, Request::Read);
        let terms = self.terms(step, number);
        let get = Get { path: path.clone(), version: None, terms };
        let answer = self.send(step, number, move |node| {
            Box::pin(async move { Answer::Read(Box::new(node.get(get).await)) })
        });
        let Ok((node, answer)) = answer.await else { return false };
        let Answer::Read(answer) = answer else { unreachable!("a read is answered as one") };
        let is_answered = answer.is_ok();
        let outcome = match *answer {
            Ok(answer) => self.take_read(step, &node, &path, &answer),
            Err(OperationError::NotReady(why)) => Outcome::Failed(why),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        self.end(number, step, outcome);
        is_answered
    }

    fn take_read(
        &mut self,
        step: &Step,
        node: &Arc<Node>,
        path: &KeyPath,
        answer: &GetAnswer,
    ) -> Outcome {
        let key = step.key;
        let shown = shown_versions(&answer.shown);
        let mut known = Known {
            dots: shown.iter().map(|(dot, _)| *dot).collect(),
            values: shown.iter().map(|(_, value)| *value).collect(),
            covers_all: self.world.kind(key) == &KeyKind::Lww,
        };
        if matches!(answer.shown, Shown::Nothing { .. }) {
            // Tombstones are all that can be there.
            known.values.push(None);
        }
        let memory = self.memory.entry(key).or_default();
        // A chain builds on its own writes alone.
        if !matches!(self.world.kind(key), KeyKind::Chains { .. }) {
            *memory = Memory {
                token: Some(answer.context.clone()),
                known,
                set: Some(answer.set),
                is_lost: memory.is_lost,
            };
        }
        let context = node.cover_of(&answer.context, path);
        Outcome::Read { shown, context, reach: self.reach(answer.reached.acks, step) }
    }

    async fn put(&mut self, step: &Step, with: With, conditions: Vec<Condition>) {
        let value = self.world.history.next_number();
        let body = Bytes::from(format!("v{value}"));
        let content = Content::Value(Value { body, ..Value::default() });
        self.write(step, with, content, Some(value), conditions).await;
    }

    async fn delete(&mut self, step: &Step, with: With) {
        self.write(step, with, Content::Tombstone, None, Vec::new()).await;
    }

    /// Writes; a write in doubt is tried again, with the context that came with the doubt.
    async fn write(
        &mut self,
        step: &Step,
        with: With,
        content: Content,
        value: Option<ValueId>,
        conditions: Vec<Condition>,
    ) {
        let memory = self.memory.entry(step.key).or_default();
        let must_not_lose = self.world.kind(step.key).builds_on_itself();
        if must_not_lose && memory.is_lost {
            return;
        }
        let token = memory.token.clone().filter(|_| with == With::Context);
        let claim = match (&token, with) {
            (Some(_), _) => Claim::Token(memory.known.clone()),
            (None, With::Nothing) => Claim::Nothing,
            // A chain's first write stands beside whatever is there.
            (None, With::Context) if must_not_lose => Claim::Nothing,
            (None, _) => Claim::OwnRead,
        };
        let mut sending = Sending { content, value, token, claim, conditions, attempt: 1 };
        for _ in 0..=RETRIES {
            let Some(retry) = self.try_write(step, sending).await else { return };
            self.world.pause(Duration::from_millis(50)).await;
            sending = retry;
        }
    }

    /// Writes once; returns what to try again with, if that makes sense.
    async fn try_write(&mut self, step: &Step, sending: Sending) -> Option<Sending> {
        let path = self.world.path(step.key);
        let request = Request::Write {
            value: sending.value,
            claim: sending.claim.clone(),
            attempt: sending.attempt,
        };
        let number = self.world.history.begin(self.number, step.key, request);
        let write = ToWrite { path, sending: sending.clone(), terms: self.terms(step, number) };
        let answer = self.send(step, number, move |node| {
            Box::pin(async move { Answer::Wrote(Box::new(write.run(&node).await)) })
        });
        let answer = match answer.await {
            Ok((_, answer)) => answer,
            Err(why) => {
                self.memory.entry(step.key).or_default().is_lost |= why == NoAnswer::Lost;
                return None;
            }
        };
        let Answer::Wrote(answer) = answer else { unreachable!("a write is answered as one") };
        let (outcome, retry) = match *answer {
            Ok(answer) => (self.take_written(step, &sending, answer), None),
            Err(error) if error.maybe_applied() => self.take_doubt(step.key, sending, &error),
            Err(error) => (Outcome::Failed(error.to_string()), None),
        };
        self.end(number, step, outcome);
        retry
    }

    /// How far an operation got.
    fn reach(&self, acks: Acks, step: &Step) -> Reach {
        let scenario = &self.world.scenario;
        let may_resize = scenario.may_resize(scenario.keys[step.key].bucket);
        // Where n may change, only levels that follow it are sure to meet.
        let follows = matches!(step.level, Level::Quorum | Level::All);
        let is_thin = scenario.may_lose_all_of(scenario.keys[step.key].bucket);
        let is_strict = !step.sloppy && step.level != Level::Any && (follows || !may_resize);
        Reach { required: acks.required, n: acks.n, is_strict: is_strict && !is_thin, is_thin }
    }

    fn take_written(&mut self, step: &Step, sending: &Sending, answer: WriteAnswer) -> Outcome {
        let memory = self.memory.entry(step.key).or_default();
        let mut known = match &sending.claim {
            Claim::Token(known) => known.clone(),
            Claim::OwnRead | Claim::Nothing => Known::default(),
        };
        known.dots.push(answer.version);
        known.values.push(sending.value);
        memory.known = known;
        memory.token = Some(answer.context);
        memory.set = answer.set;
        Outcome::Written {
            dot: answer.version,
            siblings: answer.siblings,
            reach: self.reach(answer.acks, step),
        }
    }

    fn take_doubt(
        &mut self,
        key: usize,
        sending: Sending,
        error: &OperationError,
    ) -> (Outcome, Option<Sending>) {
        let doubt = Outcome::InDoubt(error.to_string());
        let (OperationError::Timeout { context, .. }
        | OperationError::LevelNotReached { context, .. }) = error
        else {
            self.memory.entry(key).or_default().is_lost = true;
            return (doubt, None);
        };
        let Some(token) = context.clone() else {
            // It failed before anything was minted, unless it was forwarded.
            self.memory.entry(key).or_default().is_lost = true;
            return (doubt, None);
        };
        let mut known = match &sending.claim {
            Claim::Token(known) => known.clone(),
            Claim::OwnRead | Claim::Nothing => Known::default(),
        };
        known.values.push(sending.value);
        let memory = self.memory.entry(key).or_default();
        memory.token = Some(token.clone());
        memory.known = known.clone();
        let claim = Claim::Token(known);
        let attempt = sending.attempt + 1;
        (doubt, Some(Sending { token: Some(token), claim, attempt, ..sending }))
    }

    fn terms(&self, step: &Step, number: usize) -> Terms {
        Terms {
            level: Some(step.level),
            sloppy: Some(step.sloppy),
            deadline: Instant::now() + Duration::from_millis(step.timeout_ms),
            request_id: request_id(number),
        }
    }

    fn end(&mut self, number: usize, step: &Step, outcome: Outcome) {
        let name = self.world.key_name(step.key);
        self.world.note(self.number, number, &format!("{name} <- {outcome:?}"));
        self.world.history.end(number, outcome);
    }

    /// Sends a request to a node.
    async fn send(
        &mut self,
        step: &Step,
        number: usize,
        work: impl FnOnce(Arc<Node>) -> BoxFuture<'static, Answer>,
    ) -> Result<(Arc<Node>, Answer), NoAnswer> {
        let (name, machine) = (self.world.key_name(step.key), step.node);
        let asked = format!("{name} -> node-{} {:?} {:?}", machine + 1, step.call, step.level);
        self.world.note(self.number, number, &asked);
        sleep(Duration::from_millis(self.random.random_range(0..2))).await;
        let running = self.world.machines[machine].running();
        let Some((running, node)) = running.and_then(|r| r.serving().map(|node| (r, node))) else {
            self.end(number, step, Outcome::Failed("connection refused".into()));
            return Err(NoAnswer::Refused);
        };
        let (sender, answer) = oneshot::channel();
        let working = work(Arc::clone(&node));
        let task = tokio::spawn(running.process.run(async move {
            // The client may have hung up.
            drop(sender.send(working.await));
        }));
        let patience = Duration::from_millis(step.timeout_ms) + PATIENCE;
        let patience = step.hangs_up_ms.map_or(patience, Duration::from_millis);
        let answer = tokio::select! {
            biased;
            answer = answer => answer.ok(),
            () = running.process.killed() => None,
            () = sleep(patience) => None,
        };
        task.abort();
        let is_lost = self.random.random_bool(0.005);
        let answer = answer.filter(|_| !is_lost);
        if answer.is_none() {
            self.world.note(self.number, number, &format!("{name} <- no answer"));
        }
        answer.map(|answer| (node, answer)).ok_or(NoAnswer::Lost)
    }
}

/// A write on its way.
struct ToWrite {
    path: KeyPath,
    sending: Sending,
    terms: Terms,
}

impl ToWrite {
    async fn run(self, node: &Arc<Node>) -> Result<WriteAnswer, OperationError> {
        let Self { path, sending, terms } = self;
        let seen = match (&sending.token, &sending.claim) {
            (Some(token), _) => match node.open_context(token, &path) {
                Ok(context) => Seen::Token(context),
                Err(message) => {
                    return Err(OperationError::NotReady(message));
                }
            },
            (None, Claim::Nothing) => Seen::Nothing,
            (None, _) => Seen::OwnRead,
        };
        let Sending { content, conditions, .. } = sending;
        node.write(Write { path, content, seen, conditions, terms }).await
    }
}

fn shown_versions(shown: &Shown) -> Vec<(Dot, Option<ValueId>)> {
    let versions: &[Version] = match shown {
        Shown::Nothing { .. } => &[],
        Shown::One(version) => std::slice::from_ref(version),
        Shown::Siblings(versions) => versions,
    };
    versions.iter().map(|version| (version.dot(), value_id(version))).collect()
}

/// The number that a value carries; `None` for a tombstone.
pub fn value_id(version: &Version) -> Option<ValueId> {
    let body = &version.value()?.body;
    let text = std::str::from_utf8(body).ok().and_then(|text| text.strip_prefix('v'));
    Some(text.and_then(|text| text.parse().ok()).expect("only our own values are written"))
}
