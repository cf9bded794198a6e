//! What the system knows of this process, read from `/proc` at each scrape.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use rustix::param::{clock_ticks_per_second, page_size};

use super::samples::{Sample, encode_samples};

/// Memory, processor time, open files, start. Where `/proc` is absent there is nothing to show.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let samples: Vec<Sample> =
            [cpu(), memory(), started(), open_files(), max_files()].into_iter().flatten().collect();
        encode_samples(&samples, encoder)
    }
}

/// Fields of `/proc/self/stat`, counted as proc(5) does, from 1. The second, a name that may hold
/// spaces and brackets, ends at the last bracket.
fn stat_field(number: usize) -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu() -> Option<Sample> {
    let ticks = stat_field(14)? + stat_field(15)?;
    let seconds = ticks / clock_ticks_per_second() as f64;
    Some(Sample::counter("process_cpu_seconds", "Processor time used", seconds))
}

fn memory() -> Option<Sample> {
    let bytes = stat_field(24)? * page_size() as f64;
    Some(Sample::gauge("process_resident_memory_bytes", "Memory in use", bytes))
}

fn started() -> Option<Sample> {
    let system = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    let since_boot = stat_field(22)? / clock_ticks_per_second() as f64;
    let help = "When the process started, in seconds since 1970";
    Some(Sample::gauge("process_start_time_seconds", help, boot + since_boot))
}

fn open_files() -> Option<Sample> {
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count();
    Some(Sample::gauge("process_open_fds", "Open files and sockets", count as f64))
}

fn max_files() -> Option<Sample> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
    Some(Sample::gauge("process_max_fds", "Most open files and sockets allowed", limit as f64))
}
