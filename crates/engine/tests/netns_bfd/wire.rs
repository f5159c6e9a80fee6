//! BFD alone, without BGP: packets on the wire, floods, removal and return, two links, and FRR and BIRD over IPv6 and
//! over a router in between.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ::bfd::{Diagnostic, Packet, State};
use evenkeel_engine::bfd::{BfdHandle, BfdMonitor, BfdReport};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc::Receiver;

use super::*;

/// One end of BFD, in the namespace in which it is started.
struct End {
    handle: BfdHandle,
    monitor: BfdMonitor,
    _reports: Receiver<BfdReport>,
}

impl End {
    fn start(namespace: &str, sessions: BTreeMap<BfdKey, BfdConfig>) -> Self {
        let mut started = None;
        in_namespace_sync(namespace, || started = Some(BfdSpeaker::spawn().unwrap()));
        let (handle, reports) = started.unwrap();
        handle.apply(sessions);
        Self {
            monitor: handle.monitor(),
            handle,
            _reports: reports,
        }
    }

    fn sessions(&self) -> Vec<v1::BfdSession> {
        self.monitor.status()
    }

    async fn until(&self, what: &str, probe: impl Fn(&[v1::BfdSession]) -> bool) {
        until(what, async || match probe(&self.sessions()) {
            true => Ok(()),
            false => Err(format!("{:?} {:?}", self.sessions(), self.monitor.engine())),
        })
        .await;
    }

    async fn until_up(&self) {
        let up = |all: &[v1::BfdSession]| !all.is_empty() && all.iter().all(|s| s.state == "up");
        self.until("all to be up", up).await;
    }

    /// Until each session has got so many more packets; none may go down meanwhile.
    async fn stays_up_for(&self, packets: u64) {
        let before: Vec<_> = self.sessions().iter().map(|s| s.packets_in).collect();
        self.until("more packets", |all| {
            let enough = |(s, before): (&v1::BfdSession, &u64)| s.packets_in >= before + packets;
            all.len() == before.len() && all.iter().zip(&before).all(enough)
        })
        .await;
        for session in self.sessions() {
            assert_eq!(
                (session.times_up, session.times_down),
                (1, 0),
                "{session:?}"
            );
        }
    }
}

fn only(key: BfdKey, config: BfdConfig) -> BTreeMap<BfdKey, BfdConfig> {
    BTreeMap::from([(key, config)])
}

fn over_hops(local: &str, peer: &str) -> BfdKey {
    BfdKey {
        multihop: true,
        ..key(local, peer, "")
    }
}

/// Our own speaker at the router's place, and one at the engine's, on the link of router 1.
fn both_ends(lab: &Lab, milliseconds: u64) -> [End; 2] {
    let router = only(key("10.10.1.1", ENGINE, "eth0"), timers(milliseconds));
    let engine = only(key(ENGINE, "10.10.1.1", "eth1"), timers(milliseconds));
    [
        End::start(&lab.routers[0].namespace, router),
        End::start(&lab.engine_namespace(), engine),
    ]
}

fn test(routers: &[&str], story: impl AsyncFnOnce(Lab) + Send) {
    if !can_run() {
        return;
    }
    let lab = Lab::up(routers);
    let engine = lab.engine_namespace();
    in_namespace(&engine, async || story(lab).await);
}

/// A datagram of BFD as it is on the link.
#[derive(Debug)]
struct Seen {
    from: IpAddr,
    to: IpAddr,
    ports: (u16, u16),
    tos: u8,
    ttl: u8,
    packet: Packet,
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn parse(ip: &[u8]) -> Option<Seen> {
    let array = |at: usize| <[u8; 16]>::try_from(&ip[at..at + 16]).unwrap();
    let (from, to, tos, ttl, udp): (IpAddr, IpAddr, _, _, _) = match ip.first()? >> 4 {
        4 if ip.len() >= 28 && ip[9] == 17 => {
            let four = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
            (four(12).into(), four(16).into(), ip[1], ip[8], &ip[20..])
        }
        6 if ip.len() >= 48 && ip[6] == 17 => {
            let six = |at: usize| Ipv6Addr::from(array(at));
            let class = ip[0] << 4 | ip[1] >> 4;
            (six(8).into(), six(24).into(), class, ip[7], &ip[40..])
        }
        _ => return None,
    };
    let ports = (word(udp, 0), word(udp, 2));
    matches!(ports.1, 3784 | 4784).then(|| Seen {
        from,
        to,
        ports,
        tos,
        ttl,
        packet: Packet::decode(&udp[8..]).expect("well-formed"),
    })
}

/// What arrives at the router.
struct Tap(Socket);

impl Tap {
    fn start(namespace: &str) -> Self {
        const ETH_P_ALL: u16 = 3;
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let mut socket = None;
        in_namespace_sync(namespace, || {
            socket = Some(Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).unwrap());
        });
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Until there are so many that fit to each of these addresses.
    fn collect(&self, to: &[IpAddr], count: usize, fits: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        let mut buffer = [0; 2048];
        let mut all: Vec<Seen> = Vec::new();
        let start = Instant::now();
        while to
            .iter()
            .any(|to| all.iter().filter(|s| s.to == *to).count() < count)
        {
            assert!(start.elapsed() < PATIENCE, "seen so far: {all:?}");
            let len = (&self.0).read(&mut buffer).expect("a packet");
            all.extend(parse(&buffer[..len]).filter(|seen| fits(seen)));
        }
        all
    }
}

fn addresses<const N: usize>(texts: [&str; N]) -> [IpAddr; N] {
    texts.map(|text| text.parse().unwrap())
}

/// RFC 5881 sections 4 and 5, RFC 5883 sections 3 and 5; CS6 as routers do.
#[test]
fn packets_on_the_wire_have_the_ports_ttl_and_class_that_are_due() {
    test(&[ROUTER], async |lab| {
        let router = &lab.routers[0].namespace;
        for more in ["10.10.1.2/24", "10.10.1.3/24"] {
            run(&["ip", "-n", router, "address", "add", more, "dev", "eth0"]);
        }
        let tap = Tap::start(router);
        let v6 = key("2001:db8:1::11", "2001:db8:1::1", "eth1");
        let sessions = BTreeMap::from([
            (key(ENGINE, "10.10.1.1", "eth1"), timers(50)),
            (key(ENGINE, "10.10.1.2", "eth1"), timers(50)),
            (v6, timers(50)),
            (over_hops(ENGINE, "10.10.1.3"), timers(50)),
        ]);
        let end = End::start(&lab.engine_namespace(), sessions);
        let peers = addresses(["10.10.1.1", "10.10.1.2", "2001:db8:1::1", "10.10.1.3"]);
        let seen = tap.collect(&peers, 3, |_| true);
        let mut ports = BTreeMap::new();
        for Seen {
            from,
            to,
            ports: (source, destination),
            tos,
            ttl,
            packet,
        } in &seen
        {
            assert_eq!((*tos, *ttl), (0xC0, 255), "{seen:?}");
            assert!(*source >= 49_152, "{source}");
            assert_eq!(*ports.entry(*to).or_insert(*source), *source, "fixed");
            let multihop = *to == peers[3];
            assert_eq!(*destination, if multihop { 4784 } else { 3784 });
            assert_eq!(from.is_ipv6(), to.is_ipv6());
            assert!(packet.desired_min_tx_us >= 1_000_000, "not up");
            assert!(!packet.control_plane_independent && !packet.demand);
            assert_eq!(packet.required_min_echo_rx_us, 0);
        }
        let unique: std::collections::BTreeSet<_> = ports.values().collect();
        assert_eq!(unique.len(), peers.len(), "{ports:?}");
        end.handle.shutdown();
    });
}

/// RFC 5880 section 6.8.16: "transmit [...] for at least a Detection Time". One packet could be lost.
#[test]
fn a_removed_session_says_so_three_times_and_a_process_that_ends_says_so_at_once() {
    test(&[ROUTER], async |lab| {
        let tap = Tap::start(&lab.routers[0].namespace);
        let session = only(key(ENGINE, "10.10.1.1", "eth1"), timers(50));
        let end = End::start(&lab.engine_namespace(), session.clone());
        let peer = addresses(["10.10.1.1"]);
        tap.collect(&peer, 1, |s| s.packet.state == State::Down);
        end.handle.apply(BTreeMap::new());
        tap.collect(&peer, 3, |s| s.packet.state == State::AdminDown);
        end.handle.apply(session);
        tap.collect(&peer, 1, |s| s.packet.state == State::Down);
        let start = Instant::now();
        end.handle.shutdown();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        tap.collect(&peer, 1, |s| s.packet.state == State::AdminDown);
    });
}

/// The old session must not fight the new one with AdminDown. RFC 5880 section 6.8.1: discriminators are new.
#[test]
fn a_session_that_returns_at_once_comes_up_and_stays_up() {
    test(&[ROUTER], async |lab| {
        let [router, engine] = both_ends(&lab, 50);
        engine.until_up().await;
        let before = engine.sessions()[0].local_discriminator;
        engine.handle.apply(BTreeMap::new());
        engine.until("it to be gone", <[_]>::is_empty).await;
        let session = only(key(ENGINE, "10.10.1.1", "eth1"), timers(50));
        engine.handle.apply(session.clone());
        engine.until_up().await;
        engine.stays_up_for(100).await;
        let after = engine.sessions()[0].local_discriminator;
        assert!(after != before && after != 0);
        engine.handle.shutdown();
        let again = End::start(&lab.engine_namespace(), session);
        again.until_up().await;
        let restarted = again.sessions()[0].local_discriminator;
        assert!(![0, before, after].contains(&restarted));
        again.handle.shutdown();
        router.handle.shutdown();
    });
}

/// As fast as routers go, D16 of the routing requirements.
#[test]
fn a_session_at_ten_milliseconds_stays_up() {
    test(&[ROUTER], async |lab| {
        let [router, engine] = both_ends(&lab, 10);
        engine.until_up().await;
        engine
            .until("the interval", |all| {
                (all[0].transmit_interval_us, all[0].detection_time_us) == (10_000, 30_000)
            })
            .await;
        engine.stays_up_for(500).await;
        engine.handle.shutdown();
        router.handle.shutdown();
    });
}

/// RFC 5881 section 3: the interface is part of the session.
#[test]
fn equal_addresses_on_two_links_are_two_sessions() {
    test(&[ROUTER, ROUTER], async |lab| {
        let engine = lab.engine_namespace();
        let both = [("eth1", 0), ("eth2", 1)];
        for (link, n) in both {
            let router = &lab.routers[n].namespace;
            run(&[
                "ip",
                "-n",
                &engine,
                "address",
                "add",
                "10.99.0.11/24",
                "dev",
                link,
            ]);
            run(&[
                "ip",
                "-n",
                router,
                "address",
                "add",
                "10.99.0.1/24",
                "dev",
                "eth0",
            ]);
        }
        let theirs = only(key("10.99.0.1", "10.99.0.11", "eth0"), timers(50));
        let routers = both.map(|(_, n)| End::start(&lab.routers[n].namespace, theirs.clone()));
        let ours = both.map(|(link, _)| (key("10.99.0.11", "10.99.0.1", link), timers(50)));
        let end = End::start(&engine, ours.into());
        end.until_up().await;
        assert_eq!(end.sessions().len(), 2);
        let [first, second] = routers;
        first.handle.shutdown();
        end.until("the first to go down", |all| {
            all.iter().map(|s| s.state.as_str()).eq(["down", "up"])
        })
        .await;
        let there = &second.sessions()[0];
        assert_eq!((there.state.as_str(), there.times_down), ("up", 0));
        second.handle.shutdown();
        end.handle.shutdown();
    });
}

/// Datagrams as fast as one core can send them, until told to stop.
fn flood(
    namespace: &str,
    ttl: u32,
    datagram: [u8; 24],
    stop: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<u64> {
    let mut socket = None;
    in_namespace_sync(namespace, || {
        socket = Some(UdpSocket::bind("10.10.1.1:0").unwrap());
    });
    let (socket, stop) = (socket.unwrap(), stop.clone());
    socket.set_ttl(ttl).unwrap();
    socket.connect("10.10.1.11:3784").unwrap();
    std::thread::spawn(move || {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            // What is not sent is no flood.
            sent += u64::from(socket.send(&datagram).is_ok());
        }
        sent
    })
}

/// Says of itself that it is longer.
const CUT_OFF: [u8; 24] = [0x20; 24];

/// Of a session that is down, to `your_discriminator`.
fn call(your_discriminator: u32) -> [u8; 24] {
    let packet = Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        final_bit: false,
        control_plane_independent: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 9,
        your_discriminator,
        desired_min_tx_us: 1_000_000,
        required_min_rx_us: 1_000_000,
        required_min_echo_rx_us: 0,
    };
    packet.encode()
}

/// Neither a flood from afar nor one from the link takes a session down, or the processor from the rest.
#[test]
fn a_flood_takes_no_session_down_and_no_processor() {
    test(&[ROUTER], async |lab| {
        let [router, engine] = both_ends(&lab, 100);
        engine.until_up().await;
        for (ttl, datagram) in [(64, CUT_OFF), (255, CUT_OFF), (255, call(9))] {
            let stop = Arc::new(AtomicBool::new(false));
            let sender = flood(&lab.routers[0].namespace, ttl, datagram, &stop);
            let before = (engine.monitor.thread_cpu_time(), Instant::now());
            engine.stays_up_for(40).await;
            let used = (engine.monitor.thread_cpu_time() - before.0).as_secs_f64();
            let share = used / before.1.elapsed().as_secs_f64();
            stop.store(true, Ordering::Relaxed);
            let sent = sender.join().unwrap();
            let seen = engine.monitor.engine();
            eprintln!(
                "figures: flood with TTL {ttl}: {sent} datagrams in {:?}, {:.0} % of a core, {seen:?}",
                before.1.elapsed(),
                100.0 * share
            );
            assert!(share < 0.75, "{share}");
        }
        engine.handle.shutdown();
        router.handle.shutdown();
    });
}

/// Without a session that is up there is no slack to pause for.
#[test]
fn a_session_that_is_not_up_does_not_make_a_flood_dear() {
    test(&[ROUTER], async |lab| {
        let waiting = only(key(ENGINE, "10.10.1.1", "eth1"), timers(100));
        let engine = End::start(&lab.engine_namespace(), waiting);
        engine.until("the session", |all| all.len() == 1).await;
        let stop = Arc::new(AtomicBool::new(false));
        let sender = flood(&lab.routers[0].namespace, 255, CUT_OFF, &stop);
        let before = (engine.monitor.thread_cpu_time(), Instant::now());
        let sent = engine.sessions()[0].packets_out;
        engine
            .until("it to call", |all| all[0].packets_out >= sent + 3)
            .await;
        let used = (engine.monitor.thread_cpu_time() - before.0).as_secs_f64();
        let share = used / before.1.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap();
        assert!(share < 0.75, "{share}");
        let why = engine.monitor.engine().discards;
        assert!(why.iter().any(|d| d.packets > 0), "{why:?}");
        engine.handle.shutdown();
    });
}

/// Which of 3784 and 4784 are open in the namespace of this thread.
fn open_ports() -> Vec<u16> {
    let table = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let is_open = |port: &u16| table.contains(&format!("00000000:{port:04X} "));
    [3784, 4784].into_iter().filter(is_open).collect()
}

/// What nobody waits for is not read.
#[test]
fn a_port_is_open_while_a_session_needs_it() {
    test(&[ROUTER], async |lab| {
        let single = (key(ENGINE, "10.10.1.1", "eth1"), timers(50));
        let multi = (over_hops(ENGINE, "10.10.1.1"), timers(50));
        let end = End::start(&lab.engine_namespace(), BTreeMap::new());
        let steps: [(&[_], &[u16]); 4] = [
            (&[&single], &[3784]),
            (&[&single, &multi], &[3784, 4784]),
            (&[&multi], &[4784]),
            (&[], &[]),
        ];
        for (sessions, expected) in steps {
            let sessions = sessions.iter().map(|s| (*s).clone());
            end.handle.apply(sessions.collect());
            until("the ports", async || match open_ports() == expected {
                true => Ok(()),
                false => Err(format!("{:?}", open_ports())),
            })
            .await;
        }
        end.handle.shutdown();
    });
}

#[test]
fn a_session_that_cannot_be_started_is_shown_with_its_reason_until_it_can() {
    test(&[ROUTER], async |lab| {
        let engine = lab.engine_namespace();
        let end = End::start(
            &engine,
            only(key("10.98.0.11", "10.98.0.1", "late0"), timers(50)),
        );
        end.until("the problem", |all| {
            all.len() == 1 && all[0].state == "down" && !all[0].problem.is_empty()
        })
        .await;
        let add = "link add late0 type veth peer name late1";
        let mut command = vec!["ip", "-n", &engine];
        command.extend(add.split(' '));
        run(&command);
        run(&[
            "ip",
            "-n",
            &engine,
            "address",
            "add",
            "10.98.0.11/24",
            "dev",
            "late0",
        ]);
        run(&["ip", "-n", &engine, "link", "set", "late0", "up"]);
        end.until("it to start", |all| {
            all.len() == 1 && all[0].problem.is_empty()
        })
        .await;
        assert!(!end.monitor.engine().scheduling.is_empty());
        end.handle.shutdown();
    });
}

/// A daemon of BIRD that speaks BFD only.
struct Bird {
    namespace: String,
    dir: tempfile::TempDir,
    daemon: Child,
}

impl Bird {
    fn start(namespace: &str, bfd: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config =
            format!("router id 10.10.1.1;\nprotocol device {{ }}\nprotocol bfd {{ {bfd} }}\n");
        std::fs::write(path("bird.conf"), config).unwrap();
        let (conf, control, pid) = (path("bird.conf"), path("bird.ctl"), path("bird.pid"));
        let daemon = Command::new("ip")
            .args(["netns", "exec", namespace, "/usr/sbin/bird", "-f", "-c"])
            .args([&conf, "-s", &control, "-P", &pid])
            .stdout(Stdio::null())
            .spawn()
            .expect("start BIRD");
        lab::await_file(std::path::Path::new(&control));
        Self {
            namespace: namespace.to_owned(),
            dir,
            daemon,
        }
    }

    async fn until_up(&self, peer: &str) {
        let control = self.dir.path().join("bird.ctl").display().to_string();
        until(&format!("BIRD in {}", self.namespace), async || {
            let shown = lab::ask("birdc", &["-s", &control, "show", "bfd", "sessions"]).await;
            let line = shown.lines().find(|l| l.starts_with(peer));
            match line.is_some_and(|l| l.contains(" Up ")) {
                true => Ok(()),
                false => Err(shown),
            }
        })
        .await;
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

const BIRD_TIMERS: &str = "interval 50 ms; multiplier 3;";

async fn frr_watches(lab: &mut Lab, peer: &str) {
    lab.routers[0].start_bfdd();
    lab.routers[0].configure(FAST).await;
    let commands = ["bfd", peer, "profile fast"];
    lab.routers[0].configure(&commands).await;
}

#[test]
fn frr_is_watched_over_ipv6() {
    test(&[ROUTER], async |mut lab| {
        let peer = "peer 2001:db8:1::11 local-address 2001:db8:1::1 interface eth0";
        frr_watches(&mut lab, peer).await;
        let session = only(key("2001:db8:1::11", "2001:db8:1::1", "eth1"), timers(50));
        let end = End::start(&lab.engine_namespace(), session);
        end.until_up().await;
        until_router_bfd(&lab.routers[0], "FRR", |b| b["status"] == "up").await;
        end.stays_up_for(50).await;
        cut(&lab);
        end.until("the loss", |all| all[0].state == "down").await;
        until_router_bfd(&lab.routers[0], "FRR to notice", |b| b["status"] == "down").await;
        mend(&lab);
        end.until_up().await;
        end.handle.shutdown();
        until_router_bfd(&lab.routers[0], "our AdminDown", |b| b["status"] == "down").await;
    });
}

#[test]
fn bird_is_watched_over_ipv6() {
    test(&[ROUTER], async |lab| {
        let config = format!(
            "interface \"eth0\" {{ {BIRD_TIMERS} }}; neighbor 2001:db8:1::11 dev \"eth0\" local 2001:db8:1::1;"
        );
        let bird = Bird::start(&lab.routers[0].namespace, &config);
        let session = only(key("2001:db8:1::11", "2001:db8:1::1", "eth1"), timers(50));
        let end = End::start(&lab.engine_namespace(), session);
        end.until_up().await;
        bird.until_up("2001:db8:1::11").await;
        end.stays_up_for(50).await;
        cut(&lab);
        end.until("the loss", |all| all[0].state == "down").await;
        mend(&lab);
        end.until_up().await;
        end.handle.shutdown();
    });
}

/// A namespace behind the engine's, which forwards: 10.20.0.2 there, the router is two hops away.
struct Behind(String);

impl Behind {
    fn add(lab: &Lab) -> Self {
        let middle = lab.engine_namespace();
        let behind = format!("{middle}b");
        let ip = |arguments: &str| {
            let mut command = vec!["ip"];
            command.extend(arguments.split(' '));
            run(&command);
        };
        ip(&format!("netns add {behind}"));
        let this = Self(behind.clone());
        ip(&format!(
            "link add far0 netns {middle} type veth peer name eth0 netns {behind}"
        ));
        for (namespace, link, host) in [(&middle, "far0", 1), (&behind, "eth0", 2)] {
            ip(&format!(
                "-n {namespace} address add 10.20.0.{host}/24 dev {link}"
            ));
            ip(&format!("-n {namespace} link set {link} up"));
        }
        ip(&format!("-n {behind} route add 10.10.1.0/24 via 10.20.0.1"));
        let router = &lab.routers[0].namespace;
        ip(&format!("-n {router} route add 10.20.0.0/24 via {ENGINE}"));
        ip(&format!(
            "netns exec {middle} sysctl -qw net.ipv4.ip_forward=1"
        ));
        this
    }

    /// A minimum that the hop breaks is noticed; one that allows for it lets the session up.
    async fn watches_the_router(&self, allowed: u8) -> End {
        let session = |min_ttl| {
            let config = BfdConfig {
                min_ttl,
                ..timers(50)
            };
            only(over_hops("10.20.0.2", "10.10.1.1"), config)
        };
        let end = End::start(&self.0, session(255));
        end.until("packets whose TTL is too low", |all| {
            let why = all
                .first()
                .map(|s| s.discards.as_slice())
                .unwrap_or_default();
            why.iter().any(|d| d.reason == "ttl" && d.packets > 0)
        })
        .await;
        end.handle.apply(session(allowed));
        end.until_up().await;
        end.stays_up_for(50).await;
        end
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

#[test]
fn frr_is_watched_over_a_router_in_between() {
    test(&[ROUTER], async |mut lab| {
        let behind = Behind::add(&lab);
        frr_watches(&mut lab, "peer 10.20.0.2 multihop local-address 10.10.1.1").await;
        let end = behind.watches_the_router(254).await;
        until_router_bfd(&lab.routers[0], "FRR", |b| {
            b["status"] == "up" && b["multihop"] == true
        })
        .await;
        end.handle.shutdown();
        until_router_bfd(&lab.routers[0], "our AdminDown", |b| b["status"] == "down").await;
    });
}

#[test]
fn bird_is_watched_over_a_router_in_between() {
    test(&[ROUTER], async |lab| {
        let behind = Behind::add(&lab);
        let config = format!(
            "multihop {{ {BIRD_TIMERS} }}; neighbor 10.20.0.2 local 10.10.1.1 multihop on;"
        );
        let bird = Bird::start(&lab.routers[0].namespace, &config);
        // Over several hops BIRD sends with the kernel's TTL of 64.
        let end = behind.watches_the_router(63).await;
        bird.until_up("10.20.0.2").await;
        end.handle.shutdown();
    });
}
