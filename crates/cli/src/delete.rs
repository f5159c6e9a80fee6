//! `delete TYPE NAME`.

use crate::output::{Format, UsageError, table};
use crate::{lookup, plan};
use anyhow::Context;
use client::Client;
use serde::Serialize;
use serde_json::{Value, json};

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
    /// Of a serviceengine: wait until its places are given to others, and say where they are.
    #[arg(long)]
    force: bool,
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
    if args.force {
        return by_force(client, (object_type, name, &path), args.dry_run, format);
    }
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

/// A service engine whose places others get now.
fn by_force(
    client: &Client,
    (object_type, name, path): (&str, &str, &str),
    dry_run: bool,
    format: Format,
) -> anyhow::Result<()> {
    if object_type != "serviceengine" {
        let text =
            format!("--force: is for a serviceengine; leave it out to delete a {object_type}");
        return Err(UsageError(text).into());
    }
    let action = format!("{path}/forcedelete");
    let which = || format!("{object_type} {name}");
    if dry_run {
        let plan = client.plan_post(&action, &json!({}));
        plan::print(&plan.with_context(which)?, format);
        return Ok(());
    }
    let reply = client.post(&action, &json!({})).with_context(which)?;
    table::print_value(&reply, &describe(name, &reply), format);
    Ok(())
}

/// A line for the engine, and one for each VIP that it had.
fn describe(name: &str, reply: &Value) -> String {
    let place = |vip: &Value| {
        let engines = lookup::items(vip, "/engines").iter();
        let engines: Vec<&str> = engines.filter_map(Value::as_str).collect();
        let on = match engines.is_empty() {
            true => "nowhere".to_owned(),
            false => format!("on {}", engines.join(", ")),
        };
        let why = match lookup::text(vip, "/waits_for") {
            "" => String::new(),
            why => format!("; it lacks more: {why}"),
        };
        format!("\nVIP {} is {on}{why}", lookup::text(vip, "/vsvip"))
    };
    let places = lookup::items(reply, "/places/results").iter();
    format!("serviceengine {name} deleted") + &places.map(place).collect::<String>()
}

/// Takes a controller out of the cluster's list.
fn forget(client: &Client, args: &Args, format: Format) -> anyhow::Result<()> {
    let name = &args.name;
    if args.force {
        return Err(UsageError("--force: is for a serviceengine; leave it out".into()).into());
    }
    let path = format!("/api/ek/cluster/node/{}", client::percent_encode(name));
    let which = || format!("controller {name}");
    if args.dry_run {
        plan::print(&client.plan_delete(&path).with_context(which)?, format);
        return Ok(());
    }
    client.delete(&path).with_context(which)?;
    let deleted = Deleted {
        object_type: CONTROLLER,
        name,
        uuid: "",
        result: "deleted",
    };
    table::print_value(&deleted, &format!("controller {name} deleted"), format);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_places_of_an_engine_have_gone_is_said() {
        let reply = json!({"places": {"count": 2, "results": [
            {"vsvip": "vip-1", "engines": ["se-2", "se-3"], "waits_for": null},
            {"vsvip": "vip-2", "engines": [], "waits_for": "there is none"},
        ]}});
        assert_eq!(
            describe("se-1", &reply),
            "serviceengine se-1 deleted\nVIP vip-1 is on se-2, se-3\nVIP vip-2 is nowhere; it lacks more: there is none"
        );
    }
}
