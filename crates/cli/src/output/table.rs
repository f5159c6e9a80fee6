//! One value, many renderings: the columns of a table stand beside the struct that is also serialised, so
//! table, JSON and YAML cannot disagree.

use super::Format;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::IsTerminal;

/// Width for wrapping where the terminal does not tell its own.
const TERMINAL_WIDTH_DEFAULT: u16 = 120;

/// A column of a table: its title and how a row fills it.
pub struct Column<T> {
    /// The head, upper case.
    pub title: &'static str,
    /// Shown only in [`Format::Wide`].
    pub wide: bool,
    /// The cell of a row; an empty text shows as `-`.
    pub cell: fn(&T) -> String,
}

impl<T> Column<T> {
    /// A column that is always shown.
    pub const fn new(title: &'static str, cell: fn(&T) -> String) -> Self {
        Self {
            title,
            wide: false,
            cell,
        }
    }

    /// A column for [`Format::Wide`].
    pub const fn wide(title: &'static str, cell: fn(&T) -> String) -> Self {
        Self {
            title,
            wide: true,
            cell,
        }
    }
}

/// A value that is a row of a table and an element of a JSON array.
pub trait Row: Serialize + Sized + 'static {
    /// What a table shows of it, in order.
    const COLUMNS: &'static [Column<Self>];
}

/// Prints rows to standard output in a format.
pub fn print<T: Row>(rows: &[T], format: Format) {
    let terminal = std::io::stdout().is_terminal();
    let width = terminal.then(terminal_width);
    super::text_block(render(rows, format, width));
}

/// Prints one value that has no columns: JSON and YAML as they are, `text` for people.
pub fn print_value(value: &impl Serialize, text: &str, format: Format) {
    match format {
        Format::Table | Format::Wide => super::line(text),
        Format::Json => super::text_block(json(value)),
        Format::Yaml => super::text_block(yaml(value)),
    }
}

/// Rows as text, each line ended. Without a width nothing wraps, so that a pipe sees a line per row.
pub fn render<T: Row>(rows: &[T], format: Format, width: Option<u16>) -> String {
    match format {
        Format::Table => columns(rows, false, width),
        Format::Wide => columns(rows, true, width),
        Format::Json => json(&rows),
        Format::Yaml => yaml(&rows),
    }
}

fn columns<T: Row>(rows: &[T], wide: bool, width: Option<u16>) -> String {
    let shown: Vec<_> = T::COLUMNS
        .iter()
        .filter(|column| wide || !column.wide)
        .collect();
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(shown.iter().map(|column| column.title));
    if let Some(width) = width {
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width);
    }
    for row in rows {
        table.add_row(shown.iter().map(|column| dash_if_empty((column.cell)(row))));
    }
    let lines = table.lines().map(|line| {
        format!(
            "{}\n",
            line.trim_end().strip_prefix(' ').unwrap_or_default()
        )
    });
    lines.collect()
}

fn dash_if_empty(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

/// Indented JSON with a line end.
pub fn json(value: &impl Serialize) -> String {
    let text =
        serde_json::to_string_pretty(value).expect("rows have text keys and no failing serialiser");
    text + "\n"
}

/// YAML of the value that JSON shows.
pub fn yaml(value: &impl Serialize) -> String {
    serde_norway::to_string(value).expect("rows have text keys and no failing serialiser")
}

fn terminal_width() -> u16 {
    terminal_size::terminal_size().map_or(TERMINAL_WIDTH_DEFAULT, |(width, _)| width.0)
}
