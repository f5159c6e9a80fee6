//! `explain vip`: each condition is broken in turn, and must be the one that is named.
//!
//! Every condition and every text, with made-up reports and refusals, is beside the controller's `plan/explain.rs`.

use crate::support::{Lab, apply, can_run, evenkeel, lab, lab_ok, wait_for, wait_for_state};
use model::condition::Condition;
use serde_json::Value;

const VIP: &str = "10.100.0.1";

/// A lab whose VRF context and virtual service are what a step says.
struct Broken {
    lab: Lab,
}

/// The profile with the router as it is, with these fields of the profile and of the peer in place of the usual.
fn profile(profile: &str, peer: &str) -> String {
    let address = if peer.contains("peer_ip") {
        ""
    } else {
        "peer_ip: 10.10.10.1, "
    };
    let subnet = if peer.contains("subnet") {
        ""
    } else {
        "subnet: 10.10.10.0/24, "
    };
    let local = if profile.contains("local_as") {
        ""
    } else {
        "local_as: 65001, ibgp: true, "
    };
    let bfd = if peer.contains("bfd:") {
        ""
    } else {
        "bfd: false, "
    };
    let interval = if peer.contains("advertisement_interval") {
        ""
    } else {
        "advertisement_interval: 1, "
    };
    // A secret that is not mentioned is kept.
    let key = if peer.contains("md5_secret") {
        ""
    } else {
        "md5_secret: '', "
    };
    format!(
        "vrfcontext: [{{name: global, bgp_profile: {{{local}{profile} peers: [{{{address}{subnet}{bfd}connect_timer: 1, {interval}{key}{peer}}}]}}}}]"
    )
}

fn service(fields: &str) -> String {
    format!(
        "virtualservice: [{{name: vs-1, services: [{{port: 80}}], vsvip_ref: vip-1, pool_ref: pool-1, {fields}}}]"
    )
}

impl Broken {
    fn explain(&self, more: &[&str]) -> Value {
        let command = [&["explain", "vip", VIP, "-o", "json"], more].concat();
        let output = evenkeel(&self.lab, &command, "");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            panic!("no JSON: {}", String::from_utf8_lossy(&output.stderr));
        })
    }

    /// Until the first path names this condition first, with this in its text and what to do next; whether it is
    /// announced, `None` when that cannot be known.
    fn names(
        &self,
        condition: &str,
        text: &str,
        more: &[&str],
        announced: impl Into<Option<bool>>,
    ) {
        let announced = Value::from(announced.into());
        let known = Condition::from_code(condition).expect("a condition");
        let what = format!("{condition} is named");
        wait_for(&what, || {
            let path = &self.explain(more)["paths"][0];
            let failed = &path["first_failed"];
            let seen = failed["text"].as_str().unwrap_or_default();
            let named = failed["condition"] == condition && seen.contains(text);
            let named = named && failed["next_step"] == known.next_step();
            match named && path["announced"] == announced {
                true => Ok(()),
                false => Err(format!("announced {}: {failed}", path["announced"])),
            }
        });
    }

    fn holds(&self) {
        wait_for("everything holds", || {
            let path = &self.explain(&[])["paths"][0];
            match path["announced"] == true && path["first_failed"].is_null() {
                true => Ok(()),
                false => Err(path["first_failed"].to_string()),
            }
        });
    }

    /// Applies it, awaits the name, restores what was, and awaits that all holds again.
    fn breaks(&self, objects: &str, condition: &str, text: &str) {
        apply(&self.lab, objects);
        self.names(condition, text, &[], condition == "bfd_up");
        self.restore();
    }

    fn restore(&self) {
        apply(&self.lab, &profile("", ""));
        apply(&self.lab, &service("enabled: true, enable_rhi: true"));
        self.holds();
    }

    fn link(&self, interface: &str, state: &str) {
        let set = [
            "exec", "--run", self.lab.0, "se-1", "ip", "link", "set", interface, state,
        ];
        lab_ok(&set);
    }

    fn address_of_se_1(&self, what: &str, address: &str) {
        let command = ["exec", "--run", self.lab.0, "se-1", "ip", "address", what];
        lab_ok(&[&command[..], &[address, "dev", "eth1"]].concat());
    }

    /// What only an engine can know of a peer that the API has accepted: whether the address is its own. It comes up on
    /// the engine's host while the session stands; and an edit names another one, which changes nothing in force.
    fn peer_that_is_this_host(&self) {
        let condition = "peer_configuration_valid";
        let text = "10.10.10.1 is the address of our interface eth1";
        self.address_of_se_1("add", "10.10.10.1/32");
        self.names(condition, text, &[], false);
        self.address_of_se_1("del", "10.10.10.1/32");
        self.holds();

        apply(&self.lab, &profile("", "peer_ip: 10.10.10.11"));
        let text = "bgp_profile.peers[10.10.10.11].peer_ip: 10.10.10.11 is the address of our interface eth0";
        // The path is the one to the peer in force, to which the refusal says nothing.
        self.names("engine_connected", text, &[], true);
        self.restore();
    }

    /// The session stays where it is, and a path of its own names the other interface; a state that the engine
    /// refuses for it is named on the path that is announced.
    /// se-2 joins while se-1 cannot be told of it. The others are waited for half a second at most, so the look may come
    /// too late; then it is done again.
    fn members_that_are_not_informed(&self) {
        wait_for("members_informed is named", || {
            self.link("mgmt0", "down");
            self.scale("scaleout", &["--to-se", "se-2"]);
            let path = self.explain(&["--se", "se-2"])["paths"][0].clone();
            self.link("mgmt0", "up");
            self.scale("scalein", &["--from-se", "se-2", "--force"]);
            self.holds();
            let failed = &path["first_failed"];
            match failed["condition"] == "members_informed" && path["announced"] == false {
                true => Ok(()),
                false => Err(path.to_string()),
            }
        });
    }

    fn scale(&self, which: &str, more: &[&str]) {
        let command = [&[which, "virtualservice", "vs-1"], more].concat();
        let output = evenkeel(&self.lab, &command, "");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{which}: {error}");
    }

    fn second_interface_in_the_subnet(&self) {
        // The path without a session comes first.
        let named = |what: &str, path: usize, text: &str| {
            wait_for(what, || {
                let paths = self.explain(&[])["paths"].clone();
                let failed = &paths[path]["first_failed"];
                let seen = failed["text"].as_str().unwrap_or_default();
                let named = failed["condition"] == "interface_in_subnet" && seen.contains(text);
                match named && paths[1]["announced"] == true {
                    true => Ok(()),
                    false => Err(paths.to_string()),
                }
            });
        };
        self.address_of_se_1("add", "10.10.10.99/24");
        let text = "interfaces eth0 and eth1 are both in 10.10.10.0/24";
        named("the second interface is named", 0, text);
        apply(&self.lab, &profile("", "advertise_snat_ip: false"));
        named("the refusal is named", 1, "it refuses generation");
        self.address_of_se_1("del", "10.10.10.99/24");
        self.restore();
    }

    fn router(&self, commands: &[&str]) {
        let mut all = vec!["exec", "--run", self.lab.0, "router", "vtysh"];
        all.extend(commands.iter().flat_map(|c| ["-c", c]));
        let output = lab(&all);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn up(id: &'static str) -> Broken {
    let lab = Lab::new(id);
    lab_ok(&["up", "ecmp-5se", "--run", id]);
    wait_for_state(&lab, "vs-1", "OPER_UP");
    let broken = Broken { lab };
    broken.restore();
    broken
}

#[test]
fn conditions_of_virtual_service_and_engine_are_named_in_turn() {
    if !can_run() {
        return;
    }
    let lab = up("texs");
    lab.breaks(
        &service("enabled: true, enable_rhi: false"),
        "rhi_on",
        "enable_rhi is false on vs-1",
    );
    lab.breaks(
        "vrfcontext: [{name: global, bgp_profile: {local_as: 65001, ibgp: true, peers: []}}]",
        "bgp_profile_present",
        "no peers",
    );
    lab.names(
        "placed",
        "the VIP is placed on se-1",
        &["--se", "se-2"],
        false,
    );
    lab.breaks(
        &service("enabled: false, enable_rhi: true"),
        "vs_up",
        "vs-1",
    );

    lab.members_that_are_not_informed();

    lab.link("mgmt0", "down");
    lab.names(
        "engine_connected",
        "no session with the controller",
        &[],
        None,
    );
    let path = &lab.explain(&[])["paths"][0];
    assert_eq!(path["last_reported_announced"], true, "{path}");
    lab.link("mgmt0", "up");
    lab.holds();

    // Nothing is to take its place.
    for other in ["se-2", "se-3", "se-4", "se-5"] {
        let state = "SE_STATE_DISABLED_FOR_PLACEMENT";
        let other = format!("serviceengine: [{{name: {other}, enable_state: {state}}}]");
        apply(&lab.lab, &other);
    }
    let engine = |state: &str| format!("serviceengine: [{{name: se-1, enable_state: {state}}}]");
    apply(&lab.lab, &engine("SE_STATE_DISABLED"));
    lab.names("engine_enabled", "SE_STATE_DISABLED", &[], true);
    lab.names("engine_enabled", "SE_STATE_DISABLED", &[], false);
    apply(&lab.lab, &engine("SE_STATE_ENABLED"));
    lab.holds();

    let output = evenkeel(&lab.lab, &["explain", "vip", "10.100.0.77"], "");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("no VsVip has the address 10.100.0.77"),
        "{error}"
    );
}

#[test]
fn conditions_of_the_session_are_named_in_turn() {
    if !can_run() {
        return;
    }
    let lab = up("texp");
    lab.peer_that_is_this_host();
    lab.breaks(&profile("", "shutdown: true"), "peer_enabled", "shut down");
    lab.breaks(
        &profile("", "peer_ip: 10.99.0.1, subnet: 10.99.0.0/24"),
        "interface_in_subnet",
        "10.99.0.0/24",
    );
    lab.second_interface_in_the_subnet();
    lab.breaks(
        &profile("", "peer_ip: 10.10.10.250"),
        "tcp_connected",
        "10.10.10.250",
    );
    lab.breaks(
        &profile("", "md5_secret: not-the-routers"),
        "md5_accepted",
        "MD5",
    );
    lab.breaks(
        &profile("local_as: 65009, ibgp: false,", "remote_as: 65001"),
        "open_agreed",
        "(2/2)",
    );
    // The gate for BFD holds a session in OpenConfirm: what comes before is named before.
    lab.breaks(
        &profile(
            "local_as: 65009, ibgp: false,",
            "remote_as: 65001, bfd: true, bfd_strict: true",
        ),
        "open_agreed",
        "(2/2)",
    );
    // An established session stays when it becomes strict; a closed one waits.
    apply(&lab.lab, &profile("", "shutdown: true"));
    lab.names("peer_enabled", "shut down", &[], false);
    lab.breaks(
        &profile("", "bfd: true, bfd_strict: true"),
        "bfd_allows",
        "waiting_for_peer",
    );
    lab.breaks(&profile("", "bfd: true"), "bfd_up", "waiting for the peer");

    lab.link("eth0", "down");
    lab.names("interface_up", "eth0", &[], false);
    lab.link("eth0", "up");
    // The address stays, the route to the clients does not; nothing here needs it.
    lab.holds();

    wait_for("session_established is named", || {
        lab.router(&["clear bgp *"]);
        let path = &lab.explain(&[])["paths"][0];
        match path["first_failed"]["condition"] == "session_established" {
            true => Ok(()),
            false => Err(path["first_failed"].to_string()),
        }
    });
    lab.holds();
}

#[test]
fn conditions_of_the_route_are_named_in_turn() {
    if !can_run() {
        return;
    }
    let lab = up("texr");
    lab.breaks(
        &profile("", "advertise_vip: false"),
        "policy_allows",
        "advertise_vip",
    );
    let labels = |labels: &str| {
        format!(
            "vsvip: [{{name: vip-1, vip: [{{vip_id: '1', ip_address: {VIP}}}], bgp_peer_labels: [{labels}]}}]"
        )
    };
    apply(&lab.lab, &labels("uplink"));
    lab.names("policy_allows", "no label", &[], false);
    apply(&lab.lab, &profile("", "label: uplink"));
    lab.holds();
    apply(&lab.lab, &labels(""));
    lab.restore();

    // The route is withdrawn and wanted again within the interval.
    apply(&lab.lab, &profile("", "advertisement_interval: 60"));
    lab.holds();
    apply(&lab.lab, &service("enabled: false, enable_rhi: true"));
    lab.names("vs_up", "enabled or traffic_enabled is false", &[], false);
    apply(&lab.lab, &service("enabled: true, enable_rhi: true"));
    lab.names("update_sent", "60 s", &[], false);
}

#[test]
fn families_that_a_session_does_not_carry_are_named() {
    if !can_run() {
        return;
    }
    const VIP6: &str = "fd00:100::1";
    let lab = Lab::new("texf");
    lab_ok(&["up", "svi-24", "--run", "texf"]);
    // The IPv4 session of an engine whose router carries IPv6 on the other session only.
    let over_ipv4 = |condition: &str| {
        wait_for(&format!("{condition} of {VIP6} over IPv4"), || {
            let command = ["explain", "vip", VIP6, "--se", "se-1", "-o", "json"];
            let answer: Value =
                serde_json::from_slice(&evenkeel(&lab, &command, "").stdout).unwrap_or_default();
            let mut paths = answer["paths"].as_array().into_iter().flatten();
            let failed = paths
                .find(|p| p["peer"] == "10.10.10.1")
                .map(|p| &p["first_failed"]);
            match failed.is_some_and(|f| f["condition"] == condition) {
                true => Ok(()),
                false => Err(answer["paths"].to_string()),
            }
        });
    };
    over_ipv4("family_negotiated");
    lab_ok(&[
        "exec",
        "--run",
        "texf",
        "se-1",
        "ip",
        "-6",
        "addr",
        "del",
        "fd00:10::11/64",
        "dev",
        "eth0",
    ]);
    over_ipv4("next_hop_present");
}

/// A condition that is new has to be broken here too.
#[test]
fn every_condition_is_among_those_that_are_broken_here() {
    let here = include_str!("explain.rs");
    let missing = |c: &Condition| !here.contains(&format!("\"{}\"", c.code()));
    let missing: Vec<_> = Condition::ALL.into_iter().filter(missing).collect();
    assert_eq!(missing, []);
}
