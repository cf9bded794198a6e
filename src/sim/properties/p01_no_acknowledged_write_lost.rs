//! P1: after the end of all faults each acknowledged value is in the record on every replica, or
//! was covered by the context of a later write. That this one had seen it is P5.

use crate::sim::evidence::{KeyEvidence, Promises, Violation};

pub(super) fn check(key: &KeyEvidence, promises: Promises, violations: &mut Vec<Violation>) {
    for write in key.acknowledged().filter(|write| promises.keep(write.reach)) {
        let lacking = key
            .finals
            .iter()
            .find(|(_, record)| !key.settled(record.context()).contains(write.dot));
        if let Some((node, _)) = lacking {
            let text = format!(
                "#{} was acknowledged as {} by {} replicas, and node-{} does not know of it\n{}",
                write.number,
                write.dot,
                write.reach.required,
                node + 1,
                key.story(|number, _| number == write.number)
            );
            return violations.push(Violation::new("P1 no acknowledged write lost", text));
        }
    }
}
