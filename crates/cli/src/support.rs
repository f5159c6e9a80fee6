//! `support bundle`: what an operator sends to whoever helps him, as one file, without secrets.
//!
//! Everything is read through the public API with the caller's own rights, or from this host; nothing is changed. It is
//! made for the hour in which half of the system is broken: a part that cannot be read is named in `README.txt` with the
//! reason, and holds up no other one.
//!
//! * [`list`]: what is asked for, and the files that the answers become;
//! * [`reader`]: questions to the API, some at once, each with a time limit;
//! * [`host`]: what this machine says of itself;
//! * [`secrets`]: the filter that every text passes;
//! * [`archive`]: the file;
//! * [`readme`]: what is in it, and what is not.

mod archive;
mod host;
mod list;
mod reader;
mod readme;
mod secrets;

#[cfg(test)]
mod tests;

use crate::lookup::text;
use crate::output::table;
use crate::settings::{GlobalArgs, Settings};
use anyhow::{Context as _, bail};
use archive::Archive;
use client::Client;
use reader::Reader;
use readme::About;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use time::OffsetDateTime;
use time::macros::format_description;

/// How long reading from the controller may take as a whole; at night nobody waits for longer.
const TIME_MAX: Duration = Duration::from_secs(300);
/// Questions about engines and virtual services that wait for an answer at the same time.
const AT_ONCE: usize = 8;
/// Virtual services that are looked at one by one.
const SERVICES_MAX: usize = 200;
/// A bundle is sent by mail or put into a ticket; packed it is about a tenth of this.
const LEN_MAX: usize = 512 << 20;
/// The state of a virtual service that needs no look.
const UP: &str = "OPER_UP";
/// The state of one that nobody wants to be up: looked at after all others.
const DISABLED: &str = "OPER_DISABLED";

/// What to give to whoever helps.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Put into one file what a helper asks for: configuration, log of changes, events, states of engines. Without secrets.
    Bundle(Args),
}

/// Which file, and what goes into it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// New file (mode 0600) [default: evenkeel-support-TIME.tar.gz in this folder].
    file: Option<PathBuf>,
    /// Also what this host says of itself: kernel, sysctls, addresses, routes, rules, packet filter, BPF pins; best as root.
    #[arg(long)]
    host: bool,
    /// The engine's folder for the programs that steer packets [default: /run/evenkeel/bpf].
    #[arg(long, value_name = "DIR", requires = "host")]
    bpf_dir: Option<PathBuf>,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(command: &Command, global: &GlobalArgs) -> anyhow::Result<()> {
    let Command::Bundle(args) = command;
    let now = OffsetDateTime::now_utc();
    let top = format!("evenkeel-support-{}", stamp(now));
    let default = || PathBuf::from(format!("{top}.tar.gz"));
    let path = args.file.clone().unwrap_or_else(default);
    let mut bundle = Bundle::begin(Archive::begin(&path, args.force, &top, now)?);
    // First, because a client may move this thread to another network namespace.
    if args.host {
        crate::note!("reading this host");
        let bpf_dir = args.bpf_dir.as_deref();
        let bpf_dir = bpf_dir.unwrap_or(Path::new(host::BPF_DIR));
        host::read(bpf_dir, |piece| bundle.take(piece))?;
    } else {
        bundle.leave_out("host/: made without --host");
    }
    let mut about = About::new(now);
    match connect(global) {
        Ok(client) => of_controller(&client, &mut bundle, &mut about)?,
        Err(error) if args.host => bundle.take(Piece::missing("controller", &error))?,
        Err(error) => return Err(error),
    }
    let (parts, bytes) = bundle.finish(&about)?;
    let missing = parts.iter().filter(|part| part.error.is_some()).count();
    let shown = path.display().to_string();
    let value = json!({"file": shown, "bytes": bytes, "parts": parts});
    table::print_value(&value, &shown, global.output);
    if missing > 0 {
        let all = parts.len();
        crate::note!(
            "warning: {missing} of {all} parts are missing or not whole; README.txt in the file says which, and why"
        );
    }
    Ok(())
}

/// As part of a file's name.
fn stamp(now: OffsetDateTime) -> String {
    let form = format_description!("[year][month][day]T[hour][minute][second]Z");
    now.format(form).expect("each component is one of a time")
}

/// Of all tenants that the user may be in.
fn connect(global: &GlobalArgs) -> anyhow::Result<Client> {
    let mut settings = Settings::load(global)?;
    settings.config.tenant = "*".into();
    settings.connect()
}

/// All that is asked of the controller.
fn of_controller(client: &Client, bundle: &mut Bundle, about: &mut About) -> anyhow::Result<()> {
    let reader = Reader::new(client, TIME_MAX);
    crate::note!("reading the controller {}", client.url());
    about.controller = Some(client.url().to_owned());
    about.version = reader.version();
    reader.read_all(list::of_controller(), 1, |piece| bundle.take(piece))?;
    if bundle.lacks(list::EXPORT) {
        reader.read_all(list::of_objects(), 1, |piece| bundle.take(piece))?;
    }
    let engines = bundle.take_list(reader.read_list(&list::engines()))?;
    let services = bundle.take_list(reader.read_list(&list::services()))?;
    let pools = reader.read(&list::pools());
    bundle.take(pools)?;
    crate::note!("reading {} service engines", engines.len());
    let asks = list::of_engines(&engines);
    reader.read_all(asks, AT_ONCE, |piece| bundle.take(piece))?;
    let down = not_up(&services);
    if down.len() > SERVICES_MAX {
        bundle.leave_out(format!(
            "{} of the {} virtual services that are not up: {SERVICES_MAX} are looked at one by one",
            down.len() - SERVICES_MAX,
            down.len()
        ));
    }
    let down = &down[..down.len().min(SERVICES_MAX)];
    crate::note!("reading {} virtual services that are not up", down.len());
    let asks = list::of_services(down);
    reader.read_all(asks, AT_ONCE, |piece| bundle.take(piece))
}

/// Items of the inventory that are not up; those that are disabled come last.
fn not_up(services: &[Value]) -> Vec<&Value> {
    let state = |item: &Value| text(item, "/runtime/oper_status/state").to_owned();
    let mut down: Vec<_> = services.iter().filter(|item| state(item) != UP).collect();
    down.sort_by_key(|item| state(item) == DISABLED);
    down
}

/// A file that was read, or could not be, or not as a whole.
#[derive(Debug, Default)]
struct Piece {
    /// Below the top folder.
    path: String,
    text: Option<String>,
    error: Option<String>,
}

impl Piece {
    fn missing(path: &str, error: &anyhow::Error) -> Self {
        Self {
            path: path.to_owned(),
            text: None,
            error: Some(format!("{error:#}")),
        }
    }
}

/// A file of the bundle as the result tells of it.
#[derive(Debug, Serialize)]
struct Part {
    path: String,
    /// Nothing was read where it is 0.
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The bundle while it is made.
struct Bundle {
    archive: Archive,
    parts: Vec<Part>,
    /// What was not asked for, and why.
    left_out: Vec<String>,
    len: usize,
}

impl Bundle {
    fn begin(archive: Archive) -> Self {
        Self {
            archive,
            parts: Vec::new(),
            left_out: readme::NEVER.map(str::to_owned).into(),
            len: 0,
        }
    }

    /// Adds a piece; one that there is no room for is named.
    fn take(&mut self, piece: Piece) -> anyhow::Result<()> {
        let Piece { path, text, error } = piece;
        let (mut text, mut error) = (text, error.map(|e| secrets::without(&e)));
        let fits = |text: &String| self.len + text.len() <= LEN_MAX;
        if text.as_ref().is_some_and(|text| !fits(text)) {
            text = None;
            error = Some(format!(
                "left out: the bundle has {} MiB without it",
                self.len >> 20
            ));
        }
        if let Some(text) = &text {
            self.archive.add(&path, text)?;
        }
        let bytes = text.map_or(0, |text| text.len());
        self.len += bytes;
        self.parts.push(Part { path, bytes, error });
        Ok(())
    }

    fn take_list(&mut self, (piece, list): (Piece, Vec<Value>)) -> anyhow::Result<Vec<Value>> {
        self.take(piece)?;
        Ok(list)
    }

    fn leave_out(&mut self, what: impl Into<String>) {
        self.left_out.push(what.into());
    }

    fn lacks(&self, path: &str) -> bool {
        let there = |part: &Part| part.path == path && part.bytes > 0;
        !self.parts.iter().any(there)
    }

    /// Writes `README.txt`, and gives the file its name; its parts, and its length.
    fn finish(mut self, about: &About) -> anyhow::Result<(Vec<Part>, u64)> {
        self.parts.sort_by(|a, b| a.path.cmp(&b.path));
        if self.parts.iter().all(|part| part.bytes == 0) {
            let first = self.parts.iter().find_map(|part| part.error.as_deref());
            bail!("nothing could be read: {}", first.unwrap_or("no part"));
        }
        let text = readme::text(about, &self.parts, &self.left_out);
        self.archive.add(readme::FILE, &text)?;
        self.parts.push(Part {
            path: readme::FILE.into(),
            bytes: text.len(),
            error: None,
        });
        let bytes = self.archive.finish().context("the bundle is not made")?;
        Ok((self.parts, bytes))
    }
}
