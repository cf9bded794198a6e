use proptest::prelude::{any, prop_assert, proptest};

use super::*;
use crate::protocol::cluster::formation::{Formation, Founder, FoundingTerms, Next};
use crate::types::{DataIncarnation, LayoutVersion, PartitionCount, Weight, Zone};

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

fn state() -> ClusterState {
    let founder = Founder {
        id: node("a"),
        peer: "a:1".into(),
        zone: Zone::default(),
        weight: Weight::default(),
    };
    let partitions = PartitionCount::new(1).expect("a power of two");
    let terms = FoundingTerms::new(vec![founder], partitions, Default::default());
    let mut formation = Formation::new(node("a"), DataIncarnation::new(1), terms, None);
    let Next::Promise(cluster) = formation.next() else { panic!("alone") };
    formation.promised(cluster);
    let Next::Formed(state) = formation.next() else { panic!("alone") };
    *state
}

/// A next state that can be told from others.
fn value(base: &ClusterState, number: u64) -> ClusterState {
    let layout_version = LayoutVersion::new(100 + number);
    ClusterState { epoch: base.epoch.next(), layout_version, ..base.clone() }
}

/// Proposers and acceptors with a network that loses, repeats and reorders.
struct World {
    acceptors: BTreeMap<NodeId, Acceptor>,
    proposals: Vec<(Proposal, bool)>,
    network: Vec<(usize, NodeId, Message)>,
    decided: BTreeSet<u64>,
}

#[derive(Clone)]
enum Message {
    Ask(Ask),
    Vote(Vote),
}

impl World {
    fn new(voters: usize) -> Self {
        let base = state().stamp();
        let names = (0..voters).map(|i| node(&format!("n{i}")));
        let acceptors = names.map(|name| (name, Acceptor::new(base))).collect();
        Self { acceptors, proposals: Vec::new(), network: Vec::new(), decided: BTreeSet::new() }
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        self.acceptors.keys().cloned().collect()
    }

    fn propose(&mut self, round: u64) {
        let number = self.proposals.len() as u64;
        // Each node makes several attempts, also of the same round at once.
        let proposer = node(&format!("p{}", number % 2));
        let ballot =
            Ballot { round, proposer, attempt: number.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
        let proposal = Proposal::new(ballot, self.voters(), value(&state(), number));
        self.ask_all(self.proposals.len(), proposal.prepare());
        self.proposals.push((proposal, false));
    }

    fn ask_all(&mut self, proposal: usize, ask: Ask) {
        for voter in self.voters() {
            self.network.push((proposal, voter, Message::Ask(ask.clone())));
        }
    }

    /// Delivers one message of those that are under way; it may stay there, and come again.
    fn deliver(&mut self, choice: usize, is_repeated: bool) {
        if self.network.is_empty() {
            return;
        }
        let at = choice % self.network.len();
        let (proposal, voter, message) = match is_repeated {
            true => self.network[at].clone(),
            false => self.network.swap_remove(at),
        };
        match message {
            Message::Ask(ask) => {
                let vote = self.acceptors.get_mut(&voter).expect("a voter").vote(ask);
                self.network.push((proposal, voter, Message::Vote(vote)));
            }
            Message::Vote(vote) => match self.proposals[proposal].0.take(&voter, vote) {
                Proposed::Accept(_) if !self.proposals[proposal].1 => {
                    self.proposals[proposal].1 = true;
                    let ask = self.proposals[proposal].0.accept();
                    self.ask_all(proposal, ask);
                }
                Proposed::Decided(state) => {
                    self.decided.insert(state.layout_version.get());
                }
                _ => {}
            },
        }
    }
}

proptest! {
    #[test]
    fn one_instance_decides_one_state(
        voters in 1_usize..6,
        steps in proptest::collection::vec((any::<u16>(), 0_u8..20), 1..400),
    ) {
        let mut world = World::new(voters);
        world.propose(1);
        for (choice, kind) in steps {
            match kind {
                0 => world.propose(u64::from(choice % 4)),
                1 if !world.network.is_empty() => {
                    let at = usize::from(choice) % world.network.len();
                    world.network.swap_remove(at);
                }
                2 => world.deliver(choice.into(), true),
                _ => world.deliver(choice.into(), false),
            }
        }
        prop_assert!(world.decided.len() <= 1, "decided {:?}", world.decided);
    }

    #[test]
    fn an_undisturbed_proposal_is_decided(voters in 1_usize..6) {
        let mut world = World::new(voters);
        world.propose(1);
        for _ in 0..4 * voters {
            world.deliver(0, false);
        }
        prop_assert!(world.decided.contains(&100));
    }
}

#[test]
fn a_later_proposer_goes_on_with_what_may_have_been_decided() {
    let mut world = World::new(3);
    world.propose(1);
    // All promise, all accept; nobody hears of it.
    for _ in 0..9 {
        world.deliver(0, false);
    }
    world.network.clear();
    world.propose(2);
    for _ in 0..60 {
        world.deliver(0, false);
    }
    assert_eq!(world.decided, BTreeSet::from([100]), "the first proposer's state");
}
