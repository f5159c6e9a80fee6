//! Scenarios are data too: `scenarios/NAME.toml` in the topology's folder. Steps run under traffic, each is
//! observed from outside (the router's kernel, the client's own checks) and judged against what must hold.

pub mod fib;
pub mod helper;
pub mod judge;
pub mod run;

mod table;

use crate::member::traffic::ANSWER_TIMEOUT_MS;
use crate::topology::{Params, one_or_several};
use anyhow::{Result, bail};
use serde::Deserialize;
use std::net::IpAddr;

/// Which way to scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// One SE more.
    Out,
    /// One SE fewer.
    In,
}

/// A parsed scenario file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// One line for people.
    pub description: String,
    /// The address that traffic goes to.
    pub vip: IpAddr,
    /// Node whose kernel routes to the SEs.
    pub router: String,
    /// Segment between router and SEs, or a list of them where SEs have several links.
    #[serde(rename = "segment", deserialize_with = "one_or_several")]
    pub segments: Vec<String>,
    /// Node that the traffic comes from, unless the mode names others.
    pub client: String,
    /// The VIP is scaled natively: no route is expected, and others watch who answers for it.
    pub native: Option<Native>,
    /// SEs that have the virtual service when the steps begin; none: one, whichever it is.
    #[serde(default)]
    pub start: Vec<String>,
    /// Ways to run the same steps; without being told otherwise `lab run` takes the first.
    #[serde(default, rename = "mode")]
    pub modes: Vec<Mode>,
    /// The one that is run.
    #[serde(skip)]
    pub mode: Option<Mode>,
    /// Parameters that the topology must have; a lab that has others is built anew.
    #[serde(default)]
    pub params: Params,
    /// The load.
    pub traffic: Traffic,
    /// Writes to the controllers, all the time.
    pub writes: Option<Writes>,
    /// What measurements must not exceed.
    pub bars: Bars,
    /// Steps, in order.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

/// Of a VIP that is scaled natively, on the link of the scenario's first segment.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Native {
    /// Nodes on that link that ask again and again who has the VIP.
    pub watchers: Vec<String>,
    /// Nodes on that link that see who sends from the VIP: the traffic's clients, or the router in front of them.
    pub senders: Vec<String>,
}

/// A way to run the steps: with whom, over which VIP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mode {
    /// What `--mode` calls it.
    pub name: String,
    /// Nodes that the traffic comes from, in equal parts.
    pub clients: Vec<String>,
    /// Another VIP than the scenario's.
    pub vip: Option<IpAddr>,
    /// How owners of moved flows must be found; by what is not named here none may be.
    pub found_by: Vec<Way>,
}

/// How an SE finds the owner of a flow that the router moved to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The client's timestamp names it.
    Hint,
    /// It was asked for, in this step or (the cache) in an earlier one.
    Probe,
}

/// All modes of a scenario, one after the other.
const ALL_MODES: &str = "all";

impl Scenario {
    /// The scenario in each mode that is meant: the first, the named one, or all of them.
    ///
    /// # Errors
    /// It has no mode of this name.
    pub fn in_modes(self, wanted: Option<&str>) -> Result<Vec<Self>> {
        let chosen: Vec<_> = match wanted {
            None if self.modes.is_empty() => return Ok(vec![self]),
            None => self.modes.iter().take(1).collect(),
            Some(ALL_MODES) => self.modes.iter().collect(),
            Some(name) => self.modes.iter().filter(|m| m.name == name).collect(),
        };
        if chosen.is_empty() {
            let names: Vec<_> = self.modes.iter().map(|m| m.name.as_str()).collect();
            let wanted = wanted.unwrap_or_default();
            bail!("no mode {wanted}; the scenario has: {}", names.join(", "));
        }
        let with = |mode: &Mode| Self {
            vip: mode.vip.unwrap_or(self.vip),
            mode: Some(mode.clone()),
            ..self.clone()
        };
        Ok(chosen.into_iter().map(with).collect())
    }

    /// Nodes that the traffic comes from.
    pub fn clients(&self) -> Vec<&str> {
        match &self.mode {
            Some(mode) => mode.clients.iter().map(String::as_str).collect(),
            None => vec![&self.client],
        }
    }
}

/// The load of a scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Port at the VIP.
    pub port: u16,
    /// Long-lived connections.
    pub connections: usize,
    /// Milliseconds between two messages of one.
    pub interval_ms: u64,
    /// A flow that has no answer for so many seconds is broken.
    #[serde(default = "answer_timeout_s")]
    pub answer_timeout_s: u64,
    /// Short connections per second.
    pub short_per_s: u32,
    /// Each step begins with new long-lived connections instead of replacing the broken ones. Where flows break with
    /// their engine, those that are left were chosen by the router's hash.
    #[serde(default)]
    pub fresh_each_step: bool,
    /// Downloads of bodies of known content, all the time.
    pub downloads: Option<Transfers>,
    /// Uploads whose checksum the server sends back, all the time.
    pub uploads: Option<Transfers>,
    /// UDP flows.
    pub datagrams: Option<Datagrams>,
}

/// Changes of objects through the API. None that was acknowledged may be lost, and none may be made twice.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writes {
    /// How many, by all writers together.
    pub per_s: u32,
    /// So many may fail beyond what a client mends by asking again.
    pub failed_max: Option<u64>,
}

/// UDP flows to `lab member echo` through the VIP, each with a message per interval.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Datagrams {
    /// Port at the VIP.
    pub port: u16,
    /// How many.
    pub flows: usize,
}

fn answer_timeout_s() -> u64 {
    ANSWER_TIMEOUT_MS / 1000
}

/// Downloads from `lab member http` through the VIP, or uploads to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfers {
    /// Port at the VIP.
    pub port: u16,
    /// Under way at any time.
    pub concurrent: usize,
    /// Bytes of each.
    pub bytes: u64,
    /// Pace of each: it shall last longer than the router needs for a change.
    pub bytes_per_s: u64,
}

/// Bars.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bars {
    /// Seconds from the API call to the router's FIB.
    pub fib_s: f64,
    /// Seconds from the API call to the first connection over a new SE.
    pub first_connection_s: f64,
    /// Resident memory of an engine with one VS before traffic, MiB; not looked at without it.
    pub engine_idle_rss_mib: Option<u64>,
    /// Longest time in which nobody answers for a VIP that is scaled natively.
    #[serde(default = "silent_s")]
    pub silent_s: f64,
    /// No flow, no download and no short connection breaks, whatever the router moves, but those that a step's `dies` excuses.
    #[serde(default)]
    pub none_breaks: bool,
}

/// Longer than a neighbour that is asked again would wait.
fn silent_s() -> f64 {
    1.0
}

/// A step.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What the table calls it.
    pub name: String,
    /// What is done.
    pub action: Action,
    /// Seconds of traffic after the routes have settled.
    pub observe_s: u64,
    /// The step begins with new long-lived connections, which the router spreads over the SEs that there are by now.
    #[serde(default)]
    pub fresh: bool,
    /// The router that the traffic goes over must not notice the step: it keeps every session and the route as they
    /// are, no flow moves or breaks, no short connection fails.
    #[serde(default)]
    pub undisturbed: bool,
    /// The SE that dies in the step: the flows that it had break, all of them, and nothing else. The step lasts until they
    /// have.
    pub dies: Option<String>,
    /// The SEs may have sent at most so many packets to each other.
    pub tunnelled_max: Option<u64>,
    /// Nobody sends from the VIP, which is scaled natively, but who answers for it in this step.
    #[serde(default)]
    pub answers_by_primary: bool,
    /// The router must have moved at least this share of the flows, else the step proves nothing.
    #[serde(default)]
    pub moved_min_percent: usize,
    /// The calls must be made within this time.
    pub calls_within_s: Option<f64>,
    /// At its end the router has the route by so many SEs.
    pub engines: Option<usize>,
}

/// What a step does.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Nothing: the state before is observed.
    Hold,
    /// Scale-out calls, one right after the other: `times` of the planner's choice, or to the named SEs.
    ScaleOut {
        /// Number of calls.
        #[serde(default)]
        times: usize,
        /// Names of SEs.
        #[serde(default)]
        to: Vec<String>,
    },
    /// Scale-in calls: `times` of the planner's choice, or from the named SEs.
    ScaleIn {
        /// Number of calls.
        #[serde(default)]
        times: usize,
        /// Names of SEs.
        #[serde(default)]
        from: Vec<String>,
    },
    /// So many SEs at once, as an operator asks for them: `min_scaleout_per_vs` of the SE group is set to this number, and where
    /// the virtual service has more SEs, scale-in calls follow.
    ScaleTo {
        /// SEs that the virtual service has then.
        engines: usize,
    },
    /// A signal to a node's last process.
    Signal {
        /// The node.
        node: String,
        /// KILL, TERM, STOP or CONT.
        signal: SignalName,
        /// The SE's route must be gone from the FIB within so many seconds; absent: routes must not change.
        gone_within_s: Option<f64>,
        /// … and not earlier than this: the hold time, not something else, must have ended the session.
        #[serde(default)]
        gone_after_s: f64,
        /// The controller must show the SE down, with a reason.
        #[serde(default)]
        down: bool,
        /// A log of the lab must say this.
        log: Option<LogLine>,
        /// The routes come back by the end of the step.
        #[serde(default)]
        back: bool,
        /// It comes in the middle of a scale-out to this SE: right after the call, while the members are being told.
        amid_scale_out: Option<String>,
    },
    /// An engine's process is stopped until its route is gone and the controller shows it down, then goes on; its route must come back.
    Hangs {
        /// The node.
        node: String,
        /// Its route must be gone from the FIB within so many seconds.
        gone_within_s: f64,
    },
    /// Starts a node's last process again as it was started before; its route must come back.
    Start {
        /// The node.
        node: String,
    },
    /// The scenario's router is told to stop and started again: sessions and routes go, and must all come back.
    RestartRouter {
        /// Only its BGP daemon, where that is a program of its own (FRR).
        #[serde(default)]
        bgp_alone: bool,
        /// KILL or TERM.
        signal: SignalName,
    },
    /// A whole SE is gone at once: all its links, its process, its namespace. Nothing answers for it.
    HostDies {
        /// The node.
        node: String,
        /// Its routes must be gone from the FIB within so many seconds.
        gone_within_s: f64,
    },
    /// A host comes back as after a reboot: a new namespace, nothing pinned, what is on disk is there. Its routes must come
    /// back.
    HostReturns {
        /// The node.
        node: String,
    },
    /// An SE loses a link: its next hop must go from the FIB.
    LinkDown {
        /// The SE.
        node: String,
        /// The link's segment.
        segment: String,
        /// The SE's interface keeps its carrier; the switch carries nothing.
        #[serde(default)]
        silent: bool,
        /// The next hop must be gone within so many seconds.
        gone_within_s: f64,
    },
    /// The link is back, however it was lost: its next hop must come back.
    LinkUp {
        /// The SE.
        node: String,
        /// The link's segment.
        segment: String,
    },
    /// Disables an SE through the API: its route must go, its flows stay.
    Drain {
        /// The SE.
        node: String,
    },
    /// Enables it again: its route must come back.
    Undrain {
        /// The SE.
        node: String,
    },
    /// A change of an object through the API, and what must follow.
    Edit(Edit),
    /// The load becomes another one, and the controller scales by itself, one SE after the other.
    Autoscale {
        /// Long-lived connections beside those of the scenario, from now on.
        load: usize,
        /// SEs that it ends on.
        engines: usize,
        /// They must be next hops within so many seconds.
        within_s: f64,
    },
    /// Something befalls the controller that leads. It lasts until another one leads, where one must; then it is mended, and
    /// all must be there again.
    Leader {
        /// What.
        fault: LeaderFault,
    },
    /// Clocks of controllers are set, of a topology whose clocks can be. A leader whose clock is set goes on leading.
    Clocks {
        /// Whose; those of the others are right.
        of: Whose,
        /// So many seconds off the right time, from now on.
        shift_s: i64,
    },
    /// Another engine becomes the primary of a VIP that is scaled natively, through the API.
    SwitchOver {
        /// The SE.
        to: String,
    },
    /// A segment's switch falls in two for a while: these nodes are on the other side, and nobody's carrier is lost.
    Part {
        /// The nodes.
        nodes: Vec<String>,
        /// The segment.
        segment: String,
        /// For so long.
        for_s: f64,
    },
    /// A node's last process, a member of the controllers' etcd for instance, is killed and started again.
    MemberDies {
        /// The node.
        node: String,
    },
}

/// What befalls the controller that leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaderFault {
    /// By SIGKILL.
    Killed,
    /// By SIGTERM, as in a restart for a new version.
    Stopped,
    /// Packets between it and etcd are dropped.
    CutFromEtcd,
    /// Packets between it and the engines are dropped; it goes on leading.
    CutFromEngines,
}

/// Of controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whose {
    /// The one that leads when the step begins.
    Leader,
    /// All others.
    Followers,
}

impl Action {
    /// True for a change by many SEs at once, in whose table they are counted and not named.
    fn is_wide(&self) -> bool {
        matches!(self, Self::ScaleTo { .. })
    }

    /// True for what befalls hosts, links and the router, in whose table other things count.
    fn is_event(&self) -> bool {
        match self {
            Self::RestartRouter { .. }
            | Self::HostDies { .. }
            | Self::HostReturns { .. }
            | Self::LinkDown { .. }
            | Self::LinkUp { .. } => true,
            Self::Hold
            | Self::ScaleOut { .. }
            | Self::ScaleIn { .. }
            | Self::ScaleTo { .. }
            | Self::Signal { .. }
            | Self::Hangs { .. }
            | Self::Start { .. }
            | Self::Drain { .. }
            | Self::Undrain { .. }
            | Self::Edit(_)
            | Self::Autoscale { .. }
            | Self::Leader { .. }
            | Self::Clocks { .. }
            | Self::SwitchOver { .. }
            | Self::Part { .. }
            | Self::MemberDies { .. } => false,
        }
    }
}

/// A change of an object.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// Type and name: `vrfcontext/global`.
    pub object: String,
    /// The operations `add`, `remove` and `replace` of RFC 6902: all of them or none.
    pub patch: Vec<serde_json::Value>,
    /// What must follow, waited for in this order.
    #[serde(default, rename = "then")]
    pub follows: Vec<Follow>,
}

/// What a change of an object leads to, as a router sees it.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Follow {
    /// Its kernel has the VIP over every SE that is placed, and over nothing else.
    Route {
        /// Node of the router.
        router: String,
    },
    /// Its kernel has no route to the VIP.
    NoRoute {
        /// Node of the router.
        router: String,
    },
    /// Every SE that is placed has a session with it, over another connection than before the change.
    NewSessions {
        /// Node of the router.
        router: String,
    },
    /// A command there, as `lab exec` runs it, answers with this text.
    Says {
        /// Node of the router.
        router: String,
        /// Program and arguments.
        command: Vec<String>,
        /// Text in the answer.
        contains: String,
    },
}

/// A text expected in a log that is written during a step.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    /// The node.
    pub node: String,
    /// File in the node's directory.
    pub file: String,
    /// Text in a line.
    pub contains: String,
}

/// The signals that scenarios send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum SignalName {
    Kill,
    Term,
    Stop,
    Cont,
}

impl SignalName {
    fn ends(self) -> bool {
        match self {
            Self::Kill | Self::Term => true,
            Self::Stop | Self::Cont => false,
        }
    }

    fn signal(self) -> nix::sys::signal::Signal {
        use nix::sys::signal::Signal;
        match self {
            Self::Kill => Signal::SIGKILL,
            Self::Term => Signal::SIGTERM,
            Self::Stop => Signal::SIGSTOP,
            Self::Cont => Signal::SIGCONT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(modes: &str) -> Scenario {
        let text = format!(
            r#"
            description = "a scenario"
            vip = "10.100.0.1"
            router = "router"
            segment = "se"
            client = "client"
            traffic = {{ port = 80, connections = 1, interval_ms = 100, short_per_s = 0 }}
            bars = {{ fib_s = 1.0, first_connection_s = 1.0 }}
            step = []
            {modes}"#
        );
        toml::from_str(&text).unwrap()
    }

    const TWO: &str = r#"
        [[mode]]
        name = "hints"
        clients = ["client"]
        found_by = ["hint"]
        [[mode]]
        name = "ipv6"
        clients = ["plain", "client"]
        vip = "fd00:100::1"
        found_by = ["hint", "probe"]"#;

    #[test]
    fn one_segment_or_several_may_be_named() {
        assert_eq!(scenario("").segments, ["se"]);
        let text = r#"kind = "link_down"
            node = "se-1"
            segment = "se-a"
            gone_within_s = 1.0"#;
        let action: Action = toml::from_str(text).unwrap();
        assert!(action.is_event() && !Action::Hold.is_event());
    }

    #[test]
    fn a_scenario_without_modes_is_run_as_it_is() {
        let all = scenario("").in_modes(None).unwrap();
        assert_eq!((all.len(), all[0].clients()), (1, vec!["client"]));
    }

    #[test]
    fn the_first_mode_is_usual_one_can_be_named_and_all_can_be_run() {
        let names = |wanted| {
            let all = scenario(TWO).in_modes(wanted).unwrap();
            let name = |s: Scenario| s.mode.unwrap().name;
            all.into_iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(names(None), ["hints"]);
        assert_eq!(names(Some("ipv6")), ["ipv6"]);
        assert_eq!(names(Some("all")), ["hints", "ipv6"]);
    }

    #[test]
    fn a_mode_has_its_own_clients_and_vip() {
        let chosen = &scenario(TWO).in_modes(Some("ipv6")).unwrap()[0];
        assert_eq!(chosen.clients(), ["plain", "client"]);
        assert_eq!(chosen.vip.to_string(), "fd00:100::1");
    }

    #[test]
    fn an_unknown_mode_is_refused_with_those_that_there_are() {
        for (modes, wanted) in [(TWO, "nonsense"), ("", "all")] {
            let error = scenario(modes).in_modes(Some(wanted)).unwrap_err();
            assert!(error.to_string().contains(&format!("no mode {wanted}")));
        }
    }
}
