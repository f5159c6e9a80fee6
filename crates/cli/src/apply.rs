//! `apply -f FILE`: create or change what a file describes; a second time changes nothing.
//!
//! A file is YAML or JSON, one document or several. A document is a map from object type to a list of
//! objects with the field names of the API:
//!
//! ```yaml
//! pool:
//!   - name: web
//!     default_server_port: 8080
//!     servers: [{ip: 10.20.20.11}, {ip: 10.20.20.12}]
//! ```
//!
//! Three things may be written shorter than the API has them: a reference as the name of its
//! target, an address as text, a prefix as `a.b.c.d/len`. Objects are written in the order in which they
//! refer to each other, whatever their order in the file. All of a file is one change, which is made or refused as a
//! whole; with `--confirm-within` it reverts itself unless it is confirmed.

mod compare;
mod shorthand;
mod together;

use crate::lookup::{self, text};
use crate::output::table::{self, Column, Row};
use crate::output::{Format, UsageError};
use anyhow::Context;
use client::Client;
use model::object::Object;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Types that refer to others come after them. A type that is not named here refers to little and comes first.
const ORDER: [&str; 12] = [
    "tenant",
    "role",
    "user",
    "cloud",
    "vrfcontext",
    "network",
    "serviceenginegroup",
    "serviceengine",
    "pool",
    "poolgroup",
    "vsvip",
    "virtualservice",
];

/// Types that refer to nothing but clouds and VRFs, between these and pools.
const PROFILES_BEFORE: &str = "pool";

/// Which file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// YAML or JSON with the objects; `-` reads standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Make it one change that reverts itself unless `confirm` comes within this time: seconds, or with a unit (90s, 15m).
    #[arg(long, value_name = "TIME", value_parser = crate::jointoken::duration_s)]
    confirm_within: Option<u64>,
    /// Show what it would do, and write nothing.
    #[arg(long, conflicts_with = "confirm_within")]
    dry_run: bool,
}

/// The objects of a file, in the order in which they can be written.
#[derive(Debug)]
pub struct Manifest {
    /// The file's name as messages show it.
    file: String,
    objects: Vec<Wanted>,
    /// Seconds.
    confirm_within: Option<u64>,
    /// Nothing is written.
    dry_run: bool,
}

/// One object of a file.
#[derive(Debug)]
struct Wanted {
    object_type: &'static model::schema::ObjectType,
    name: String,
    object: Object,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It was not there.
    Created,
    /// It was different.
    Changed,
    /// It was there as the file has it.
    Unchanged,
}

impl Change {
    fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
        }
    }
}

/// The result for one object.
#[derive(Debug, Serialize)]
pub struct Applied {
    /// Type as in the API's paths.
    pub object_type: String,
    /// Name of the object.
    pub name: String,
    /// UUID of the object.
    pub uuid: String,
    /// What happened.
    pub result: Change,
    /// The first field that was different, where that was the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The revision that it was written with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

impl Row for Applied {
    const COLUMNS: &'static [Column<Self>] = &[
        Column::new("TYPE", |a| a.object_type.clone()),
        Column::new("NAME", |a| a.name.clone()),
        Column::new("RESULT", |a| a.result.word().into()),
        Column::new("FIRST DIFFERENCE", |a| {
            a.because.clone().unwrap_or_default()
        }),
        Column::wide("UUID", |a| a.uuid.clone()),
    ];
}

impl Manifest {
    /// Reads the file that the arguments name.
    pub fn read(args: &Args) -> anyhow::Result<Self> {
        let mut manifest = Self::read_file(args)?;
        manifest.confirm_within = args.confirm_within;
        manifest.dry_run = args.dry_run;
        Ok(manifest)
    }

    fn read_file(args: &Args) -> anyhow::Result<Self> {
        if args.file == Path::new("-") {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
            return Self::parse("standard input", &text);
        }
        let name = args.file.display().to_string();
        let text = std::fs::read_to_string(&args.file);
        Self::parse(
            &name,
            &text.map_err(|error| UsageError(format!("cannot read {name}: {error}")))?,
        )
    }

    /// Parses a text; `file` is its name in messages.
    pub fn parse(file: &str, text: &str) -> anyhow::Result<Self> {
        let usage = |text: String| UsageError(format!("{file}: {text}"));
        let mut objects = Vec::new();
        for document in serde_norway::Deserializer::from_str(text) {
            let document =
                Value::deserialize(document).map_err(|error| usage(error.to_string()))?;
            objects.extend(wanted_of(&document).map_err(usage)?);
        }
        if objects.is_empty() {
            return Err(usage("there is no object in it".into()).into());
        }
        objects.sort_by_key(|wanted| rank(&wanted.object_type.path));
        Ok(Self {
            file: file.into(),
            objects,
            confirm_within: None,
            dry_run: false,
        })
    }

    /// Writes what is not there yet or different, all of it or nothing. `report` hears of each object.
    pub fn apply(&self, client: &Client, report: impl FnMut(Applied)) -> anyhow::Result<()> {
        let rows = together::Work::of(self, client)?.write(client)?;
        rows.into_iter().for_each(report);
        Ok(())
    }
}

pub(crate) fn run(client: &Client, manifest: &Manifest, format: Format) -> anyhow::Result<()> {
    let work = together::Work::of(manifest, client)?;
    if manifest.dry_run {
        crate::plan::print(&work.plan(client)?, format);
        return Ok(());
    }
    let rows = work.write(client)?;
    table::print(&rows, format);
    if let (Some(within_s), Some(revision)) = (
        manifest.confirm_within,
        rows.iter().find_map(|r| r.revision),
    ) {
        crate::note!("reverted in {within_s}s unless: evenkeel confirm {revision}");
    }
    Ok(())
}

/// Twice the place in [`ORDER`]; unlisted types stand just before the pools.
fn rank(object_type: &str) -> usize {
    let place = |name: &str| ORDER.iter().position(|listed| *listed == name);
    match place(object_type) {
        Some(place) => 2 * place,
        None => 2 * place(PROFILES_BEFORE).unwrap_or_default() - 1,
    }
}

/// The objects of one document; an empty document has none.
fn wanted_of(document: &Value) -> Result<Vec<Wanted>, String> {
    let map = match document {
        Value::Null => return Ok(Vec::new()),
        Value::Object(map) => map,
        _ => return Err("a document is a map from object type to a list of objects".into()),
    };
    let mut found = Vec::new();
    for (word, list) in map {
        let object_type = lookup::object_type(word).map_err(|error| error.to_string())?;
        let Value::Array(list) = list else {
            return Err(format!("{word}: a list of objects is expected here"));
        };
        for (index, object) in list.iter().enumerate() {
            found.push(
                wanted(object_type, object).map_err(|why| format!("{word}[{index}]: {why}"))?,
            );
        }
    }
    Ok(found)
}

fn wanted(object_type: &str, object: &Value) -> Result<Wanted, String> {
    let Value::Object(object) = object else {
        return Err("an object with fields is expected here".into());
    };
    let name = object
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if name.is_empty() {
        return Err("`name` is missing: objects are found by their name".into());
    }
    let object_type = model::schema::object_type(object_type).ok_or("unknown object type")?;
    let name = name.to_string();
    Ok(Wanted {
        object_type,
        name,
        object: shorthand::expand(object_type, object),
    })
}

impl Wanted {
    /// The object with what says which one it replaces, and in which state.
    fn body(&self, current: &Object) -> Object {
        let mut body = self.object.clone();
        for key in ["_last_modified", "uuid"] {
            if let Some(value) = current.get(key) {
                body.insert(key.into(), value.clone());
            }
        }
        body
    }

    fn applied(&self, result: Change, object: &Value, because: Option<String>) -> Applied {
        let object_type = self.object_type.path.clone();
        Applied {
            object_type,
            name: self.name.clone(),
            uuid: text(object, "/uuid").into(),
            result,
            because,
            revision: None,
        }
    }
}

#[cfg(test)]
mod tests;
