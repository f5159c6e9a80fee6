//! The controller of a lab, through its public API like everybody else.

use crate::process::wait_for;
use crate::record::Record;
use crate::scenario::Direction;
use anyhow::{Context, Result, bail};
use cli::apply::Manifest;
use client::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long engines may take until the controller knows all of them, and how much longer for each one: they begin at the
/// same time, on the cores of one machine.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
const JOIN_TIMEOUT_EACH: Duration = Duration::from_secs(1);

/// How long so many engines may take to join.
pub(crate) fn join_timeout(engines: usize) -> Duration {
    JOIN_TIMEOUT + JOIN_TIMEOUT_EACH * u32::try_from(engines).unwrap_or(u32::MAX)
}

/// How long a controller that was just started again may refuse connections.
const RETRY_FOR: Duration = Duration::from_secs(10);

/// A logged-in client together with the namespace it has to call from.
pub(crate) struct Control {
    namespace: String,
    client: Client,
}

/// What scaling needs to know of a virtual service.
#[derive(Debug, Clone)]
pub(crate) struct VirtualService {
    uuid: String,
    vip_id: String,
}

/// Where a virtual service is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Names of the SEs that the controller has assigned, sorted.
    pub assigned: Vec<String>,
    /// Those of them that report the virtual service up.
    pub up: Vec<String>,
}

/// The controllers that share a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// Name of the one that leads.
    pub leader: String,
    /// The word of `cluster_state`.
    pub state: String,
    /// What keeps the state from being better.
    pub problems: Vec<String>,
}

impl Control {
    /// Logs in at the lab's controller.
    pub(crate) fn connect(record: &Record) -> Result<Self> {
        let context = record.client_context()?;
        let namespace = context.netns.clone();
        let config = context.config(RETRY_FOR);
        let client = crate::fabric::inside(&namespace, || Client::connect(config))??;
        Ok(Self { namespace, client })
    }

    /// Makes a call from the controller's namespace.
    fn call<T: Send>(&self, call: impl FnOnce(&Client) -> client::Result<T> + Send) -> Result<T> {
        Ok(crate::fabric::inside(&self.namespace, || {
            call(&self.client)
        })??)
    }

    /// The controllers, as the one that leads sees them.
    pub(crate) fn cluster(&self) -> Result<Cluster> {
        let runtime = self.call(|c| c.get("/api/cluster/runtime", &[]))?;
        Ok(cluster_of(&runtime))
    }

    /// When the newest change was written, as the log says it, in microseconds since 1970.
    pub(crate) fn newest_write_us(&self) -> Result<u64> {
        let log = self.call(|c| c.get("/api/ek/audit", &[("page_size", "1")]))?;
        let time = log["results"][0]["time_us"].as_u64();
        time.context("the log is empty")
    }

    /// A one-time token with which an engine of this name joins.
    pub(crate) fn join_token(&self, name: &str) -> Result<String> {
        let answer = self.call(|c| c.post("/api/ek/jointoken", &json!({ "name": name })))?;
        let token = answer.get("token").and_then(Value::as_str);
        token
            .map(str::to_owned)
            .context("the answer to jointoken has no token")
    }

    /// Waits until the controller says that all of these engines are connected.
    pub(crate) fn wait_for_engines(&self, names: &[String], timeout: Duration) -> Result<()> {
        let mut missing = names.to_vec();
        let mut last = Ok(());
        // Those that are known are not asked about again: many that join need the cores themselves.
        let none_missing = || {
            last = self.drop_connected(&mut missing);
            last.is_ok() && missing.is_empty()
        };
        if wait_for(timeout, none_missing) {
            return Ok(());
        }
        last?;
        bail!("not connected to the controller: {}", missing.join(", "))
    }

    /// Takes engines off the list from its end, until one is not connected.
    fn drop_connected(&self, missing: &mut Vec<String>) -> Result<()> {
        while let Some(name) = missing.last() {
            let engine = self.call(|c| c.get_by_name("serviceengine", name))?;
            let connected = match engine {
                Some(engine) => self.engine_runtime(&engine)?["se_connected"] == json!(true),
                None => false,
            };
            if !connected {
                break;
            }
            missing.pop();
        }
        Ok(())
    }

    fn engine_runtime(&self, engine: &Value) -> Result<Value> {
        let uuid = engine["uuid"].as_str().context("an engine without uuid")?;
        self.call(|c| c.get(&format!("/api/serviceengine/{uuid}/runtime"), &[]))
    }

    /// State word and reason of an engine, as the controller shows them.
    pub(crate) fn engine_state(&self, name: &str) -> Result<(String, String)> {
        let engine = self.call(|c| c.get_by_name("serviceengine", name))?;
        let engine = engine.with_context(|| format!("the controller knows no engine {name}"))?;
        let status = &self.engine_runtime(&engine)?["oper_status"];
        let state = status["state"].as_str().unwrap_or_default().to_owned();
        let reason = match &status["reason"] {
            Value::Array(lines) => lines
                .iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join("; "),
            other => other.as_str().unwrap_or_default().to_owned(),
        };
        Ok((state, reason))
    }

    /// Creates or changes the objects of a file, as `evenkeel apply` does.
    pub(crate) fn apply(&self, file: &str, text: &str) -> Result<()> {
        let manifest = Manifest::parse(file, text)?;
        crate::fabric::inside(&self.namespace, || manifest.apply(&self.client, |_| ()))?
    }

    /// Changes an object, named `TYPE/NAME`, by operations of RFC 6902.
    pub(crate) fn patch(&self, object: &str, operations: &[Value]) -> Result<()> {
        let (kind, name) = object
            .split_once('/')
            .with_context(|| format!("object {object:?}: write it as TYPE/NAME"))?;
        let found = self.call(|c| c.get_by_name(kind, name))?;
        let found = found.with_context(|| format!("object {object}: there is none"))?;
        let path = format!("/api/{kind}/{}", found["uuid"].as_str().unwrap_or_default());
        let body = json!({ "json_patch": operations });
        self.call(|c| c.patch(&path, &body))
            .with_context(|| format!("change {object}"))?;
        Ok(())
    }

    /// The virtual service of this name, with its only VIP.
    pub(crate) fn virtual_service(&self, name: &str) -> Result<VirtualService> {
        let found = self.call(|c| c.get_by_name("virtualservice", name))?;
        let found = found.with_context(|| format!("no virtual service {name}"))?;
        let uuid = found["uuid"]
            .as_str()
            .context("a virtual service without uuid")?
            .to_owned();
        let runtime = self.runtime(&uuid)?;
        let vip_id = runtime["vip_summary"][0]["vip_id"]
            .as_str()
            .unwrap_or("0")
            .to_owned();
        Ok(VirtualService { uuid, vip_id })
    }

    /// Scales out or in by one SE: the named one, or the planner's choice. Gives the moment of the call.
    pub(crate) fn scale(
        &self,
        service: &VirtualService,
        direction: Direction,
        engine: Option<&str>,
    ) -> Result<Instant> {
        let (action, field) = match direction {
            Direction::Out => ("scaleout", "to_se_ref"),
            Direction::In => ("scalein", "from_se_ref"),
        };
        let mut body = json!({ "vip_id": service.vip_id });
        if let Some(name) = engine {
            body[field] = self.engine_ref(name)?.into();
        }
        let path = format!("/api/virtualservice/{}/{action}", service.uuid);
        let called_at = Instant::now();
        self.call(|c| c.post(&path, &body))
            .with_context(|| action.to_owned())?;
        Ok(called_at)
    }

    /// Another engine of the virtual service becomes the first one. Gives the moment of the call.
    pub(crate) fn switch_over(&self, service: &VirtualService, engine: &str) -> Result<Instant> {
        let uuid = self.engine_ref(engine)?;
        let uuid = uuid.rsplit('/').next().unwrap_or_default();
        let body = json!({ "vip_id": service.vip_id, "se_uuid": uuid });
        let path = format!("/api/virtualservice/{}/switchover", service.uuid);
        let called_at = Instant::now();
        self.call(|c| c.post(&path, &body)).context("switchover")?;
        Ok(called_at)
    }

    fn engine_ref(&self, name: &str) -> Result<String> {
        let engine = self.call(|c| c.get_by_name("serviceengine", name))?;
        let engine = engine.with_context(|| format!("the controller knows no engine {name}"))?;
        Ok(format!(
            "/api/serviceengine/{}",
            engine["uuid"].as_str().unwrap_or_default()
        ))
    }

    fn runtime(&self, uuid: &str) -> Result<Value> {
        self.call(|c| c.get(&format!("/api/virtualservice/{uuid}/runtime"), &[]))
    }

    /// Where a virtual service is, as the controller shows it.
    pub(crate) fn placement(&self, service: &VirtualService) -> Result<Placement> {
        Ok(placement_of(&self.runtime(&service.uuid)?))
    }
}

/// avi-api section 8.
fn cluster_of(runtime: &Value) -> Cluster {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nodes = runtime["node_states"].as_array();
    let mut nodes = nodes.into_iter().flatten();
    let leader = nodes.find(|n| n["role"] == "CLUSTER_LEADER");
    let reasons = runtime["cluster_state"]["reason"].as_array();
    Cluster {
        leader: leader.map(|n| text(&n["name"])).unwrap_or_default(),
        state: text(&runtime["cluster_state"]["state"]),
        problems: reasons.into_iter().flatten().map(text).collect(),
    }
}

/// avi-api 10.2: `vip_summary[].service_engine[]`.
fn placement_of(runtime: &Value) -> Placement {
    let engines = runtime["vip_summary"][0]["service_engine"].as_array();
    let named = |wanted: fn(&Value) -> bool| {
        let chosen = engines.into_iter().flatten().filter(|e| wanted(e));
        let mut names: Vec<_> = chosen
            .filter_map(|e| e["name"].as_str())
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    };
    Placement {
        assigned: named(|_| true),
        up: named(|e| e["oper_status"]["state"] == "OPER_UP"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_is_read_from_the_vip_summary() {
        let runtime = json!({ "vip_summary": [{ "vip_id": "1", "service_engine": [
            { "name": "se-2", "oper_status": { "state": "OPER_DOWN" } },
            { "name": "se-1", "oper_status": { "state": "OPER_UP" } },
        ]}]});
        let placement = placement_of(&runtime);
        assert_eq!(placement.assigned, ["se-1", "se-2"]);
        assert_eq!(placement.up, ["se-1"]);
    }
}
