//! Statistics that others keep, asked for at each scrape.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Whether a sample may fall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// It only rises; shown with `_total` behind its name.
    Counter,
    /// It rises and falls.
    Gauge,
}

/// One value at this moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Without `starling_`, and for a counter without `_total`; the unit last.
    pub name: &'static str,
    /// What it means, without a full stop; the same for all samples of a name.
    pub help: &'static str,
    /// Whether it may fall; the same for all samples of a name.
    pub kind: SampleKind,
    /// Names and values; no two samples of a name have the same.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// A gauge without labels.
    pub const fn gauge(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, kind: SampleKind::Gauge, labels: Vec::new(), value }
    }

    /// A counter without labels.
    pub const fn counter(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, kind: SampleKind::Counter, labels: Vec::new(), value }
    }

    /// The same with one label more.
    #[must_use]
    pub fn with_label(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.labels.push((name, value.into()));
        self
    }
}

/// Asks one source at each scrape.
pub(super) struct SamplesCollector<F> {
    source: F,
}

impl<F: Fn() -> Vec<Sample>> SamplesCollector<F> {
    pub(super) const fn new(source: F) -> Self {
        Self { source }
    }
}

impl<F> fmt::Debug for SamplesCollector<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SamplesCollector")
    }
}

impl<F: Fn() -> Vec<Sample> + Send + Sync + 'static> Collector for SamplesCollector<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        encode_samples(&(self.source)(), encoder)
    }
}

/// Writes samples, all of one name together, as the format wants them.
pub(super) fn encode_samples(
    samples: &[Sample],
    mut encoder: DescriptorEncoder<'_>,
) -> Result<(), fmt::Error> {
    let mut by_name: BTreeMap<&str, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        by_name.entry(sample.name).or_default().push(sample);
    }
    for (name, group) in by_name {
        let kind = match group[0].kind {
            SampleKind::Counter => ConstCounter::new(0.0).metric_type(),
            SampleKind::Gauge => ConstGauge::new(0.0).metric_type(),
        };
        // The registry ends its own help texts so.
        let help = format!("{}.", group[0].help);
        let mut metric = encoder.encode_descriptor(name, &help, None, kind)?;
        for sample in group {
            if sample.labels.is_empty() {
                encode_value(sample, metric)?;
                // One value a name: the encoder is used up.
                break;
            }
            encode_value(sample, metric.encode_family(&sample.labels)?)?;
        }
    }
    Ok(())
}

fn encode_value(sample: &Sample, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match sample.kind {
        SampleKind::Counter => ConstCounter::new(sample.value).encode(encoder),
        SampleKind::Gauge => ConstGauge::new(sample.value).encode(encoder),
    }
}
