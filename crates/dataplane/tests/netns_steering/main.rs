//! Steering in the kernel, with real sockets over real links in network namespaces.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_macros)] // a test fails by panicking

mod datagrams;
mod messages;
mod native;
mod net;

use evenkeel_dataplane::steering::{Counters, LAYOUT, Steering, detach};
use flow::config::{Answers, MessageKey};
use flow::key::Protocol;
use flow::mark::HintKey;
use flow::{Config, Group, Link, Member, Peer, Service, Settings};
use net::{ENGINES, Net, VIPS, addresses, can_run, inside};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const PORT: u16 = 80;

/// What this engine is told, when these are the members.
fn config(engine: &str, members: &[&str]) -> Config {
    let ifindex = nix::net::if_::if_nametoindex("eth0").unwrap();
    let others: Vec<&&str> = members.iter().filter(|m| **m != engine).collect();
    let peer = |name: &&&str| Peer {
        se_uuid: format!("serviceengine-{name}"),
        name: format!("se-{name}"),
        addresses: addresses(name).to_vec(),
        links: std::iter::zip(addresses(engine), addresses(name))
            .map(|(local, remote)| Link {
                local,
                remote,
                ifindex,
                next_hop: Some(remote),
            })
            .collect(),
        alive: true,
    };
    let id = |name: &str| u8::try_from(ENGINES.iter().position(|e| *e == name).unwrap()).unwrap();
    let member = |(peer, name): (usize, &&&str)| Member {
        id: id(name),
        peer,
        takes_new: true,
    };
    Config {
        services: VIPS.iter().flat_map(services).collect(),
        groups: vec![Group {
            vsvip_uuid: "vsvip-1".into(),
            generation: 1,
            us: id(engine),
            drains: false,
            spread: None,
            answers: Answers::default(),
            members: others.iter().enumerate().map(member).collect(),
        }],
        peers: others.iter().map(peer).collect(),
        addresses: addresses(engine).to_vec(),
        settings: Settings {
            message_keys: vec![MessageKey {
                id: 7,
                secret: [1, 2],
            }],
            hint_key: HintKey([3, 4]),
            ..Settings::default()
        },
    }
}

fn services(vip: &IpAddr) -> [Service; 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| Service {
        address: SocketAddr::new(*vip, PORT),
        protocol,
        group: 0,
        // Servers here do not stamp: a client's own clock would point at some member by chance.
        hints: false,
        probes: true,
        udp_ask_until: None,
    })
}

/// An engine: its steering, and an echo server at each VIP.
fn start(net: &Net, engine: &str, members: &[&str]) -> Steering {
    start_with(net, engine, &config_in(net, engine, members), |_| {})
}

fn config_in(net: &Net, engine: &str, members: &[&str]) -> Config {
    inside(&net.ns(engine), || config(engine, members))
}

/// The same; the server does this with each connection first.
fn start_with(net: &Net, engine: &str, config: &Config, greet: fn(&TcpStream)) -> Steering {
    inside(&net.ns(engine), || {
        for vip in VIPS {
            let listener = TcpListener::bind((vip, PORT)).unwrap();
            // What fits into the tunnel: 1500 less the outer, the inner and the TCP header.
            let segment = if vip.is_ipv4() { 1440 } else { 1400 };
            set_tcp(&listener, libc::TCP_MAXSEG, segment);
            std::thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    greet(&client);
                    std::thread::spawn(move || echo(client));
                }
            });
        }
        let mut steering = Steering::open(&net.pins(engine)).unwrap();
        steering.apply(config).unwrap();
        let failed = steering.attach(["eth0"]).failed;
        assert!(failed.is_empty(), "{failed:?}");
        steering
    })
}

/// The server forgets the connection without a word to the client, as if its host had died and come back.
const FORGET: u8 = 0xFF;

fn echo(mut client: TcpStream) {
    let mut chunk = vec![0; 65536];
    while let Ok(n @ 1..) = client.read(&mut chunk) {
        if chunk[0] == FORGET {
            // A socket in repair mode is closed in silence.
            return set_tcp(&client, libc::TCP_REPAIR, 1);
        }
        if client.write_all(&chunk[..n]).is_err() {
            return;
        }
    }
}

#[allow(unsafe_code)]
fn set_tcp(socket: &impl AsRawFd, option: i32, value: i32) {
    // SAFETY: the option's value outlives the call, and its length is that of an i32.
    let result = unsafe {
        let value = (&raw const value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value, 4)
    };
    assert_eq!(result, 0);
}

fn connect(vip: IpAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&(vip, PORT).into(), Duration::from_secs(5)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// So many bytes come back as they went.
fn exchange(stream: &mut TcpStream, len: usize) -> std::io::Result<()> {
    let sent: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let mut back = vec![0; len];
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| writer.write_all(&sent));
        stream.read_exact(&mut back)?;
        writing.join().unwrap()
    })?;
    assert!(back == sent, "what came back differs");
    Ok(())
}

fn nonzero(counters: &Counters) -> Vec<(&'static str, u64)> {
    let all = counters.verdicts.iter().map(|(v, n)| (*v, *n));
    all.filter(|(_, n)| *n > 0).collect()
}

fn count(counters: &Counters, verdict: &str) -> u64 {
    counters.verdicts[verdict]
}

#[test]
fn a_flow_that_the_router_moves_goes_on_at_its_owner() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let members = ["a", "b", "c"];
    let [a, b, c] = members.map(|engine| start(&net, engine, &members));
    net.route_to("a");
    let result = inside(&net.ns("client"), || {
        let mut streams = VIPS.map(connect);
        let mut all = |len| streams.iter_mut().try_for_each(|s| exchange(s, len));
        all(1000)?;
        net.route_to("b");
        all(1000)?;
        all(10_000_000)
    });
    let [a, b, c] = [a, b, c].map(|s| s.counters().unwrap());
    let shown = [&a, &b, &c].map(nonzero);
    result.unwrap_or_else(|error| panic!("{error}: {shown:#?}"));
    eprintln!("figures: {shown:?}");
    // A slow machine may ask twice before it is answered; the second answer finds no question.
    assert_eq!(count(&b, "claim_taken"), 2, "one for each flow");
    assert!(count(&b, "tunnel_cache") > 100);
    assert!(count(&a, "deliver_claim") >= 2);
    assert!(count(&c, "deny") >= 2);
}

/// As between machines: every packet has its place in 1500 bytes, with DF set, and so has it in the tunnel.
#[test]
fn ten_megabytes_pass_a_tunnel_over_links_of_1500_bytes_in_both_directions() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    net.send_single_packets();
    let members = ["a", "b"];
    let [_a, b] = members.map(|engine| start(&net, engine, &members));
    net.route_to("a");
    let result = inside(&net.ns("client"), || {
        let mut streams = VIPS.map(connect);
        streams.iter_mut().try_for_each(|s| exchange(s, 1000))?;
        net.route_to("b");
        streams.iter_mut().try_for_each(|s| exchange(s, 10_000_000))
    });
    let counters = b.counters().unwrap();
    let shown = nonzero(&counters);
    result.unwrap_or_else(|error| panic!("{error}: {shown:?}"));
    let sent = counters.tunnelled["serviceengine-a"];
    let largest = sent.bytes / sent.packets;
    assert!(
        sent.packets > 10_000 && largest <= 1500,
        "{sent:?} {shown:?}"
    );
}

#[test]
fn a_flow_that_nobody_owns_is_reset_when_all_have_denied() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let members = ["a", "b", "c"];
    let [_a, b, _c] = members.map(|engine| start(&net, engine, &members));
    net.route_to("a");
    let errors = inside(&net.ns("client"), || {
        let mut streams = VIPS.map(connect);
        streams.iter_mut().for_each(|s| exchange(s, 100).unwrap());
        streams
            .iter_mut()
            .for_each(|s| s.write_all(&[FORGET]).unwrap());
        net.route_to("b");
        streams.map(|mut s| exchange(&mut s, 100).map_err(|e| e.kind()))
    });
    let counters = b.counters().unwrap();
    let shown = nonzero(&counters);
    assert_eq!(errors, [Err(ErrorKind::ConnectionReset); 2], "{shown:?}");
    assert!(
        count(&counters, "deny_taken") >= 4,
        "two members each: {shown:?}"
    );
    assert!(count(&counters, "local_denied") >= 2, "{shown:?}");
    assert_eq!(count(&counters, "claim_taken"), 0, "{shown:?}");
}

#[test]
fn steering_goes_on_without_its_process_and_is_adopted_by_the_next() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let members = ["a", "b"];
    let [a, b] = members.map(|engine| start(&net, engine, &members));
    net.route_to("a");
    drop((a, b));
    let next = inside(&net.ns("client"), || {
        let mut streams = VIPS.map(connect);
        let mut all = || streams.iter_mut().try_for_each(|s| exchange(s, 1000));
        all().unwrap();
        net.route_to("b");
        all().expect("moved while no process is there");
        let next = adopt(&net, "b", &members);
        all().expect("adopted");
        assert!(detach(&net.pins("b")).unwrap(), "something was there");
        assert!(!detach(&net.pins("b")).unwrap(), "nothing any more");
        let after = streams.map(|mut s| refused_at_last(&mut s));
        assert_eq!(after, [Err(ErrorKind::ConnectionReset); 2], "detached");
        next
    });
    let counters = next.counters().unwrap();
    assert_eq!(
        count(&counters, "claim_taken"),
        2,
        "{:?}",
        nonzero(&counters)
    );
    let to_a = counters.tunnelled["serviceengine-a"];
    assert!(to_a.packets > 2 && to_a.bytes > 2000, "{to_a:?}");
}

#[test]
fn programs_of_another_layout_are_replaced() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let members = ["a", "b"];
    let [a, b] = members.map(|engine| start(&net, engine, &members));
    net.route_to("a");
    drop((a, b));
    let pins = net.pins("b");
    let (ours, older) = (pins.join(LAYOUT), pins.join("v0"));
    std::fs::rename(&ours, &older).unwrap();
    inside(&net.ns("client"), || {
        let mut streams = VIPS.map(connect);
        let mut all = || streams.iter_mut().try_for_each(|s| exchange(s, 1000));
        all().unwrap();
        let next = adopt(&net, "b", &members);
        assert!(ours.exists() && !older.exists());
        net.route_to("b");
        all().expect("steered by the new ones");
        let counters = next.counters().unwrap();
        let shown = nonzero(&counters);
        assert_eq!(count(&counters, "claim_taken"), 2, "{shown:?}");
        assert!(detach(&pins).unwrap());
        let after = streams.map(|mut s| refused_at_last(&mut s));
        assert_eq!(
            after,
            [Err(ErrorKind::ConnectionReset); 2],
            "no other is left"
        );
    });
}

/// What ends the flow; the kernel detaches a moment after the last pin is gone.
fn refused_at_last(stream: &mut TcpStream) -> Result<(), ErrorKind> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match exchange(stream, 1000) {
            Ok(()) if Instant::now() < until => {}
            last => return last.map_err(|e| e.kind()),
        }
    }
}

/// As a process does that starts where another has left its programs.
fn adopt(net: &Net, engine: &str, members: &[&str]) -> Steering {
    inside(&net.ns(engine), || {
        let mut steering = Steering::open(&net.pins(engine)).unwrap();
        steering.apply(&config(engine, members)).unwrap();
        let attached = steering.attach(["eth0"]);
        assert!(attached.failed.is_empty(), "{attached:?}");
        attached.others.unwrap();
        steering
    })
}
