//! Plans come true, and what engines say of their hosts is so.

use crate::support::{Lab, can_run, evenkeel, lab_ok, wait_for, wait_for_state};
use client::{Client, ClientConfig, Password, Trust};
use serde_json::Value;
use std::fs;

fn json(id: &Lab, arguments: &[&str]) -> Value {
    let output = evenkeel(id, &[arguments, &["-o", "json"]].concat(), "");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// GET of the controller's API. A thread of its own, because whoever enters a namespace stays there.
fn get(id: &Lab, path: &str) -> Value {
    let context = fs::read_to_string(format!("/run/evenkeel/lab/{}/context.toml", id.0)).unwrap();
    let context: toml::Table = context.parse().unwrap();
    let text = |key: &str| context[key].as_str().unwrap().to_owned();
    let mut config = ClientConfig::new(text("controller"), Password::new(text("password")));
    config.netns = Some(text("netns"));
    config.trust = Trust::Insecure;
    let path = path.to_owned();
    let call = move || Client::connect(config).unwrap().get(&path, &[]).unwrap();
    std::thread::spawn(call).join().unwrap()
}

/// Next hops of the VIP in the router's kernel.
fn next_hops(id: &Lab) -> usize {
    let command = ["exec", "--run", id.0, "router", "ip", "route", "show"];
    let route = lab_ok(&[&command[..], &["10.100.0.1"]].concat());
    route.matches("via ").count()
}

#[test]
fn a_plan_does_nothing_and_what_it_says_comes_true() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tplan");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    let hops = |wanted: usize| {
        wait_for(&format!("{wanted} next hops"), || match next_hops(&id) {
            seen if seen == wanted => Ok(()),
            seen => Err(seen.to_string()),
        });
    };
    hops(1);
    let plan = json(&id, &["scaleout", "virtualservice", "vs-1", "--dry-run"]);
    let added = &plan["placement"]["results"][0]["added"][0];
    let announced = &plan["routes"]["announced"]["results"][0];
    assert_eq!(
        (&announced["vip"], &announced["se_name"]),
        (&"10.100.0.1".into(), &added["se_name"]),
        "{plan}"
    );
    assert_eq!(announced["peers"], serde_json::json!(["10.10.10.1"]));
    assert_eq!(next_hops(&id), 1, "nothing was done");
    let done = json(&id, &["scaleout", "virtualservice", "vs-1", "--wait"]);
    assert_eq!(
        (&done["se_name"], &done["reason"]),
        (&added["se_name"], &added["reason"])
    );
    hops(2);

    let topology = get(&id, "/api/ek/topology?vs=vs-1");
    let vip = &topology["vips"]["results"][0];
    let announcing = vip["next_hops"].as_array().unwrap();
    assert_eq!(announcing.len(), 2, "{topology}");
    assert_eq!(topology["routers"][0]["peer"], "10.10.10.1");

    let plan = json(&id, &["delete", "virtualservice", "vs-1", "--dry-run"]);
    assert_eq!(plan["routes"]["withdrawn"]["count"], 2, "{plan}");
    let withdrawn = plan["routes"]["withdrawn"]["results"].as_array().unwrap();
    assert!(withdrawn.iter().all(|r| r["in_force"] == true), "{plan}");
    hops(2);
    json(&id, &["delete", "virtualservice", "vs-1"]);
    hops(0);
}

#[test]
fn an_engine_says_what_its_host_has() {
    if !can_run() {
        return;
    }
    let id = Lab::new("ttables");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    let engine = get(&id, "/api/serviceengine?name=se-1");
    let uuid = engine["results"][0]["uuid"].as_str().unwrap().to_owned();
    let table = |name: &str| {
        let shown = get(&id, &format!("/api/serviceengine/{uuid}/{name}"));
        assert_eq!(shown[0].get("not_answered"), None, "{name}: {shown}");
        shown[0].clone()
    };
    let vnics = table("interface");
    let vnics = vnics["vnics"].as_array().unwrap();
    let eth0 = vnics.iter().find(|v| v["vnic_name"] == "eth0").unwrap();
    assert_eq!(eth0["ip_info"][0]["ip_addr"]["addr"], "10.10.10.11");
    let packets = eth0["interface_stats"]["ipackets"].as_u64();
    assert!(packets.is_some_and(|n| n > 0), "{eth0}");
    let routes = table("route");
    let routes = routes["route_entry"].as_array().unwrap();
    let own = routes.iter().find(|r| r["destination"] == "10.10.10.0");
    let own = own.unwrap_or_else(|| panic!("{routes:?}"));
    assert_eq!(
        (&own["interface"], &own["netmask"], &own["rt_flags"]),
        (&"eth0".into(), &"255.255.255.0".into(), &"U".into())
    );
    let neighbours = table("arptable");
    let neighbours = neighbours["arp_entry"].as_array().unwrap();
    let router = neighbours.iter().find(|n| n["ip_address"] == "10.10.10.1");
    let router = router.unwrap_or_else(|| panic!("{neighbours:?}"));
    assert_ne!(router["mac_address"], "", "{router}");
    for (name, field) in [
        ("ip6route", "route_entry"),
        ("flowtable", "flow_entries"),
        ("flowtable_remote", "vnic_table"),
        ("flowtablestat", "dispatch"),
    ] {
        assert!(table(name)[field].is_array(), "{name}");
    }
}
