//! The settings file: TOML, read into values that know their lines.

use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::error::{Origin, Problem, SettingError};
use super::value::{Sourced, Table, Value};

/// Reads a file; on the way adds whatever keeps it from being read.
pub(super) fn read(path: &Path, errors: &mut Vec<SettingError>) -> Table {
    match std::fs::read_to_string(path) {
        Ok(text) => File { path: path.into(), text: &text }.parse(errors),
        Err(error) => {
            let problem = Problem::Unreadable(error.to_string());
            let origin = Origin::File(path.into(), 0);
            errors.push(SettingError { origin, key: String::new(), problem });
            Table::new()
        }
    }
}

struct File<'a> {
    path: Arc<Path>,
    text: &'a str,
}

impl File<'_> {
    fn parse(&self, errors: &mut Vec<SettingError>) -> Table {
        let (table, wrong) = DeTable::parse_recoverable(self.text);
        errors.extend(wrong.iter().map(|error| SettingError {
            origin: self.origin(error.span().map_or(0, |span| span.start)),
            key: String::new(),
            problem: Problem::Syntax(error.message().replace('\n', ", ")),
        }));
        // What could be made of a broken file would only raise errors that are none.
        if wrong.is_empty() { self.table(table.get_ref()) } else { Table::new() }
    }

    fn table(&self, table: &DeTable<'_>) -> Table {
        let entry = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            (name.to_string(), self.sourced(value))
        };
        table.iter().map(entry).collect()
    }

    fn sourced(&self, value: &Spanned<DeValue<'_>>) -> Sourced {
        Sourced { origin: self.origin(value.span().start), value: self.value(value.get_ref()) }
    }

    fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => integer(number),
            DeValue::Float(number) => {
                let parsed = number.as_str().parse();
                parsed.map_or_else(|_| Value::Other(number.as_str().into()), Value::Float)
            }
            DeValue::Boolean(truth) => Value::Boolean(*truth),
            DeValue::Datetime(date) => Value::Other(date.to_string()),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.sourced(item)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
        }
    }

    fn origin(&self, offset: usize) -> Origin {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Origin::File(self.path.clone(), line)
    }
}

fn integer(number: &DeInteger<'_>) -> Value {
    let parsed = i64::from_str_radix(number.as_str(), number.radix());
    parsed.map_or_else(|_| Value::Other(number.as_str().into()), Value::Integer)
}
