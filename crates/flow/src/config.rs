//! What an engine is told about its neighbours: plain data, from the controller to the programs in the kernel.

use crate::hello::Rhythm;
use crate::key::Protocol;
use crate::mark::HintKey;
use crate::spread::Spread;
use crate::wire::MESSAGE_PORT;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Members of one group, at most: what fits into the hint's six bits.
pub const MEMBERS_MAX: usize = 64;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// What is steered.
    pub services: Vec<Service>,
    /// Services refer to them by index.
    pub groups: Vec<Group>,
    /// Members refer to them by index.
    pub peers: Vec<Peer>,
    /// Our own addresses that others may send tunnel packets to.
    pub addresses: Vec<IpAddr>,
    /// Of all services.
    pub settings: Settings,
}

/// A VIP's port that is steered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// VIP and port.
    pub address: SocketAddr,
    /// Transport.
    pub protocol: Protocol,
    /// Index in [`Config::groups`].
    pub group: usize,
    /// Timestamps of clients name the owner.
    pub hints: bool,
    /// Members may be asked.
    pub probes: bool,
    /// UDP: until then, members are asked about datagrams that nobody here knows; other ones are new flows.
    pub udp_ask_until: Option<Instant>,
}

/// The engines that hold a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Uuid of the VsVip.
    pub vsvip_uuid: String,
    /// Generation of the membership; grows with every change.
    pub generation: u64,
    /// Our id in it.
    pub us: u8,
    /// We keep our flows and take no new ones.
    pub drains: bool,
    /// The VIP is scaled natively: new flows that come here are spread over the members, us among them; none = they stay here.
    pub spread: Option<Spread>,
    /// How what the VIP sends reaches clients.
    pub answers: Answers,
    /// The others.
    pub members: Vec<Member>,
}

/// How what a VIP sends reaches clients (`se_tunnel_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answers {
    /// By our own routes.
    #[default]
    Directly,
    /// Through the tunnel to the primary, which sends them on; none = we are it, or nobody is known to be.
    ByPrimary(Option<u8>),
}

impl Answers {
    /// The member that sends ours on.
    #[must_use]
    pub fn relay(self) -> Option<u8> {
        match self {
            Self::Directly => None,
            Self::ByPrimary(primary) => primary,
        }
    }
}

/// Another engine in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// 0 to 63, stable while it is in the group.
    pub id: u8,
    /// Index in [`Config::peers`].
    pub peer: usize,
    /// It takes new flows; one that drains is asked about old ones only.
    pub takes_new: bool,
}

/// Another engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Uuid of the service engine.
    pub se_uuid: String,
    /// Its name for people.
    pub name: String,
    /// Every address that it may send from.
    pub addresses: Vec<IpAddr>,
    /// Ways to it, the preferred one first; per address family the first is used.
    pub links: Vec<Link>,
    /// It answers; a dead one is neither asked nor sent to.
    pub alive: bool,
}

/// A tunnel path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Our address on it, the outer source.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
    /// Index of our interface.
    pub ifindex: u32,
    /// What is on the link towards it: the peer itself or a gateway; none = the routing table is asked.
    pub next_hop: Option<IpAddr>,
}

/// Of all services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Later packets of a flow that may be probes again (`se_flow_probe_retries`).
    pub probe_retries: u8,
    /// Least time between them (`se_flow_probe_retry_timer`).
    pub probe_retry_timer: Duration,
    /// Signs messages; the first signs, all are accepted; two at most.
    pub message_keys: Vec<MessageKey>,
    /// See [`crate::mark`].
    pub hint_key: HintKey,
    /// Copies of probes per second, all together.
    pub copies_per_s: u32,
    /// Copies that may go at once.
    pub copies_burst: u32,
    /// Of hellos to other members.
    pub rhythm: Rhythm,
    /// Of messages (UDP) and lines (TCP); all engines of an SE group have the same one (`se_tunnel_udp_port`).
    pub port: u16,
    /// What it was before it was changed: others have not heard of that yet. None = it was not changed of late.
    pub former_port: Option<u16>,
    /// Who owns a TCP flow is forgotten with its first FIN or RST, and not when its owner says that it has ended
    /// (`se_delayed_flow_delete` false).
    pub forgets_at_once: bool,
}

impl Settings {
    /// By which engines may be reached, the one in force first.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        std::iter::once(self.port).chain(self.former_port)
    }
}

impl Default for Settings {
    /// The defaults of avi-api's SeGroup.
    fn default() -> Self {
        Self {
            probe_retries: 2,
            probe_retry_timer: Duration::from_millis(40),
            message_keys: Vec::new(),
            hint_key: HintKey::default(),
            copies_per_s: 50_000,
            copies_burst: 50_000,
            rhythm: Rhythm::default(),
            port: MESSAGE_PORT,
            former_port: None,
            forgets_at_once: false,
        }
    }
}

/// Key of messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MessageKey {
    /// In every message that it signs.
    pub id: u32,
    /// 128 bits.
    pub secret: [u64; 2],
}

impl std::fmt::Debug for MessageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MessageKey({}, ..)", self.id)
    }
}
