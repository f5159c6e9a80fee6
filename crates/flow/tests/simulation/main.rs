//! Steering among simulated engines: whatever the network does, no flow of a living owner is reset.
//!
//! Every engine has the product's own [`evenkeel_flow::Steering`] in front of a small TCP. Seeds are in the messages
//! of failures; a scene runs with each of [`SEEDS`].
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod client;
mod rng;
mod stack;
mod world;

use client::State;
use evenkeel_flow::Verdict;
use evenkeel_flow::decide::QUESTION_TTL;
use evenkeel_flow::key::Flow;
use evenkeel_flow::packet::{Flags, Segment};
use evenkeel_flow::wire::{Message, MessageKind};
use std::collections::BTreeMap;
use world::{Network, World, key, service, tunnel_address};

/// Chosen so that the whole takes seconds.
const SEEDS: std::ops::Range<u64> = 0..40;

const SECOND: u64 = 1_000_000;

/// A network in which everything goes wrong now and then.
const ROUGH: Network = Network {
    loss_percent: 5,
    repeat_percent: 5,
    delay_us: 3_000,
};

/// 40 clients, half of them with timestamps, that talk for this long.
fn talking(world: &mut World, us: u64) {
    for index in 0..40 {
        let delay = world.rng.within(0, SECOND);
        let until = world.now_us + us;
        world.later(delay, move |world| {
            let client = world.connect(index % 2 == 0);
            world.chat(client, until);
        });
    }
}

/// All close, in a calm network, and no flow may have been broken.
fn ends_well(world: &mut World) {
    world.network = Network::CALM;
    world.run(30 * SECOND);
    world.close_all();
    world.run(30 * SECOND);
    no_flow_is_broken(world);
    for client in &world.clients {
        assert_eq!(client.state, State::Done, "seed {}: {client:?}", world.seed);
    }
}

fn no_flow_is_broken(world: &World) {
    assert!(world.broken.is_empty(), "{:#?}", world.broken);
}

fn total(world: &World, verdict: Verdict) -> u64 {
    world
        .engines
        .iter()
        .map(|engine| engine.count_of(verdict))
        .sum()
}

#[test]
fn in_a_calm_network_membership_changes_cost_a_client_not_even_a_retransmission() {
    for seed in SEEDS {
        let mut world = World::new(seed, 8, 4);
        world.write_max = 1000; // one segment: what follows it closely waits for the claim
        world.hints = seed % 2 == 0;
        changes(&mut world);
        ends_well(&mut world);
        let silent = world
            .clients
            .iter()
            .all(|client| client.retransmissions == 0);
        assert!(silent, "seed {seed}: a moved flow had to retransmit");
    }
}

#[test]
fn membership_changes_break_no_flow_in_a_rough_network() {
    for seed in SEEDS {
        let mut world = World::new(seed, 8, 4);
        world.network = ROUGH;
        world.hints = seed % 2 == 0;
        changes(&mut world);
        ends_well(&mut world);
    }
}

/// 4 → 5 → 4 → 8 → 3, with flows running.
fn changes(world: &mut World) {
    talking(world, 12 * SECOND);
    world.run(2 * SECOND);
    for routed in [
        &[0, 1, 2, 3, 4][..],
        &[0, 2, 3, 4],
        &[0, 1, 2, 3, 4, 5, 6, 7],
        &[1, 4, 6],
    ] {
        world.route_to(routed);
        world.run(2 * SECOND);
    }
}

#[test]
fn changes_within_milliseconds_of_each_other_break_no_flow() {
    for seed in SEEDS {
        let mut world = World::new(seed, 8, 4);
        world.network = ROUGH;
        talking(&mut world, 6 * SECOND);
        world.run(2 * SECOND);
        for _ in 0..30 {
            let all: Vec<usize> = (0..8).collect();
            let routed: Vec<usize> = all.into_iter().filter(|_| world.rng.percent(60)).collect();
            world.route_to(if routed.is_empty() { &[0] } else { &routed });
            world.run(50_000);
        }
        ends_well(&mut world);
    }
}

#[test]
fn hints_switched_on_and_off_while_flows_move_break_none() {
    for seed in SEEDS {
        let mut world = World::new(seed, 6, 3);
        world.network = ROUGH;
        talking(&mut world, 8 * SECOND);
        for step in 0..8 {
            world.hints = step % 2 == 0;
            let routed: Vec<usize> = (0..6).filter(|i| (i + step) % 3 != 0).collect();
            world.route_to(&routed);
            world.run(SECOND);
        }
        ends_well(&mut world);
    }
}

#[test]
fn syn_cookies_are_taken_by_the_engine_that_has_given_them() {
    for seed in SEEDS {
        let mut world = World::new(seed, 5, 4);
        world.network = ROUGH;
        world
            .engines
            .iter_mut()
            .for_each(|engine| engine.stack.cookies = true);
        talking(&mut world, 6 * SECOND);
        for step in 0..60 {
            let routed: Vec<usize> = (0..5).filter(|i| *i != step % 5).collect();
            world.route_to(&routed);
            world.run(20_000);
        }
        world.run(3 * SECOND);
        ends_well(&mut world);
    }
}

#[test]
fn a_flow_finds_its_owner_within_five_retransmissions_once_loss_stops() {
    for seed in SEEDS {
        let mut world = World::new(seed, 6, 4);
        world.network = Network {
            loss_percent: 40,
            ..ROUGH
        };
        world.hints = seed % 2 == 0;
        talking(&mut world, 6 * SECOND);
        world.run(3 * SECOND);
        world.route_to(&[1, 2, 4, 5]);
        world.run(3 * SECOND);
        world.network = Network::CALM;
        for client in &mut world.clients {
            (client.in_a_row, client.in_a_row_max) = (0, 0);
        }
        ends_well(&mut world);
        let needed = world.clients.iter().map(|client| client.in_a_row_max).max();
        assert!(needed <= Some(5), "seed {seed}: {needed:?} retransmissions");
    }
}

#[test]
fn flows_of_a_dead_owner_are_reset_and_no_others() {
    for seed in SEEDS {
        let mut world = World::new(seed, 5, 4);
        world.network = ROUGH;
        world.hints = seed % 2 == 0;
        talking(&mut world, 20 * SECOND);
        world.run(3 * SECOND);
        let owners: Vec<Option<usize>> = world.clients.iter().map(|c| world.owner(c)).collect();
        world.kill(1);
        world.run(17 * SECOND);
        world.network = Network::CALM;
        world.run(100 * SECOND);
        no_flow_is_broken(&world);
        for (client, owner) in world
            .clients
            .iter()
            .zip(owners)
            .filter(|(_, owner)| owner.is_some())
        {
            let expected = if owner == Some(1) {
                State::Reset
            } else {
                State::Open
            };
            assert_eq!(client.state, expected, "seed {seed}: {client:?}");
        }
    }
}

#[test]
fn an_owner_that_dies_between_probe_and_claim_leaves_flows_that_are_reset() {
    for seed in SEEDS {
        let mut world = World::new(seed, 5, 4);
        world.hints = false;
        talking(&mut world, 8 * SECOND);
        world.run(3 * SECOND);
        world.route_to(&[0, 2, 3, 4]);
        // The first probes for flows of 1 are on their way when it dies: routes change after 10 ms.
        let moment = 10_000 + world.rng.within(0, 20_000);
        world.later(moment, |world| world.kill(1));
        world.run(60 * SECOND);
        no_flow_is_broken(&world);
        let of_the_dead = |state| world.clients.iter().filter(|c| c.state == state).count();
        assert!(of_the_dead(State::Reset) > 0, "seed {seed}");
        assert_eq!(of_the_dead(State::SynSent), 0, "seed {seed}");
        assert!(
            world
                .clients
                .iter()
                .all(|c| c.state == State::Reset || world.owner(c).is_some())
        );
    }
}

#[test]
fn of_two_claims_the_first_stands_and_the_flow_lives() {
    for seed in SEEDS {
        let mut world = World::new(seed, 4, 3);
        world.hints = false;
        let client = world.connect(false);
        world.run(SECOND);
        let flow = world.clients[client].flow;
        let owner = world.owner(&world.clients[client]).unwrap();
        let (twin, asker) = ((owner + 1) % 3, 3);
        let socket = world.engines[owner].stack.socks[&flow];
        world.engines[twin].stack.socks.insert(flow, socket);
        world.route_to(&[asker]);
        world.run(SECOND);
        world.clients[client].write(500);
        let segments = world.clients[client].send(world.now_us);
        segments
            .into_iter()
            .for_each(|segment| world.inject(flow, segment));
        world.run(SECOND);
        let counts = &world.engines[asker];
        assert_eq!(counts.count_of(Verdict::ClaimTaken), 1, "seed {seed}");
        assert!(counts.count_of(Verdict::DropQuestion) > 0, "seed {seed}");
        assert_eq!(world.clients[client].state, State::Open);
        no_flow_is_broken(&world);
    }
}

#[test]
fn ghosts_of_earlier_flows_do_not_get_in_the_way() {
    for seed in SEEDS {
        let mut world = World::new(seed, 6, 4);
        world.network = ROUGH;
        world.hints = seed % 2 == 0;
        talking(&mut world, 8 * SECOND);
        world.run(2 * SECOND);
        for client in 0..world.clients.len() {
            let flow = world.clients[client].flow;
            let owner = world.owner(&world.clients[client]);
            for engine in (0..6).filter(|engine| Some(*engine) != owner) {
                let ghost = world::ghost(&mut world.rng);
                world.engines[engine]
                    .stack
                    .socks
                    .entry(flow)
                    .or_insert(ghost);
            }
        }
        world.route_to(&[0, 2, 4, 5]);
        world.run(3 * SECOND);
        world.route_to(&[1, 3, 4]);
        world.run(3 * SECOND);
        ends_well(&mut world);
    }
}

#[test]
fn a_port_used_again_while_the_old_owner_remembers_gets_its_new_flow_through() {
    for seed in SEEDS {
        let mut world = World::new(seed, 6, 3);
        world.network = ROUGH;
        talking(&mut world, 2 * SECOND);
        world.run(3 * SECOND);
        ends_well(&mut world);
        let old: Vec<Flow> = world.clients.drain(..).map(|client| client.flow).collect();
        world.network = ROUGH;
        world.route_to(&[3, 4, 5]);
        world.run(SECOND);
        for flow in old {
            let until = world.now_us + 6 * SECOND;
            let client = world.reconnect(flow, true);
            world.chat(client, until);
        }
        world.run(2 * SECOND);
        world.route_to(&[0, 1, 2]);
        world.run(4 * SECOND);
        ends_well(&mut world);
    }
}

/// A segment of which only the 4-tuple is right.
fn forged(world: &mut World) -> Segment {
    Segment {
        flags: world.rng.one_of(&[
            Flags::ACK,
            Flags {
                fin: true,
                ..Flags::ACK
            },
        ]),
        seq: world.rng.word(),
        ack: world.rng.word(),
        ts_ecr: world.rng.one_of(&[None, Some(world.rng.clone().word())]),
        payload: 0,
    }
}

#[test]
fn forged_segments_under_a_living_flow_do_not_have_it_reset() {
    for seed in SEEDS {
        let mut world = World::new(seed, 6, 4);
        world.network = ROUGH;
        world.hints = seed % 2 == 0;
        talking(&mut world, 10 * SECOND);
        world.run(2 * SECOND);
        for round in 0..400 {
            if round % 80 == 0 {
                let routed = world
                    .rng
                    .one_of(&[&[0, 1, 2, 3][..], &[2, 4, 5], &[0, 3, 5, 1, 4]]);
                world.route_to(routed);
            }
            let client = world.rng.within(0, world.clients.len() as u64) as usize;
            let (flow, segment) = (world.clients[client].flow, forged(&mut world));
            world.inject(flow, segment);
            world.run(20_000);
        }
        ends_well(&mut world);
    }
}

type Caches = Vec<BTreeMap<Flow, u8>>;

fn caches(world: &World) -> Caches {
    let of = |engine: &world::Engine| {
        engine
            .steering
            .cache()
            .map(|(flow, id)| (*flow, id))
            .collect()
    };
    world.engines.iter().map(of).collect()
}

/// A claim about a flow that is being asked about, from a member's address, that no member has signed.
fn forged_claim(world: &mut World, flow: Flow) -> Vec<u8> {
    let message = Message {
        kind: MessageKind::Claim,
        sender: 2,
        number: world.rng.within(1, 1 << 14) as u16,
        generation: 1,
        flow,
        load: 0,
    };
    let mut bytes = message.sign(&key(1)).to_vec();
    match world.rng.within(0, 3) {
        0 => bytes
            .iter_mut()
            .for_each(|byte| *byte = world.rng.word() as u8),
        1 => bytes[56] ^= 1,
        _ => bytes = message.sign(&key(99)).to_vec(),
    }
    bytes
}

#[test]
fn forged_messages_never_change_a_cache() {
    for seed in SEEDS {
        let mut world = World::new(seed, 5, 4);
        world.hints = false;
        talking(&mut world, 6 * SECOND);
        world.run(2 * SECOND);
        world.route_to(&[0, 1, 4]);
        for _ in 0..500 {
            world.run(5_000);
            let client = world.rng.within(0, world.clients.len() as u64) as usize;
            let flow = world.clients[client].flow;
            let bytes = forged_claim(&mut world, flow);
            let before = caches(&world);
            let (engine, now) = (world.rng.one_of(&[0, 1, 4]), world.now());
            world.engines[engine]
                .steering
                .on_message(now, tunnel_address(2), &bytes);
            assert_eq!(caches(&world), before, "seed {seed}");
        }
        ends_well(&mut world);
    }
}

#[test]
fn old_claims_said_again_change_no_cache() {
    for seed in SEEDS {
        let mut world = World::new(seed, 5, 4);
        world.hints = false;
        talking(&mut world, 6 * SECOND);
        world.run(3 * SECOND);
        world.route_to(&[0, 1, 4]);
        world.run(2 * SECOND);
        let overheard = world.overheard.clone();
        assert!(!overheard.is_empty());
        world.run(u64::try_from(QUESTION_TTL.as_micros()).unwrap());
        let before = caches(&world);
        for (engine, from, bytes) in overheard {
            let now = world.now();
            world.engines[engine].steering.on_message(now, from, &bytes);
        }
        assert_eq!(caches(&world), before, "seed {seed}");
        ends_well(&mut world);
    }
}

#[test]
fn keys_rotate_while_flows_move() {
    for seed in SEEDS {
        let mut world = World::new(seed, 6, 4);
        world.hints = false;
        talking(&mut world, 6 * SECOND);
        world.run(2 * SECOND);
        world.rotate_key(2);
        for step in 0..12 {
            let routed: Vec<usize> = (0..6).filter(|i| (i + step) % 3 != 0).collect();
            world.route_to(&routed);
            world.run(25_000);
        }
        ends_well(&mut world);
        assert_eq!(total(&world, Verdict::DropMac), 0, "seed {seed}");
        assert_eq!(total(&world, Verdict::DropKey), 0, "seed {seed}");
    }
}

#[test]
fn copies_stay_within_the_budget_and_flows_are_found_all_the_same() {
    for seed in SEEDS {
        let mut world = World::new(seed, 6, 4);
        world.hints = false;
        world.copies_per_s = 100;
        world.configure();
        talking(&mut world, 8 * SECOND);
        world.run(2 * SECOND);
        let before: Vec<u64> = world.engines.iter().map(|engine| engine.clones).collect();
        world.route_to(&[2, 4, 5]);
        world.run(4 * SECOND);
        for (engine, before) in world.engines.iter().zip(before) {
            let most = 25 + 100 * 4 + 5;
            assert!(
                engine.clones - before <= most,
                "seed {seed}: {}",
                engine.clones - before
            );
        }
        assert!(
            total(&world, Verdict::DropBudget) > 0,
            "seed {seed}: the budget was never short"
        );
        ends_well(&mut world);
    }
}

#[test]
fn a_flood_of_forged_acks_is_held_at_the_floor_and_moved_flows_still_find_their_owners() {
    for seed in 0..4 {
        let mut world = World::new(seed, 5, 4);
        world.hints = false;
        world.paced = true;
        talking(&mut world, 8 * SECOND);
        for round in 0..40_000 {
            let flow = Flow {
                protocol: evenkeel_flow::key::Protocol::Tcp,
                client: format!("203.0.113.{}:{}", round % 250, 1024 + round)
                    .parse()
                    .unwrap(),
                service: service(),
            };
            let segment = forged(&mut world);
            world.inject(flow, segment);
            world.run(100);
            if round == 20_000 {
                world.route_to(&[0, 1, 3, 4]);
            }
        }
        let clones: u64 = world.engines.iter().map(|engine| engine.clones).sum();
        // Without a budget 40,000 segments would have become 160,000 clones. The floor is 100 probes a second and engine.
        assert!(clones < 15_000, "seed {seed}: {clones}");
        ends_well(&mut world);
    }
}
