//! Routers by name: how FRR and BIRD are started in a node, and what they say of their BGP sessions.
//!
//! A topology writes `[node.router]` with the kind and the folder of its configurations; which programs that
//! means, with their sockets in the node's own directory, stands here.

use crate::command::run;
use crate::topology::{Folder, Process};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::net::IpAddr;
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

/// A BGP session as the router shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Session {
    /// The neighbour's address.
    pub neighbor: IpAddr,
    /// RFC 4271's state word.
    pub state: String,
    /// Another text is another session: the TCP ports of FRR's, BIRD's time of the last change.
    pub incarnation: String,
}

/// The BGP sessions of the router in a node, sorted by neighbour.
///
/// # Errors
/// The router does not answer.
pub(crate) fn sessions(kind: RouterKind, dir: &Path) -> Result<Vec<Session>> {
    let mut found = match kind {
        RouterKind::Frr => {
            let sockets = dir.display().to_string();
            let ask = "show bgp neighbors json";
            let asked = ["--vty_socket", &sockets, "-d", "bgpd", "-c", ask];
            let shown = run("vtysh", &asked)?;
            frr_sessions(&serde_json::from_str(&shown).context("FRR's answer is no JSON")?)
        }
        RouterKind::Bird => {
            let ctl = dir.join("bird.ctl").display().to_string();
            bird_sessions(&run("birdc", &["-r", "-s", &ctl, "show protocols all"])?)
        }
    };
    found.sort();
    found.dedup_by_key(|s| s.neighbor);
    Ok(found)
}

/// `{"10.1.0.2": {"bgpState": …, "portLocal": …, "portForeign": …}, …}`.
fn frr_sessions(neighbors: &Value) -> Vec<Session> {
    let session = |(address, neighbor): (&String, &Value)| {
        Some(Session {
            neighbor: address.parse().ok()?,
            state: neighbor["bgpState"].as_str()?.to_owned(),
            incarnation: format!("{}-{}", neighbor["portLocal"], neighbor["portForeign"]),
        })
    };
    let all = neighbors.as_object().into_iter().flatten();
    all.filter_map(session).collect()
}

/// A protocol begins in the first column: `se1  BGP  ---  up  12:00:01.123  Established`; its details are indented.
fn bird_sessions(shown: &str) -> Vec<Session> {
    let mut found = Vec::new();
    let (mut since, mut state) = (String::new(), String::new());
    for line in shown.lines() {
        if !line.starts_with(char::is_whitespace) {
            since = line.split_whitespace().nth(4).unwrap_or("").to_owned();
            state.clear();
        }
        match line.trim().split_once(':') {
            Some(("BGP state", word)) => word.trim().clone_into(&mut state),
            Some(("Neighbor address", address)) => {
                if let Ok(neighbor) = address.trim().parse() {
                    let (state, incarnation) = (state.clone(), since.clone());
                    found.push(Session {
                        neighbor,
                        state,
                        incarnation,
                    });
                }
            }
            _ => (),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn session(neighbor: &str, state: &str, incarnation: &str) -> Session {
        Session {
            neighbor: neighbor.parse().unwrap(),
            state: state.into(),
            incarnation: incarnation.into(),
        }
    }

    #[test]
    fn sessions_are_read_from_frr() {
        let up = json!({ "bgpState": "Established", "portLocal": 179, "portForeign": 39137 });
        let shown = json!({ "10.1.0.2": up, "fd00::2": { "bgpState": "Active" }, "vrfId": 0 });
        let mut seen = frr_sessions(&shown);
        seen.sort();
        assert_eq!(seen[0], session("10.1.0.2", "Established", "179-39137"));
        assert_eq!(seen[1], session("fd00::2", "Active", "null-null"));
        assert_eq!(seen.len(), 2);
        assert_eq!(frr_sessions(&json!({})), []);
    }

    #[test]
    fn sessions_are_read_from_bird_and_listening_ranges_are_none() {
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
        let seen = bird_sessions(shown);
        assert_eq!(seen, [session("10.1.0.2", "Established", "10:00:01.500")]);
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
