//! Native XDP in front of tc: the same flows, and who carries them.

use super::net::{ENGINES, Net, VIPS, can_run, inside};
use super::{adopt, config_in, connect, count, exchange, nonzero, start, start_with};
use evenkeel_dataplane::steering::{Attach, Attachment, Hook, LAYOUT, Steering, detach};
use evenkeel_dataplane::timestamp::move_clock;
use flow::key::Protocol;
use flow::mark::{HintKey, Mark};
use flow::stamp::{Field, next_clock};
use flow::{Config, Flow};
use std::net::TcpStream;

/// Of the engine that has the flows.
const OWNER: u8 = 0;

fn in_front(net: &Net, engine: &str, steering: &mut Steering, wanted: Attach) -> Attachment {
    let mut all = inside(&net.ns(engine), || steering.attach_in_front(wanted));
    all.pop().expect("eth0")
}

/// So that the client echoes who the owner is.
fn stamp(connection: &TcpStream) {
    let service = connection.local_addr().unwrap();
    let client = connection.peer_addr().unwrap();
    let canonical = |a: std::net::SocketAddr| (a.ip().to_canonical(), a.port()).into();
    let flow = Flow {
        protocol: Protocol::Tcp,
        client: canonical(client),
        service: canonical(service),
    };
    let field = Field::of(OWNER, Mark::of(HintKey([3, 4]), &flow));
    move_clock(connection, |clock| next_clock(clock, field)).unwrap();
}

/// With the owner's name in timestamps, or without.
fn told(net: &Net, engine: &str, members: &[&str], hints: bool) -> Config {
    let mut config = config_in(net, engine, members);
    let tcp = |s: &&mut flow::Service| s.protocol == Protocol::Tcp;
    let services = config.services.iter_mut();
    services.filter(tcp).for_each(|s| s.hints = hints);
    config
}

/// Flows of `a` come to `b`, which has native XDP; what `b` counted.
fn carry(net: &Net, hints: bool) -> evenkeel_dataplane::steering::Counters {
    net.take_from_xdp();
    let members = ["a", "b"];
    let greet: fn(&TcpStream) = if hints { stamp } else { |_| {} };
    let [_a, mut b] = members.map(|engine| {
        let config = told(net, engine, &members, hints);
        let mut steering = start_with(net, engine, &config, greet);
        let attached = in_front(net, engine, &mut steering, Attach::Xdp);
        assert_eq!(attached.hook, Hook::Xdp, "{attached:?}");
        steering
    });
    net.route_to("a");
    let result = inside(&net.ns("client"), || {
        let mut streams = VIPS.map(connect);
        streams.iter_mut().try_for_each(|s| exchange(s, 1000))?;
        net.route_to("b");
        streams.iter_mut().try_for_each(|s| exchange(s, 10_000_000))
    });
    let counters = b.counters().unwrap();
    let shown = nonzero(&counters);
    result.unwrap_or_else(|error: std::io::Error| panic!("{error}: {shown:?}"));
    let attached = in_front(net, "b", &mut b, Attach::Xdp);
    assert_eq!(attached.hook, Hook::Xdp, "it stayed");
    counters
}

/// Most of what went to the other engine, and none of it was lost on the way out.
fn assert_carried_by_xdp(net: &Net, counters: &evenkeel_dataplane::steering::Counters) {
    let sent = counters.tunnelled["serviceengine-a"].packets;
    let by_xdp = net.driver_count("b", "xdp_redirect");
    eprintln!(
        "figures: {by_xdp} of {sent} packets by XDP, {:?}",
        nonzero(counters)
    );
    assert!(sent > 10_000, "{sent}");
    assert!(
        by_xdp <= sent && by_xdp * 10 > sent * 8,
        "{by_xdp} of {sent}"
    );
    let [received, dropped] = net.packets_from("b");
    assert!(
        received > sent && dropped == 0,
        "{received} came, {dropped} were lost"
    );
}

#[test]
fn native_xdp_carries_ten_megabytes_by_hint() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    net.set_offload("client", "eth0", "tx off");
    let counters = carry(&net, true);
    assert_carried_by_xdp(&net, &counters);
    assert!(count(&counters, "tunnel_hint") > 10_000);
    assert_eq!(count(&counters, "probe"), 0, "{:?}", nonzero(&counters));
}

#[test]
fn native_xdp_carries_ten_megabytes_to_an_owner_that_was_found() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    net.set_offload("client", "eth0", "tx off");
    let counters = carry(&net, false);
    assert_carried_by_xdp(&net, &counters);
    assert!(count(&counters, "tunnel_cache") > 10_000);
    assert_eq!(
        count(&counters, "claim_taken"),
        2,
        "{:?}",
        nonzero(&counters)
    );
}

/// Over veth a sender leaves checksums to whoever sends in earnest; XDP sends as it is, so tc has to.
#[test]
fn packets_whose_checksum_is_still_to_be_made_are_left_to_tc() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let counters = carry(&net, true);
    let sent = counters.tunnelled["serviceengine-a"].packets;
    let by_xdp = net.driver_count("b", "xdp_redirect");
    eprintln!("figures: {by_xdp} of {sent} packets by XDP");
    assert!(sent > 1000 && by_xdp * 10 < sent, "{by_xdp} of {sent}");
}

/// What the kernel has on an engine's link of ours, and what is pinned.
fn traces(net: &Net, engine: &str) -> (bool, Vec<String>) {
    let mut pins: Vec<String> = std::fs::read_dir(net.pins(engine).join(LAYOUT))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name.ends_with("-eth0"))
        .collect();
    pins.sort();
    (net.link_of(engine).contains("prog/xdp"), pins)
}

#[test]
fn native_xdp_goes_on_without_its_process_is_adopted_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    net.take_from_xdp();
    let members = ["a", "b"];
    let [a, mut b] = members.map(|engine| start(&net, engine, &members));
    in_front(&net, "b", &mut b, Attach::Xdp);
    net.route_to("a");
    drop((a, b));
    let both = (true, vec!["link-eth0".to_owned(), "xdp-eth0".to_owned()]);
    assert_eq!(traces(&net, "b"), both);
    inside(&net.ns("client"), || {
        let mut streams = VIPS.map(connect);
        let mut all = || streams.iter_mut().try_for_each(|s| exchange(s, 1000));
        all().unwrap();
        net.route_to("b");
        all().expect("moved while no process is there");
        let mut next = adopt(&net, "b", &members);
        let attached = in_front(&net, "b", &mut next, Attach::Xdp);
        assert_eq!(attached.reason, "steering_attach is xdp");
        assert_eq!(traces(&net, "b"), both);
        all().expect("adopted");
        // The next process is told otherwise.
        drop(next);
        let mut next = adopt(&net, "b", &members);
        let attached = in_front(&net, "b", &mut next, Attach::Tc);
        assert_eq!(attached.hook, Hook::Tc);
        assert_eq!(traces(&net, "b"), (false, vec!["link-eth0".to_owned()]));
        all().expect("at tc alone");
        in_front(&net, "b", &mut next, Attach::Xdp);
        assert_eq!(traces(&net, "b"), both);
        drop(next);
        assert!(detach(&net.pins("b")).unwrap(), "something was there");
        assert_eq!(traces(&net, "b"), (false, Vec::new()));
        assert!(!net.pins("b").join(LAYOUT).exists());
    });
}

#[test]
fn native_xdp_is_not_put_where_it_harms_or_loses_packets_and_the_reason_is_said() {
    if !can_run() {
        return;
    }
    let net = Net::new();
    let mut a = start(&net, ENGINES[0], &["a", "b"]);
    let auto = in_front(&net, "a", &mut a, Attach::Auto);
    assert_eq!((auto.interface.as_str(), auto.hook), ("eth0", Hook::Tc));
    assert!(auto.reason.starts_with("a veth:"), "{}", auto.reason);
    let deaf = in_front(&net, "a", &mut a, Attach::Xdp);
    assert_eq!(deaf.hook, Hook::Tc);
    assert!(
        deaf.reason.contains("switch GRO on there"),
        "{}",
        deaf.reason
    );
    assert_eq!(traces(&net, "a"), (false, vec!["link-eth0".to_owned()]));
    net.take_from_xdp();
    let heard = in_front(&net, "a", &mut a, Attach::Xdp);
    assert_eq!(heard.hook, Hook::Xdp, "{heard:?}");
    inside(&net.ns("a"), || {
        assert!(a.attach(std::iter::empty()).failed.is_empty())
    });
    assert_eq!(
        traces(&net, "a"),
        (false, Vec::new()),
        "gone with the interface"
    );
}
