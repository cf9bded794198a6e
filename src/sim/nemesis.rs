//! Makes the faults of a scenario, each at its time, and ends them.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use super::disk::{DiskFaults, Ending};
use super::scenario::{Fault, PlannedFault};
use super::world::{World, address};
use crate::storage::{MemoryStore, Space};

/// Makes all faults that are selected, and returns when the last has ended.
pub async fn run(world: Arc<World>) {
    let planned = world.scenario.faults.iter().enumerate();
    let planned = planned.filter(|(number, _)| world.only.has_fault(*number));
    let made = planned
        .map(|(number, planned)| tokio::spawn(make(Arc::clone(&world), number, planned.clone())));
    let made: Vec<_> = made.collect();
    for fault in made {
        fault.await.expect("a fault does not panic");
    }
}

async fn make(world: Arc<World>, number: usize, planned: PlannedFault) {
    sleep(Duration::from_millis(planned.at_ms)).await;
    world.common.trace.note("fault", &format!("{number} begins: {:?}", planned.fault));
    let lasts = Duration::from_millis(planned.for_ms);
    let mut making = Making { world: &world, number, lasts, kept: None };
    making.begin_and_end(&planned.fault).await;
    world.common.trace.note("fault", &format!("{number} ends"));
}

struct Making<'a> {
    world: &'a Arc<World>,
    number: usize,
    lasts: Duration,
    /// A copy of a disk.
    kept: Option<MemoryStore>,
}

impl Making<'_> {
    async fn begin_and_end(&mut self, fault: &Fault) {
        // A promise that is lost before all have formed leaves it to the operators to begin anew.
        let has_formed = self.world.observer.formed() >= self.world.scenario.nodes;
        if fault.loses_data() && !has_formed {
            return;
        }
        match *fault {
            Fault::Kill { node, power } => {
                let ending = if power { Ending::PowerCut } else { Ending::ProcessDied };
                self.kill(&[node], ending).await;
            }
            Fault::PowerCutOfAll => {
                let all: Vec<usize> = (0..self.world.machines.len()).collect();
                self.kill(&all, Ending::PowerCut).await;
            }
            Fault::Stop { node } => self.stop(node).await,
            Fault::Pause { node } => self.pause(node).await,
            Fault::Slow { node } => self.slow(node).await,
            Fault::Corrupt { node } => self.corrupt(node),
            Fault::LoseDisk { node } => self.lose_disk(node).await,
            Fault::OldCopy { node } => self.old_copy(node).await,
            Fault::LyingDisk { node } => self.lying_disk(node).await,
            Fault::ClockJump { node, by_ms } => self.world.machines[node].clock.jump(by_ms),
            Fault::DiskErrors { .. }
            | Fault::ReadErrors { .. }
            | Fault::SlowDisk { .. }
            | Fault::FullDisk { .. } => self.disk_fault(fault).await,
            ref network => self.network_fault(network).await,
        }
    }

    async fn kill(&self, nodes: &[usize], ending: Ending) {
        let mut killed = Vec::new();
        for node in nodes {
            if self.world.machines[*node].end(ending, &self.world.common) {
                killed.push(*node);
            }
        }
        sleep(self.lasts).await;
        for node in killed {
            self.power_on(node);
        }
    }

    /// Not waited for: a start may take as long as its peers are away.
    fn power_on(&self, node: usize) {
        let world = Arc::clone(self.world);
        tokio::spawn(async move { world.power_on(node).await });
    }

    async fn stop(&self, node: usize) {
        let is_stopped = self.world.machines[node].stop(&self.world.common).await;
        sleep(self.lasts).await;
        if is_stopped {
            self.power_on(node);
        }
    }

    async fn pause(&self, node: usize) {
        let Some(running) = self.world.machines[node].running() else { return };
        running.process.stop();
        sleep(self.lasts).await;
        running.process.resume();
    }

    async fn slow(&self, node: usize) {
        let Some(running) = self.world.machines[node].running() else { return };
        let mut left = self.lasts;
        while !left.is_zero() {
            running.process.stop();
            sleep(Duration::from_millis(60)).await;
            running.process.resume();
            sleep(Duration::from_millis(15)).await;
            left = left.saturating_sub(Duration::from_millis(75));
        }
    }

    async fn disk_fault(&self, fault: &Fault) {
        let (node, change): (usize, fn(&mut DiskFaults)) = match *fault {
            Fault::DiskErrors { node, wedges: true } => (node, |faults| {
                (faults.write_error, faults.wedge) = (0.05, 1.0);
            }),
            Fault::DiskErrors { node, .. } => (node, |faults| {
                (faults.write_error, faults.refusal) = (0.2, 0.05);
            }),
            Fault::ReadErrors { node } => (node, |faults| {
                (faults.miss, faults.read_error) = (0.5, 0.2);
            }),
            Fault::SlowDisk { node } => (node, |faults| {
                faults.sync = Duration::from_millis(20)..=Duration::from_millis(800);
                faults.read = faults.sync.clone();
            }),
            Fault::FullDisk { node } => (node, |faults| faults.is_full = true),
            ref other => unreachable!("{other:?} is no fault of a disk"),
        };
        let machine = &self.world.machines[node];
        machine.set_disk_faults(change);
        sleep(self.lasts).await;
        machine.set_disk_faults(|faults| {
            *faults = DiskFaults { lies: faults.lies, ..DiskFaults::default() };
        });
    }

    /// Damages some records, whether the node runs or not.
    fn corrupt(&self, node: usize) {
        let machine = &self.world.machines[node];
        let seed = self.world.scenario.seed ^ self.number as u64;
        let mut random = StdRng::seed_from_u64(seed);
        let share = random.random_range(0.1..0.9);
        let mut damage = |memory: &MemoryStore| {
            for (key, value) in memory.entries(Space::Records) {
                if value.is_empty() || !random.random_bool(share) {
                    continue;
                }
                let mut bytes = value.to_vec();
                let at = random.random_range(0..bytes.len());
                bytes[at] ^= 1 << random.random_range(0..8);
                memory.damage(Space::Records, key, bytes.into());
            }
        };
        match machine.running() {
            Some(running) => damage(running.disk.memory()),
            None => machine.with_disk_at_rest(|disk| damage(disk)),
        }
    }

    async fn lose_disk(&self, node: usize) {
        let machine = &self.world.machines[node];
        machine.end(Ending::PowerCut, &self.world.common);
        machine.rebuild_at_next_start();
        sleep(self.lasts).await;
        self.power_on(node);
    }

    async fn old_copy(&mut self, node: usize) {
        let machine = &self.world.machines[node];
        // A snapshot of a running machine holds what a power cut would leave.
        self.kept = Some(match machine.running() {
            Some(running) => running.disk.memory().crash(),
            None => machine.with_disk_at_rest(|disk| disk.crash()),
        });
        sleep(self.lasts).await;
        machine.end(Ending::PowerCut, &self.world.common);
        if let Some(copy) = self.kept.take() {
            machine.with_disk_at_rest(|disk| *disk = copy);
        }
        self.power_on(node);
    }

    async fn lying_disk(&self, node: usize) {
        let machine = &self.world.machines[node];
        machine.set_disk_faults(|faults| faults.lies = true);
        sleep(self.lasts).await;
        machine.end(Ending::PowerCut, &self.world.common);
        machine.set_disk_faults(|faults| faults.lies = false);
        self.power_on(node);
    }

    async fn network_fault(&self, fault: &Fault) {
        let network = &self.world.common.network;
        match *fault {
            Fault::Isolate { node } => {
                network.isolate(&address(node));
                sleep(self.lasts).await;
                network.rejoin(&address(node));
            }
            Fault::Break { from, to } => network.break_calls(&address(from), &address(to)),
            Fault::Weather(weather) => {
                network.set_climate(weather.link());
                sleep(self.lasts).await;
                network.set_climate(self.world.scenario.weather.link());
            }
            ref links => self.link_fault(links).await,
        }
    }

    /// A fault of some directions.
    async fn link_fault(&self, fault: &Fault) {
        let network = &self.world.common.network;
        let directions = self.directions(fault);
        for (from, to) in &directions {
            let (from, to) = (address(*from), address(*to));
            match fault {
                Fault::Refuse { .. } => network.refuse(&from, &to),
                Fault::SlowLink { delay_ms, .. } => {
                    let most = Duration::from_millis(u64::from(*delay_ms));
                    network.delay(&from, &to, most / 2..=most);
                }
                _ => network.cut(&from, &to),
            }
        }
        sleep(self.lasts).await;
        for (from, to) in directions {
            network.heal(&address(from), &address(to));
        }
    }

    /// Which directions a fault is in.
    fn directions(&self, fault: &Fault) -> Vec<(usize, usize)> {
        let nodes = self.world.scenario.nodes;
        let all = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        let between = all.filter(|(from, to)| from != to);
        match *fault {
            Fault::Cut { from, to }
            | Fault::Refuse { from, to }
            | Fault::SlowLink { from, to, .. } => vec![(from, to)],
            Fault::Split { first } => {
                between.filter(|(from, to)| (*from < first) != (*to < first)).collect()
            }
            Fault::RingOfMajorities => {
                // A majority of n, less the node itself, half of them on each side.
                let reach = (nodes / 2).div_ceil(2);
                let is_apart = |(from, to): &(usize, usize)| {
                    let distance = from.abs_diff(*to);
                    distance.min(nodes - distance) > reach
                };
                between.filter(is_apart).collect()
            }
            ref other => unreachable!("{other:?} is no fault of a link"),
        }
    }
}
