//! A step that changes an object through the API, and what must follow from it at the routers.

use super::{Done, Runner, SETTLE_TIMEOUT, wall_us};
use crate::command;
use crate::process::wait_for;
use crate::router::{self, Session};
use crate::scenario::{Edit, Follow, fib};
use anyhow::Result;
use cli::note;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

/// The connection of each session that a router has, by neighbour.
type Connections = BTreeMap<IpAddr, String>;

/// What was so when the change was made.
struct Before {
    placed: BTreeSet<String>,
    /// By router, where other connections must follow.
    connections: BTreeMap<String, Connections>,
}

/// What was looked for is there, and what is there in words.
type Seen = (bool, String);

impl Runner<'_> {
    /// Makes the change, then waits for what must follow.
    pub(super) fn edit(&mut self, edit: &Edit) -> Result<Done> {
        let before = Before {
            placed: self.ask_placement()?,
            connections: self.connections_before(edit)?,
        };
        let at = Instant::now();
        self.control.patch(&edit.object, &edit.patch)?;
        let follows = edit.follows.iter();
        let violations = follows.filter_map(|f| self.await_one(f, &before, at));
        Ok(Done {
            called_us: wall_us(at),
            violations: violations.collect(),
            ..Done::default()
        })
    }

    fn connections_before(&self, edit: &Edit) -> Result<BTreeMap<String, Connections>> {
        let routers = edit.follows.iter().filter_map(|follow| match follow {
            Follow::NewSessions { router } => Some(router),
            Follow::Route { .. } | Follow::NoRoute { .. } | Follow::Says { .. } => None,
        });
        let asked = routers.map(|r| Ok((r.clone(), connections(self.sessions(r)?))));
        asked.collect()
    }

    /// What did not follow in time. A router that gives no answer may give one at the next look.
    fn await_one(&self, follow: &Follow, before: &Before, since: Instant) -> Option<String> {
        let mut seen = String::new();
        let followed = wait_for(SETTLE_TIMEOUT, || {
            let looked = self.look(follow, before);
            let (enough, words) = looked.unwrap_or_else(|e| (false, format!("{e:#}")));
            seen = words;
            enough
        });
        let took_s = since.elapsed().as_secs_f64();
        if followed {
            note!("  {seen} after {took_s:.3} s");
            return None;
        }
        Some(format!("{took_s:.0} s after the change: {seen}"))
    }

    fn look(&self, follow: &Follow, before: &Before) -> Result<Seen> {
        match follow {
            Follow::Route { router } => self.look_at_route(router, &before.placed),
            Follow::NoRoute { router } => self.look_at_route(router, &BTreeSet::new()),
            Follow::NewSessions { router } => self.look_at_sessions(router, before),
            Follow::Says {
                router,
                command,
                contains,
            } => self.look_at_answer(router, command, contains),
        }
    }

    fn look_at_route(&self, router: &str, wanted: &BTreeSet<String>) -> Result<Seen> {
        let vip = self.scenario.vip;
        let hops = fib::next_hops(&self.record.namespace(router), vip)?;
        let names = self.names(&hops);
        let seen = match names.is_empty() {
            true => "no route".to_owned(),
            false => format!("the route over {}", join(&names)),
        };
        Ok((
            names == *wanted,
            format!("{router}'s kernel has {seen} to {vip}"),
        ))
    }

    fn look_at_sessions(&self, router: &str, before: &Before) -> Result<Seen> {
        let mut now = connections(self.sessions(router)?);
        let old = &before.connections[router];
        now.retain(|neighbor, ports| old.get(neighbor) != Some(ports));
        let names = self.names(&now.into_keys().collect());
        Ok((
            names == before.placed,
            format!("{router} has new sessions with [{}]", join(&names)),
        ))
    }

    fn look_at_answer(&self, node: &str, command: &[String], contains: &str) -> Result<Seen> {
        let command = router::shell(&self.record.node_dir(node), command);
        let namespace = self.record.namespace(node);
        let mut inside = vec!["netns", "exec", &namespace];
        inside.extend(command.iter().map(String::as_str));
        let said = command::run("ip", &inside)?;
        let found = said.lines().find(|l| l.contains(contains));
        let seen = found.map_or_else(
            || format!("{node} does not say {contains:?}: {said}"),
            |line| format!("{node} says {:?}", line.trim()),
        );
        Ok((found.is_some(), seen))
    }
}

fn connections(sessions: Vec<Session>) -> Connections {
    let up = sessions.into_iter().filter(Session::is_established);
    up.map(|s| (s.neighbor, s.ports)).collect()
}

fn join(names: &BTreeSet<String>) -> String {
    names.iter().cloned().collect::<Vec<_>>().join(" ")
}
