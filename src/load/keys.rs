//! Which key a request is for.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rand::RngExt;
use rand::distr::Distribution as _;
use rand::rngs::StdRng;
use rand_distr::Zipf;

/// The skew of YCSB (Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", 2010).
const ZIPF_EXPONENT: f64 = 0.99;

/// How requests are spread over the keys. Which keys are asked for often has nothing to do with
/// where they are: the ring places a key by its hash.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Each key as often as any other.
    Uniform,
    /// The k-th most popular key in proportion to 1/k^exponent.
    Zipfian(f64),
    /// Zipfian, the keys that were inserted last being the most popular ones.
    Latest,
    /// So many percent of the keys get so many percent of the requests.
    HotSet {
        /// Percent of the keys.
        keys: u8,
        /// Percent of the requests.
        requests: u8,
    },
}

/// Why a text names no distribution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no distribution of keys: uniform, zipfian, zipfian:EXPONENT, latest, hot-set, or \
     hot-set:KEYS:REQUESTS (percent)"
)]
pub struct InvalidDistribution(String);

impl Distribution {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let name = parts.next()?;
        let rest: Vec<&str> = parts.collect();
        match (name, rest.as_slice()) {
            ("uniform", []) => Some(Self::Uniform),
            ("zipfian", []) => Some(Self::Zipfian(ZIPF_EXPONENT)),
            ("zipfian", [exponent]) => {
                let exponent: f64 = exponent.parse().ok()?;
                (exponent.is_finite() && exponent >= 0.0).then_some(Self::Zipfian(exponent))
            }
            ("latest", []) => Some(Self::Latest),
            ("hot-set", []) => Some(Self::HotSet { keys: 20, requests: 80 }),
            ("hot-set", [keys, requests]) => {
                let (keys, requests) = (keys.parse().ok()?, requests.parse().ok()?);
                let is_percent = |number| (1..=100).contains(&number);
                (is_percent(keys) && is_percent(requests))
                    .then_some(Self::HotSet { keys, requests })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipfian(exponent) => write!(f, "zipfian:{exponent}"),
            Self::Latest => f.write_str("latest"),
            Self::HotSet { keys, requests } => write!(f, "hot-set:{keys}:{requests}"),
        }
    }
}

impl FromStr for Distribution {
    type Err = InvalidDistribution;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or_else(|| InvalidDistribution(text.into()))
    }
}

/// The keys that there are: those of the beginning, and what was inserted since. Shared by threads.
#[derive(Debug)]
pub struct Keys {
    first: u64,
    next: AtomicU64,
    /// All below have been inserted; kept apart from the numbers that were given out, so that no
    /// reader asks for a key that is only being written.
    inserted: AtomicU64,
    early: Mutex<BTreeSet<u64>>,
}

impl Keys {
    /// So many keys from the first one on.
    pub fn new(first: u64, count: u64) -> Arc<Self> {
        let end = first + count;
        Arc::new(Self { first, next: end.into(), inserted: end.into(), early: Mutex::default() })
    }

    /// A key that nobody has inserted yet.
    pub(super) fn begin_insert(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// It has been inserted, or will not be.
    pub(super) fn end_insert(&self, key: u64) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        early.insert(key);
        let mut inserted = self.inserted.load(Ordering::Relaxed);
        while early.remove(&inserted) {
            inserted += 1;
        }
        self.inserted.store(inserted, Ordering::Relaxed);
    }

    fn end(&self) -> u64 {
        self.inserted.load(Ordering::Relaxed)
    }
}

/// Chooses keys that exist.
#[derive(Clone, Debug)]
pub(super) struct Chooser {
    keys: Arc<Keys>,
    distribution: Distribution,
    popularity: Option<Zipf<f64>>,
}

impl Chooser {
    /// There is at least one key.
    pub fn new(keys: Arc<Keys>, distribution: Distribution) -> Self {
        let count = keys.end() - keys.first;
        assert!(count > 0, "there is a key to choose");
        let exponent = match distribution {
            Distribution::Zipfian(exponent) => Some(exponent),
            Distribution::Latest => Some(ZIPF_EXPONENT),
            Distribution::Uniform | Distribution::HotSet { .. } => None,
        };
        let zipf = |exponent| Zipf::new(count as f64, exponent).expect("a count and an exponent");
        Self { keys, distribution, popularity: exponent.map(zipf) }
    }

    pub fn choose(&self, rng: &mut StdRng) -> u64 {
        let (first, end) = (self.keys.first, self.keys.end());
        let rank = |zipf: &Zipf<f64>, rng: &mut StdRng| (zipf.sample(rng) as u64).max(1) - 1;
        match (self.distribution, &self.popularity) {
            (Distribution::Latest, Some(zipf)) => end - 1 - rank(zipf, rng).min(end - 1 - first),
            (_, Some(zipf)) => first + rank(zipf, rng).min(end - 1 - first),
            (Distribution::HotSet { keys, requests }, None) => {
                let hot = ((end - first) * u64::from(keys) / 100).max(1);
                let is_hot = rng.random_range(0..100) < requests;
                let is_hot = is_hot || hot == end - first;
                let range = if is_hot { 0..hot } else { hot..end - first };
                first + rng.random_range(range)
            }
            (_, None) => rng.random_range(first..end),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::{Chooser, Distribution, Keys};

    const DRAWS: usize = 40_000;

    /// How often each of 100 keys is chosen.
    fn frequencies(distribution: &str) -> Vec<usize> {
        let chooser = Chooser::new(Keys::new(1_000, 100), distribution.parse().expect("a name"));
        let mut rng = StdRng::seed_from_u64(7);
        let mut counts = vec![0; 100];
        for _ in 0..DRAWS {
            counts[(chooser.choose(&mut rng) - 1_000) as usize] += 1;
        }
        counts
    }

    fn share(counts: &[usize]) -> f64 {
        counts.iter().sum::<usize>() as f64 / DRAWS as f64
    }

    #[test]
    fn keys_are_as_popular_as_their_distribution_says() {
        let even = frequencies("uniform");
        assert!(even.iter().all(|count| (300..500).contains(count)), "{even:?}");
        // The harmonic number of order 0.99 of 100 keys is 5.33.
        let zipfian = frequencies("zipfian");
        assert!((share(&zipfian[..1]) - 1.0 / 5.33).abs() < 0.01, "{zipfian:?}");
        assert!((share(&zipfian[1..2]) - 0.503 / 5.33).abs() < 0.01, "{zipfian:?}");
        let latest = frequencies("latest");
        assert!((share(&latest[99..]) - 1.0 / 5.33).abs() < 0.01, "{latest:?}");
        let hot = frequencies("hot-set:10:90");
        assert!((share(&hot[..10]) - 0.9).abs() < 0.01, "{hot:?}");
        assert!(hot.iter().all(|count| *count > 0));
    }

    #[test]
    fn a_key_is_chosen_only_once_all_before_it_are_inserted() {
        let keys = Keys::new(0, 1);
        let (first, second) = (keys.begin_insert(), keys.begin_insert());
        keys.end_insert(second);
        assert_eq!(keys.end(), 1);
        keys.end_insert(first);
        assert_eq!(keys.end(), 3);
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        for text in ["", "zipf", "zipfian:x", "zipfian:-1", "hot-set:0:5", "hot-set:5", "latest:2"]
        {
            text.parse::<Distribution>().expect_err(text);
        }
    }
}
