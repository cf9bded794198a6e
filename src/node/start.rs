//! The life of a node.
//!
//! ```text
//! open      whose directory is it; count the start; take the clean-stop marker away (fsynced)
//!   ▼
//! form      until all founding nodes have promised the same epoch 1, or it is known already;
//!           who comes later waits until it is applied
//!   ▼
//! roles     drop what is nobody's any more, if the last adoption was cut off
//!   ▼
//! trees     make the hash trees from the digests on disk
//!   ▼
//! greet     tell peers the boot number; hear which one they knew: rolled back? truly clean?
//!   ▼
//! retire    unless the last stop was provably clean: a new era of actors
//!   ▼
//! serve ──▶ stop: refuse new work, wait for the old, fsync, leave the marker, close
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;

use super::directory::{Directory, DirectoryError, Opened};
use super::disk::DiskWatch;
use super::epochs::{AdoptError, Epochs};
use super::forwarded::Forwarded;
use super::greeting::Greeted;
use super::hints::Hints;
use super::instruments::{Instruments, PlantedBug};
use super::latency::HedgeBudget;
use super::layout::Layout;
use super::locks::KeyLocks;
use super::membership::Membership;
use super::pace::Clients;
use super::process::Process;
use super::pulse::Pulse;
use super::quarantine::Quarantine;
use super::recovery::Recoveries;
use super::repair::Repair;
use super::seams::{Clock, Randomness};
use super::sending::Sending;
use super::taken_in::TakeIns;
use super::tasks::Tasks;
use super::transitions::Transitions;
use super::trees::Trees;
use super::vnodes::{Retirement, Vnodes};
use super::watched::Watched;
use super::{Node, Phase};
use crate::config::Settings;
use crate::peer::Transport;
use crate::protocol::causality::Hlc;
use crate::protocol::cluster::ClusterState;
use crate::protocol::cluster::formation::FormationError;
use crate::storage::{CommitError, Store};
use crate::telemetry::Metrics;
use crate::types::{ClusterId, NodeId};

/// How long a stop waits for work that was begun.
const DRAIN: Duration = Duration::from_secs(4);

/// How long the store has to close.
const CLOSE: Duration = Duration::from_secs(1);

/// What a node stands on.
pub struct Seams {
    /// Where it keeps its data.
    pub store: Arc<dyn Store>,
    /// How it reaches its peers.
    pub transport: Arc<dyn Transport>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// All that it draws.
    pub random: Randomness,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// What its tasks run in.
    pub process: Process,
    /// What a simulation puts into it.
    pub instruments: Instruments,
    /// The store could not recover all that was once synced: every vnode may lack acknowledged
    /// data.
    pub has_lost_data: bool,
    /// The directory was emptied, and is to be filled from the peers.
    pub rebuild: bool,
}

/// Why a node can't start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its data directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A write to it.
    #[error("the data directory can't be written: {0}")]
    Write(#[from] CommitError),
    /// Of another cluster.
    #[error(
        "the data directory belongs to cluster {mine}, and {node} to cluster {theirs}; set data_dir \
         to this node's directory in that cluster, or give it an empty one"
    )]
    OtherCluster {
        /// This directory's.
        mine: ClusterId,
        /// Who was asked.
        node: NodeId,
        /// Its cluster.
        theirs: ClusterId,
    },
    /// Older than what peers have seen.
    #[error(
        "{node} has seen this node at a later start than this data directory knows of: it was \
         rolled back or copied. Put the right directory back, or start with --rebuild, which takes \
         everything in from the peers"
    )]
    RolledBack {
        /// Who knows better.
        node: NodeId,
    },
    /// The damaged log held even who this node is.
    #[error(
        "the log of the store was damaged, and with it was lost whose data directory this is; keep a \
         copy for analysis, then start with --rebuild, which takes everything in from the peers"
    )]
    LostIdentity,
    /// Rebuilding needs somebody to take everything in from.
    #[error(
        "the data directory can't be rebuilt: no other node is named; name the cluster's nodes in \
         initial_nodes or join"
    )]
    NobodyToRebuildFrom,
    /// What is stored could not be brought to fit the cluster state.
    #[error("the roles of this node could not be worked out: {0}")]
    Roles(#[from] AdoptError),
    /// The founding nodes can't agree.
    #[error("the cluster can't form: {0}")]
    Formation(#[from] FormationError),
}

impl Node {
    /// Whose data directory a store is; `None` for a new one.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub async fn owner_of(store: &dyn Store) -> Result<Option<NodeId>, DirectoryError> {
        Directory::new(store).owner().await
    }

    /// Opens the data directory for this node.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn open(settings: Arc<Settings>, seams: Seams) -> Result<Arc<Self>, StartError> {
        let Seams { store, transport, clock, random, metrics, process, instruments, .. } = seams;
        let (has_lost_data, rebuilds) = (seams.has_lost_data, seams.rebuild);
        let directory = Directory::new(&*store);
        let opened = directory.open(&settings.id, settings.durability, &random).await?;
        if has_lost_data && opened.previous.is_none() {
            return Err(StartError::LostIdentity);
        }
        let vnodes = Vnodes::load(directory, opened.boot.this.number, opened.actor_era).await?;
        let quarantine = Quarantine::load(directory).await?;
        let take_ins = TakeIns::load(&*store).await?;
        let hints = Hints::load(&*store).await.map_err(DirectoryError::from)?;
        let recoveries = tokio::sync::Mutex::new(Recoveries::new(&opened));
        let starting = Phase::Starting("the node is starting; retry in a moment".into());
        Ok(Arc::new(Self {
            membership: Membership::new(),
            disk: DiskWatch::new(settings.storage.min_free_bytes),
            pulse: Pulse::new(),
            forwarded: Forwarded::default(),
            settings,
            opened,
            store,
            transport,
            clock,
            random,
            metrics,
            has_lost_data,
            rebuilds,
            phase: Watched::new(starting),
            layout: ArcSwapOption::empty(),
            epochs: Epochs::new(),
            take_ins,
            transitions: Transitions::default(),
            recoveries,
            token_key: OnceLock::new(),
            formation: Mutex::new(None),
            vnodes,
            quarantine,
            hints,
            repair: Repair::new(),
            trees: Trees::default(),
            clients: Clients::default(),
            sending: Sending::default(),
            locks: KeyLocks::new(),
            hlc: Mutex::new(Hlc::default()),
            hedging: HedgeBudget::default(),
            mend: Notify::new(),
            is_tainted: AtomicBool::new(false),
            tasks: Tasks::new(process),
            instruments,
            greeted: Mutex::default(),
            greeting: tokio::sync::Mutex::default(),
        }))
    }

    /// Brings the node to service. The transport must already hand incoming messages to it.
    /// Returns once it serves, or refuses to for a reason that only an operator can change.
    ///
    /// # Errors
    /// [`StartError`]: the process has to end.
    pub async fn start(self: &Arc<Self>) -> Result<(), StartError> {
        let state = match self.opened.state.clone() {
            Some(state) => state,
            None => self.first_state().await?,
        };
        if !self.enter(state).await? {
            return Ok(());
        }
        self.load_trees().await?;
        if let Some(recovery) = self.opened.recovery.clone() {
            self.say("a forced recovery is under way: waiting for all survivors to keep it");
            if !self.confirm_recovery(recovery).await {
                return Ok(());
            }
        }
        let greeted = self.greet_all().await?;
        self.retire_unless_clean(greeted).await?;
        self.disk.look(&*self.store);
        self.begin_membership();
        self.spawn_disk_watch();
        self.spawn_pulse();
        self.spawn_mending();
        self.advance(Phase::Serving);
        self.spawn_handoff();
        self.spawn_anti_entropy();
        self.spawn_scrubbing();
        self.spawn_purging();
        self.spawn_taking_in();
        self.spawn_letting_go();
        self.spawn_transitions();
        tracing::info!(epoch = %self.layout().map_or(0, |l| l.state.epoch.get()), "serving");
        Ok(())
    }

    /// The first state of an empty directory: formed with others, or that of a cluster which takes
    /// this node in.
    async fn first_state(self: &Arc<Self>) -> Result<ClusterState, StartError> {
        if self.rebuilds {
            return match self.settings.initial_nodes.len() + self.settings.join.len() > 1
                || !self.settings.join.is_empty()
            {
                true => self.wait_to_be_applied(true).await,
                false => Err(StartError::NobodyToRebuildFrom),
            };
        }
        if !self.settings.join.is_empty() {
            return self.wait_to_be_applied(self.settings.auto_join).await;
        }
        match self.form().await {
            // Its disk was lost: it asks to be replaced by itself.
            Err(StartError::Formation(error @ FormationError::FormedWithout(_))) => {
                tracing::error!(%error, "this node has to be replaced by itself");
                self.wait_to_be_applied(self.settings.auto_join).await
            }
            // It was away while its cluster formed and went on.
            Err(StartError::Formation(error @ FormationError::FormedSince(_))) => {
                tracing::info!(%error, "this node asks for the present state");
                self.wait_to_be_applied(false).await
            }
            formed => formed,
        }
    }

    /// Works with a state from now on; false: this node may not serve in it.
    async fn enter(&self, state: ClusterState) -> Result<bool, StartError> {
        let identity = &self.opened.identity;
        match Layout::new(state, &identity.node, identity.incarnation, None) {
            Ok(layout) => {
                let layout = Arc::new(layout);
                // The last adoption may have been cut off.
                let found = self.find_unkept(&layout).await?;
                self.work_out_roles(&layout, found, None).await?;
                self.set_layout(layout);
                Ok(true)
            }
            Err(error) => {
                self.refuse(&error.to_string());
                Ok(false)
            }
        }
    }

    /// Serves nothing until [`Node::resume`], for a reason that passes.
    pub(super) fn suspend(&self, why: &str) {
        self.phase.change(|phase| {
            let is_serving = *phase == Phase::Serving;
            if is_serving {
                *phase = Phase::Starting(why.into());
            }
            is_serving
        });
    }

    /// Serves again.
    pub(super) fn resume(&self) {
        self.phase.change(|phase| {
            let is_suspended = matches!(phase, Phase::Starting(_));
            if is_suspended {
                *phase = Phase::Serving;
            }
            is_suspended
        });
    }

    /// Serves nothing from now on, for a reason that only an operator can change.
    pub(super) fn refuse(&self, why: &str) {
        tracing::error!(why, "not serving");
        self.advance(Phase::Refusing(why.into()));
    }

    /// Goes on to a later phase; a phase that is not later than the present one changes nothing:
    /// what refuses or stops does not serve again.
    pub(super) fn advance(&self, next: Phase) {
        let rank = |phase: &Phase| match phase {
            Phase::Starting(_) => 0,
            Phase::Serving => 1,
            Phase::Refusing(_) => 2,
            Phase::Stopping => 3,
        };
        self.phase.change(|phase| {
            let is_later = rank(&next) > rank(phase);
            if is_later {
                *phase = next;
            }
            is_later
        });
    }

    /// Retires all actors unless the last stop was provably clean, and marks what may be missing
    /// (correctness, section 2, retirement 3; section 3, incomplete vnodes).
    async fn retire_unless_clean(&self, greeted: Greeted) -> Result<(), StartError> {
        let Opened { previous, is_clean, boot, .. } = &self.opened;
        let directory = Directory::new(&*self.store);
        if previous.is_none() {
            return Ok(());
        }
        let others = self.layout().expect("a node greets in a layout").others().count();
        if *is_clean && greeted.is_confirmed(others) && !self.has_lost_data {
            tracing::info!(boot = %boot.this.number, "the last stop was clean: actors go on");
            return self.mark_what_may_lack_writes(directory).await;
        }
        if self.instruments.has(PlantedBug::ActorKeptAfterUncleanStop) {
            return self.mark_what_may_lack_writes(directory).await;
        }
        directory.retire_actors_before(boot.this.number).await?;
        let retired = self.vnodes.retire_all();
        (0..retired).for_each(|_| self.metrics.actor_retired(Retirement::UncleanStop.name()));
        tracing::warn!(
            retired,
            marked_clean = is_clean,
            "the last stop was not provably clean: actors were retired"
        );
        self.mark_what_may_lack_writes(directory).await
    }

    /// What was acknowledged may be lost, not synced or cut off: every vnode with other replicas
    /// to take it in from is incomplete.
    async fn mark_what_may_lack_writes(&self, directory: Directory<'_>) -> Result<(), StartError> {
        if !self.opened.boot.may_lack_writes && !self.has_lost_data {
            return Ok(());
        }
        let layout = self.layout().expect("a node greets in a layout");
        let own = layout.own_vnodes().into_iter();
        let own = own.chain(layout.next_vnodes());
        let shared = own.filter(|vnode| layout.replicas_of(*vnode).places() > 1);
        self.vnodes.mark_incomplete(shared, &*self.store).await?;
        directory.note_marked(&self.opened.boot).await?;
        self.mend.notify_one();
        Ok(())
    }

    /// Stops the node: no new work, the old one done, everything on disk. A run that no batch
    /// failed in leaves the marker of a clean stop.
    pub async fn stop(self: &Arc<Self>) {
        let was_serving = *self.phase.borrow() == Phase::Serving;
        self.advance(Phase::Stopping);
        self.tasks.close();
        let is_drained = tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_ok();
        let is_clean = was_serving && is_drained && !self.is_tainted.load(Ordering::SeqCst);
        if is_clean {
            let marked = Directory::new(&*self.store).mark_clean_stop(self.opened.boot.this.number);
            match tokio::time::timeout(CLOSE, marked).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the stop could not be marked as clean"),
                Err(_) => tracing::error!("marking the stop as clean took too long"),
            }
        } else {
            tracing::warn!(is_drained, "this stop counts as unclean: actors will be retired");
        }
        match tokio::time::timeout(CLOSE, self.store.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "closing the store failed"),
            Err(_) => tracing::error!("closing the store took too long; its log has everything"),
        }
    }
}
