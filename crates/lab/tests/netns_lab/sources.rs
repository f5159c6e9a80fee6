//! What servers see, and the routes that bring their answers back.

use crate::support::{
    Lab, apply, can_run, connect, evenkeel, idle_connections, lab_ok, service, wait_for,
    wait_for_state,
};

/// `vs-1` with source addresses, and these fields more.
fn sources(more: &str) -> String {
    format!(
        "virtualservice: [{{name: vs-1, services: [{{port: 80}}], vsvip_ref: vip-1, pool_ref: pool-1,
          application_profile_ref: System-L4-Application,
          enable_rhi_snat: true, snat_ip: [10.200.0.1, 10.200.0.2], {more}}}]"
    )
}

fn exec(id: &Lab, node: &str, command: &[&str]) -> String {
    lab_ok(&[&["exec", "--run", id.0, node], command].concat())
}

/// Until the router's route to the address goes by these engines' addresses, and by no others.
fn wait_for_hops(id: &Lab, address: &str, hops: &[&str]) {
    wait_for(&format!("{address} by {hops:?}"), || {
        let seen = exec(id, "router", &["ip", "route", "show", address]);
        let all = ["10.10.10.11", "10.10.10.12"];
        match all
            .iter()
            .all(|hop| seen.contains(hop) == hops.contains(hop))
        {
            true => Ok(()),
            false => Err(seen),
        }
    });
}

/// A lab whose VIP is on two engines, to whose source addresses the servers have routes.
fn on_two_engines(id: &Lab) {
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    wait_for_state(id, "vs-1", "OPER_UP");
    let out = ["scaleout", "vs", "vs-1", "--to-se", "se-2", "--wait"];
    assert!(evenkeel(id, &out, "").status.success());
    for server in ["server-1", "server-2", "server-3"] {
        for n in ["1", "2"] {
            let (address, engine) = (format!("10.200.0.{n}"), format!("10.20.20.1{n}"));
            let route = ["ip", "route", "add", &address, "via", &engine];
            exec(id, server, &route);
        }
    }
}

/// Connections to all servers that come from this address.
fn seen_from(id: &Lab, address: &str) -> usize {
    let list = ["ss", "-Htn", "state", "established", "dst", address];
    let servers = ["server-1", "server-2", "server-3"];
    let counts = servers.map(|server| exec(id, server, &list).lines().count());
    counts.iter().sum()
}

/// Ends the servers' connections that come from this address.
fn end_at_servers(id: &Lab, address: &str) {
    for server in ["server-1", "server-2", "server-3"] {
        let kill = ["ss", "-Ktn", "state", "established", "dst", address];
        exec(id, server, &kill);
    }
}

#[test]
fn each_engine_sends_from_its_own_address_and_keeps_its_route_while_it_has_connections() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tsrc");
    on_two_engines(&id);
    apply(&id, &sources("enable_rhi: true"));
    wait_for_hops(&id, "10.200.0.1", &["10.10.10.11"]);
    wait_for_hops(&id, "10.200.0.2", &["10.10.10.12"]);
    wait_for_hops(&id, "10.100.0.1", &["10.10.10.11", "10.10.10.12"]);
    let open = idle_connections(&id, "10.100.0.1", 80, 40);
    let seen = || ["10.200.0.1", "10.200.0.2"].map(|address| seen_from(&id, address));
    let [first, second] = wait_for("all connections at the servers", || match seen() {
        [first, second] if first + second == 40 => Ok([first, second]),
        seen => Err(format!("{seen:?}")),
    });
    assert!(first > 0 && second > 0, "{first} and {second}");
    apply(
        &id,
        "serviceengine: [{name: se-2, enable_state: SE_STATE_DISABLED}]",
    );
    wait_for_hops(&id, "10.100.0.1", &["10.10.10.11"]);
    wait_for_hops(&id, "10.200.0.2", &["10.10.10.12"]);
    assert_eq!(seen(), [first, second], "none was cut");
    apply(
        &id,
        "serviceengine: [{name: se-2, enable_state: SE_STATE_ENABLED}]",
    );
    apply(&id, &sources("enable_rhi: true, enabled: false"));
    wait_for_hops(&id, "10.100.0.1", &[]);
    wait_for_hops(&id, "10.200.0.1", &["10.10.10.11"]);
    wait_for_hops(&id, "10.200.0.2", &["10.10.10.12"]);
    assert_eq!(seen(), [first, second], "none was cut");
    // Nothing of the clients comes to a VIP without a route; servers can end.
    for address in ["10.200.0.1", "10.200.0.2"] {
        end_at_servers(&id, address);
    }
    wait_for_hops(&id, "10.200.0.1", &[]);
    wait_for_hops(&id, "10.200.0.2", &[]);
    drop(open);
    apply(&id, &sources("enable_rhi: false, enabled: true"));
    wait_for_hops(&id, "10.200.0.1", &["10.10.10.11"]);
    wait_for_hops(&id, "10.100.0.1", &[]);
}

#[test]
fn a_vip_stays_announced_while_its_disabled_servers_have_connections() {
    if !can_run() {
        return;
    }
    let id = Lab::new("tdrn");
    lab_ok(&["up", "ecmp-5se", "--run", id.0]);
    wait_for_state(&id, "vs-1", "OPER_UP");
    let open = idle_connections(&id, "10.100.0.1", 80, 20);
    let seen = || seen_from(&id, "10.20.20.11");
    wait_for("all connections", || match seen() {
        20.. => Ok(()),
        seen => Err(seen.to_string()),
    });
    let servers = ["10.20.20.101", "10.20.20.102", "10.20.20.103"];
    let servers = servers.map(|ip| format!("{{ip: {ip}, port: 80, enabled: false}}"));
    let servers = servers.join(", ");
    let pool =
        format!("pool: [{{name: pool-1, graceful_disable_timeout: -1, servers: [{servers}]}}]");
    apply(&id, &pool);
    let drains = wait_for_state(&id, "vs-1", "OPER_DOWN");
    let reason = drains["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("Servers of the pool were disabled"),
        "{reason}"
    );
    assert_eq!(seen(), 20, "none was cut");
    wait_for_hops(&id, "10.100.0.1", &["10.10.10.11"]);
    let refused = connect(&id, "10.100.0.1", 80);
    assert!(refused.contains("Connection refused"), "{refused}");
    drop(open);
    wait_for_hops(&id, "10.100.0.1", &[]);
    let down = service(&id, "vs-1");
    assert_eq!(down["reason"], "No server of the pool is up.", "{down}");
}
