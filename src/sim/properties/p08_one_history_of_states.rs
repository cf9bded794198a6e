//! P8: no two nodes ever hold different states for one (recovery, epoch).

use std::collections::BTreeMap;

use crate::protocol::cluster::ClusterState;
use crate::sim::evidence::Violation;
use crate::sim::observer::Observer;
use crate::storage::frame;

pub(super) fn check(observer: &Observer, violations: &mut Vec<Violation>) {
    let mut known = BTreeMap::new();
    for (bytes, node) in observer.states() {
        let state: ClusterState =
            frame::decode(&bytes, u8::MAX).expect("nodes persist whole states");
        let stamp = state.stamp();
        let (other, holder) = *known.entry((state.recovery, state.epoch)).or_insert((stamp, node));
        if other != stamp {
            let text =
                format!("node-{} and node-{} hold {other:?} and {stamp:?}", holder + 1, node + 1);
            violations.push(Violation::new("P8 one history of states", text));
        }
    }
}
