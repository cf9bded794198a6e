//! Labels of the metrics. None of them allocates when it is looked up: names are static or live
//! inline, and a node's id is shared.

use std::fmt::{Error, Write};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use smallvec::SmallVec;

use crate::types::NodeId;

/// A short text held inline. Callers draw it from a fixed set, which bounds the series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShortText(SmallVec<[u8; 24]>);

impl ShortText {
    pub(super) fn new(text: &str) -> Self {
        Self(SmallVec::from_slice(text.as_bytes()))
    }
}

impl EncodeLabelValue for ShortText {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), Error> {
        encoder.write_str(std::str::from_utf8(&self.0).expect("made from text"))
    }
}

/// A node's id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct NodeName(pub(super) NodeId);

impl EncodeLabelValue for NodeName {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), Error> {
        encoder.write_str(self.0.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestLabels {
    pub(super) operation: &'static str,
    pub(super) level: ShortText,
    pub(super) outcome: ShortText,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReplicaCallLabels {
    pub(super) peer: NodeName,
    pub(super) message: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabel {
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabel {
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabel {
    pub(super) kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PeerLabel {
    pub(super) peer: NodeName,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct MemberLabels {
    pub(super) node: NodeName,
    pub(super) state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BuildLabels {
    pub(super) version: &'static str,
}
