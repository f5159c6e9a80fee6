//! `scaleout`, `scalein`, `migrate` and `switchover` of a virtual service; those of many at once are in [`crate::roles`].

use crate::lookup::{self, items, text};
use crate::output::{Format, table};
use crate::roles::{self, RolesArgs};
use anyhow::{Context, bail};
use client::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long `--wait` waits: a route takes under a second, the first health check up to its interval.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// How often `--wait` asks.
const WAIT_PAUSE: Duration = Duration::from_millis(200);

/// What to scale out.
#[derive(Debug, clap::Subcommand)]
pub enum Scaleout {
    /// One more engine for this virtual service; virtual services that share its VIP follow.
    #[command(visible_alias = "vs")]
    Virtualservice(ScaleoutArgs),
}

/// What to scale in.
#[derive(Debug, clap::Subcommand)]
pub enum Scalein {
    /// One engine fewer for this virtual service; virtual services that share its VIP follow.
    #[command(visible_alias = "vs")]
    Virtualservice(ScaleinArgs),
}

/// What to move.
#[derive(Debug, clap::Subcommand)]
pub enum Migrate {
    /// Another engine in the place of one; that one goes when the other serves, and keeps its flows until they end.
    #[command(visible_alias = "vs")]
    Virtualservice(MigrateArgs),
}

/// What to switch over.
#[derive(Debug, clap::Subcommand)]
pub enum Switchover {
    /// The standby of this virtual service becomes its active engine (ha_mode HA_MODE_LEGACY_ACTIVE_STANDBY).
    #[command(visible_alias = "vs")]
    Virtualservice(SwitchoverArgs),
    /// Others become active for all that this engine is active for; of what is scaled natively, primary.
    #[command(visible_alias = "se")]
    Serviceengine(RolesArgs),
}

/// How to migrate.
#[derive(Debug, clap::Args)]
pub struct MigrateArgs {
    /// Name or UUID of the virtual service.
    name: String,
    /// The engine that gives its place up [default: the primary].
    #[arg(long, value_name = "SE")]
    from_se: Option<String>,
    /// The engine that takes it [default: the planner chooses].
    #[arg(long, value_name = "SE")]
    to_se: Option<String>,
    #[command(flatten)]
    common: CommonArgs,
}

/// How to switch over.
#[derive(Debug, clap::Args)]
pub struct SwitchoverArgs {
    /// Name or UUID of the virtual service.
    name: String,
    /// The engine that becomes active [default: the standby].
    #[arg(long, value_name = "SE")]
    to_se: Option<String>,
    /// Which VIP, where the virtual service has several [default: the first; they are placed together].
    #[arg(long, value_name = "ID")]
    vip_id: Option<String>,
    /// Show what it would do, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// How to scale out.
#[derive(Debug, clap::Args)]
pub struct ScaleoutArgs {
    /// Name or UUID of the virtual service.
    name: String,
    /// The engine to add [default: the planner chooses].
    #[arg(long, value_name = "SE")]
    to_se: Option<String>,
    #[command(flatten)]
    common: CommonArgs,
}

/// How to scale in.
#[derive(Debug, clap::Args)]
pub struct ScaleinArgs {
    /// Name or UUID of the virtual service.
    name: String,
    /// The engine to take away [default: the planner chooses].
    #[arg(long, value_name = "SE")]
    from_se: Option<String>,
    /// End the engine's flows instead of letting them finish; also for one that was scaled in already.
    #[arg(long, requires = "from_se")]
    force: bool,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// Which VIP, where the virtual service has several [default: the first; they are placed together].
    #[arg(long, value_name = "ID")]
    vip_id: Option<String>,
    /// Return when the engine is in service; or out of it, with no flows left or vs_scalein_timeout over (at most 60 s).
    #[arg(long)]
    wait: bool,
    /// Show what it would do, and do nothing.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
}

/// One action on one virtual service.
struct Action<'a> {
    verb: &'static str,
    done: &'static str,
    /// Names of the fields for engines, and the engines.
    engines: &'a [(&'static str, Option<&'a str>)],
    /// End what it has.
    force: bool,
    /// The engine is in service when the action is done.
    present: bool,
    name: &'a str,
    common: &'a CommonArgs,
}

pub(crate) fn out(
    client: &Client,
    Scaleout::Virtualservice(args): &Scaleout,
    format: Format,
) -> anyhow::Result<()> {
    let ScaleoutArgs {
        name,
        to_se,
        common,
    } = args;
    let engines = &[("to_se_ref", to_se.as_deref())];
    Action::new(["scaleout", "scaled out to"], name, engines, common).run(client, format)
}

pub(crate) fn in_(
    client: &Client,
    Scalein::Virtualservice(args): &Scalein,
    format: Format,
) -> anyhow::Result<()> {
    let ScaleinArgs {
        name,
        from_se,
        force,
        common,
    } = args;
    let engines = &[("from_se_ref", from_se.as_deref())];
    Action {
        force: *force,
        present: false,
        ..Action::new(["scalein", "scaled in from"], name, engines, common)
    }
    .run(client, format)
}

pub(crate) fn migrate(
    client: &Client,
    Migrate::Virtualservice(args): &Migrate,
    format: Format,
) -> anyhow::Result<()> {
    let MigrateArgs {
        name,
        from_se,
        to_se,
        common,
    } = args;
    let engines = &[
        ("from_se_ref", from_se.as_deref()),
        ("to_se_ref", to_se.as_deref()),
    ];
    Action::new(["migrate", "migrates to"], name, engines, common).run(client, format)
}

pub(crate) fn switch_over(
    client: &Client,
    switchover: &Switchover,
    format: Format,
) -> anyhow::Result<()> {
    let SwitchoverArgs {
        name,
        to_se,
        vip_id,
        dry_run,
    } = match switchover {
        Switchover::Virtualservice(args) => args,
        Switchover::Serviceengine(args) => return roles::hand_over(client, args, format),
    };
    let common = CommonArgs {
        vip_id: vip_id.clone(),
        wait: false,
        dry_run: *dry_run,
    };
    let engines = &[("se_uuid", to_se.as_deref())];
    Action::new(["switchover", "is active on"], name, engines, &common).run(client, format)
}

impl<'a> Action<'a> {
    /// One after which the engine is in service.
    fn new(
        [verb, done]: [&'static str; 2],
        name: &'a str,
        engines: &'a [(&'static str, Option<&'a str>)],
        common: &'a CommonArgs,
    ) -> Self {
        Self {
            verb,
            done,
            engines,
            force: false,
            present: true,
            name,
            common,
        }
    }

    fn run(&self, client: &Client, format: Format) -> anyhow::Result<()> {
        let vs = lookup::object(client, "virtualservice", self.name)?;
        let path = format!("/api/virtualservice/{}", text(&vs, "/uuid"));
        let mut body = json!({ "vip_id": self.vip_id(client, &path)? });
        for (field, engine) in self.engines {
            let Some(engine) = engine else { continue };
            let engine = lookup::object(client, "serviceengine", engine)?;
            body[*field] = format!("/api/serviceengine/{}", text(&engine, "/uuid")).into();
        }
        if self.force {
            body["force"] = true.into();
        }
        let action = format!("{path}/{}", self.verb);
        if self.common.dry_run {
            crate::plan::print(&client.plan_post(&action, &body)?, format);
            return Ok(());
        }
        let mut reply = client.post(&action, &body)?;
        if self.common.wait {
            reply["waited_ms"] = self.wait(client, &path, &reply)?.into();
        }
        table::print_value(&reply, &self.describe(&reply, format), format);
        Ok(())
    }

    /// The VIP meant: the one named, or the first. The VIPs of a virtual service are placed together, whichever is named.
    fn vip_id(&self, client: &Client, path: &str) -> anyhow::Result<String> {
        if let Some(id) = &self.common.vip_id {
            return Ok(id.clone());
        }
        let runtime = client.get(&format!("{path}/runtime"), &[])?;
        match items(&runtime, "/vip_summary").first() {
            Some(vip) => Ok(text(vip, "/vip_id").to_string()),
            None => bail!("virtualservice {} has no VIP", self.name),
        }
    }

    /// What was done and why; in [`Format::Wide`] also why it was no other engine.
    fn describe(&self, reply: &Value, format: Format) -> String {
        let mut said = format!(
            "virtualservice {} {} {}",
            self.name,
            self.done,
            text(reply, "/se_name")
        );
        if let Some(waited) = lookup::number(reply, "/waited_ms") {
            said += &format!(" after {}.{:03} s", waited / 1000, waited % 1000);
        }
        match text(reply, "/reason") {
            "" => {}
            reason => said += &format!(": {reason}"),
        }
        said += &flows(reply);
        if format == Format::Wide {
            let rejected = items(reply, "/rejected").iter();
            said.extend(
                rejected
                    .map(|se| format!("\n  not {}: {}", text(se, "/se_name"), text(se, "/reason"))),
            );
        }
        said
    }

    /// Waits until the engine reports that it is in service, or is gone; milliseconds since the answer.
    fn wait(&self, client: &Client, path: &str, reply: &Value) -> anyhow::Result<u64> {
        let engine = text(reply, "/se_name");
        let start = Instant::now();
        loop {
            let runtime = client
                .get(&format!("{path}/runtime"), &[])
                .context("waiting")?;
            let seen = engine_state(&runtime, engine);
            let done = if self.present {
                seen.as_deref() == Some("OPER_UP") && !is_migrating(&runtime)
            } else {
                seen.is_none() && !is_leaving(&runtime, engine)
            };
            if done {
                return Ok(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
            }
            if start.elapsed() > WAIT_MAX {
                let seen = seen.unwrap_or_else(|| "not assigned".into());
                bail!(
                    "{} {} was accepted, but {engine} is still {seen} after 60 s",
                    self.verb,
                    self.name
                );
            }
            pause();
        }
    }
}

/// What becomes of the flows of an engine that is scaled in.
fn flows(reply: &Value) -> String {
    let count = |field| lookup::number(reply, field).filter(|n| *n > 0);
    match (count("/flows_left"), count("/flows_cut")) {
        (Some(left), _) => format!("; it keeps {left} flows until they end"),
        (_, Some(cut)) => format!("; {cut} flows were ended"),
        (None, None) => String::new(),
    }
}

/// Whether an engine was scaled in and the operation goes on.
fn is_leaving(runtime: &Value, engine: &str) -> bool {
    let vips = items(runtime, "/vip_summary").iter();
    let mut leaving = vips.flat_map(|vip| items(vip, "/lingering_service_engine"));
    leaving.any(|se| text(se, "/name") == engine && se["scalein_in_progress"] == true)
}

/// Whether an engine has not given its place up yet.
fn is_migrating(runtime: &Value) -> bool {
    let mut vips = items(runtime, "/vip_summary").iter();
    vips.any(|vip| vip["migrate_in_progress"] == true)
}

/// The state of the virtual service on one engine; nothing when it is not assigned to it.
fn engine_state(runtime: &Value, engine: &str) -> Option<String> {
    let vips = items(runtime, "/vip_summary").iter();
    let engines = vips.flat_map(|vip| items(vip, "/service_engine"));
    let here = engines.filter(|se| text(se, "/name") == engine);
    let states = here.map(|se| text(se, "/oper_status/state"));
    let shown = states.min_by_key(|state| lookup::state_rank(state));
    shown.map(str::to_owned)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause inside a wait that has a deadline"
)]
fn pause() {
    std::thread::sleep(WAIT_PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_on_an_engine_is_found_by_its_name() {
        let runtime = json!({"vip_summary": [{"service_engine": [
            {"name": "se-1", "oper_status": {"state": "OPER_UP"}},
            {"name": "se-2", "oper_status": {"state": "OPER_DOWN"}},
        ]}]});
        assert_eq!(engine_state(&runtime, "se-2").as_deref(), Some("OPER_DOWN"));
        assert_eq!(engine_state(&runtime, "se-3"), None);
    }

    #[test]
    fn of_several_vips_the_one_that_is_not_up_is_waited_for_and_a_disabled_one_is_not() {
        for (states, shown) in [
            (["OPER_DISABLED", "OPER_UP"], "OPER_UP"),
            (["OPER_UP", "OPER_INITIALIZING"], "OPER_INITIALIZING"),
            (["OPER_DISABLED", "OPER_DISABLED"], "OPER_DISABLED"),
        ] {
            let vip = |state: &str| json!({"service_engine": [{"name": "se-1", "oper_status": {"state": state}}]});
            let runtime = json!({"vip_summary": states.map(vip)});
            assert_eq!(engine_state(&runtime, "se-1").as_deref(), Some(shown));
        }
    }

    #[test]
    fn an_engine_leaves_for_as_long_as_the_operation_goes_on() {
        let runtime = json!({"vip_summary": [{"service_engine": [], "lingering_service_engine": [
            {"name": "se-2", "scalein_in_progress": true, "flows": 3},
            {"name": "se-3", "scalein_in_progress": false, "flows": 3},
        ]}]});
        let leaving = ["se-1", "se-2", "se-3"].map(|se| is_leaving(&runtime, se));
        assert_eq!(leaving, [false, true, false]);
    }

    #[test]
    fn what_becomes_of_flows_is_said() {
        let said = [
            (
                json!({"flows_left": 3}),
                "; it keeps 3 flows until they end",
            ),
            (json!({"flows_cut": 3}), "; 3 flows were ended"),
            (json!({"flows_left": 0}), ""),
            (json!({}), ""),
        ];
        for (reply, expected) in said {
            assert_eq!(flows(&reply), expected);
        }
    }

    #[test]
    fn result_says_engine_time_and_the_planners_reason() {
        let common = CommonArgs {
            vip_id: None,
            wait: true,
            dry_run: false,
        };
        let action = Action::new(
            ["scaleout", "scaled out to"],
            "vs-1",
            &[("to_se_ref", None)],
            &common,
        );
        let rejected = json!([{"se_name": "se-3", "reason_code": "disconnected", "reason": "it is not connected"}]);
        let reply = json!({"se_name": "se-2", "reason": "fewest VIPs", "waited_ms": 1042, "rejected": rejected});
        let line = "virtualservice vs-1 scaled out to se-2 after 1.042 s: fewest VIPs";
        assert_eq!(action.describe(&reply, Format::Table), line);
        let wide = action.describe(&reply, Format::Wide);
        assert_eq!(wide, format!("{line}\n  not se-3: it is not connected"));
    }
}
