//! GET: reads at the level, answers with the merge, mends what was stale.

use std::sync::Arc;

use tokio::time::Instant;

use super::read::{Fetched, ReadJob, ReadRecord};
use crate::config::ReadRepair;
use crate::node::Node;
use crate::node::instruments::PlantedBug;
use crate::node::layout::{Layout, ReplicaSet};
use crate::node::operation::{Get, GetAnswer};
use crate::protocol::causality::{
    ContextToken, Record, Shown, Version, token_cover_for_get, token_cover_for_version,
};
use crate::protocol::operation::{EtagSet, OperationError, Reached};
use crate::protocol::quorum::{RepairMode, ReplicaIndex};

impl Node {
    /// Reads a key for a client.
    pub(in crate::node) async fn coordinate_get(
        self: &Arc<Self>,
        get: Get,
    ) -> Result<GetAnswer, OperationError> {
        let _serving = self.clients.serve();
        loop {
            let layout = self.serving()?;
            let answer = self.get_at(&layout, &get).await;
            // An operation completes in one epoch: where that has passed, it starts over.
            let is_overtaken = answer.is_err() && self.is_past(&layout.stamp);
            if !is_overtaken || Instant::now() >= get.terms.deadline {
                return answer;
            }
        }
    }

    async fn get_at(
        self: &Arc<Self>,
        layout: &Arc<Layout>,
        get: &Get,
    ) -> Result<GetAnswer, OperationError> {
        let bucket = self.bucket_settings(layout, &get.path.bucket);
        let set = layout.replica_set(&get.path);
        let is_sloppy = get.terms.sloppy.unwrap_or(bucket.sloppy);
        let set = if is_sloppy { layout.with_stand_ins(&set) } else { set };
        let level = get.terms.level.unwrap_or(bucket.r);
        level.for_read(set.n())?;
        let job = ReadJob {
            path: get.path.clone(),
            groups: self.read_groups(&set, level),
            repair: self.repair_mode(&set),
            deadline: get.terms.deadline,
            request_id: get.terms.request_id.clone(),
        };
        let (finished, reached) = self.read::<ReadRecord>(&set, &job).await?;
        // What stands in for a replica is mended when that one is back.
        let stale = finished.stale.iter().filter(|replica| !set.is_stand_in(**replica));
        let stale: Vec<ReplicaIndex> = stale.copied().collect();
        if let Some(stored) = finished.merged.stored().filter(|_| !stale.is_empty()) {
            self.repair_in_background(&set, &stale, &stored, &job);
        }
        self.show(layout, get, &finished.merged.record, reached)
    }

    fn repair_mode(&self, set: &ReplicaSet) -> RepairMode {
        match self.settings.read_repair {
            ReadRepair::Blocking if set.has_stand_ins() => RepairMode::Async,
            _ if self.instruments.has(PlantedBug::RepairNotWaitedFor) => RepairMode::Async,
            ReadRepair::Blocking => RepairMode::Blocking,
            ReadRepair::Async => RepairMode::Async,
            ReadRepair::Off => RepairMode::Off,
        }
    }

    /// What the client is shown of a record.
    fn show(
        &self,
        layout: &Layout,
        get: &Get,
        record: &Record,
        reached: Reached,
    ) -> Result<GetAnswer, OperationError> {
        let key = self.token_key_of(layout);
        let epoch = layout.state.epoch;
        let policy = self.bucket_settings(layout, &get.path.bucket).resolve;
        let all = record.shown(policy);
        let siblings = all.sibling_count();
        let whole = token_cover_for_get(record);
        let named = match &get.version {
            None => Some((all, whole.clone())),
            Some(name) => named_version(record, name).and_then(|version| {
                let cover = token_cover_for_version(record, version.dot())?;
                Some((Shown::One(version.clone()), cover))
            }),
        };
        let Some((shown, cover)) = named else {
            return Err(OperationError::VersionNotFound {
                version: get.version.clone().unwrap_or_default(),
                context: ContextToken::seal(&whole, &get.path, key),
                reached,
                epoch,
            });
        };
        Ok(GetAnswer {
            shown,
            siblings,
            set: EtagSet(record.etag_set()),
            context: ContextToken::seal(&cover, &get.path, key),
            reached,
            epoch,
        })
    }
}

/// The live or deleted version of this public name.
fn named_version<'a>(record: &'a Record, name: &str) -> Option<&'a Version> {
    record.versions().iter().find(|version| version.dot().to_string() == name)
}
