//! How founding nodes agree on epoch 1 (correctness, section 7, rule 5).
//!
//! ```text
//! each node:  ask every listed node for its offer ──▶ all incarnations known, lists alike
//!             ──▶ promise the hash of it all (fsynced; once in a data directory's life)
//!             ──▶ every listed node says that it promised the same hash ──▶ formed; serve
//! ```
//!
//! A node that has formed answers with the same promise for ever, so one that was late, or crashed
//! in between, forms on its own later. No two hashes can both be confirmed by all: a node promises
//! one, and both would need it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ClusterNode, ClusterState, Role};
use crate::protocol::ring::{Member, Table};
use crate::types::{
    ClusterId, DataIncarnation, Epoch, LayoutVersion, NodeId, PartitionCount, RecoveryNumber,
    ReplicationFactor, Weight, Zone,
};

/// One founding node, as the list names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Founder {
    /// Its name.
    pub id: NodeId,
    /// `host:port` of its peer port.
    pub peer: String,
    /// Where it stands.
    pub zone: Zone,
    /// Its share.
    pub weight: Weight,
}

/// What all founding nodes must be told alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundingTerms {
    founders: Vec<Founder>,
    partitions: PartitionCount,
    replication_factor: ReplicationFactor,
}

/// What a founding node tells the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Who.
    pub from: NodeId,
    /// Its data directory.
    pub incarnation: DataIncarnation,
    /// What it was told.
    pub terms: FoundingTerms,
    /// The formation it promised, or has formed.
    pub promised: Option<ClusterId>,
    /// It has formed, and may be serving.
    pub is_formed: bool,
}

/// Why nodes can't form a cluster. None of these mends itself; beside a cluster that is there a node can
/// wait to be told its state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormationError {
    /// The lists differ.
    #[error(
        "{0} was started with other initial_nodes, partitions or replication_factor; \
         give all founding nodes the same, and start them again with empty data directories"
    )]
    OtherTerms(NodeId),
    /// A name that is not on the list.
    #[error("{0} answers at the address of another node; correct initial_nodes")]
    Stranger(NodeId),
    /// Promises differ: a data directory was exchanged while the cluster formed.
    #[error(
        "{0} has promised another cluster than this node; if this cluster never served, empty the \
         data directories of all founding nodes and start them again"
    )]
    OtherPromise(NodeId),
    /// The cluster is there, formed with another data directory of this node.
    #[error(
        "{0} is in a cluster that was formed with another data directory of this node, which is \
         lost or was exchanged; put the right one back, or start this node with --rebuild, which \
         takes everything in from the peers"
    )]
    FormedWithout(NodeId),
    /// The cluster that this node has promised is there, and its ring has changed since.
    #[error("{0} is in the cluster that this node has promised, which has gone on since")]
    FormedSince(NodeId),
}

impl FoundingTerms {
    /// The terms, in their one order.
    pub fn new(
        mut founders: Vec<Founder>,
        partitions: PartitionCount,
        replication_factor: ReplicationFactor,
    ) -> Self {
        founders.sort();
        Self { founders, partitions, replication_factor }
    }

    /// The founding nodes, in the order of their ids.
    pub fn founders(&self) -> &[Founder] {
        &self.founders
    }

    /// Epoch 1, once every incarnation is known. All nodes derive the same one; the cluster id is
    /// the hash of all of it, tables included, so that nodes whose software places differently
    /// can't form.
    fn derive(&self, incarnations: &BTreeMap<NodeId, DataIncarnation>) -> Option<ClusterState> {
        let listed = |founder: &Founder| {
            Some(ClusterNode {
                id: founder.id.clone(),
                incarnation: *incarnations.get(&founder.id)?,
                peer: founder.peer.clone(),
                zone: founder.zone.clone(),
                weight: founder.weight,
                role: Role::Member,
            })
        };
        let nodes: Vec<ClusterNode> = self.founders.iter().map(listed).collect::<Option<_>>()?;
        let members: Vec<Member> = nodes
            .iter()
            .map(|n| Member { id: n.id.clone(), zone: n.zone.clone(), weight: n.weight })
            .collect();
        let table = Table::compute(None, &members, self.replication_factor, self.partitions);
        let mut state = ClusterState {
            cluster: ClusterId::new(0),
            recovery: RecoveryNumber::new(0),
            epoch: Epoch::new(1),
            layout_version: LayoutVersion::new(1),
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            nodes,
            tables: vec![table],
            buckets: BTreeMap::new(),
            transition: None,
            former: Vec::new(),
        };
        let bytes = postcard::to_stdvec(&state).expect("plain data always encodes");
        let hash = blake3::hash(&bytes);
        let half = hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes");
        state.cluster = ClusterId::new(u128::from_be_bytes(half));
        Some(state)
    }
}

/// What is to be done next.
#[derive(Clone, Debug)]
pub enum Next {
    /// Go on asking these nodes.
    Ask(Vec<NodeId>),
    /// Persist and fsync this promise, then tell [`Formation::promised`].
    Promise(ClusterId),
    /// All have promised the same: this is epoch 1.
    Formed(Box<ClusterState>),
}

/// One node's view of the formation.
#[derive(Debug)]
pub struct Formation {
    me: NodeId,
    terms: FoundingTerms,
    incarnations: BTreeMap<NodeId, DataIncarnation>,
    /// What these incarnations make, once all are known.
    derived: Option<Box<ClusterState>>,
    promises: BTreeMap<NodeId, ClusterId>,
}

impl Formation {
    /// Begins, or goes on after a restart with what was `promised` before.
    pub fn new(
        me: NodeId,
        incarnation: DataIncarnation,
        terms: FoundingTerms,
        promised: Option<ClusterId>,
    ) -> Self {
        let incarnations = [(me.clone(), incarnation)].into();
        let promises = promised.map(|promise| (me.clone(), promise)).into_iter().collect();
        let derived = terms.derive(&incarnations).map(Box::new);
        Self { me, terms, incarnations, derived, promises }
    }

    /// What to tell the others.
    pub fn offer(&self) -> Offer {
        Offer {
            from: self.me.clone(),
            incarnation: self.incarnations[&self.me],
            terms: self.terms.clone(),
            promised: self.promises.get(&self.me).copied(),
            is_formed: false,
        }
    }

    /// Takes another node's offer.
    ///
    /// # Errors
    /// [`FormationError`]: this cluster can't form.
    pub fn take(&mut self, offer: &Offer) -> Result<(), FormationError> {
        if !self.terms.founders.iter().any(|founder| founder.id == offer.from) {
            return Err(FormationError::Stranger(offer.from.clone()));
        }
        if offer.terms != self.terms {
            return self.check_other_terms(offer);
        }
        let known = self.incarnations.insert(offer.from.clone(), offer.incarnation);
        if known != Some(offer.incarnation) {
            self.derived = self.terms.derive(&self.incarnations).map(Box::new);
        }
        match offer.promised {
            Some(promise) => self.promises.insert(offer.from.clone(), promise),
            None => self.promises.remove(&offer.from),
        };
        self.check_promises(offer)
    }

    /// The promise is on disk.
    pub fn promised(&mut self, promise: ClusterId) {
        self.promises.insert(self.me.clone(), promise);
    }

    /// What is to be done next.
    pub fn next(&self) -> Next {
        let Some(state) = &self.derived else {
            return Next::Ask(self.others_without(|id| self.incarnations.contains_key(id)));
        };
        let Some(promise) = self.promises.get(&self.me) else {
            return Next::Promise(state.cluster);
        };
        let agreed = |id: &NodeId| self.promises.get(id) == Some(promise);
        let open = self.others_without(agreed);
        if open.is_empty() && state.cluster == *promise {
            Next::Formed(state.clone())
        } else {
            Next::Ask(open)
        }
    }

    /// A promise can be confirmed by all only if it is one's own, and if it is what the present
    /// incarnations make: else it was given for a disk that is gone. Seen before promising, so
    /// that nothing is promised in vain.
    fn check_promises(&self, offer: &Offer) -> Result<(), FormationError> {
        let derived = self.derived.as_ref().map(|state| state.cluster);
        let mine = self.promises.get(&self.me).copied();
        let theirs = offer.promised;
        let expected = [mine, derived];
        let fits = |promise: ClusterId| expected.iter().flatten().all(|e| *e == promise);
        match (theirs, mine) {
            (Some(promise), _) if !fits(promise) => Err(if offer.is_formed {
                FormationError::FormedWithout(offer.from.clone())
            } else {
                FormationError::OtherPromise(offer.from.clone())
            }),
            (None, Some(promise)) if !fits(promise) => {
                Err(FormationError::OtherPromise(offer.from.clone()))
            }
            _ => Ok(()),
        }
    }

    /// A formed cluster's nodes need not be its founders any more. Where this node is one of them, its
    /// promise says whether that is for this data directory.
    fn check_other_terms(&self, offer: &Offer) -> Result<(), FormationError> {
        let is_listed = offer.terms.founders.iter().any(|founder| founder.id == self.me);
        if !offer.is_formed || !is_listed {
            return Err(FormationError::OtherTerms(offer.from.clone()));
        }
        Err(match self.promises.get(&self.me).copied() {
            Some(promise) if offer.promised == Some(promise) => {
                FormationError::FormedSince(offer.from.clone())
            }
            _ => FormationError::FormedWithout(offer.from.clone()),
        })
    }

    fn others_without(&self, has: impl Fn(&NodeId) -> bool) -> Vec<NodeId> {
        let ids = self.terms.founders.iter().map(|founder| &founder.id);
        ids.filter(|id| **id != self.me && !has(id)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(names: &[&str]) -> FoundingTerms {
        let founder = |name: &&str| Founder {
            id: NodeId::new(name).expect("valid"),
            peer: format!("{name}:1"),
            zone: Zone::default(),
            weight: Weight::default(),
        };
        let partitions = PartitionCount::new(64).expect("a power of two");
        FoundingTerms::new(names.iter().map(founder).collect(), partitions, Default::default())
    }

    fn formation(name: &str, terms: &FoundingTerms, disk: u128) -> Formation {
        let id = NodeId::new(name).expect("valid");
        Formation::new(id, DataIncarnation::new(disk), terms.clone(), None)
    }

    fn promise(formation: &mut Formation) -> ClusterId {
        let Next::Promise(promise) = formation.next() else { panic!("all offers are known") };
        formation.promised(promise);
        promise
    }

    fn formed(formation: &Formation) -> Option<ClusterId> {
        match formation.next() {
            Next::Formed(state) => Some(state.cluster),
            _ => None,
        }
    }

    #[test]
    fn nodes_with_one_list_form_one_cluster() {
        let terms = terms(&["a", "b", "c"]);
        let mut nodes: Vec<_> =
            [("a", 1), ("b", 2), ("c", 3)].map(|(n, d)| formation(n, &terms, d)).into();
        for round in 0..2 {
            let offers: Vec<_> = nodes.iter().map(Formation::offer).collect();
            for node in &mut nodes {
                let me = node.me.clone();
                for offer in offers.iter().filter(|offer| offer.from != me) {
                    node.take(offer).expect("same terms");
                }
                if round == 0 {
                    promise(node);
                    assert_eq!(formed(node), None, "the others have not confirmed");
                }
            }
        }
        let ids: Vec<_> = nodes.iter().map(formed).collect();
        assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn a_disk_exchanged_after_the_promise_stops_the_formation() {
        let terms = terms(&["a", "b"]);
        let mut a = formation("a", &terms, 1);
        a.take(&formation("b", &terms, 2).offer()).expect("same terms");
        promise(&mut a);
        let wiped = formation("b", &terms, 99);
        assert!(matches!(a.take(&wiped.offer()), Err(FormationError::OtherPromise(_))));
        assert_eq!(formed(&a), None);
    }

    #[test]
    fn a_new_disk_beside_a_formed_cluster_promises_nothing() {
        let terms = terms(&["a", "b"]);
        let mut b = formation("b", &terms, 99);
        let formed = Offer {
            promised: Some(ClusterId::new(5)),
            is_formed: true,
            ..formation("a", &terms, 1).offer()
        };
        assert!(matches!(b.take(&formed), Err(FormationError::FormedWithout(_))));
    }

    #[test]
    fn a_founder_finds_a_cluster_that_has_grown_since() {
        let (founders, grown) = (terms(&["a", "b"]), terms(&["a", "b", "c"]));
        let formed = |terms: &FoundingTerms| Offer {
            promised: Some(ClusterId::new(5)),
            is_formed: true,
            ..formation("a", terms, 1).offer()
        };
        let mut b = formation("b", &founders, 99);
        let without = Err(FormationError::FormedWithout(formation("a", &grown, 1).me));
        assert_eq!(b.take(&formed(&grown)), without, "with an empty disk");
        b.promised(ClusterId::new(6));
        assert_eq!(b.take(&formed(&grown)), without, "with another disk");
        b.promised(ClusterId::new(5));
        let since = b.take(&formed(&grown));
        assert!(matches!(since, Err(FormationError::FormedSince(_))), "with that of its promise");
        let without_b = terms(&["a", "c"]);
        let refused = b.take(&formed(&without_b));
        assert!(matches!(refused, Err(FormationError::OtherTerms(_))), "it is none of them");
    }

    #[test]
    fn another_list_is_refused() {
        let mut a = formation("a", &terms(&["a", "b"]), 1);
        let b = formation("b", &terms(&["b"]), 2);
        assert_eq!(a.take(&b.offer()), Err(FormationError::OtherTerms(b.me.clone())));
        let stranger = formation("x", &terms(&["a", "b"]), 2);
        assert_eq!(a.take(&stranger.offer()), Err(FormationError::Stranger(stranger.me.clone())));
    }

    #[test]
    fn one_node_forms_alone() {
        let mut a = formation("a", &terms(&["a"]), 1);
        let promised = promise(&mut a);
        assert_eq!(formed(&a), Some(promised));
    }

    #[test]
    fn a_restart_goes_on_with_its_promise() {
        let terms = terms(&["a", "b"]);
        let (mut a, mut b) = (formation("a", &terms, 1), formation("b", &terms, 2));
        a.take(&b.offer()).expect("same terms");
        b.take(&a.offer()).expect("same terms");
        let promised = promise(&mut a);
        promise(&mut b);
        let mut again =
            Formation::new(a.me.clone(), DataIncarnation::new(1), terms, Some(promised));
        again.take(&b.offer()).expect("same terms");
        assert_eq!(formed(&again), Some(promised));
    }
}
