//! Lists: aligned columns; on a terminal with colours, a bold head, and long notes cut to the line.

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use orca_proto::task::State;

use super::{Output, Style, escape, style_of};
use crate::error::Failure;

/// A column is never cut to less than this.
const NARROWEST: usize = 16;

/// A table under construction. All text is escaped here.
pub(crate) struct Rows {
    table: Table,
    output: Output,
    count: usize,
}

impl Rows {
    /// An empty table with these columns. Nothing in it is wrapped: ids must stay whole to be copied.
    pub(crate) fn new(output: Output, columns: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
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
    pub(crate) fn print(mut self, nothing: &str) -> Result<(), Failure> {
        if self.count == 0 {
            self.output.remark(nothing);
            return Ok(());
        }
        for column in self.table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.output.line(&self.table.trim_fmt())
    }

    /// How many characters fit on a line beside the columns so far; `None` where lines have no end.
    pub(crate) fn room(&self) -> Option<usize> {
        let width = usize::from(self.table.width().filter(|width| *width > 0)?);
        let used: usize =
            self.table.column_max_content_widths().iter().map(|used| usize::from(*used) + 2).sum();
        Some(width.saturating_sub(used).max(NARROWEST))
    }
}

/// `content` cut to `room` characters.
pub(crate) fn cut(content: &str, room: Option<usize>) -> String {
    match room {
        Some(room) if content.chars().count() > room => {
            content.chars().take(room.saturating_sub(1)).chain(['…']).collect()
        }
        _ => content.to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_only_where_lines_have_an_end() {
        assert_eq!(cut("naïve text", Some(6)), "naïve…");
        assert_eq!(cut("short", Some(16)), "short");
        assert_eq!(cut("a very long text", None), "a very long text");
    }
}
