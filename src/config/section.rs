//! Reading one table of settings: values are taken out by name; what is left over is unknown.

use std::collections::BTreeMap;

use super::environment::KEYS;
use super::error::{Origin, Problem, SettingError, nearest};
use super::value::{FromValue, Sourced, Table, Value};

/// What has been found while reading, over all sections.
#[derive(Default)]
pub(super) struct Findings {
    /// Everything that is wrong.
    pub(super) errors: Vec<SettingError>,
    /// Where each setting that was given was said, by dotted key.
    pub(super) origins: BTreeMap<String, Origin>,
}

impl Findings {
    /// Where a setting was said.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Whether a setting was given and was read without error.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.origins.contains_key(key) && !self.errors.iter().any(|error| error.key == key)
    }

    /// Reports a setting that goes ill with another one.
    pub(super) fn clash(&mut self, key: &str, message: String) {
        let (origin, key) = (self.origin(key), key.to_owned());
        self.errors.push(SettingError { origin, key, problem: Problem::Clash(message) });
    }
}

/// One table that is being read.
pub(super) struct Section<'f> {
    path: String,
    origin: Origin,
    entries: Table,
    known: Vec<&'static str>,
    findings: &'f mut Findings,
}

impl<'f> Section<'f> {
    pub(super) fn new(path: String, origin: Origin, entries: Table, f: &'f mut Findings) -> Self {
        Self { path, origin, entries, known: Vec::new(), findings: f }
    }

    /// Takes a value out and reads it; `None` where it is absent or wrong, the latter reported.
    pub(super) fn take<T: FromValue>(&mut self, name: &'static str) -> Option<T> {
        let Sourced { value, origin } = self.take_raw(name)?;
        let read = T::from_value(&value);
        if read.is_none() {
            let found = if T::IS_SECRET { "the value".into() } else { value.to_string() };
            let problem = Problem::Value { found, expected: T::EXPECTED.into() };
            self.report(name, origin, problem);
        }
        read
    }

    /// The same, with the default for what is absent or wrong.
    pub(super) fn take_or<T: FromValue>(&mut self, name: &'static str, default: T) -> T {
        self.take(name).unwrap_or(default)
    }

    /// Takes a value that must be there.
    pub(super) fn take_required<T: FromValue>(&mut self, name: &'static str) -> Option<T> {
        if !self.entries.contains_key(name) {
            let origin = self.origin.clone();
            self.report(name, origin, Problem::Missing(T::EXPECTED));
        }
        self.take(name)
    }

    /// Takes a list out, each item with its dotted key; a text from a variable or a flag is split
    /// at its commas.
    pub(super) fn take_list(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Vec<(String, Sourced)> {
        let Some(Sourced { value, origin }) = self.take_raw(name) else {
            return Vec::new();
        };
        let items = match value {
            Value::List(items) => items,
            Value::Word(word) => split(&word, &origin),
            other => {
                let problem =
                    Problem::Value { found: other.to_string(), expected: expected.to_owned() };
                self.report(name, origin, problem);
                return Vec::new();
            }
        };
        let key = |index| format!("{}[{index}]", self.key_of(name));
        items.into_iter().enumerate().map(|(index, item)| (key(index), item)).collect()
    }

    /// Takes an inner table out; an absent one reads as empty.
    pub(super) fn take_section(&mut self, name: &'static str) -> Section<'_> {
        let path = self.key_of(name);
        let sourced = self.take_raw(name);
        let given = sourced.unwrap_or_else(|| Sourced {
            value: Value::Table(Table::new()),
            origin: self.origin.clone(),
        });
        self.section_of(path, given)
    }

    /// A value as a table; anything else is reported and reads as empty.
    pub(super) fn section_of(
        &mut self,
        path: String,
        Sourced { value, origin }: Sourced,
    ) -> Section<'_> {
        let entries = match value {
            Value::Table(entries) => entries,
            other => {
                let expected = "must be a table".to_owned();
                let problem = Problem::Value { found: other.to_string(), expected };
                let error = SettingError { origin: origin.clone(), key: path.clone(), problem };
                self.findings.errors.push(error);
                Table::new()
            }
        };
        Section::new(path, origin, entries, self.findings)
    }

    /// Takes all that is there, whatever it is called.
    pub(super) fn take_all(&mut self) -> Table {
        std::mem::take(&mut self.entries)
    }

    /// Reports a problem with something in this section.
    pub(super) fn report_at(&mut self, key: String, origin: Origin, problem: Problem) {
        self.findings.errors.push(SettingError { origin, key, problem });
    }

    /// Reports what nobody took. To be called last.
    pub(super) fn finish(mut self) {
        for (name, Sourced { origin, .. }) in self.take_all() {
            let here = nearest(&name, &self.known).map(|near| self.key_of(&near));
            let nearest = here.or_else(|| nearest(&self.key_of(&name), &KEYS));
            self.report(&name, origin, Problem::Unknown { nearest });
        }
    }

    fn take_raw(&mut self, name: &'static str) -> Option<Sourced> {
        self.known.push(name);
        let sourced = self.entries.remove(name)?;
        self.findings.origins.insert(self.key_of(name), sourced.origin.clone());
        Some(sourced)
    }

    fn report(&mut self, name: &str, origin: Origin, problem: Problem) {
        self.report_at(self.key_of(name), origin, problem);
    }

    fn key_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}.{name}", self.path) }
    }
}

fn split(word: &str, origin: &Origin) -> Vec<Sourced> {
    let parts = word.split(',').map(str::trim).filter(|part| !part.is_empty());
    let sourced = |part: &str| Sourced { value: Value::Word(part.into()), origin: origin.clone() };
    parts.map(sourced).collect()
}
