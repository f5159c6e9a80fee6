//! Flows, as an operator sees them while the router moves them.

use crate::support::{
    Lab, can_run, chatty_connections, evenkeel, lab_ok, wait_for, wait_for_state,
};
use serde_json::Value;

const VIP: &str = "10.100.0.1";
const CONNECTIONS: usize = 12;

fn json(id: &Lab, arguments: &[&str]) -> Value {
    let output = evenkeel(id, &[arguments, &["-o", "json"]].concat(), "");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn end(flow: &Value, address: &str, port: &str) -> String {
    format!("{}:{}", flow[address].as_str().unwrap(), flow[port])
}

/// All flows, once there are as many as there are connections.
fn flows(id: &Lab) -> Vec<Value> {
    wait_for("all flows", || {
        let flows = json(id, &["show", "flows", "--vip", VIP]);
        let rows = flows.as_array().unwrap();
        let ready = |f: &&Value| f["bytes_out"].as_u64() > Some(0) && f["hinted"] == true;
        match rows.len() == CONNECTIONS && rows.iter().all(|f| ready(&f)) {
            true => Ok(rows.clone()),
            false => Err(flows.to_string()),
        }
    })
}

fn counted(id: &Lab, engine: &str, verdict: &str) -> u64 {
    let rows = json(id, &["show", "steering", engine]);
    rows[0]["verdicts"][verdict].as_u64().unwrap_or(0)
}

#[test]
fn a_moved_flow_is_seen_where_it_lives_and_followed_through_both_engines() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tflw");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    let _chatty = chatty_connections(&id, VIP, 80, CONNECTIONS);
    let flows = flows(&id);
    assert!(
        flows
            .iter()
            .all(|f| f["owner"] == "se-1" && f["found_by"] == "socket")
    );
    assert!(
        flows
            .iter()
            .all(|f| f["virtual_service"] == "vs-1" && !f["server"].as_str().unwrap().is_empty())
    );

    json(
        &id,
        &["scaleout", "vs", "vs-1", "--to-se", "se-2", "--wait"],
    );
    wait_for("flows at se-2", || {
        match counted(&id, "se-2", "tunnel_hint") {
            0 => Err(json(&id, &["show", "steering"]).to_string()),
            _ => Ok(()),
        }
    });
    let steering = json(&id, &["show", "steering", "se-2"]);
    let attached = &steering[0]["attachments"][0];
    assert_eq!(attached["hook"], "tc", "{attached}");
    let reason = attached["reason"].as_str().unwrap();
    assert!(reason.starts_with("a veth:"), "{reason}");
    let mut next = flows.iter().cycle();
    let trace = wait_for("a flow that was moved", || {
        let flow = next.next().unwrap();
        let ends = [
            end(flow, "client", "client_port"),
            end(flow, "vip", "vip_port"),
        ];
        let trace = json(
            &id,
            &["trace", "flow", &ends[0], &ends[1], "--seconds", "1"],
        );
        match trace["arrivals"]["se-2 tunnel_hint se-1"].is_u64() {
            true => Ok(trace),
            false => Err(trace["arrivals"].to_string()),
        }
    });
    let of = |engine: &str| {
        let engines = trace["engines"].as_array().unwrap();
        engines
            .iter()
            .find(|e| e["se_name"] == engine)
            .unwrap()
            .clone()
    };
    assert!(
        of("se-1")["local"].is_object() && of("se-2")["local"].is_null(),
        "{trace}"
    );
    let delivered = |e: &&Value| e["se_name"] == "se-1" && e["verdict"] == "deliver_data";
    let events = trace["events"].as_array().unwrap();
    let delivered = events.iter().find(delivered).expect("it came to its owner");
    assert_eq!(delivered["member"], "se-2");
}
