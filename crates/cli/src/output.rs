//! Everything this program prints goes through here.
//!
//! * Results go to standard output, everything that is *about* the work (progress, hints, errors) to
//!   standard error, so that a pipe carries data alone.
//! * A reader that goes away (`| head`) is no error: what is printed after that is dropped and **the work
//!   goes on**, because a half-built lab or half-applied file is worse than unread lines. A loop that does
//!   nothing but print asks [`closed`]. Any other failure to write ends in exit code 1 ([`finish`]).
//! * [`table`] renders one value as a table, as JSON and as YAML; errors are JSON when JSON was asked for.
//! * No colour on a pipe, nor where `NO_COLOR` is set.

pub mod table;

use serde_json::{Value, json};
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

/// How results are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// Columns for people, all of them.
    Wide,
    /// JSON, indented: lists are arrays, also of one.
    Json,
    /// YAML of the same value as JSON.
    Yaml,
}

impl Format {
    /// True where a program reads the result, so that text beside it would be in the way.
    pub fn is_structured(self) -> bool {
        matches!(self, Self::Json | Self::Yaml)
    }
}

/// How a command ended, as its exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Done.
    Ok = 0,
    /// Not done: refused by the controller, or failed here.
    Failed = 1,
    /// The command line or the file it names is wrong; clap uses the same code.
    Usage = 2,
    /// No controller answered.
    Unreachable = 3,
    /// Another change came first.
    Conflict = 4,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome as u8)
    }
}

/// An error of a command line or an input file: [`Outcome::Usage`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// An error of the API with a word on what to try, which is printed on a line of its own.
#[derive(Debug)]
pub struct Hinted {
    /// What happened.
    pub cause: client::Error,
    /// What to check or try.
    pub hint: String,
}

impl Display for Hinted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for Hinted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}

/// Prints a line to standard output, as `println!` would, and survives a closed pipe.
#[macro_export]
macro_rules! out {
    ($($arg:tt)*) => { $crate::output::line(format_args!($($arg)*)) };
}

/// Prints a line to standard error, as `eprintln!` would, and survives a closed pipe.
#[macro_export]
macro_rules! note {
    ($($arg:tt)*) => { $crate::output::note_line(format_args!($($arg)*)) };
}

/// Standard output has no reader any more.
static CLOSED: AtomicBool = AtomicBool::new(false);
/// Standard output could not be written for another reason, such as a full disk.
static BROKEN: AtomicBool = AtomicBool::new(false);
/// The format asked for; errors follow it wherever they appear.
static FORMAT: AtomicU8 = AtomicU8::new(Format::Table as u8);

/// Sets the format for the whole process; [`failure`] prints errors in it.
pub fn set_format(format: Format) {
    FORMAT.store(format as u8, Relaxed);
}

/// The format set by [`set_format`].
pub fn format() -> Format {
    const ALL: [Format; 4] = [Format::Table, Format::Wide, Format::Json, Format::Yaml];
    ALL[usize::from(FORMAT.load(Relaxed))]
}

/// Prints a line to standard output; [`out!`](crate::out) is the comfortable form.
pub fn line(text: impl Display) {
    text_block(format_args!("{text}\n"));
}

/// Prints text as it is, without a line end, and flushes it.
pub fn text_block(text: impl Display) {
    if closed() {
        return;
    }
    let mut stdout = std::io::stdout().lock();
    let written = write!(stdout, "{text}").and_then(|()| stdout.flush());
    if let Err(error) = written {
        CLOSED.store(true, Relaxed);
        BROKEN.store(error.kind() != ErrorKind::BrokenPipe, Relaxed);
    }
}

/// Prints a line to standard error; [`note!`](crate::note) is the comfortable form.
/// Where that fails there is nowhere left to complain.
pub fn note_line(text: impl Display) {
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "{text}").ok();
}

/// True when nobody reads standard output any more; ends loops that only print.
pub fn closed() -> bool {
    CLOSED.load(Relaxed)
}

/// The exit code of a command that is done: what it says, unless its output could not be written.
pub fn finish(outcome: Outcome) -> ExitCode {
    if BROKEN.load(Relaxed) {
        note_line("error: standard output could not be written");
        return Outcome::Failed.into();
    }
    outcome.into()
}

/// Prints an error to standard error, in JSON where JSON was asked for, and says how to exit.
pub fn failure(error: &anyhow::Error) -> ExitCode {
    if format().is_structured() {
        note_line(error_value(error));
    } else {
        note_line(error_text(error));
    }
    outcome_of(error).into()
}

/// The error with its causes on a line, and what to try on another.
fn error_text(error: &anyhow::Error) -> String {
    let text = format!("{} {error:#}", paint(Stream::Stderr, Ink::Red, "error:"));
    match hint_of(error) {
        Some(hint) => format!("{text}\nhint: {hint}"),
        None => text,
    }
}

/// The error as JSON: `error` is the text, `outcome` the meaning of the exit code, `status` the HTTP status.
fn error_value(error: &anyhow::Error) -> Value {
    let outcome = match outcome_of(error) {
        Outcome::Ok | Outcome::Failed => "failed",
        Outcome::Usage => "usage",
        Outcome::Unreachable => "unreachable",
        Outcome::Conflict => "conflict",
    };
    let mut value = json!({ "error": format!("{error:#}"), "outcome": outcome });
    if let Some(status) = api_error(error).and_then(client::Error::status) {
        value["status"] = status.into();
    }
    if let Some(hint) = hint_of(error) {
        value["hint"] = hint.into();
    }
    value
}

fn outcome_of(error: &anyhow::Error) -> Outcome {
    use client::Error as Api;
    if error.chain().any(|cause| cause.is::<UsageError>()) {
        return Outcome::Usage;
    }
    match api_error(error) {
        Some(Api::Unreachable { .. } | Api::Untrusted { .. } | Api::Namespace { .. }) => {
            Outcome::Unreachable
        }
        Some(api) if api.is_conflict() => Outcome::Conflict,
        _ => Outcome::Failed,
    }
}

fn api_error(error: &anyhow::Error) -> Option<&client::Error> {
    error.chain().find_map(|cause| {
        let hinted = cause.downcast_ref::<Hinted>().map(|hinted| &hinted.cause);
        hinted.or_else(|| cause.downcast_ref())
    })
}

fn hint_of(error: &anyhow::Error) -> Option<&str> {
    let hinted = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Hinted>())?;
    Some(&hinted.hint)
}

/// A stream that may be a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Results.
    Stdout,
    /// Everything about them.
    Stderr,
}

/// A colour with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Wrong, down, broken.
    Red = 31,
    /// Right, up, done.
    Green = 32,
    /// Waiting, uncertain.
    Yellow = 33,
}

/// The text in colour where the stream is a terminal and `NO_COLOR` is not set (no-color.org).
pub fn paint(stream: Stream, ink: Ink, text: &str) -> String {
    let terminal = match stream {
        Stream::Stdout => std::io::stdout().is_terminal(),
        Stream::Stderr => std::io::stderr().is_terminal(),
    };
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if !terminal || refused {
        return text.to_string();
    }
    format!("\x1b[{}m{text}\x1b[0m", ink as u8)
}

#[cfg(test)]
mod tests;
