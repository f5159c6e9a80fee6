//! Packet in, packet out: the program in the kernel against single frames (BPF_PROG_TEST_RUN), in a namespace of its own
//! with a real listener and a real connection. Each is done over IPv4 and IPv6.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_macros)] // a test fails by panicking

mod differential;
mod every;
mod frame;
mod front;
mod fuzz;
mod ports;
mod reading;
mod seen;

use evenkeel_dataplane::steering::{Steering, Tried};
use flow::config::{Answers, MessageKey};
use flow::key::Protocol;
use flow::mark::{HintKey, Mark};
use flow::{Config, Flow, Group, Link, Member, Peer, Service, Settings};
use frame::{ACK, Ip, RST, SYN, Segment, error, outer};
use nix::sched::{CloneFlags, unshare};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;

const PORT: u16 = 80;
const ANSWER: u16 = 0;
const DATA: u16 = 1 << 14;
const PROBE: u16 = 2 << 14;
const RETURN: u16 = 3 << 14;
const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
/// `linux/tcp.h`.
const RECV_QUEUE: i32 = 1;
const SEND_QUEUE: i32 = 2;
const KEY: HintKey = HintKey([3, 4]);

/// Addresses of one family: the client's, the VIP, and of the engines 0, 1 (we) and 2.
struct Family {
    client: IpAddr,
    vip: IpAddr,
    engines: [IpAddr; 3],
    stranger: IpAddr,
}

fn families() -> [Family; 2] {
    [false, true].map(|v6| {
        let ip = |host: u8, v4: &str| match v6 {
            true => format!("2001:db8::{host:x}").parse().unwrap(),
            false => format!("{v4}{host}").parse().unwrap(),
        };
        Family {
            client: ip(0x20, "10.1.0."),
            vip: ip(0x99, "10.99.0."),
            engines: [ip(11, "10.2.0."), ip(12, "10.2.0."), ip(13, "10.2.0.")],
            stranger: ip(66, "10.2.0."),
        }
    })
}

/// The program, configured as engine 1 of three, in a namespace of its own.
struct Ground {
    steering: Steering,
    pins: Pins,
    /// Native XDP sees frames before tc does; those that it ended.
    front: Option<u64>,
}

/// A folder that a BPF file system may be mounted on.
struct Pins(tempfile::TempDir);

impl Drop for Pins {
    fn drop(&mut self) {
        // It may not have come to that.
        let _ = nix::mount::umount(self.0.path());
    }
}

impl Ground {
    fn new() -> Self {
        let pins = Pins(tempfile::tempdir().unwrap());
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let ip = |arguments: &str| {
            let words = arguments.split_whitespace();
            assert!(
                Command::new("ip").args(words).status().unwrap().success(),
                "{arguments}"
            );
        };
        ip("link set lo up");
        for family in families() {
            for address in [family.client, family.vip, family.engines[1]] {
                ip(&format!("address add {address} dev lo"));
            }
        }
        front::make_ways(ip);
        let mut steering = Steering::open(pins.0.path()).unwrap();
        steering.apply(&config(|_| {})).unwrap();
        Self {
            steering,
            pins,
            front: None,
        }
    }

    fn count(&self, verdict: &str) -> u64 {
        self.steering.counters().unwrap().verdicts[verdict]
    }

    /// What becomes of it, which must be counted as this.
    fn expect(&mut self, packet: &Ip, verdict: &str, action: i32) -> Tried {
        let before = self.steering.counters().unwrap().verdicts;
        let tried = self.steering.try_out(&packet.frame(), 1).unwrap();
        let after = self.steering.counters().unwrap().verdicts;
        let counted: Vec<_> = after.iter().filter(|(v, n)| before[*v] < **n).collect();
        assert_eq!(tried.action, action, "{verdict}: {counted:?} {packet:?}");
        assert!(
            after[verdict] > before[verdict],
            "{verdict}: {counted:?} {packet:?}"
        );
        tried
    }
}

fn config(change: impl FnOnce(&mut Config)) -> Config {
    let families = families();
    let peer = |n: usize| Peer {
        se_uuid: format!("serviceengine-{n}"),
        name: format!("se-{n}"),
        addresses: families.iter().map(|f| f.engines[n]).collect(),
        links: families
            .iter()
            .map(|f| Link {
                local: f.engines[1],
                remote: f.engines[n],
                ifindex: front::UPLINK,
                next_hop: None,
            })
            .collect(),
        alive: true,
    };
    let member = |(peer, id): (usize, u8)| Member {
        id,
        peer,
        takes_new: true,
    };
    let mut config = Config {
        services: families
            .iter()
            .map(|f| Service {
                address: (f.vip, PORT).into(),
                protocol: Protocol::Tcp,
                group: 0,
                hints: true,
                probes: true,
                udp_ask_until: None,
            })
            .collect(),
        groups: vec![Group {
            vsvip_uuid: "vsvip-1".into(),
            generation: 1,
            us: 1,
            drains: false,
            spread: None,
            answers: Answers::default(),
            members: [(0, 0), (1, 2)].map(member).to_vec(),
        }],
        peers: vec![peer(0), peer(2)],
        addresses: families.iter().map(|f| f.engines[1]).collect(),
        settings: Settings {
            message_keys: vec![MessageKey {
                id: 7,
                secret: [1, 2],
            }],
            hint_key: KEY,
            ..Settings::default()
        },
    };
    change(&mut config);
    config
}

/// In a thread of its own, whose namespace ends with it, once per family.
fn on_ground(story: impl Fn(&mut Ground, &Family) + Send + Sync) {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "needs root");
    if !root {
        return eprintln!("NOT RUN: network namespaces need root");
    }
    for family in families() {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| story(&mut Ground::new(), &family)).join();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }
}

/// A client in another network, which has a share of the budget of its own.
fn afar(family: &Family) -> IpAddr {
    let v4 = family.vip.is_ipv4();
    let text = if v4 { "10.9.0.1" } else { "2001:db8:9::1" };
    text.parse().unwrap()
}

/// A flow that no socket here belongs to. No member has the id that this TSecr says.
fn segment(family: &Family, port: u16) -> Segment {
    let (client, vip) = ((family.client, port).into(), (family.vip, PORT).into());
    Segment {
        client,
        vip,
        seq: 1000,
        ack: 2000,
        flags: ACK,
        tsecr: hint(client, vip, 60),
    }
}

fn mark(client: SocketAddr, service: SocketAddr) -> Mark {
    let flow = Flow {
        protocol: Protocol::Tcp,
        client,
        service,
    };
    Mark::of(KEY, &flow)
}

/// A TSecr that names this member.
fn hint(client: SocketAddr, vip: SocketAddr, member: u8) -> u32 {
    u32::from(member ^ mark(client, vip).blind()) << 24 | 0x1234
}

#[test]
fn what_is_for_nobody_here_passes_uncounted() {
    on_ground(|ground, family| {
        let mut other = segment(family, 1);
        other.vip.set_port(81);
        let before = ground.steering.counters().unwrap();
        for packet in [
            other.ip(),
            Ip::new(family.client, family.stranger, 6, other.ip().payload),
            other.ip().within(family.stranger, family.engines[1], 0),
            Ip::new(family.client, family.vip, 17, vec![0; 8]),
            Ip::new(family.client, family.vip, 47, vec![0; 20]),
            Ip::new(family.client, family.vip, 6, vec![0; 4]),
        ] {
            let tried = ground.steering.try_out(&packet.frame(), 1).unwrap();
            assert_eq!((tried.action, tried.frame), (NEXT, packet.frame()));
        }
        assert_eq!(ground.steering.counters().unwrap(), before);
    });
}

#[test]
fn neighbour_discovery_leaves_by_itself_where_answers_go_through_the_primary() {
    on_ground(|ground, family| {
        let by_another = config(|c| c.groups[0].answers = Answers::ByPrimary(Some(2)));
        ground.steering.apply(&by_another).unwrap();
        let (echo_reply, advertisement) = (129, 136);
        for (kind, action) in [(echo_reply, REDIRECT), (advertisement, NEXT)] {
            let icmp = vec![kind, 0, 0, 0, 0, 0, 0, 0];
            let said = Ip::new(family.vip, afar(family), 58, icmp).frame();
            let tried = ground.steering.try_out_leaving(&said, 0).unwrap();
            // To IPv4 it is any other protocol.
            let expected = if family.vip.is_ipv6() {
                action
            } else {
                REDIRECT
            };
            assert_eq!(tried.action, expected, "{kind}");
        }
    });
}

/// Else two members that take each other for the primary would send it to and fro for ever.
#[test]
fn what_is_sent_on_for_another_member_is_not_sent_to_the_primary_again() {
    const RELAYED: u32 = 0xE7 << 24 | 3 << 22;
    on_ground(|ground, family| {
        let by_another = config(|c| c.groups[0].answers = Answers::ByPrimary(Some(2)));
        ground.steering.apply(&by_another).unwrap();
        let answer = Ip::new(family.vip, afar(family), 17, vec![0; 8]).frame();
        for (mark, action) in [(0, REDIRECT), (RELAYED, NEXT), (1, REDIRECT)] {
            let tried = ground.steering.try_out_leaving(&answer, mark).unwrap();
            assert_eq!(tried.action, action, "mark {mark:#x}");
        }
    });
}

#[test]
fn a_new_flow_is_ours_and_goes_elsewhere_while_we_drain() {
    on_ground(|ground, family| {
        let syn = Segment {
            flags: SYN,
            ..segment(family, 1)
        };
        ground.expect(&syn.ip(), "local_new", NEXT);
        ground
            .steering
            .apply(&config(|c| c.groups[0].drains = true))
            .unwrap();
        let tried = ground.expect(&syn.ip(), "tunnel_new", REDIRECT);
        let (source, to, _, word, inside) = outer(&tried.frame);
        assert_eq!((source, word >> 14), (family.engines[1], 1));
        assert_eq!(inside, syn.ip().bytes());
        let ack = segment(family, 1);
        let tried = ground.expect(&ack.ip(), "tunnel_cache", REDIRECT);
        assert_eq!(outer(&tried.frame).1, to, "where its SYN went");
        let alone = config(|c| {
            c.groups[0].drains = true;
            c.groups[0]
                .members
                .iter_mut()
                .for_each(|m| m.takes_new = false);
        });
        ground.steering.apply(&alone).unwrap();
        ground.expect(&syn.ip(), "local_new", NEXT);
    });
}

/// A connection of ours: where its receiver and its sender are.
struct Connection {
    _listener: TcpListener,
    _client: TcpStream,
    server: TcpStream,
    fits: Segment,
}

fn connection(family: &Family) -> Connection {
    let listener = TcpListener::bind((family.vip, PORT)).unwrap();
    let socket = TcpStream::connect((family.vip, PORT)).unwrap();
    let (server, client) = listener.accept().unwrap();
    let fits = Segment {
        client,
        seq: queue(&server, RECV_QUEUE),
        ack: queue(&server, SEND_QUEUE),
        ..segment(family, 1)
    };
    Connection {
        _listener: listener,
        _client: socket,
        server,
        fits,
    }
}

/// Sequence number of a queue (`TCP_QUEUE_SEQ`).
#[allow(unsafe_code)]
fn queue(socket: &TcpStream, which: i32) -> u32 {
    set(socket, libc::TCP_REPAIR, 1);
    set(socket, libc::TCP_REPAIR_QUEUE, which);
    let (mut seq, mut len) = (0_u32, 4_u32);
    // SAFETY: the value and its length outlive the call and are of the type that the option has.
    let result = unsafe {
        let value = (&raw mut seq).cast();
        let (fd, name) = (socket.as_raw_fd(), libc::TCP_QUEUE_SEQ);
        libc::getsockopt(fd, libc::IPPROTO_TCP, name, value, &raw mut len)
    };
    assert_eq!(result, 0);
    // Off again, without a window probe.
    set(socket, libc::TCP_REPAIR, -1);
    seq
}

#[allow(unsafe_code)]
fn set(socket: &TcpStream, name: i32, value: i32) {
    // SAFETY: the value outlives the call and has the length of an i32.
    let result = unsafe {
        let (fd, value) = (socket.as_raw_fd(), (&raw const value).cast());
        libc::setsockopt(fd, libc::IPPROTO_TCP, name, value, 4)
    };
    assert_eq!(result, 0);
}

#[test]
fn a_packet_is_ours_when_it_fits_the_window_of_a_socket() {
    on_ground(|ground, family| {
        let connection = connection(family);
        let fits = connection.fits;
        let with = |seq: i32, ack: i32| Segment {
            seq: fits.seq.wrapping_add_signed(seq),
            ack: fits.ack.wrapping_add_signed(ack),
            ..fits
        };
        for (seq, ack) in [(0, 0), (65_535, 0), (-67_108_864, 0), (-1, -1_048_576)] {
            ground.expect(&with(seq, ack).ip(), "local_socket", NEXT);
        }
        for (seq, ack) in [(-67_108_865, 0), (1 << 30, 0), (0, 1), (0, -1_048_577)] {
            let mut unfit = with(seq, ack);
            // A client port for each, as far as questions go; the socket is that of the flow.
            unfit.tsecr = hint(unfit.client, unfit.vip, 2);
            ground.expect(&unfit.ip(), "tunnel_hint", REDIRECT);
        }
        drop(connection.server);
        let closing = Segment {
            flags: RST | ACK,
            ..fits
        };
        ground.expect(&closing.ip(), "local_socket", NEXT);
    });
}

#[test]
fn a_hint_that_names_a_live_member_goes_there_and_no_other_does() {
    on_ground(|ground, family| {
        let to = |member: u8| {
            let segment = segment(family, 1);
            let tsecr = hint(segment.client, segment.vip, member);
            Segment { tsecr, ..segment }
        };
        for (member, engine) in [(0, 0), (2, 2)] {
            let tried = ground.expect(&to(member).ip(), "tunnel_hint", REDIRECT);
            let (source, destination, protocol, word, inside) = outer(&tried.frame);
            assert_eq!(
                (source, destination),
                (family.engines[1], family.engines[engine])
            );
            assert_eq!(protocol, if source.is_ipv4() { 4 } else { 41 });
            assert_eq!(word, DATA | mark(to(0).client, to(0).vip).check());
            assert_eq!(inside, to(member).ip().bytes());
        }
        ground.expect(&to(1).ip(), "probe", SHOT);
        ground
            .steering
            .apply(&config(|c| c.peers[1].alive = false))
            .unwrap();
        ground.expect(&to(2).ip(), "drop_asked", SHOT);
        ground
            .steering
            .apply(&config(|c| {
                c.services.iter_mut().for_each(|s| s.hints = false)
            }))
            .unwrap();
        ground.expect(&to(0).ip(), "drop_asked", SHOT);
    });
}

#[test]
fn a_stranger_is_asked_about_as_often_as_is_allowed() {
    on_ground(|ground, family| {
        let retries = config(|c| {
            c.settings.probe_retries = 1;
            c.settings.probe_retry_timer = std::time::Duration::ZERO;
        });
        ground.steering.apply(&retries).unwrap();
        let stranger = segment(family, 1).ip();
        ground.expect(&stranger, "probe", SHOT);
        ground.expect(&stranger, "probe", SHOT);
        ground.expect(&stranger, "drop_asked", SHOT);
        let broke = config(|c| (c.settings.copies_per_s, c.settings.copies_burst) = (1, 0));
        ground.steering.apply(&broke).unwrap();
        // From another network, which has had no share yet.
        let from_afar = |port| Segment {
            client: (afar(family), port).into(),
            ..segment(family, port)
        };
        ground.expect(&from_afar(2).ip(), "probe", SHOT);
        ground.expect(&from_afar(3).ip(), "drop_budget", SHOT);
        let off = config(|c| c.services.iter_mut().for_each(|s| s.probes = false));
        ground.steering.apply(&off).unwrap();
        ground.expect(&segment(family, 4).ip(), "local_none", NEXT);
        let alone = config(|c| c.groups[0].members.clear());
        ground.steering.apply(&alone).unwrap();
        ground.expect(&segment(family, 5).ip(), "local_none", NEXT);
    });
}

#[test]
fn tunnel_packets_are_judged_by_where_they_come_from_and_what_they_are() {
    on_ground(|ground, family| {
        let [a, us, _] = family.engines;
        let unknown = segment(family, 1);
        let ip = unknown.ip();
        ground.expect(&ip.within(family.stranger, us, DATA), "drop_stranger", SHOT);
        let spoofed = Ip {
            source: a,
            ..ip.clone()
        };
        ground.expect(&spoofed.within(a, us, DATA), "drop_spoofed", SHOT);
        ground.expect(&ip.within(a, us, 5), "drop_kind", SHOT);

        let back = ground.expect(&ip.within(a, us, DATA | 77), "return", REDIRECT);
        let (source, destination, _, word, inside) = outer(&back.frame);
        assert_eq!((source, destination, word), (us, a, RETURN | 77));
        assert_eq!(inside, ip.bytes());

        let check = mark(unknown.client, unknown.vip).check();
        ground.expect(&ip.within(a, us, RETURN | (check ^ 1)), "drop_check", SHOT);
        ground.expect(&ip.within(a, us, RETURN | check), "returned", SHOT);
        assert_eq!(ground.count("probe"), 1, "the others are asked");

        let connection = connection(family);
        let ours = connection.fits.ip();
        let inside = ground.expect(&ours.within(a, us, DATA), "deliver_data", NEXT);
        assert_eq!(inside.frame[14..], ours.bytes());
        let syn = Segment {
            flags: SYN,
            ..unknown
        };
        ground.expect(&syn.ip().within(a, us, DATA), "deliver_data", NEXT);
        let claimed = ground.expect(&ours.within(a, us, PROBE | 9), "deliver_claim", NEXT);
        assert_eq!(claimed.frame[14..], ours.bytes());
    });
}

#[test]
fn a_probe_for_a_flow_that_is_not_here_is_denied_with_a_message() {
    on_ground(|ground, family| {
        let [a, us, _] = family.engines;
        let mut long = segment(family, 1).ip();
        long.payload.extend([7; 900]);
        for ip in [segment(family, 1).ip(), long] {
            let denied = ground.expect(&ip.within(a, us, PROBE | 9), "deny", REDIRECT);
            let (source, destination, protocol, _, udp) = outer(&denied.frame);
            assert_eq!((source, destination, protocol), (us, a, 17));
            assert_eq!(udp[..6], [6, 14, 6, 14, 0, 72]);
            assert_eq!(udp[8..20], [1, 2, 1, 6, 0, 0, 0, 7, 0, 0, 0, 9]);
            assert_eq!(
                denied.frame[..6],
                [2, 0, 0, 0, 0, 2],
                "back where it came from"
            );
            let length = length_by_ip(&denied.frame);
            assert_eq!(
                length,
                denied.frame.len(),
                "nobody on the way has to trim it"
            );
        }
    });
}

/// Of a frame, as its IP header says it.
fn length_by_ip(frame: &[u8]) -> usize {
    let number = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    match frame[14] >> 4 {
        4 => 14 + number(16),
        _ => 14 + 40 + number(18),
    }
}

#[test]
fn errors_and_fragments_follow_their_flow() {
    on_ground(|ground, family| {
        let [a, us, _] = family.engines;
        let connection = connection(family);
        let ours = error(family.stranger, connection.fits);
        ground.expect(&ours, "local_socket", NEXT);
        ground.expect(&ours.within(a, us, PROBE), "deliver_data", NEXT);
        let theirs = error(family.stranger, segment(family, 1));
        ground.expect(&theirs, "probe_error", SHOT);
        ground.expect(&theirs.within(a, us, PROBE), "drop_error", SHOT);
        if family.vip.is_ipv4() {
            let later = Ip {
                word: 1,
                fragment: (100, false),
                ..segment(family, 1).ip()
            };
            ground.expect(&later, "probe_fragment", NEXT);
            ground.expect(&later.within(a, us, DATA), "deliver_data", NEXT);
            let segment = segment(family, 2);
            let first = Segment {
                tsecr: hint(segment.client, segment.vip, 2),
                ..segment
            };
            let first = Ip {
                word: 2,
                fragment: (0, true),
                ..first.ip()
            };
            ground.expect(&first, "tunnel_hint", REDIRECT);
            let later = Ip { word: 2, ..later };
            ground.expect(&later, "tunnel_hint", REDIRECT);
        }
    });
}

/// RFC 6040 section 4.2; IPv4, where the mark is a byte that nothing else shares.
#[test]
fn congestion_in_the_tunnel_is_told_to_what_is_inside() {
    on_ground(|ground, family| {
        if family.vip.is_ipv6() {
            return;
        }
        let [a, us, _] = family.engines;
        let connection = connection(family);
        let frame = connection.fits.ip().within(a, us, DATA).frame();
        for (outer, inner, after) in [(3, 2, 3), (3, 1, 3), (3, 0, 0), (2, 2, 2), (0, 1, 1)] {
            let mut marked = frame.clone();
            (marked[15], marked[35]) = (outer, inner);
            let tried = ground.steering.try_out(&marked, 1).unwrap();
            assert_eq!(
                (tried.action, tried.frame[15]),
                (NEXT, after),
                "{outer} around {inner}"
            );
        }
    });
}
