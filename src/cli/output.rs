//! Writing to stdout.

use std::io::{ErrorKind, IsTerminal, Write};

/// Writes all of it. A reader that has gone away (`| head`) is no failure.
pub(super) fn write(bytes: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Writes one line.
pub(super) fn write_line(line: &str) -> std::io::Result<()> {
    write(format!("{line}\n").as_bytes())
}

/// Writes a JSON value, indented.
pub(super) fn write_json(value: &serde_json::Value) -> std::io::Result<()> {
    write_line(&format!("{value:#}"))
}

/// Whether stdout takes colours: a terminal whose user has not said no (no-color.org).
pub(super) fn has_colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}
