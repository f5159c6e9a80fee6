//! Native XDP in front of tc: what it ends it ends as tc does, and what it does not end is as it was.

use super::*;
use evenkeel_dataplane::steering::{LAYOUT, LOOPBACK_SETTINGS};
use flow::Verdict;
use flow::key::bytes16;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Index of the interface that frames come from, and that members are behind.
pub const UPLINK: u32 = 77;
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
/// Of members, but for the last part.
const MAC: [u8; 5] = [2, 0, 0, 0, 2];

/// `enum xdp_action` of `linux/bpf.h`.
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

/// Of each peer, family and processor one packet a second is left to tc; so often is a frame shown.
const TRIES: usize = 4;

/// The same, where an end has to come.
const TRIES_MOST: usize = 100;

fn mac_text(mac: &[u8]) -> String {
    let parts: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
    parts.join(":")
}

/// An uplink, and on it the members with addresses that are known.
pub fn make_ways(ip: impl Fn(&str)) {
    let ours = mac_text(&OUR_MAC);
    ip(&format!(
        "link add uplink index {UPLINK} address {ours} type veth peer name uplink-end"
    ));
    ip("link set uplink up");
    ip("link set uplink-end up");
    for engine in families().iter().flat_map(|f| [f.engines[0], f.engines[2]]) {
        ip(&format!("route add {engine} dev uplink"));
        set_neighbour(&ip, engine);
    }
    for family in families() {
        ip(&format!("route add {} dev uplink", afar(&family)));
    }
    set_forwarding("1");
}

fn set_neighbour(ip: &impl Fn(&str), engine: IpAddr) {
    let mac = mac_text(&mac_of(engine));
    ip(&format!(
        "neigh replace {engine} dev uplink lladdr {mac} nud permanent"
    ));
}

fn mac_of(engine: IpAddr) -> [u8; 6] {
    let last = bytes16(engine)[15];
    std::array::from_fn(|at| MAC.get(at).copied().unwrap_or(last))
}

fn set_forwarding(value: &str) {
    for (setting, _) in LOOPBACK_SETTINGS {
        std::fs::write(format!("/proc/sys/{setting}"), value).unwrap();
    }
}

fn ip(arguments: &str) {
    let words = arguments.split_whitespace();
    let status = Command::new("ip").args(words).status().unwrap();
    assert!(status.success(), "{arguments}");
}

impl Ground {
    /// What becomes of a frame from outside; with native XDP in front, that sees it first.
    pub fn meet(&mut self, frame: &[u8]) -> Tried {
        if let Some(ended) = self.front
            && let Some(tried) = self.in_front(frame, TRIES)
        {
            self.front = Some(ended + 1);
            return tried;
        }
        self.steering.try_out(frame, 1).unwrap()
    }

    /// What native XDP ends it with, in the words of tc. None: it passes it on, which then is as it was and counted
    /// nowhere.
    fn in_front(&mut self, frame: &[u8], tries: usize) -> Option<Tried> {
        for _ in 0..tries {
            let before = self.steering.counters().unwrap();
            let tried = self.steering.try_out_in_front(frame, UPLINK).unwrap();
            match tried.action {
                XDP_PASS => {
                    assert_eq!(tried.frame, frame, "as it was");
                    assert_eq!(self.steering.counters().unwrap(), before);
                }
                action => return Some(as_tc_says(action, frame, tried)),
            }
        }
        None
    }

    /// It ends those verdicts that it can, counts them, and passes on all else.
    pub fn expect_in_front(&mut self, verdict: Verdict, frame: &[u8]) -> Option<Tried> {
        let expected = ends_in_front(verdict);
        let tries = if expected.is_some() {
            TRIES_MOST
        } else {
            TRIES
        };
        let before = self.steering.counters().unwrap().verdicts;
        let tried = self.in_front(frame, tries);
        let after = self.steering.counters().unwrap().verdicts;
        let counted: Vec<_> = after.iter().filter(|(v, n)| before[*v] < **n).collect();
        assert_eq!(tried.as_ref().map(|t| t.action), expected, "{verdict}");
        match expected {
            Some(_) => {
                let once = (&verdict.code(), &(before[verdict.code()] + 1));
                assert_eq!(counted, [once], "{verdict}");
            }
            None => assert_eq!(counted, [], "{verdict}"),
        }
        tried
    }
}

/// Addresses on the link are written at tc after the program, by the kernel.
fn as_tc_says(action: i32, before: &[u8], mut tried: Tried) -> Tried {
    tried.action = match action {
        XDP_DROP => SHOT,
        XDP_TX => {
            let (_, to, ..) = outer(&tried.frame);
            assert_eq!(tried.frame[..6], mac_of(to));
            assert_eq!(tried.frame[6..12], OUR_MAC);
            tried.frame[..12].copy_from_slice(&before[..12]);
            REDIRECT
        }
        other => panic!("action {other}"),
    };
    tried
}

/// The action of tc that it comes to.
fn ends_in_front(verdict: Verdict) -> Option<i32> {
    match verdict {
        Verdict::TunnelHint | Verdict::TunnelCache => Some(REDIRECT),
        Verdict::DropAsked | Verdict::DropBudget => Some(SHOT),
        _ => None,
    }
}

fn hinted(family: &Family, port: u16) -> Segment {
    let segment = segment(family, port);
    let tsecr = hint(segment.client, segment.vip, 2);
    Segment { tsecr, ..segment }
}

fn assert_passes_when(ground: &mut Ground, frame: &[u8], what: &str) {
    assert_eq!(ground.in_front(frame, TRIES), None, "{what}");
}

fn assert_ends(ground: &mut Ground, frame: &[u8]) {
    let tried = ground.in_front(frame, TRIES_MOST);
    assert!(tried.is_some(), "as long as nothing is in the way");
}

#[test]
fn what_native_xdp_cannot_send_is_left_to_tc() {
    on_ground(|ground, family| {
        let frame = hinted(family, 1).ip().frame();
        let owner = family.engines[2];
        assert_ends(ground, &frame);

        ip(&format!("neigh del {owner} dev uplink"));
        assert_passes_when(ground, &frame, "no neighbour");
        set_neighbour(&ip, owner);
        assert_ends(ground, &frame);

        set_forwarding("0");
        assert_passes_when(ground, &frame, "the kernel does not tell its routes");
        set_forwarding("1");
        assert_ends(ground, &frame);

        let elsewhere = config(|c| {
            let links = c.peers.iter_mut().flat_map(|p| &mut p.links);
            links.for_each(|l| l.ifindex = UPLINK + 1);
        });
        ground.steering.apply(&elsewhere).unwrap();
        assert_passes_when(ground, &frame, "by another interface");
        ground.steering.apply(&config(|_| {})).unwrap();
        assert_ends(ground, &frame);

        ip(&format!("route replace {owner} dev lo"));
        assert_passes_when(ground, &frame, "the route leads elsewhere");
    });
}

#[test]
fn what_would_be_too_large_in_the_tunnel_is_left_to_tc() {
    on_ground(|ground, family| {
        let outer = if family.vip.is_ipv4() { 20 } else { 40 };
        let mut packet = hinted(family, 1).ip();
        packet.payload.resize(packet.payload.len() + 1500, 7);
        let excess = packet.bytes().len() + outer - 1500;
        packet.payload.truncate(packet.payload.len() - excess);
        assert_ends(ground, &packet.frame());
        packet.payload.push(7);
        assert_passes_when(ground, &packet.frame(), "1501 bytes");
    });
}

/// Over a gateway, and straight to a neighbour that the configuration names.
#[test]
fn the_next_hop_is_that_of_the_route_or_the_one_that_is_near() {
    on_ground(|ground, family| {
        let frame = hinted(family, 1).ip().frame();
        let [gateway, _, owner] = family.engines;
        let near = config(|c| {
            let links = c.peers.iter_mut().flat_map(|p| &mut p.links);
            links.for_each(|l| l.next_hop = Some(l.remote));
        });
        ground.steering.apply(&near).unwrap();
        assert_ends(ground, &frame);
        ip(&format!("route replace {owner} via {gateway} dev uplink"));
        assert_passes_when(
            ground,
            &frame,
            "what is near is not to be reached by a router",
        );
        ground.steering.apply(&config(|_| {})).unwrap();
        let mut sent = None;
        for _ in 0..TRIES_MOST {
            let tried = ground.steering.try_out_in_front(&frame, UPLINK).unwrap();
            sent = sent.or((tried.action == XDP_TX).then_some(tried.frame));
        }
        assert_eq!(sent.expect("by the gateway")[..6], mac_of(gateway));
    });
}

#[test]
fn packets_of_traced_flows_are_left_to_tc_which_makes_the_events() {
    on_ground(|ground, family| {
        let (traced, other) = (hinted(family, 1), hinted(family, 2));
        let flow = Flow {
            protocol: Protocol::Tcp,
            client: traced.client,
            service: traced.vip,
        };
        let until = Instant::now() + Duration::from_secs(60);
        ground
            .steering
            .watch(&BTreeMap::from([(flow, until)]))
            .unwrap();
        ground.steering.apply(&config(|_| {})).unwrap();
        assert_passes_when(ground, &traced.ip().frame(), "traced");
        assert_ends(ground, &other.ip().frame());
    });
}

/// One's complement sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let word = |w: &[u8]| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
fn a_checksum_that_is_still_to_be_made_is_left_to_tc() {
    on_ground(|ground, family| {
        let mut packet = hinted(family, 1).ip();
        let mut pseudo = Vec::new();
        for address in [packet.source, packet.destination] {
            match address {
                IpAddr::V4(v4) => pseudo.extend(v4.octets()),
                IpAddr::V6(v6) => pseudo.extend(v6.octets()),
            }
        }
        let len = u16::try_from(packet.payload.len()).unwrap();
        pseudo.extend([0, 6]);
        pseudo.extend(len.to_be_bytes());
        let partial = sum(&pseudo);
        packet.payload[16..18].copy_from_slice(&partial.to_be_bytes());
        assert_passes_when(
            ground,
            &packet.frame(),
            "the sum of the pseudo header alone",
        );
        packet.payload[16..18].copy_from_slice(&(partial ^ 1).to_be_bytes());
        assert_ends(ground, &packet.frame());
    });
}

#[test]
fn one_packet_a_second_to_each_peer_goes_by_the_stack_so_that_neighbours_stay_known() {
    on_ground(|ground, family| {
        let frame = hinted(family, 1).ip().frame();
        let first = ground.steering.try_out_in_front(&frame, UPLINK).unwrap();
        assert_eq!(first.action, XDP_PASS);
        let (start, mut left) = (Instant::now(), 0_u64);
        for _ in 0..2000 {
            let tried = ground.steering.try_out_in_front(&frame, UPLINK).unwrap();
            left += u64::from(tried.action == XDP_PASS);
        }
        let cpus = std::thread::available_parallelism().unwrap().get() as u64;
        let most = cpus * (start.elapsed().as_secs() + 1);
        assert!(left <= most, "{left} of at most {most}");
    });
}

/// So that whoever floods cannot take from the others what is left over later.
#[test]
fn networks_pay_for_what_native_xdp_drops_as_they_pay_at_tc() {
    on_ground(|ground, family| {
        let broke = config(|c| (c.settings.copies_per_s, c.settings.copies_burst) = (1, 0));
        ground.steering.apply(&broke).unwrap();
        let far = Segment {
            client: (afar(family), 2).into(),
            ..segment(family, 2)
        }
        .ip();
        // The first question takes what there is for two seconds; a machine may be slower than that.
        let mut before = shares(ground);
        let refused = (1..20).find_map(|port| {
            let first = segment(family, port).ip().frame();
            ground.steering.try_out(&first, 1).unwrap();
            before = shares(ground);
            ground.in_front(&far.frame(), 1)
        });
        assert_eq!(refused.expect("nothing is left").action, SHOT);
        let after = shares(ground);
        assert_eq!(after.len(), before.len() + 1, "a share of its own, paid");
        // That is spent now: nothing more is taken.
        let again = ground.in_front(&far.frame(), 1).expect("refused");
        assert_eq!(again.action, SHOT);
        assert_eq!(shares(ground), after);
        ground.expect(&far, "drop_budget", SHOT);
        assert_eq!(shares(ground), after, "nor at tc");
    });
}

/// `shares` of `bpf/maps.h`: what networks have used.
fn shares(ground: &Ground) -> BTreeMap<[u8; 24], u64> {
    use aya::maps::{HashMap, Map, MapData};
    let pin = ground.pins.0.path().join(LAYOUT).join("shares");
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let shares: HashMap<MapData, [u8; 24], u64> = map.try_into().unwrap();
    shares.iter().flatten().collect()
}

/// IP options, later headers, parts, datagrams, errors, tunnels, messages, and new flows.
#[test]
fn what_is_no_plain_tcp_segment_of_a_flow_is_passed_on() {
    on_ground(|ground, family| {
        let [a, us, _] = family.engines;
        let inside = hinted(family, 1);
        let syn = Segment {
            flags: SYN,
            ..inside
        };
        let datagram = Ip::new(family.client, family.vip, 17, vec![0, 9, 0, 80, 0, 8, 0, 0]);
        let first = Ip {
            fragment: (0, true),
            ..inside.ip()
        };
        let mut all = vec![
            inside.ip().within(a, us, DATA).frame(),
            error(family.stranger, inside).frame(),
            syn.ip().frame(),
            datagram.frame(),
        ];
        if family.vip.is_ipv4() {
            all.push(first.frame());
        }
        for frame in all {
            assert_passes_when(ground, &frame, "no plain segment");
        }
        let mut arp = inside.ip().frame();
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_passes_when(ground, &arp, "not IP");
        assert_passes_when(ground, &arp[..14], "nothing behind the header");
    });
}
