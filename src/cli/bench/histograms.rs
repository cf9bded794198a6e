//! A log of histograms, one for each second and kind of operation, in the format that the tools of
//! HdrHistogram read (version 1.3, V2 with compression, values in nanoseconds).

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::load::run::{Part, Second};

/// See the module.
#[derive(Debug)]
pub(super) struct HistogramLog {
    path: PathBuf,
    file: BufWriter<File>,
}

/// Of the maximum that each line shows: milliseconds, while histograms hold nanoseconds.
const MAX_VALUE_DIVISOR: f64 = 1e6;
const HEAD: &str = "#[Histogram log format version 1.3]
#[MaxValueDivisor: 1000000.0]
\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"
";

impl HistogramLog {
    /// Makes the file anew.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let begin = || -> std::io::Result<BufWriter<File>> {
            let mut file = BufWriter::new(File::create(path)?);
            file.write_all(HEAD.as_bytes())?;
            file.flush()?;
            Ok(file)
        };
        let file = begin().with_context(|| format!("can't write {}", path.display()))?;
        Ok(Self { path: path.into(), file })
    }

    /// Adds a second of the measurement.
    pub fn note(&mut self, second: &Second) -> anyhow::Result<()> {
        if second.part == Part::WarmUp {
            return Ok(());
        }
        let path = self.path.clone();
        self.write(second).with_context(|| format!("can't write {}", path.display()))
    }

    fn write(&mut self, second: &Second) -> anyhow::Result<()> {
        let mut serializer = V2DeflateSerializer::new();
        let mut lines = Vec::new();
        let mut builder = IntervalLogWriterBuilder::new();
        let mut log = builder
            .with_max_value_divisor(MAX_VALUE_DIVISOR)
            .begin_log_with(&mut lines, &mut serializer)?;
        for (operation, tally) in &second.interval.tallies {
            let tag = Tag::new(operation.name());
            log.write_histogram(&tally.latency, second.start, second.length, tag)?;
        }
        // Each writer begins with a comment that the head has already.
        let lines = lines.split_inclusive(|byte| *byte == b'\n');
        for line in lines.filter(|line| !line.starts_with(b"#")) {
            self.file.write_all(line)?;
        }
        Ok(self.file.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::HistogramLog;
    use crate::load::recorder::{Interval, Tally};
    use crate::load::run::{Part, Second};
    use crate::load::workload::Operation;

    #[test]
    fn seconds_are_read_back_as_they_were_measured() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let mut log = HistogramLog::create(&path).expect("a file");
        for start in 0..3 {
            let mut tally = Tally::default();
            tally.latency.record_n(1_500_000, start + 1).expect("in bounds");
            let second = Second {
                part: Part::Measured,
                start: Duration::from_secs(start),
                length: Duration::from_secs(1),
                interval: Interval {
                    tallies: [(Operation::Read, tally)].into(),
                    ..Interval::default()
                },
                cpu: Vec::new(),
            };
            log.note(&second).expect("written");
        }
        let bytes = std::fs::read(&path).expect("readable");
        let mut counts = Vec::new();
        // The reader of the library does not know the legend that other readers want.
        let text = String::from_utf8(bytes).expect("text");
        let lines: String =
            text.lines().filter(|line| !line.starts_with('"')).flat_map(|l| [l, "\n"]).collect();
        for entry in IntervalLogIterator::new(lines.as_bytes()) {
            let LogEntry::Interval(interval) = entry.expect("a line of the format") else {
                continue;
            };
            assert_eq!(interval.tag().map(|tag| tag.as_str()), Some("read"));
            assert!((interval.max() - 1.5).abs() < 0.01, "in milliseconds");
            use base64::Engine as _;
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(interval.encoded_histogram())
                .expect("base64");
            let histogram: Histogram<u64> =
                Deserializer::new().deserialize(&mut bytes.as_slice()).expect("a histogram");
            counts.push((interval.start_timestamp().as_secs(), histogram.len()));
        }
        assert_eq!(counts, [(0, 1), (1, 2), (2, 3)]);
    }
}
