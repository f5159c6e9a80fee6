//! `backup`, `export` and `import`: the configuration as one file.

use crate::history;
use crate::lookup::items;
use crate::output::{Format, UsageError, table};
use anyhow::{Context, bail};
use client::Client;
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where to.
#[derive(Debug, clap::Args)]
pub struct Backup {
    /// New file (mode 0600). `evenkeel controller restore FILE` makes a controller from it.
    file: PathBuf,
}

/// Where to.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// New file; standard output, when not given.
    file: Option<PathBuf>,
}

/// Where from.
#[derive(Debug, clap::Args)]
pub struct Import {
    /// A file of `export`; `-` reads standard input.
    file: PathBuf,
}

pub(crate) fn backup(client: &Client, args: &Backup, format: Format) -> anyhow::Result<()> {
    let path = &args.file;
    let mut file = new_file(path)?;
    let copied = client
        .post_for_file("/api/ek/backup")
        .map_err(anyhow::Error::from)
        .and_then(|mut from| Ok(io::copy(&mut from, &mut file)?))
        .and_then(|len| Ok(file.sync_all().map(|()| len)?));
    let len = copied.inspect_err(|_| drop(fs::remove_file(path)))?;
    let shown = path.display();
    let text =
        format!("{shown}: {len} bytes, with all secrets and keys: keep it as you keep those");
    table::print_value(
        &json!({"file": shown.to_string(), "bytes": len}),
        &text,
        format,
    );
    Ok(())
}

/// A file that only its owner reads; one that is there already stays as it is.
pub(crate) fn new_file(path: &Path) -> anyhow::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    opened.with_context(|| format!("cannot make {}", path.display()))
}

pub(crate) fn export(client: &Client, args: &Export) -> anyhow::Result<()> {
    let text = table::json(&client.get("/api/ek/export", &[])?);
    let Some(path) = &args.file else {
        crate::output::text_block(text);
        return Ok(());
    };
    let mut file = new_file(path)?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))?;
    crate::note!("{}: secrets are masked, a backup has them", path.display());
    Ok(())
}

impl Import {
    pub(crate) fn read(&self) -> anyhow::Result<Value> {
        let name = self.file.display();
        let text = if self.file == Path::new("-") {
            io::read_to_string(io::stdin())
        } else {
            fs::read_to_string(&self.file)
        };
        let text = text.map_err(|e| UsageError(format!("cannot read {name}: {e}")))?;
        let value = serde_json::from_str(&text);
        Ok(value.map_err(|e| UsageError(format!("{name} is no JSON: {e}")))?)
    }
}

pub(crate) fn import(client: &Client, file: &Value, format: Format) -> anyhow::Result<()> {
    if !file.is_object() {
        bail!(UsageError("this is no file of `evenkeel export`".into()));
    }
    let reply = client.post("/api/ek/import", file)?;
    table::print_value(&reply, &history::lines(&reply), format);
    let missing = items(&reply, "/secrets_missing").iter();
    for name in missing.filter_map(Value::as_str) {
        crate::note!("{name}: its secret is not in the file; set it");
    }
    Ok(())
}
