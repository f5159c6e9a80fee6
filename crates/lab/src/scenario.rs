//! Scenarios are data too: `scenarios/NAME.toml` in the topology's folder. Steps run under traffic, each is
//! observed from outside (the router's kernel, the client's own checks) and judged against what must hold.

pub mod fib;
pub mod judge;
pub mod run;

mod helper;

use crate::topology::Params;
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
    /// Segment between router and SEs.
    pub segment: String,
    /// Node that the traffic comes from.
    pub client: String,
    /// Parameters that the topology must have; a lab that has others is built anew.
    #[serde(default)]
    pub params: Params,
    /// The load.
    pub traffic: Traffic,
    /// What measurements must not exceed.
    pub bars: Bars,
    /// Steps, in order.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
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
    /// Short connections per second.
    pub short_per_s: u32,
    /// Each step begins with new long-lived connections instead of replacing the broken ones. Where flows break with
    /// their engine, those that are left were chosen by the router's hash.
    #[serde(default)]
    pub fresh_each_step: bool,
}

/// Bars.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bars {
    /// Seconds from the API call to the router's FIB.
    pub fib_s: f64,
    /// Seconds from the API call to the first connection over a new SE.
    pub first_connection_s: f64,
    /// Resident memory of an engine with one VS before traffic, MiB.
    pub engine_idle_rss_mib: u64,
    /// No flow and no short connection breaks, whatever the router moves. Left out where an engine dies.
    #[serde(default)]
    pub none_breaks: bool,
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
    /// The router that the traffic goes over must not notice the step: it keeps every session and the route as they
    /// are, no flow moves or breaks, no short connection fails.
    #[serde(default)]
    pub undisturbed: bool,
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
    },
    /// Starts a node's last process again as it was started before; its route must come back.
    Start {
        /// The node.
        node: String,
    },
    /// A change of an object through the API, and what must follow.
    Edit(Edit),
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
