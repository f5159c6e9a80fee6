//! Bringing a lab up and taking it down, also what a crash left.

use crate::process::{self, Identity};
use crate::record::{self, Record, id_of_namespace, ids_on_record, namespace_prefix};
use crate::topology::{Folder, Params};
use crate::{fabric, nodes};
use anyhow::{Context, Result, ensure};
use cli::note;
use std::collections::BTreeSet;
use std::time::Instant;

/// What to bring up.
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// Name or path of the topology.
    pub topology: String,
    /// Chosen id, if any.
    pub id: Option<String>,
    /// Changed parameters.
    pub settings: Params,
    /// Without controller and engines.
    pub bare: bool,
}

/// Builds the network, starts every member and creates the objects. What fails is left as it is, on record,
/// for a look; the next `up` or `down` removes it.
pub fn up(options: &UpOptions) -> Result<Record> {
    let started = Instant::now();
    let mut folder = Folder::find(&options.topology)?;
    let topology = folder.load(&options.settings)?;
    make_room(options.id.as_deref())?;
    let mut record = Record::create(options.id.clone(), &folder)?;
    record.mount_bpf().with_context(|| failed(&record))?;
    note!(
        "lab {}: {} ({})",
        record.id,
        folder.name,
        topology.description
    );
    let built = fabric::build(&record, &topology).context("build the network");
    built
        .and_then(|()| nodes::start_all(&mut record, &folder, &topology, options.bare))
        .with_context(|| failed(&record))?;
    record.complete = true;
    record.save()?;
    note!(
        "lab {} is up after {:.1} s",
        record.id,
        started.elapsed().as_secs_f64()
    );
    Ok(record)
}

fn failed(record: &Record) -> String {
    let dir = record.dir();
    format!(
        "lab {} did not come up (logs: {}; `evenkeel lab down` removes it)",
        record.id,
        dir.display()
    )
}

/// Removes what stands where the new lab shall be: the lab of the same id, or those without a chosen one.
fn make_room(id: Option<&str>) -> Result<()> {
    let old: Vec<String> = match id {
        Some(id) => vec![id.to_owned()],
        None => ids_in_use()
            .into_iter()
            .filter(|id| !is_named(id))
            .collect(),
    };
    for id in old.into_iter().filter(|id| ids_in_use().contains(id)) {
        note!("lab {id}: taking down what is left of it");
        down(&id)?;
    }
    Ok(())
}

/// A lab whose record is gone or broken counts as one without a chosen name: a crash left it.
fn is_named(id: &str) -> bool {
    Record::load(id).is_ok_and(|r| r.named)
}

/// Every id that has a record, a directory or a namespace.
fn ids_in_use() -> BTreeSet<String> {
    let of_namespaces = fabric::namespaces();
    let ids = of_namespaces
        .iter()
        .filter_map(|n| id_of_namespace(n))
        .map(str::to_owned);
    ids.chain(ids_on_record()).collect()
}

/// The id that `down` means; a lab that crashed early may be on no record.
pub fn id_to_take_down(id: Option<&str>) -> Result<String> {
    let Some(id) = id else {
        return Record::current().map(|r| r.id);
    };
    ensure!(ids_in_use().contains(id), "no lab {id}");
    Ok(id.to_owned())
}

/// Stops a lab's processes and removes its namespaces and directories.
pub fn down(id: &str) -> Result<()> {
    let prefix = namespace_prefix(id);
    let mut namespaces = fabric::namespaces();
    namespaces.retain(|n| n.starts_with(&prefix));
    // Those on record, and those that somebody started inside since.
    let mut processes: BTreeSet<Identity> = process::inside(&namespaces);
    processes.extend(
        Record::load(id)
            .into_iter()
            .flat_map(|r| r.processes)
            .map(|p| p.identity),
    );
    process::stop(&processes);
    // A process may have started another before it ended.
    process::stop(&process::inside(&namespaces));
    fabric::remove(&namespaces)?;
    record::forget(id)?;
    note!("lab {id} is down");
    Ok(())
}

/// Takes down every lab that left anything.
pub fn down_all() -> Result<()> {
    for id in ids_in_use() {
        down(&id)?;
    }
    Ok(())
}
