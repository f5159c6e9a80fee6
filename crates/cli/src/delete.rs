//! `delete TYPE NAME`.

use crate::output::{Format, table};
use crate::{lookup, plan};
use anyhow::Context;
use client::Client;
use serde::Serialize;

/// What to delete.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Object type: virtualservice, vsvip, pool, …; or controller: one of several that is gone for good
    #[arg(value_name = "TYPE")]
    object_type: String,
    /// Name or UUID.
    name: String,
    /// Show what it would do, and delete nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What is no object: the leader knows the controllers.
const CONTROLLER: &str = "controller";

#[derive(Serialize)]
struct Deleted<'a> {
    object_type: &'a str,
    name: &'a str,
    uuid: &'a str,
    result: &'static str,
}

pub(crate) fn run(client: &Client, args: &Args, format: Format) -> anyhow::Result<()> {
    if args.object_type == CONTROLLER {
        return forget(client, args, format);
    }
    let object_type = lookup::object_type(&args.object_type)?;
    let object = lookup::object(client, object_type, &args.name)?;
    let uuid = lookup::text(&object, "/uuid");
    let name = lookup::text(&object, "/name");
    let path = format!("/api/{object_type}/{uuid}");
    let which = || format!("{object_type} {name}");
    if args.dry_run {
        plan::print(&client.plan_delete(&path).with_context(which)?, format);
        return Ok(());
    }
    client.delete(&path).with_context(which)?;
    let deleted = Deleted {
        object_type,
        name,
        uuid,
        result: "deleted",
    };
    table::print_value(&deleted, &format!("{object_type} {name} deleted"), format);
    Ok(())
}

/// Takes a controller out of the cluster's list.
fn forget(client: &Client, args: &Args, format: Format) -> anyhow::Result<()> {
    let name = &args.name;
    if args.dry_run {
        anyhow::bail!("dry_run: a controller is forgotten or not; there is no plan of it");
    }
    let path = format!("/api/ek/cluster/node/{}", client::percent_encode(name));
    client
        .delete(&path)
        .with_context(|| format!("controller {name}"))?;
    let deleted = Deleted {
        object_type: CONTROLLER,
        name,
        uuid: "",
        result: "deleted",
    };
    table::print_value(&deleted, &format!("controller {name} deleted"), format);
    Ok(())
}
