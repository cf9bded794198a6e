//! What clients do: scripts, drawn before the run.

use rand::RngExt;
use rand::rngs::StdRng;

use super::SAFETY_PHASE;
use crate::types::Level;

/// Who uses a key, and how; decides what can be checked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Everybody, in every way.
    Free,
    /// The same in a bucket where the newest of concurrent writes wins.
    Lww,
    /// One client writes at quorum, others read at quorum: an atomic register.
    Register {
        /// Who writes.
        writer: usize,
    },
    /// Each of these clients writes with the context of its own last write and never reads: each
    /// chain ends in one value.
    Chains {
        /// Who writes.
        writers: Vec<usize>,
    },
}

impl KeyKind {
    /// Whether each writer goes on from its own last write, and must stop where it lost track.
    pub fn builds_on_itself(&self) -> bool {
        matches!(self, Self::Register { .. } | Self::Chains { .. })
    }
}

/// A key that clients use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlan {
    /// Its bucket.
    pub bucket: &'static str,
    /// Its name.
    pub name: String,
    /// Its use.
    pub kind: KeyKind,
}

/// What a write brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    /// The context of the client's last answer about this key, if it has one.
    Context,
    /// No context.
    OwnRead,
    /// The context `none`.
    Nothing,
}

/// What a step asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A read.
    Get,
    /// Two reads, one right after the other, through two nodes.
    GetTwice,
    /// A write.
    Put(With),
    /// A delete.
    Delete(With),
    /// A read, then a write with its context.
    ReadModifyWrite,
    /// A write if nothing is there.
    PutIfNothing,
    /// A write if what the client last saw is still there.
    PutIfUnchanged,
}

/// One step of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How long the client waits before, in ms.
    pub think_ms: u64,
    /// Which of the keys.
    pub key: usize,
    /// Which node, from 0 up.
    pub node: usize,
    /// What.
    pub call: Call,
    /// R or W.
    pub level: Level,
    /// Other nodes may stand in for replicas.
    pub sloppy: bool,
    /// The client's own timeout, in ms.
    pub timeout_ms: u64,
    /// The client hangs up after so many ms.
    pub hangs_up_ms: Option<u64>,
}

/// A client: one step after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPlan {
    /// Its script.
    pub steps: Vec<Step>,
}

const CLIENTS: usize = 16;
const STEPS: usize = 130;
pub(super) const FREE_KEYS: usize = 30;
const HOT_KEYS: usize = 2;
const LWW_KEYS: usize = 3;
const REGISTERS: usize = 4;
const CHAINS: usize = 6;

/// Keys and clients of one run.
pub(super) fn plan(
    random: &mut StdRng,
    nodes: usize,
    replication_factor: u8,
) -> (Vec<KeyPlan>, Vec<ClientPlan>) {
    let keys = keys(random);
    let n = replication_factor.min(nodes as u8);
    // Without a hot key, many keys are written a little; with one, few are fought for.
    let hot = random.random_range(0.0..0.7);
    let clients = (0..CLIENTS).map(|client| {
        let steps = (0..STEPS).map(|_| step(random, client, &keys, nodes, n, hot)).collect();
        ClientPlan { steps }
    });
    let clients = clients.collect();
    (keys, clients)
}

fn keys(random: &mut StdRng) -> Vec<KeyPlan> {
    let key = |bucket, name: String, kind| KeyPlan { bucket, name, kind };
    let free = (0..FREE_KEYS).map(|i| key("free", format!("k{i}"), KeyKind::Free));
    let lww = (0..LWW_KEYS).map(|i| key("lww", format!("k{i}"), KeyKind::Lww));
    let registers =
        (0..REGISTERS).map(|i| key("registers", format!("k{i}"), KeyKind::Register { writer: i }));
    let mut keys: Vec<KeyPlan> = free.chain(lww).chain(registers).collect();
    for i in 0..CHAINS {
        let first = random.random_range(0..CLIENTS);
        let second = (first + random.random_range(1..CLIENTS)) % CLIENTS;
        let writers = if i % 2 == 0 { vec![first] } else { vec![first, second] };
        keys.push(key("chains", format!("k{i}"), KeyKind::Chains { writers }));
    }
    keys
}

fn step(
    random: &mut StdRng,
    client: usize,
    keys: &[KeyPlan],
    nodes: usize,
    n: u8,
    hot: f64,
) -> Step {
    let key = match random.random_bool(hot) {
        true => random.random_range(0..HOT_KEYS),
        false => random.random_range(0..keys.len()),
    };
    let mean_ms = SAFETY_PHASE.as_millis() as u64 / STEPS as u64;
    let (call, level) = what(random, client, &keys[key].kind, n);
    let hangs_up = random.random_bool(0.02);
    let is_anybodys = matches!(keys[key].kind, KeyKind::Free | KeyKind::Lww);
    let sloppy = is_anybodys && random.random_bool(0.15);
    let is_write = matches!(call, Call::Put(_) | Call::Delete(_));
    let level = match is_anybodys && is_write && random.random_bool(0.08) {
        true => Level::Any,
        false => level,
    };
    Step {
        think_ms: random.random_range(0..2 * mean_ms),
        key,
        node: random.random_range(0..nodes),
        call,
        level,
        sloppy,
        timeout_ms: [300, 1_000, 3_000, 5_000][random.random_range(0..4)],
        hangs_up_ms: hangs_up.then(|| random.random_range(0..30)),
    }
}

fn what(random: &mut StdRng, client: usize, kind: &KeyKind, n: u8) -> (Call, Level) {
    match kind {
        KeyKind::Free | KeyKind::Lww => (any_call(random), any_level(random, n)),
        KeyKind::Register { writer } if *writer == client => {
            (Call::Put(With::Context), Level::Quorum)
        }
        KeyKind::Chains { writers } if writers.contains(&client) => {
            (Call::Put(With::Context), any_level(random, n))
        }
        KeyKind::Register { .. } => (Call::GetTwice, Level::Quorum),
        KeyKind::Chains { .. } => (Call::Get, any_level(random, n)),
    }
}

fn any_call(random: &mut StdRng) -> Call {
    match random.random_range(0..20) {
        0..=3 => Call::Get,
        4 | 5 => Call::GetTwice,
        6..=8 => Call::Put(With::OwnRead),
        9..=11 => Call::Put(With::Context),
        12 => Call::Put(With::Nothing),
        13 => Call::Delete(With::OwnRead),
        14 | 15 => Call::Delete(With::Context),
        16 | 17 => Call::ReadModifyWrite,
        18 => Call::PutIfNothing,
        _ => Call::PutIfUnchanged,
    }
}

fn any_level(random: &mut StdRng, n: u8) -> Level {
    match random.random_range(0..10) {
        0 | 1 => Level::One,
        2 => Level::All,
        3 if n >= 3 && random.random_bool(0.3) => Level::Three,
        3 if n >= 2 => Level::Two,
        _ => Level::Quorum,
    }
}
