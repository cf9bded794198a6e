//! Tables for people: aligned columns, two spaces apart.

/// On which side a column is flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under a head.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

/// One cell: its text, and an ANSI colour where the terminal shows them.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    colour: Option<u8>,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), colour: None }
    }
}

impl Cell {
    /// A cell in an ANSI colour (31 red, 32 green, 33 yellow), or plain.
    pub(super) fn coloured(text: impl Into<String>, colour: Option<u8>) -> Self {
        Self { text: text.into(), colour }
    }
}

impl Table {
    pub(super) fn new(columns: impl Into<Vec<(&'static str, Align)>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row with one cell for each column.
    pub(super) fn push(&mut self, row: impl Into<Vec<Cell>>) {
        self.rows.push(row.into());
    }

    /// The table as text, each line ended.
    pub(super) fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.columns.len()).map(|at| self.width(at)).collect();
        let head: Vec<Cell> = self.columns.iter().map(|(name, _)| (*name).into()).collect();
        let mut text = String::new();
        for row in std::iter::once(&head).chain(&self.rows) {
            text.push_str(self.render_row(row, &widths).trim_end());
            text.push('\n');
        }
        text
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0);
        widest.max(self.columns[column].0.chars().count())
    }

    fn render_row(&self, row: &[Cell], widths: &[usize]) -> String {
        let cells = row.iter().zip(widths).zip(&self.columns);
        let padded = cells.map(|((cell, width), (_, align))| cell.render(*width, *align));
        padded.collect::<Vec<_>>().join("  ")
    }
}

impl Cell {
    fn render(&self, width: usize, align: Align) -> String {
        let padding = " ".repeat(width.saturating_sub(self.text.chars().count()));
        // Colours stand inside the padding, so that escapes never count as width.
        let text = match self.colour {
            Some(colour) => format!("\x1b[{colour}m{}\x1b[0m", self.text),
            None => self.text.clone(),
        };
        match align {
            Align::Left => text + &padding,
            Align::Right => padding + &text,
        }
    }
}
