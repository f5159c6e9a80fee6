//! `retryplacement`, `resync` and `rotatekeys` of a virtual service, `reboot` of a service engine: what is looked at, sent or started anew.

use crate::lookup::{self, items, text};
use crate::output::{Format, table};
use client::Client;
use serde_json::{Value, json};

/// Whose placement is tried again.
#[derive(Debug, clap::Subcommand)]
pub enum Retryplacement {
    /// The planner looks at this virtual service now, and says where it is or why it is not.
    #[command(visible_alias = "vs")]
    Virtualservice(RetryArgs),
}

/// Whose engines are sent their states again.
#[derive(Debug, clap::Subcommand)]
pub enum Resync {
    /// All engines that have this virtual service, or some of them.
    #[command(visible_alias = "vs")]
    Virtualservice(ResyncArgs),
}

/// Whose clients of TLS begin anew.
#[derive(Debug, clap::Subcommand)]
pub enum Rotatekeys {
    /// Clients cannot go on with what they had agreed on with this virtual service before.
    #[command(visible_alias = "vs")]
    Virtualservice(NameArgs),
}

/// What starts anew.
#[derive(Debug, clap::Subcommand)]
pub enum Reboot {
    /// The engine's process stops in order and starts again in its place; its connections end.
    #[command(visible_alias = "se")]
    Serviceengine(NameArgs),
}

/// Whose placement.
#[derive(Debug, clap::Args)]
pub struct RetryArgs {
    /// Name or UUID of the virtual service.
    name: String,
    /// Which VIP, where the virtual service has several.
    #[arg(long, value_name = "ID")]
    vip_id: Option<String>,
}

/// Whose engines.
#[derive(Debug, clap::Args)]
pub struct ResyncArgs {
    /// Name or UUID of the virtual service.
    name: String,
    /// Only this engine; may be repeated.
    #[arg(long, value_name = "SE")]
    se: Vec<String>,
}

/// Which.
#[derive(Debug, clap::Args)]
pub struct NameArgs {
    /// Name or UUID.
    name: String,
}

pub(crate) fn retry_placement(
    client: &Client,
    Retryplacement::Virtualservice(args): &Retryplacement,
    format: Format,
) -> anyhow::Result<()> {
    let mut body = json!({});
    if let Some(id) = &args.vip_id {
        body["vip_id"] = id.as_str().into();
    }
    let asked = ("virtualservice", args.name.as_str(), "retryplacement");
    let reply = post(client, asked, &body)?;
    let said = format!("virtualservice {}: {}", args.name, text(&reply, "/reason"));
    table::print_value(&reply, &said, format);
    Ok(())
}

pub(crate) fn resync(
    client: &Client,
    Resync::Virtualservice(args): &Resync,
    format: Format,
) -> anyhow::Result<()> {
    let mut body = json!({});
    let engine = |name: &String| -> anyhow::Result<String> {
        let engine = lookup::object(client, "serviceengine", name)?;
        Ok(format!("/api/serviceengine/{}", text(&engine, "/uuid")))
    };
    if !args.se.is_empty() {
        let engines: Vec<String> = args.se.iter().map(engine).collect::<Result<_, _>>()?;
        body["se_ref"] = engines.into();
    }
    let asked = ("virtualservice", args.name.as_str(), "resync");
    let reply = post(client, asked, &body)?;
    table::print_value(&reply, &each_engine(&reply, sent), format);
    Ok(())
}

pub(crate) fn rotate_keys(
    client: &Client,
    Rotatekeys::Virtualservice(args): &Rotatekeys,
    format: Format,
) -> anyhow::Result<()> {
    let asked = ("virtualservice", args.name.as_str(), "rotatekeys");
    let reply = post(client, asked, &json!({}))?;
    let told = |_: &Value| "clients begin anew".to_owned();
    table::print_value(&reply, &each_engine(&reply, told), format);
    Ok(())
}

pub(crate) fn reboot(
    client: &Client,
    Reboot::Serviceengine(args): &Reboot,
    format: Format,
) -> anyhow::Result<()> {
    let asked = ("serviceengine", args.name.as_str(), "reboot");
    let reply = post(client, asked, &json!({}))?;
    let said = format!("serviceengine {}: {}", args.name, text(&reply, "/reason"));
    table::print_value(&reply, &said, format);
    Ok(())
}

/// Type and name of an object, and what is done with it.
fn post(
    client: &Client,
    (ty, name, action): (&str, &str, &str),
    body: &Value,
) -> anyhow::Result<Value> {
    let object = lookup::object(client, ty, name)?;
    let path = format!("/api/{ty}/{}/{action}", text(&object, "/uuid"));
    Ok(client.post(&path, body)?)
}

/// A line for each engine: what it was told, or why it was told nothing.
fn each_engine(reply: &Value, told: impl Fn(&Value) -> String) -> String {
    let line = |row: &Value| {
        let what = match row["sent"] == true {
            true => told(row),
            false => format!("nothing sent: {}", text(row, "/reason")),
        };
        format!("{}: {what}", text(row, "/se_name"))
    };
    let lines: Vec<String> = items(reply, "/results").iter().map(line).collect();
    match lines.is_empty() {
        true => "no service engine has the virtual service".to_owned(),
        false => lines.join("\n"),
    }
}

fn sent(row: &Value) -> String {
    let generation = lookup::number(row, "/generation").unwrap_or(0);
    match row["changed"] == true {
        true => format!("sent what had changed, as generation {generation}"),
        false => format!("sent the same again, as generation {generation}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_has_its_line_and_that_there_is_none_is_said() {
        let reply = json!({"results": [
            {"se_name": "se-1", "sent": true, "generation": 7, "changed": false},
            {"se_name": "se-2", "sent": true, "generation": 9, "changed": true},
            {"se_name": "se-3", "sent": false, "generation": null, "reason": "no session"},
        ]});
        assert_eq!(
            each_engine(&reply, sent),
            "se-1: sent the same again, as generation 7\nse-2: sent what had changed, as generation 9\nse-3: nothing sent: no session"
        );
        let none = each_engine(&json!({"results": []}), sent);
        assert_eq!(none, "no service engine has the virtual service");
    }
}
