//! Routers by name: how FRR and BIRD are started in a node, and what they say of their BGP sessions.
//!
//! A topology writes `[node.router]` with the kind and the folder of its configurations; which programs that
//! means, with their sockets in the node's own directory, stands here.

use crate::command::run;
use crate::topology::{Folder, Process};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// For every router. Hash policy 3 with these fields (addresses, protocol, ports) is the true 5-tuple. Policy 1
/// would take the sending socket's own hash over a veth, which a retransmission timeout changes.
pub(crate) const SYSCTLS: &[(&str, &str)] = &[
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.fib_multipath_hash_policy", "3"),
    ("net.ipv4.fib_multipath_hash_fields", "0x37"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv6.fib_multipath_hash_policy", "3"),
    ("net.ipv6.fib_multipath_hash_fields", "0x37"),
];

/// FRR's daemons, in the order of their start, each with the file that says it is ready. `bfdd` runs where its
/// configuration is there.
const FRR_DAEMONS: &[&str] = &["zebra", "bgpd", "bfdd"];

/// The well-known port of BGP (RFC 4271 section 8).
const BGP_PORT: u16 = 179;

/// Routers that the lab knows how to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum RouterKind {
    /// FRR: zebra, bgpd and, with a `bfdd.conf`, bfdd.
    Frr,
    /// BIRD 2.
    Bird,
}

impl fmt::Display for RouterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Frr => "frr",
            Self::Bird => "bird",
        })
    }
}

/// A node that is a router.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterRole {
    /// Which router; usually the parameter `${router}`, which `lab up --router` sets.
    pub kind: RouterKind,
    /// Folder of the topology with its configuration: `zebra.conf`, `bgpd.conf`, `bfdd.conf`; `bird.conf`.
    pub config: String,
}

impl RouterRole {
    /// The programs that make this router.
    ///
    /// # Errors
    /// A configuration that the folder does not have.
    pub(crate) fn processes(&self, folder: &Folder) -> Result<Vec<Process>> {
        let file = |name: &str| format!("{}/{name}.conf", self.config);
        let needed: &[&str] = match self.kind {
            RouterKind::Frr => &["zebra", "bgpd"],
            RouterKind::Bird => &["bird"],
        };
        for name in needed {
            ensure!(
                folder.has(&file(name)),
                "there is no {} for a {} router",
                file(name),
                self.kind
            );
        }
        Ok(match self.kind {
            RouterKind::Frr => {
                let configured = FRR_DAEMONS.iter().filter(|d| folder.has(&file(d)));
                configured.map(|d| frr_daemon(d, file(d))).collect()
            }
            RouterKind::Bird => vec![bird(file("bird"))],
        })
    }
}

fn texts(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|p| (*p).to_owned()).collect()
}

/// Private sockets, pid files and logs, no vty port: several kinds run side by side.
fn frr_daemon(name: &str, file: String) -> Process {
    let own = |suffix: &str| format!("{{dir}}/{name}.{suffix}");
    let mut command = vec![
        format!("/usr/lib/frr/{name}"),
        "-f".into(),
        own("conf"),
        "-i".into(),
        own("pid"),
    ];
    if name == "bfdd" {
        command.extend(["--bfdctl".into(), own("sock")]);
    }
    command.extend(texts(&["-z", "{dir}/zserv.api", "--vty_socket", "{dir}"]));
    command.extend(texts(&["-A", "127.0.0.1", "-P", "0", "--log"]));
    command.push(format!("file:{}", own("log")));
    let bgp = name == "bgpd";
    Process {
        name: name.to_owned(),
        files: vec![file],
        owner: Some("frr".into()),
        command,
        ready_file: (!bgp).then(|| own("vty")),
        ready_port: bgp.then_some(BGP_PORT),
    }
}

fn bird(file: String) -> Process {
    let command = texts(&[
        "/usr/sbin/bird",
        "-f",
        "-c",
        "{dir}/bird.conf",
        "-s",
        "{dir}/bird.ctl",
        "-P",
        "{dir}/bird.pid",
    ]);
    Process {
        name: "bird".into(),
        files: vec![file],
        owner: None,
        command,
        ready_file: Some("{dir}/bird.ctl".into()),
        ready_port: None,
    }
}

/// Names of the programs that make a router, or of the one that speaks BGP; BIRD is a single one.
pub(crate) fn programs(kind: RouterKind, bgp_alone: bool) -> &'static [&'static str] {
    match kind {
        RouterKind::Frr if bgp_alone => &["bgpd"],
        RouterKind::Frr => FRR_DAEMONS,
        RouterKind::Bird => &["bird"],
    }
}

/// A BGP session as the router shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Session {
    /// The neighbour's address.
    pub neighbor: IpAddr,
    /// RFC 4271's state word.
    pub state: String,
    /// Ports of its TCP connection at the router and at the neighbour, empty without one: others are another session.
    pub ports: String,
    /// How often it was established since the router knows the neighbour; BIRD does not count.
    pub times_established: Option<u64>,
}

impl Session {
    /// True when routes are exchanged.
    pub(crate) fn is_established(&self) -> bool {
        self.state == "Established"
    }
}

/// A command as a user would type it on the router: its shells, `vtysh` and `birdc`, find the daemons of this node.
pub(crate) fn shell(dir: &Path, command: &[String]) -> Vec<String> {
    let sockets = match command.first().map(String::as_str) {
        Some("vtysh") => vec!["--vty_socket".to_owned(), dir.display().to_string()],
        Some("birdc") => vec!["-s".to_owned(), dir.join("bird.ctl").display().to_string()],
        _ => Vec::new(),
    };
    let (program, arguments) = command.split_at(command.len().min(1));
    [program, &sockets, arguments].concat()
}

/// The BGP sessions of the router in a node, sorted by neighbour.
///
/// # Errors
/// The router does not answer.
pub(crate) fn sessions(kind: RouterKind, namespace: &str, dir: &Path) -> Result<Vec<Session>> {
    let states = match kind {
        RouterKind::Frr => {
            let sockets = dir.display().to_string();
            let ask = "show bgp neighbors json";
            let shown = run(
                "vtysh",
                &["--vty_socket", &sockets, "-d", "bgpd", "-c", ask],
            )?;
            frr_states(&serde_json::from_str(&shown).context("FRR's answer is no JSON")?)
        }
        RouterKind::Bird => {
            let ctl = dir.join("bird.ctl").display().to_string();
            bird_states(&run("birdc", &["-r", "-s", &ctl, "show protocols all"])?)
        }
    };
    let established = ["-N", namespace, "-H", "-t", "-n", "state", "established"];
    let ports = connections(&run("ss", &established)?);
    let session = |(neighbor, (state, times_established))| Session {
        neighbor,
        state,
        ports: ports.get(&neighbor).cloned().unwrap_or_default(),
        times_established,
    };
    Ok(states.into_iter().map(session).collect())
}

/// By neighbour, its state and how often it was established.
type States = BTreeMap<IpAddr, (String, Option<u64>)>;

/// `{"10.1.0.2": {"bgpState": …, "connectionsEstablished": …}, …}`.
fn frr_states(neighbors: &Value) -> States {
    let state = |(address, neighbor): (&String, &Value)| {
        let word = neighbor["bgpState"].as_str()?.to_owned();
        let times = neighbor["connectionsEstablished"].as_u64();
        Some((address.parse().ok()?, (word, times)))
    };
    let all = neighbors.as_object().into_iter().flatten();
    all.filter_map(state).collect()
}

/// A protocol begins in the first column: `se1  BGP  ---  up  12:00:01.123  Established`; its details are indented,
/// the state before the address. A protocol that listens for a range has no address.
fn bird_states(shown: &str) -> States {
    let mut found = States::new();
    let mut state = "";
    for line in shown.lines() {
        match line.trim().split_once(':') {
            Some(("BGP state", word)) => state = word.trim(),
            Some(("Neighbor address", address)) => {
                let neighbor = address.trim().parse();
                found.extend(neighbor.map(|n| (n, (state.to_owned(), None))));
            }
            _ => (),
        }
    }
    found
}

/// Ports of the BGP connections by neighbour, from lines of `ss`: `0 0 10.1.0.1:179 10.1.0.2:39137`.
fn connections(shown: &str) -> BTreeMap<IpAddr, String> {
    let mut found = BTreeMap::new();
    for line in shown.lines() {
        let mut ends = line.split_whitespace().skip(2).map_while(endpoint);
        let (Some(local), Some(remote)) = (ends.next(), ends.next()) else {
            continue;
        };
        if [local.port(), remote.port()].contains(&BGP_PORT) {
            let ports = format!("{} {}", local.port(), remote.port());
            found.insert(remote.ip().to_canonical(), ports);
        }
    }
    found
}

/// `10.1.0.1:179`, `[fd00::1]:179`, `[::ffff:10.1.0.1]:179`, `[fe80::1]%eth0:179`.
fn endpoint(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let address = address.split('%').next()?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn states(list: &[(&str, &str, Option<u64>)]) -> States {
        let parsed = list
            .iter()
            .map(|(n, s, times)| (n.parse().unwrap(), ((*s).to_owned(), *times)));
        parsed.collect()
    }

    #[test]
    fn states_are_read_from_frr() {
        let up = json!({ "bgpState": "Established", "connectionsEstablished": 2 });
        let shown = json!({ "10.1.0.2": up, "fd00::2": { "bgpState": "Active" }, "vrfId": 0 });
        let expected = states(&[
            ("10.1.0.2", "Established", Some(2)),
            ("fd00::2", "Active", None),
        ]);
        assert_eq!(frr_states(&shown), expected);
        assert_eq!(frr_states(&json!({})), States::new());
    }

    #[test]
    fn states_are_read_from_bird_and_listening_ranges_are_none() {
        let shown = "BIRD 2.0.12 ready.
Name       Proto      Table      State  Since         Info
device1    Device     ---        up     10:00:00.000

se1        BGP        ---        up     10:00:01.500  Established
  BGP state:          Established
    Neighbor address: 10.1.0.2
    Neighbor AS:      65001
  Channel ipv4
    State:          UP

range      BGP        ---        start  10:00:00.000  Passive
  BGP state:          Passive
    Neighbor range:   10.10.10.0/24
";
        let expected = states(&[("10.1.0.2", "Established", None)]);
        assert_eq!(bird_states(shown), expected);
    }

    #[test]
    fn ports_are_those_of_bgp_connections_in_either_family() {
        let shown = "0 0 10.1.0.1:179 10.1.0.2:39137
0      0      [::ffff:10.1.1.0]:40001  [::ffff:10.1.1.1]:179
0      0      [fd00::1]:179     [fd00::2]:5000
0      0      127.0.0.1:2605    127.0.0.1:5001
";
        let found = connections(shown);
        let at = |a: &str| found.get(&a.parse::<IpAddr>().unwrap()).map(String::as_str);
        assert_eq!(at("10.1.0.2"), Some("179 39137"));
        assert_eq!(at("10.1.1.1"), Some("40001 179"));
        assert_eq!(at("fd00::2"), Some("179 5000"));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn a_router_without_its_configuration_is_refused_with_the_missing_file() {
        let folder = Folder::find("ecmp-5se").unwrap();
        let role = RouterRole {
            kind: RouterKind::Bird,
            config: "nowhere".into(),
        };
        let error = role.processes(&folder).unwrap_err().to_string();
        assert_eq!(error, "there is no nowhere/bird.conf for a bird router");
    }
}
