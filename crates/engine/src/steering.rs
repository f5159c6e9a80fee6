//! From the desired state and our interfaces to what the steering programs are told (docs/dev/steering.md).
//!
//! [`plan`] is pure. [`run`] is one task, owned and aborted by [`crate::run`]: it follows desired state and interfaces,
//! has the [`kernel`] steer accordingly, publishes the plan that is in force, and keeps [`house`] between changes; [`hello`] says which
//! members answer, [`line`] which processes come and go, [`voices`] which of them speak, [`sentry`] which engines that the controller
//! has lost are there. It is apart from the reconciler, whose rounds wait for withdrawals: a new
//! member is to be known within milliseconds, and the acknowledgement of a desired state waits for it
//! ([`crate::session`]).

mod asking;
pub(crate) mod hello;
mod house;
mod kernel;
pub(crate) mod line;
mod load;
mod message_ports;
mod native;
mod seen;
pub(crate) mod sentry;
mod voices;

pub(crate) use kernel::Kernel;
pub(crate) use native::Native;
use native::Relays;
pub(crate) use seen::Watch;

use crate::decide::endpoints;
use asking::{Asking, Signs};
use flow::config::{Answers, Config, Group, Link, Member, MessageKey, Peer, Service, Settings};
use flow::hello::{Liveness, Rhythm};
use flow::key::Protocol;
use flow::mark::HintKey;
use flow::wire::MESSAGE_PORT;
use ipnet::IpNet;
use line::Lines;
use message_ports::Ports;
use model::reason::Reason;
use proto::v1::{self, BgpSession, DesiredState, Interface, MemberProblem};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use voices::Turns;

/// What the steering programs are told, and what keeps them from doing all of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Plan {
    /// Of the desired state that it is made from.
    pub generation: u64,
    /// For the programs.
    pub config: Config,
    /// Members that cannot be reached by a tunnel.
    pub problems: Vec<MemberProblem>,
    /// Engines that the controller has lost.
    pub watched: Vec<Watched>,
    /// Groups of VIPs that are scaled natively.
    pub native: Vec<Native>,
}

/// An engine that is looked after ([`sentry`]).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Watched {
    pub se_uuid: String,
    pub addresses: Vec<IpAddr>,
}

/// After the kernel has refused something.
const RETRY: Duration = Duration::from_secs(2);

/// Longest wait for the programs of a host that has none; the kernel takes a fifth of a second for them.
const FIRST_WAIT: Duration = Duration::from_secs(5);

/// Waits, where an engine starts that is to serve at once what it has served before, until packets are steered or it is known
/// why not. Before that, a packet of another engine's flow that the router sends here would be answered with RST; and where
/// an earlier process has left its programs, a datagram would begin a new flow, as nobody is asked.
pub(crate) async fn in_force(mut plans: watch::Receiver<Arc<Plan>>, generation: u64) {
    let steered = plans.wait_for(|plan| plan.generation >= generation);
    if tokio::time::timeout(FIRST_WAIT, steered).await.is_err() {
        tracing::warn!(generation, "steering takes long to begin; not waiting");
    }
}

/// What [`run`] follows.
pub(crate) struct Inputs {
    pub desired: watch::Receiver<Arc<DesiredState>>,
    pub interfaces: watch::Receiver<Vec<Interface>>,
    /// A router that gets or loses our routes moves flows.
    pub bgp: watch::Receiver<Arc<Vec<BgpSession>>>,
    /// Which members answer, and on which ways.
    pub liveness: watch::Receiver<Liveness>,
    /// How busy our own host is, in percent; it changes seldom.
    pub load: watch::Receiver<u8>,
    /// Which processes are there.
    pub lines: watch::Receiver<Lines>,
}

/// Follows desired state, interfaces and our routes at the peers; what `plans` holds is in force, as far as its problems do not say otherwise.
/// Cancel-safe: each wait is for a newer value, or for time.
pub(crate) async fn run(
    mut inputs: Inputs,
    plans: watch::Sender<Arc<Plan>>,
    mut kernel: impl Steers,
) {
    let mut told: Option<String> = None;
    let mut asking = Asking::default();
    let mut relays = Relays::default();
    let mut ports = Ports::default();
    loop {
        let links = inputs.interfaces.borrow_and_update().clone();
        let mut new = plan(&inputs.desired.borrow_and_update(), &links, &|name| {
            kernel.index_of(name)
        });
        ports.settle(&mut new.config.settings, Instant::now());
        let signs = inputs.signs(&kernel);
        flow::hello::judge(&mut new.config, &signs.liveness);
        native::settle(&mut new.native, &mut new.config, &signs, &mut relays);
        new.problems.extend(silent(&new.config, &signs.liveness));
        asking.update(&mut new.config, &signs, Instant::now());
        let refused = kernel.steer(&new.config, &links).err();
        if let Some(why) = &refused {
            if told.as_ref() != Some(why) {
                tracing::error!(reason = %Reason::SteeringFailed, "{why}");
            }
            new.problems = unsteered(&new, why);
        }
        told.clone_from(&refused);
        tell(&plans.borrow().problems, &new.problems);
        plans.send_replace(Arc::new(new));
        let retry = refused.is_some().then(|| Instant::now() + RETRY);
        let ends = relays.next_end().into_iter().chain(ports.next_end());
        let again = retry.into_iter().chain(ends).min();
        let wait = Wait {
            signs: &signs,
            again,
            load_aware: plans.borrow().native.iter().any(Native::is_load_aware),
        };
        if !between_plans(&mut inputs, &mut kernel, wait).await {
            return;
        }
    }
}

impl Inputs {
    fn signs(&mut self, kernel: &impl Steers) -> Signs {
        Signs {
            routes: asking::routes(&self.bgp.borrow_and_update()),
            liveness: self.liveness.borrow_and_update().clone(),
            lines: self.lines.borrow_and_update().clone(),
            turns: kernel.turns(),
            loads: kernel.loads(),
            load: *self.load.borrow_and_update(),
        }
    }
}

/// For what another plan is made.
struct Wait<'a> {
    signs: &'a Signs,
    /// Something was refused and is tried again then, or a member sends answers on no more, or the former port ends.
    again: Option<Instant>,
    /// Loads matter.
    load_aware: bool,
}

/// Keeps house until something asks for another plan; false when nothing ever will.
async fn between_plans(
    inputs: &mut Inputs,
    kernel: &mut impl Steers,
    Wait {
        signs,
        again,
        load_aware,
    }: Wait<'_>,
) -> bool {
    let mut tick = tokio::time::interval(flow::pace::TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        tokio::select! {
            biased;
            changed = inputs.desired.changed() => return changed.is_ok(),
            Ok(()) = inputs.interfaces.changed() => return true,
            Ok(()) = inputs.load.changed(), if load_aware => return true,
            Ok(()) = inputs.liveness.changed() => {
                kernel.on_event();
                return true;
            }
            Ok(()) = inputs.lines.changed() => {
                kernel.on_event();
                return true;
            }
            Ok(()) = inputs.bgp.changed() => {
                if asking::routes(&inputs.bgp.borrow_and_update()) != signs.routes {
                    kernel.on_event();
                    return true;
                }
            }
            _ = tick.tick() => {
                let failed = kernel.keep_house().err().filter(|_| !told);
                if let Some(why) = failed {
                    tracing::error!(reason = %Reason::SteeringFailed, "{why}");
                    told = true;
                }
                if kernel.turns() != signs.turns {
                    kernel.on_event();
                    return true;
                }
                if load_aware && kernel.loads() != signs.loads {
                    return true;
                }
                if again.is_some_and(|at| at <= Instant::now()) {
                    return true;
                }
            }
        }
    }
}

/// What acts on a plan; the kernel, except in tests of the plan.
pub(crate) trait Steers: Send {
    /// Index of an interface; 0 = there is none of this name.
    fn index_of(&self, interface: &str) -> u32;

    /// Puts it in force on these interfaces; an error says in words why it could not be.
    fn steer(&mut self, config: &Config, interfaces: &[Interface]) -> Result<(), String>;

    /// Something has happened that moves flows.
    fn on_event(&mut self);

    /// How often the members' processes have fallen silent, or begun to speak.
    fn turns(&self) -> Turns;

    /// How busy the members' hosts are, in percent, by uuid; it changes seldom.
    fn loads(&self) -> BTreeMap<String, u8>;

    /// What is to be done every [`flow::pace::TICK`]; an error says in words why it could not be.
    fn keep_house(&mut self) -> Result<(), String>;
}

/// Members that were heard once and answer on no way any more.
fn silent(config: &Config, liveness: &Liveness) -> Vec<MemberProblem> {
    let is_silent = |peer: &Peer| {
        let was_heard = |link: &Link| liveness.contains_key(&link.into());
        !peer.alive && peer.links.iter().any(was_heard)
    };
    let mut problems = Vec::new();
    for service in &config.services {
        let vip = service.address.ip();
        let peers = config.groups[service.group].members.iter();
        let peers = peers.map(|m| &config.peers[m.peer]);
        let silent = peers.filter(|p| is_silent(p));
        problems.extend(silent.map(|p| silence(vip, p, config.settings.port)));
    }
    problems.sort_by(|a, b| (&a.vip, &a.se_uuid).cmp(&(&b.vip, &b.se_uuid)));
    problems.dedup();
    problems
}

fn silence(vip: IpAddr, peer: &Peer, port: u16) -> MemberProblem {
    MemberProblem {
        vip: vip.to_string(),
        se_uuid: peer.se_uuid.clone(),
        reason_code: Reason::MemberSilent.code().into(),
        reason: format!(
            "{} answers no hello: flows to {vip} that live there and come here are reset; see whether its host is up and UDP port {port} between the engines is open",
            peer.name
        ),
    }
}

/// Without programs no member is reached.
fn unsteered(plan: &Plan, why: &str) -> Vec<MemberProblem> {
    let reason = Reason::SteeringFailed;
    let mut problems = Vec::new();
    for service in &plan.config.services {
        let vip = service.address.ip().to_string();
        for member in &plan.config.groups[service.group].members {
            let peer = &plan.config.peers[member.peer];
            problems.push(MemberProblem {
                vip: vip.clone(),
                se_uuid: peer.se_uuid.clone(),
                reason_code: reason.code().into(),
                reason: format!(
                    "{why}: flows to {vip} that live at {} and come here break",
                    peer.name
                ),
            });
        }
    }
    problems.dedup();
    problems
}

/// Logs what is new.
fn tell(old: &[MemberProblem], new: &[MemberProblem]) {
    for problem in new.iter().filter(|p| !old.contains(p)) {
        let MemberProblem {
            vip,
            se_uuid,
            reason_code,
            reason,
        } = problem;
        tracing::warn!(vip, se = se_uuid, reason = reason_code, "{reason}");
    }
}

/// The plan for this desired state with these interfaces. The state has passed [`crate::validate`].
/// `index_of` gives the index of an interface.
pub(crate) fn plan(
    desired: &DesiredState,
    interfaces: &[Interface],
    index_of: &dyn Fn(&str) -> u32,
) -> Plan {
    let ours = networks(interfaces, index_of);
    let peers: Vec<Peer> = desired.peers.iter().map(|p| peer(p, &ours)).collect();
    let groups: Vec<Group> = desired.groups.iter().map(|g| group(g, desired)).collect();
    let problems = desired
        .vips
        .iter()
        .flat_map(|vip| problems(vip, &groups, &peers));
    Plan {
        generation: desired.generation,
        problems: problems.collect(),
        watched: desired.watched.iter().map(watched).collect(),
        native: native::natives(desired, interfaces),
        config: Config {
            services: services(desired, &groups),
            settings: settings(desired.flow.as_ref()),
            groups,
            peers,
            addresses: ours.iter().map(|our| our.net.addr()).collect(),
        },
    }
}

/// An address of ours.
struct Our {
    net: IpNet,
    ifindex: u32,
}

/// Addresses of the interfaces that are up.
fn networks(interfaces: &[Interface], index_of: &dyn Fn(&str) -> u32) -> Vec<Our> {
    let mut ours = Vec::new();
    for interface in interfaces.iter().filter(|i| i.up) {
        let ifindex = index_of(&interface.name);
        let nets = interface.addresses.iter().filter_map(|a| a.parse().ok());
        ours.extend(nets.map(|net| Our { net, ifindex }));
    }
    ours
}

fn watched(peer: &v1::Peer) -> Watched {
    Watched {
        se_uuid: peer.se_uuid.clone(),
        addresses: addresses(peer),
    }
}

fn addresses(peer: &v1::Peer) -> Vec<IpAddr> {
    let nets = peer
        .addresses
        .iter()
        .filter_map(|a| a.parse::<IpNet>().ok());
    nets.map(|net| net.addr()).collect()
}

fn peer(peer: &v1::Peer, ours: &[Our]) -> Peer {
    let theirs = addresses(peer);
    Peer {
        se_uuid: peer.se_uuid.clone(),
        name: peer.name.clone(),
        addresses: theirs.clone(),
        links: links(ours, &theirs),
        alive: peer.alive,
    }
}

/// Ways to a peer: through a subnet that both are in, then by routing, from our first address of the family.
fn links(ours: &[Our], theirs: &[IpAddr]) -> Vec<Link> {
    let link = |our: &Our, remote: IpAddr, near: bool| Link {
        local: our.net.addr(),
        remote,
        ifindex: our.ifindex,
        next_hop: near.then_some(remote),
    };
    let shared = ours.iter().flat_map(|our| {
        let there = theirs.iter().filter(move |their| our.net.contains(*their));
        there.map(move |their| link(our, *their, true))
    });
    let far = theirs
        .iter()
        .filter(|their| !ours.iter().any(|our| our.net.contains(*their)));
    let routed = far.filter_map(|their| {
        let of_family = |our: &&Our| our.net.addr().is_ipv4() == their.is_ipv4();
        Some(link(ours.iter().find(of_family)?, *their, false))
    });
    shared.chain(routed).collect()
}

fn group(group: &v1::Group, desired: &DesiredState) -> Group {
    let index = |uuid: &str| desired.peers.iter().position(|p| p.se_uuid == uuid);
    let member = |m: &v1::Member| {
        Some(Member {
            id: u8::try_from(m.id).ok()?,
            peer: index(&m.se_uuid)?,
            takes_new: m.takes_new,
        })
    };
    Group {
        vsvip_uuid: group.vsvip_uuid.clone(),
        generation: group.generation,
        us: u8::try_from(group.member_id).unwrap_or_default(),
        drains: group.lingers || desired.draining,
        spread: None,
        answers: Answers::default(),
        members: group.members.iter().filter_map(member).collect(),
    }
}

/// Every port of every VIP that has a group. A virtual service that is disabled or down keeps its connections.
fn services(desired: &DesiredState, groups: &[Group]) -> Vec<Service> {
    let mut services = Vec::new();
    for vs in &desired.virtual_services {
        let Some(group) = groups.iter().position(|g| g.vsvip_uuid == vs.vsvip_uuid) else {
            continue;
        };
        let service = |(protocol, address)| Service {
            address,
            protocol,
            group,
            hints: vs.flow_hints && protocol == Protocol::Tcp,
            probes: vs.flow_probes,
            udp_ask_until: None,
        };
        services.extend(endpoints(desired, vs).map(service));
    }
    services
}

/// Members of the VIP's group to which no tunnel carries packets of its family.
fn problems(vip: &v1::Vip, groups: &[Group], peers: &[Peer]) -> Vec<MemberProblem> {
    let Ok(address) = vip.address.parse::<IpAddr>() else {
        return Vec::new();
    };
    let group = groups.iter().find(|g| g.vsvip_uuid == vip.vsvip_uuid);
    let members = group.into_iter().flat_map(|g| &g.members);
    let fits = |link: &Link| link.remote.is_ipv4() == address.is_ipv4();
    let cut_off = members
        .map(|m| &peers[m.peer])
        .filter(|p| !p.links.iter().any(fits));
    cut_off.map(|peer| problem(address, peer)).collect()
}

fn problem(vip: IpAddr, peer: &Peer) -> MemberProblem {
    let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
    let reason = Reason::NoTunnelPath;
    MemberProblem {
        vip: vip.to_string(),
        se_uuid: peer.se_uuid.clone(),
        reason_code: reason.code().into(),
        reason: format!(
            "{} has no {family} address in common with us for a tunnel: flows to {vip} that live there and come here break; give both engines an {family} address on a data interface",
            peer.name
        ),
    }
}

fn settings(settings: Option<&v1::FlowSettings>) -> Settings {
    let Some(settings) = settings else {
        return Settings::default();
    };
    let key = |key: &v1::FlowKey| {
        Some(MessageKey {
            id: key.id,
            secret: words(&key.secret)?,
        })
    };
    Settings {
        probe_retries: u8::try_from(settings.probe_retries).unwrap_or(u8::MAX),
        probe_retry_timer: Duration::from_millis(settings.probe_retry_timer_ms.into()),
        message_keys: settings.message_keys.iter().filter_map(key).collect(),
        hint_key: hint_key(settings).unwrap_or_default(),
        rhythm: rhythm(settings),
        port: port(settings),
        forgets_at_once: settings.forgets_at_once,
        ..Settings::default()
    }
}

/// Of messages and lines; 0 is what an older controller says, which does not know of it.
fn port(settings: &v1::FlowSettings) -> u16 {
    match u16::try_from(settings.port) {
        Ok(0) | Err(_) => MESSAGE_PORT,
        Ok(port) => port,
    }
}

/// Of hellos; 0 is what an older controller says, which does not know of it.
fn rhythm(settings: &v1::FlowSettings) -> Rhythm {
    let usual = Rhythm::default();
    Rhythm {
        interval: match settings.hello_interval_ms {
            0 => usual.interval,
            ms => Duration::from_millis(ms.into()),
        },
        down_after: match settings.hello_count {
            0 => usual.down_after,
            count => count,
        },
    }
}

/// The key of marks; none while the controller has sent none.
pub(crate) fn hint_key(settings: &v1::FlowSettings) -> Option<HintKey> {
    words(&settings.hint_key).map(HintKey)
}

/// A key of 16 bytes as the two little endian words that SipHash takes.
fn words(bytes: &[u8]) -> Option<[u64; 2]> {
    let (low, high) = bytes.split_at_checked(8)?;
    let word = |half: &[u8]| Some(u64::from_le_bytes(half.try_into().ok()?));
    Some([word(low)?, word(high)?])
}

#[cfg(test)]
mod tests;
