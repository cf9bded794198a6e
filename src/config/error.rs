//! What can be wrong with settings, and how it is told.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a setting was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the settings file, on this line (from 1; 0: the file as a whole).
    File(Arc<Path>, usize),
    /// In an environment variable.
    Variable(String),
    /// In a flag of the command line.
    Flag(&'static str),
    /// Nowhere: it is the default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, 0) => write!(f, "{}", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// What is wrong with one setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// There is no such setting.
    #[error("there is no such setting{}", did_you_mean(.nearest.as_deref()))]
    Unknown {
        /// The setting that was probably meant.
        nearest: Option<String>,
    },
    /// A setting that must be given is absent.
    #[error("is missing; {0}")]
    Missing(&'static str),
    /// The value has the wrong type or form.
    #[error("{found} is wrong; {expected}")]
    Value {
        /// The value as it was written.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The value is well formed, but goes ill with another one; says what would be right.
    #[error("{0}")]
    Clash(String),
    /// The file can't be read.
    #[error("can't be read: {0}; name a settings file that exists")]
    Unreadable(String),
    /// The file is no TOML.
    #[error("is no valid TOML: {0}")]
    Syntax(String),
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(|| "; remove it".into(), |name| format!("; did you mean `{name}`?"))
}

/// One wrong setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {}{problem}", key_part(.key))]
pub struct SettingError {
    /// Where it was said.
    pub origin: Origin,
    /// Which one, dotted; empty for the file as a whole.
    pub key: String,
    /// What is wrong with it.
    pub problem: Problem,
}

fn key_part(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!("`{key}`: ") }
}

/// Everything that is wrong with the settings, in the order of the sources. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsErrors(Vec<SettingError>);

impl SettingsErrors {
    /// The errors, or nothing where there are none.
    pub(super) fn check(errors: Vec<SettingError>) -> Result<(), Self> {
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &SettingError> {
        self.0.iter()
    }

    /// Whether all of them come from flags: a wrong use of the command line.
    pub fn are_all_from_flags(&self) -> bool {
        self.iter().all(|error| matches!(error.origin, Origin::Flag(_)))
    }
}

impl std::error::Error for SettingsErrors {}

impl fmt::Display for SettingsErrors {
    /// One error: its line. More: how many, then a line for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.0.as_slice() {
            return write!(f, "{only}");
        }
        write!(f, "{} settings are wrong:", self.0.len())?;
        self.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

/// The name that was probably meant: the nearest by edits, if it is near at all; a name whose last
/// part is the same counts as very near (`min_free_bytes` for `storage.min_free_bytes`).
pub(super) fn nearest(wrong: &str, names: &[&str]) -> Option<String> {
    let last_part = |name: &str| name.rsplit('.').next().map(str::to_owned);
    let distance = |name: &str| {
        if last_part(name) == last_part(wrong) { 1 } else { edit_distance(wrong, name) }
    };
    let (distance, name) = names.iter().map(|name| (distance(name), *name)).min()?;
    (distance <= (wrong.len() / 3).max(2)).then(|| name.to_owned())
}

/// Levenshtein's distance, in bytes: names of settings are ASCII.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
