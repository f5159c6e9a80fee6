//! The tokio shell around the BGP core: sockets, clocks and one task per session.
//!
//! ```text
//!                 watch: BgpDesired            watch: Control (plan, stop)
//!   SpeakerHandle ─────────────────▶ manager ──────────────────────────────▶ session task ──▶ TCP
//!        ▲   └──── mpsc: shutdown ──▶   ▲ └── owns: JoinSet of session tasks      │ owns: core, socket,
//!        │                              └──────── Notify + watch: BgpSession ─────┘ closing sockets
//!        └── watch: all BgpSessions ────┘
//! ```
//!
//! * **Manager** (one): turns the desired state into a plan (a value that can be shown and
//!   compared), then starts, changes and stops session tasks until they match. Spawned by
//!   [`Speaker::spawn`]; ends after [`SpeakerHandle::shutdown`] or when every handle is dropped. In the
//!   second case the session tasks are aborted: their sockets close, and the routers drop the routes.
//! * **Session task** (one per peer and local interface): owns the core state machine and the socket,
//!   nothing is shared. It ends only when the manager tells it to stop, after the core is idle and the
//!   last bytes are flushed or [`CLOSE_TIME_MAX`] has passed.
//! * **Closing sockets** belong to the session task that opened them (a `JoinSet`); a new connection to
//!   the same peer waits for them, so that the router never sees two from us.
//!
//! Cancel safety: every future inside a `select!` is a channel receive, a readiness wait, a sleep, or a
//! connect future that is kept across iterations; losing a race loses nothing. All state changes
//! happen between the awaits.
//!
//! Desired state is latest-value (`watch`): a burst of changes collapses to the last one. The only queue
//! is the bytes for a peer, which the core bounds by holding routes back when the peer does not read.

mod condition;
mod learn;
mod listener;
mod md5;
mod plan;
mod session;
mod sparse;
mod speaker;
mod status;
mod transport;
mod watch;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use proto::v1;

pub(crate) use plan::own_address;
pub use plan::{ProfileError, check_profile};
pub use speaker::{Speaker, SpeakerHandle};

/// How long sessions outlive the last virtual service with route health injection. The routes go at
/// once; the session stays a while so that moving the only virtual service does not flap it.
pub const SESSION_LINGER: Duration = Duration::from_secs(60);

/// How long routes stay marked with GRACEFUL_SHUTDOWN before they are withdrawn, beside the longest advertisement
/// interval, for which the mark itself may wait: what routers that honour it take to move traffic elsewhere (RFC 8326
/// section 4.2; FRR and BIRD need well under a second, a network of several tiers a few).
pub const DRAIN_SETTLE: Duration = Duration::from_secs(5);

/// How long a closing connection may take to flush its last messages and to see the peer's FIN.
pub const CLOSE_TIME_MAX: Duration = Duration::from_secs(1);

/// Status is published at once after a change of state, otherwise at most this often.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);

/// Everything the speaker shall do. Applying the same value again has no effect.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BgpDesired {
    /// The VRF's BGP profile; `None` means no BGP.
    pub profile: Option<v1::BgpProfile>,
    /// Timers for the peers with `bfd`; `None` means the defaults of avi-api's `BfdProfile` here, 300 ms x 3.
    pub bfd: Option<v1::BfdProfile>,
    /// At least one virtual service with route health injection of this VRF is placed here.
    pub sessions_wanted: bool,
    /// The engine's interfaces as observed; they decide which sessions exist and their next hops.
    pub interfaces: Vec<v1::Interface>,
    /// The addresses to announce as host routes.
    pub routes: Routes,
    /// The engine drains: every route is marked with GRACEFUL_SHUTDOWN (RFC 8326), and withdrawn after
    /// [`DRAIN_SETTLE`]. The sessions stay.
    pub draining: bool,
    /// This process follows one that announced the same routes, and `routes` is not complete yet (RFC 4724, Restart
    /// State): routers that have kept the old ones keep them until this is false.
    pub restarting: bool,
}

/// Addresses to announce.
pub type Routes = BTreeMap<IpAddr, Announcement>;

/// How an address is announced; what is not said here comes from the profile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Announcement {
    /// A source address of connections to servers, not a VIP: peers with `advertise_snat_ip` get it.
    pub snat: bool,
    /// LOCAL_PREF towards internal peers.
    pub local_preference: Option<u32>,
    /// How often our AS is repeated towards external peers, 0 to 10.
    pub num_as_path_prepend: Option<u32>,
    /// Only peers with one of these labels get it; none means all.
    pub peer_labels: Vec<String>,
}
