//! What befalls controllers and the members of their etcd, while flows and writes go on.

use super::{BACK_TIMEOUT, Done, Runner, wall_us};
use crate::nodes;
use crate::process::{in_namespace, wait_for};
use crate::scenario::LeaderFault;
use anyhow::{Context, Result, bail, ensure};
use cli::note;
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// How long it may take until another controller leads: the lease, an election of etcd's, and a start.
const LEADS_WITHIN: Duration = Duration::from_secs(20);
/// How long a cut lasts beyond what it must lead to.
const CUT_LASTS: Duration = Duration::from_secs(5);
/// The table of a cut.
const TABLE: &str = "lab_cut";

impl Runner<'_> {
    /// The fault, until another controller leads where one must, and its end, until the cluster is whole again.
    pub(super) fn leader_fault(&mut self, fault: LeaderFault) -> Result<Done> {
        let leader = self.control.cluster()?.leader;
        let at = Instant::now();
        let result = self.bring_about(fault, &leader);
        self.mend(fault, &leader)?;
        result?;
        let mut done = Done {
            called_us: wall_us(at),
            ..Done::default()
        };
        let whole = self.await_whole_cluster();
        done.violations
            .extend(whole.err().map(|e| format!("{e:#}")));
        done.violations.extend(self.await_engines());
        Ok(done)
    }

    fn bring_about(&self, fault: LeaderFault, leader: &str) -> Result<()> {
        match fault {
            LeaderFault::Killed => self.end_process(leader, Signal::SIGKILL)?,
            LeaderFault::Stopped => self.end_process(leader, Signal::SIGTERM)?,
            LeaderFault::CutFromEtcd => self.cut(leader, &self.etcd_ports()?)?,
            LeaderFault::CutFromEngines => {
                self.cut(leader, &self.engines_port(leader)?)?;
                super::traffic_for(CUT_LASTS);
                return Ok(());
            }
        }
        self.await_another(leader)
    }

    fn mend(&mut self, fault: LeaderFault, leader: &str) -> Result<()> {
        match fault {
            LeaderFault::Killed | LeaderFault::Stopped => {
                nodes::restart(self.record, leader).map(drop)
            }
            LeaderFault::CutFromEtcd | LeaderFault::CutFromEngines => {
                self.nft(leader, &["delete", "table", "inet", TABLE])
            }
        }
    }

    fn end_process(&self, node: &str, signal: Signal) -> Result<()> {
        let process = self.process(node)?;
        ensure!(process.signal(signal), "nothing runs in {node}");
        let ended = wait_for(BACK_TIMEOUT, || !process.is_alive());
        ensure!(ended, "the process in {node} does not end");
        Ok(())
    }

    fn await_another(&self, leader: &str) -> Result<()> {
        let began = Instant::now();
        let mut now = String::new();
        let changed = wait_for(LEADS_WITHIN, || {
            let cluster = self.control.cluster();
            now = cluster.map(|c| c.leader).unwrap_or_default();
            !now.is_empty() && now != leader
        });
        ensure!(changed, "no other controller leads after {leader}");
        let took = began.elapsed().as_secs_f64();
        note!("  {now} leads after {leader}, seen after {took:.1} s");
        Ok(())
    }

    pub(super) fn await_whole_cluster(&self) -> Result<()> {
        let mut problems = Vec::new();
        let whole = wait_for(BACK_TIMEOUT, || match self.control.cluster() {
            Ok(cluster) => {
                problems = cluster.problems;
                cluster.state == "CLUSTER_UP_HA_ACTIVE"
            }
            Err(error) => {
                problems = vec![format!("{error:#}")];
                false
            }
        });
        match whole {
            true => Ok(()),
            false => bail!("the cluster is not whole again: {}", problems.join("; ")),
        }
    }

    /// Kills a node's last process and starts it again at the end of the step's waiting.
    pub(super) fn member_dies(&mut self, node: &str) -> Result<Done> {
        let at = Instant::now();
        self.end_process(node, Signal::SIGKILL)?;
        super::traffic_for(CUT_LASTS);
        nodes::restart(self.record, node)?;
        let whole = self.await_whole_cluster();
        Ok(Done {
            called_us: wall_us(at),
            violations: whole.err().map(|e| format!("{e:#}")).into_iter().collect(),
            ..Done::default()
        })
    }

    fn etcd_ports(&self) -> Result<Vec<String>> {
        let roles = self
            .topology
            .nodes
            .iter()
            .filter_map(|n| n.controller.as_ref());
        let mut ports: Vec<_> = roles
            .flat_map(|r| &r.etcd)
            .filter_map(|u| port_of(u))
            .collect();
        ports.sort();
        ports.dedup();
        ensure!(
            !ports.is_empty(),
            "the topology's controllers share no etcd"
        );
        Ok(ports)
    }

    fn engines_port(&self, node: &str) -> Result<Vec<String>> {
        let role = self.topology.node(node)?.controller.as_ref();
        let role = role.with_context(|| format!("node {node} is no controller"))?;
        Ok(port_of(&role.engines).into_iter().collect())
    }

    /// Drops what goes to these ports from the node, and what comes from there to them.
    fn cut(&self, node: &str, ports: &[String]) -> Result<()> {
        self.nft(node, &["add", "table", "inet", TABLE])?;
        for hook in ["input", "output"] {
            let chain = format!("{{ type filter hook {hook} priority 0; }}");
            self.nft(node, &["add", "chain", "inet", TABLE, hook, &chain])?;
            for (port, side) in ports.iter().flat_map(|p| [(p, "dport"), (p, "sport")]) {
                self.nft(
                    node,
                    &[
                        "add", "rule", "inet", TABLE, hook, "tcp", side, port, "drop",
                    ],
                )?;
            }
        }
        Ok(())
    }

    fn nft(&self, node: &str, arguments: &[&str]) -> Result<()> {
        let command = std::iter::once("nft").chain(arguments.iter().copied());
        let command: Vec<_> = command.map(str::to_owned).collect();
        let output = in_namespace(&self.record.namespace(node), &command).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "nft in {node}: {}", said.trim());
        Ok(())
    }
}

/// Of a URL or an address.
fn port_of(address: &str) -> Option<String> {
    let port = address.trim_end_matches('/').rsplit_once(':')?.1;
    Some(port.to_owned())
}
