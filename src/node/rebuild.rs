//! A data directory that was emptied, and is to be filled from the peers (`starling server
//! --rebuild`): the node takes up its place in the cluster again, with every vnode incomplete, and
//! no actor and no promise of what was there before.
//!
//! It goes on under the data incarnation that the cluster state lists, so that no state has to be
//! decided. Its peers know its last starts; the new one comes after all of them, so that the old
//! directory, should it turn up again, is told from this one.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::directory::{Boot, Directory, Identity};
use super::start::{Seams, StartError};
use super::{Node, greeting};
use crate::config::Settings;
use crate::peer::messages::{
    Answer, Envelope, PastBoot, RebuildAnswer, Refusal, Reply, Request, decode, encode,
};
use crate::peer::{Lane, PeerAddress};
use crate::types::{BootNumber, DataIncarnation, NodeId};

/// Gives an empty directory what the peers know of its node.
pub(super) async fn take_up(settings: &Settings, seams: &Seams) -> Result<(), StartError> {
    let peers = settings.initial_nodes.iter().filter(|node| node.id != settings.id);
    let peers = peers.map(|node| node.peer.clone()).chain(settings.join.iter().cloned());
    let asked: Vec<PeerAddress> = peers.collect::<BTreeSet<_>>().into_iter().collect();
    let answers = asked.iter().map(|address| ask(settings, seams, address));
    let answers = futures_util::future::join_all(answers).await;
    let answers: Vec<RebuildAnswer> = answers.into_iter().flatten().collect();
    let newest = answers.iter().max_by_key(|answer| (answer.state.recovery, answer.state.epoch));
    let Some(state) = newest.map(|answer| answer.state.clone()) else {
        return Err(StartError::NobodyToRebuildFrom { asked: asked.len() });
    };
    let Some(listed) = state.node(&settings.id) else {
        return Err(StartError::NotInTheCluster);
    };
    let boots: BTreeSet<(BootNumber, u64)> = answers
        .iter()
        .flat_map(|answer| &answer.boots)
        .map(|boot| (boot.number, boot.nonce))
        .collect();
    let mut known = boots.into_iter().rev().map(|(number, nonce)| PastBoot { number, nonce });
    let last = known.next().unwrap_or(PastBoot { number: BootNumber::default(), nonce: 0 });
    let boot = Boot {
        this: last,
        history: known.collect(),
        durability: settings.durability,
        may_lack_writes: true,
    };
    let identity = Identity { node: settings.id.clone(), incarnation: listed.incarnation };
    Directory::new(&*seams.store).take_up(&identity, &boot, &state).await?;
    tracing::warn!(cluster = %state.cluster, "the data directory is empty: everything is taken in from the peers");
    Ok(())
}

async fn ask(settings: &Settings, seams: &Seams, address: &PeerAddress) -> Option<RebuildAnswer> {
    let deadline = Instant::now() + greeting::GREET_TIMEOUT;
    let envelope = Envelope {
        from: settings.id.clone(),
        incarnation: DataIncarnation::new(0),
        to: None,
        stamp: None,
        timeout_ms: greeting::GREET_TIMEOUT.as_millis() as u32,
        request_id: None,
        request: Request::Rebuild,
    };
    let answer = seams.transport.call(address, Lane::Control, encode(&envelope), deadline).await;
    match decode::<Reply>(&answer.ok()?) {
        Ok(Ok(Answer::Rebuild(answer))) => Some(*answer),
        _ => None,
    }
}

impl Node {
    /// Tells a node with an empty directory what is known of it.
    pub(super) async fn answer_rebuild(&self, from: &NodeId) -> Reply {
        let layout = self.layout().ok_or(Refusal::NotServing)?;
        let known = Directory::new(&*self.store).peer_boot(from).await;
        let known = known.map_err(|_| Refusal::StoreFailed)?;
        let boots = known.map(|known| std::iter::once(known.last).chain(known.before).collect());
        Ok(Answer::Rebuild(Box::new(RebuildAnswer {
            state: layout.state.clone(),
            boots: boots.unwrap_or_default(),
        })))
    }
}
