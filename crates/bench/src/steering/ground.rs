//! Where the program is measured: a network namespace of its own, an engine's configuration, flows, and sockets.

use crate::net::run;
use anyhow::{Context, Result, bail, ensure};
use dataplane::steering::{LOOPBACK_SETTINGS, Steering};
use flow::config::{Answers, MessageKey};
use flow::key::Protocol;
use flow::mark::{HintKey, Mark};
use flow::{Config, Flow, Group, Link, Member, Peer, Service, Settings};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::sockopt::TcpRepair;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket,
};
use nix::unistd::Pid;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Sender, channel};

pub(super) const PORT: u16 = 80;
/// Ours.
pub(super) const US: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 12);
/// Of the member that sends tunnel packets to us.
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 11);
/// No service.
pub(super) const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
/// One VIP for each way that a flow can be known, so that they do not meet.
pub(super) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub(super) const HINTED: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
pub(super) const CACHED: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
pub(super) const FORGED: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 4);
const VIPS: [Ipv4Addr; 4] = [LOCAL, HINTED, CACHED, FORGED];
/// More VIPs that nothing is sent to: an engine has some hundreds of them.
const OTHER_VIPS: u8 = 250;
/// Index of the interface that the members are behind; native XDP sends back only by the one that a frame came from.
pub(super) const UPLINK: u32 = 77;
/// A full group; we are one of them.
const MEMBERS: u8 = 32;
const OUR_ID: u8 = 1;
const KEY: HintKey = HintKey([3, 4]);

/// A connection in the kernel: socket, inode, file; with some room.
const SOCKET_BYTES: u64 = 6 * 1024;
/// Left to everybody else.
const SPARE_BYTES: u64 = 1 << 30;

/// Gone with the process.
pub(super) struct Ground {
    pub(super) steering: Steering,
    _listeners: Vec<TcpListener>,
    connections: usize,
    holders: Vec<Holder>,
    pins: tempfile::TempDir,
}

impl Ground {
    /// # Errors
    /// No root, or the kernel does not take the program.
    pub(super) fn new(cache: usize) -> Result<Self> {
        let both = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        unshare(both).context("cannot make a network namespace; this needs root")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        stay_on_one_cpu()?;
        links()?;
        let pins = tempfile::tempdir()?;
        let mut steering = Steering::open_with_cache(pins.path(), u32::try_from(cache)?)?;
        steering.apply(&config())?;
        let listen = |vip: &Ipv4Addr| TcpListener::bind((*vip, PORT));
        let listeners = VIPS.iter().map(listen).collect::<std::io::Result<_>>()?;
        Ok(Self {
            steering,
            _listeners: listeners,
            connections: 0,
            holders: Vec::new(),
            pins,
        })
    }

    /// Established connections of ours for the first so many flows; fewer where memory does not allow it.
    pub(super) fn connect(&mut self, flows: usize) -> Result<usize> {
        let affordable = self.connections + affordable()?;
        let number = if flows <= affordable {
            flows
        } else {
            // A power of two, as all numbers of flows.
            1 << affordable.max(1).ilog2()
        };
        let at_a_time = files_of_a_thread()?;
        while self.connections < number {
            let end = number.min(self.connections + at_a_time);
            self.holders.push(Holder::new(self.connections..end)?);
            self.connections = end;
        }
        Ok(number)
    }
}

/// A thread with a table of open files of its own, since a table holds fewer than there are connections.
struct Holder {
    /// The thread ends with it, and its connections with the thread.
    _until: Sender<()>,
}

impl Holder {
    fn new(flows: Range<usize>) -> Result<Self> {
        let (until, ends) = channel();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let held = hold(flows);
            let failed = held.as_ref().err().map(|error| format!("{error:#}"));
            if tell.send(failed).is_ok() {
                // It ends when the other side is dropped.
                let _ = ends.recv();
            }
        });
        match told.recv()? {
            Some(error) => bail!("cannot make connections: {error}"),
            None => Ok(Self { _until: until }),
        }
    }
}

fn hold(flows: Range<usize>) -> Result<Vec<OwnedFd>> {
    unshare(CloneFlags::CLONE_FILES)?;
    flows.map(|index| connection(flow_address(index))).collect()
}

/// As many as one may have without being asked, less what is open already.
fn files_of_a_thread() -> Result<usize> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let open = std::fs::read_dir("/proc/self/fd")?.count();
    let free = usize::try_from(most)?.saturating_sub(open + 10);
    ensure!(free > 0, "RLIMIT_NOFILE is {most}: too few open files");
    Ok(free)
}

impl Drop for Ground {
    fn drop(&mut self) {
        // The namespace ends with the process in any case.
        let _ = umount(self.pins.path());
    }
}

/// The last processor: interrupts prefer the first.
fn stay_on_one_cpu() -> Result<()> {
    let last = std::thread::available_parallelism()?.get() - 1;
    let mut cpus = CpuSet::new();
    cpus.set(last)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("cannot stay on one processor")
}

/// Everything is at home on the loopback interface but the members: test-run sends nothing.
fn links() -> Result<()> {
    run(&["ip", "link", "set", "lo", "up"])?;
    for address in VIPS.iter().chain([&US]) {
        run(&["ip", "address", "add", &address.to_string(), "dev", "lo"])?;
    }
    run(&["ip", "route", "add", "default", "dev", "lo"])?;
    let index = UPLINK.to_string();
    let link = ["ip", "link", "add", "uplink", "index", &index, "type"];
    run(&[&link[..], &["veth", "peer", "name", "uplink-end"]].concat())?;
    for end in ["uplink", "uplink-end"] {
        run(&["ip", "link", "set", end, "up"])?;
    }
    run(&["ip", "route", "add", "10.2.0.0/24", "dev", "uplink"])?;
    for peer in others().map(|id| address(id).to_string()) {
        let mac = ["lladdr", "02:00:00:00:00:01", "nud", "permanent"];
        let neighbor = ["ip", "neigh", "add", &peer, "dev", "uplink"];
        run(&[&neighbor[..], &mac].concat())?;
    }
    for (setting, value) in LOOPBACK_SETTINGS {
        std::fs::write(format!("/proc/sys/{setting}"), value).context(setting)?;
    }
    Ok(())
}

/// Memory for so many more connections.
fn affordable() -> Result<usize> {
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let line = memory.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB"));
    let kib: u64 = kib.context("no MemAvailable in /proc/meminfo")?.parse()?;
    Ok(usize::try_from(
        (kib * 1024).saturating_sub(SPARE_BYTES) / SOCKET_BYTES,
    )?)
}

/// A socket that is being repaired connects without a handshake: established, all sequence numbers zero. It closes as silently.
fn connection(client: SocketAddrV4) -> Result<OwnedFd> {
    let (family, none) = (AddressFamily::Inet, SockFlag::empty());
    let socket = socket(family, SockType::Stream, none, None)?;
    setsockopt(&socket, TcpRepair, &1)?;
    let vip = SocketAddrV4::new(LOCAL, PORT);
    bind(socket.as_raw_fd(), &SockaddrIn::from(vip))?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(client)).context("connect in repair mode")?;
    Ok(socket)
}

/// The client of a flow.
pub(super) fn flow_address(index: usize) -> SocketAddrV4 {
    let index = u32::try_from(index).expect("flows are counted in 32 bits");
    // Eight connections of each of many clients.
    let client = u32::from(Ipv4Addr::new(10, 64, 0, 1)) + index / 8;
    let port = 1024 + (index % 8) * 7919 + index / 8 % 997;
    SocketAddrV4::new(client.into(), u16::try_from(port).expect("below 2^16"))
}

/// A TSecr that names a live member for this flow of [`HINTED`].
pub(super) fn hint(client: SocketAddrV4) -> u32 {
    let flow = Flow {
        protocol: Protocol::Tcp,
        client: client.into(),
        service: (HINTED, PORT).into(),
    };
    let others = MEMBERS - 2;
    let member = u8::try_from(client.port() % u16::from(others)).expect("an id") + OUR_ID + 1;
    u32::from(member ^ Mark::of(KEY, &flow).blind()) << 24 | 0x1234
}

/// An engine of a full group that drains, so that a SYN fills the cache, and has no budget for questions.
fn config() -> Config {
    Config {
        services: services().map(service).collect(),
        groups: vec![Group {
            vsvip_uuid: "vsvip-1".into(),
            generation: 1,
            us: OUR_ID,
            drains: true,
            spread: None,
            answers: Answers::default(),
            members: others()
                .enumerate()
                .map(|(peer, id)| member(peer, id))
                .collect(),
        }],
        peers: others().map(peer).collect(),
        addresses: vec![US.into()],
        settings: Settings {
            message_keys: vec![MessageKey {
                id: 7,
                secret: [1, 2],
            }],
            hint_key: KEY,
            copies_per_s: 1,
            copies_burst: 0,
            ..Settings::default()
        },
    }
}

/// VIPs and ports that are steered.
pub(super) fn services() -> impl Iterator<Item = SocketAddr> {
    let others = (0..OTHER_VIPS).map(|n| Ipv4Addr::new(10, 100, 0, n));
    let all = VIPS.into_iter().chain(others);
    all.map(|vip| (vip, PORT).into())
}

fn service(address: SocketAddr) -> Service {
    Service {
        address,
        protocol: Protocol::Tcp,
        group: 0,
        hints: true,
        probes: true,
        udp_ask_until: None,
    }
}

fn others() -> impl Iterator<Item = u8> {
    (0..MEMBERS).filter(|id| *id != OUR_ID)
}

fn member(peer: usize, id: u8) -> Member {
    Member {
        id,
        peer,
        takes_new: true,
    }
}

fn address(id: u8) -> IpAddr {
    Ipv4Addr::new(10, 2, 0, 11 + id).into()
}

fn peer(id: u8) -> Peer {
    let address = address(id);
    Peer {
        se_uuid: format!("se-{id}"),
        name: format!("se-{id}"),
        addresses: vec![address],
        links: vec![Link {
            local: US.into(),
            remote: address,
            ifindex: UPLINK,
            next_hop: Some(address),
        }],
        alive: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_flows_are_the_same() {
        let all: BTreeSet<SocketAddrV4> = (0..1 << 19).map(flow_address).collect();
        assert_eq!(all.len(), 1 << 19);
    }
}
