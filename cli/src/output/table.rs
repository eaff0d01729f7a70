//! Lists: a table on a terminal, plain aligned columns elsewhere.

use comfy_table::presets::{NOTHING, UTF8_HORIZONTAL_ONLY};
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use orca_proto::task::State;

use super::{Output, Style, escape, style_of};
use crate::error::Failure;

/// A table under construction. All text is escaped here.
pub(crate) struct Rows {
    table: Table,
    output: Output,
    count: usize,
}

impl Rows {
    /// An empty table with these columns.
    pub(crate) fn new(output: Output, columns: &[&str]) -> Self {
        let mut table = Table::new();
        if output.is_terminal() {
            table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        }
        if output.is_coloured() {
            table.enforce_styling();
        }
        let header = columns.iter().map(|title| match output.is_coloured() {
            true => Cell::new(title).add_attribute(Attribute::Bold),
            false => Cell::new(title),
        });
        table.set_header(header.collect::<Vec<_>>());
        Self { table, output, count: 0 }
    }

    /// Adds a row.
    pub(crate) fn add(&mut self, cells: Vec<Cell>) {
        self.count += 1;
        self.table.add_row(cells);
    }

    /// Writes the table, or `nothing` to standard error when it is empty.
    pub(crate) fn print(self, nothing: &str) -> Result<(), Failure> {
        if self.count == 0 {
            self.output.remark(nothing);
            return Ok(());
        }
        self.output.line(&self.table.trim_fmt())
    }
}

/// A cell of text from anywhere.
pub(crate) fn text(content: impl AsRef<str>) -> Cell {
    Cell::new(escape::line(content.as_ref()))
}

/// A cell with a state in its colour.
pub(crate) fn state(output: Output, state: State) -> Cell {
    let cell = Cell::new(state.as_str());
    match style_of(state) {
        Some(style) if output.is_coloured() => paint(cell, style),
        _ => cell,
    }
}

fn paint(cell: Cell, style: Style) -> Cell {
    match style {
        Style::Good => cell.fg(Color::Green),
        Style::Bad => cell.fg(Color::Red),
        Style::Busy => cell.fg(Color::Cyan),
        Style::Faint => cell.add_attribute(Attribute::Dim),
        Style::Strong => cell.add_attribute(Attribute::Bold),
    }
}
