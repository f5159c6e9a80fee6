//! Section 4: what messages do.

use super::*;

#[test]
fn a_claim_ends_the_question_and_the_first_one_stands() {
    let mut scene = Scene::new();
    let number = scene.asks(data(100));
    let claim =
        |scene: &mut Scene, sender| scene.message(MessageKind::Claim, sender, number, flow(1000));
    assert_eq!(claim(&mut scene, 2), Verdict::ClaimTaken);
    assert_eq!(claim(&mut scene, 3), Verdict::DropQuestion);
    assert_eq!(scene.steering.cached(&flow(1000)), Some(2));
}

#[test]
fn answers_without_question_with_another_number_or_too_late_are_dropped() {
    let mut scene = Scene::new();
    let kinds = [MessageKind::Claim, MessageKind::Deny];
    for kind in kinds {
        assert_eq!(scene.message(kind, 2, 5, flow(1000)), Verdict::DropQuestion);
    }
    let number = scene.asks(data(100));
    for kind in kinds {
        assert_eq!(
            scene.message(kind, 2, number ^ 1, flow(1000)),
            Verdict::DropQuestion
        );
        assert_eq!(
            scene.message(kind, 2, number, flow(1001)),
            Verdict::DropQuestion
        );
    }
    scene.pass(QUESTION_TTL);
    for kind in kinds {
        assert_eq!(
            scene.message(kind, 2, number, flow(1000)),
            Verdict::DropQuestion
        );
    }
    assert_eq!(scene.steering.cached(&flow(1000)), None);
}

#[test]
fn a_denial_forgets_the_owner_that_it_comes_from() {
    let mut scene = Scene::new();
    scene.learns(2);
    scene.change(|config| config.peers[1].alive = false);
    let number = scene.asks(data(300));
    scene.change(|config| config.peers[1].alive = true);
    scene.denied_by(&[1], number);
    assert_eq!(scene.steering.cached(&flow(1000)), Some(2));
    scene.denied_by(&[2], number);
    assert_eq!(scene.steering.cached(&flow(1000)), None);
}

#[test]
fn a_release_forgets_the_owner_that_it_comes_from() {
    let mut scene = Scene::new();
    scene.learns(2);
    for (sender, left) in [(1, Some(2)), (2, None)] {
        let verdict = scene.message(MessageKind::Release, sender, 0, flow(1000));
        assert_eq!(verdict, Verdict::ReleaseTaken);
        assert_eq!(scene.steering.cached(&flow(1000)), left);
    }
}

#[test]
fn a_message_must_come_from_the_address_of_the_member_that_it_names() {
    let mut scene = Scene::new();
    let number = scene.asks(data(100));
    let message = Message {
        kind: MessageKind::Claim,
        sender: 2,
        number,
        generation: 7,
        flow: flow(1000),
        load: 0,
    };
    for from in [0, 1, 9] {
        let bytes = message.sign(&KEY);
        let decision = scene
            .steering
            .on_message(scene.now, member_address(from), &bytes);
        assert_eq!(decision.verdict, Verdict::DropStranger);
    }
}

#[test]
fn what_is_refused_is_counted_by_its_first_fault() {
    let mut scene = Scene::new();
    let number = scene.asks(data(100));
    let good = Message {
        kind: MessageKind::Claim,
        sender: 2,
        number,
        generation: 7,
        flow: flow(1000),
        load: 0,
    };
    let elsewhere = Message {
        flow: Flow {
            service: vip(80),
            ..flow(1000)
        },
        ..good
    };
    let unknown = MessageKey { id: 5, ..KEY };
    let changed = |at: usize, to: u8| {
        let mut bytes = good.sign(&KEY).to_vec();
        bytes[at] = to;
        bytes
    };
    let longer = [&good.sign(&KEY)[..], &[0]].concat();
    for (bytes, verdict) in [
        (good.sign(&KEY)[..63].to_vec(), Verdict::Pass),
        (elsewhere.sign(&KEY).to_vec(), Verdict::Pass),
        (changed(0, 2), Verdict::DropVersion),
        (longer, Verdict::DropLength),
        (changed(2, 9), Verdict::DropStranger),
        (good.sign(&unknown).to_vec(), Verdict::DropKey),
        (changed(63, 1), Verdict::DropMac),
    ] {
        let decision = scene
            .steering
            .on_message(scene.now, member_address(2), &bytes);
        assert_eq!(decision.verdict, verdict);
    }
    assert_eq!(scene.steering.cached(&flow(1000)), None);
}

#[test]
fn a_new_key_is_taken_beside_the_old_one_and_signs_once_it_is_first() {
    let mut scene = Scene::new();
    let next = MessageKey {
        id: 2,
        secret: [8, 9],
    };
    scene.change(|config| config.settings.message_keys = vec![next, KEY]);
    scene.learns(2); // signed with the old one
    let outer = Word::new(TunnelKind::Probe, 5);
    let decision = scene.tunnelled(1, outer, &Packet::tcp(flow(9), data(1)), LISTENER);
    let bytes = decision.reply.unwrap();
    let envelope = Envelope::read(&bytes).unwrap();
    assert!(envelope.open(&[next]).is_ok());
    scene.change(|config| config.settings.message_keys = vec![next]);
    let verdict = scene.message(MessageKind::Release, 2, 0, flow(1000));
    assert_eq!(verdict, Verdict::DropKey);
}

proptest! {
    #[test]
    fn random_bytes_from_a_member_change_nothing(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..100),
        is_exact in any::<bool>(),
    ) {
        let mut scene = Scene::new();
        scene.learns(2);
        if is_exact {
            bytes.resize(MESSAGE_LEN, 0);
            let start = Message {
                kind: MessageKind::Release,
                sender: 2,
                number: 0,
                generation: 7,
                flow: flow(1000),
                load: 0,
            };
            bytes[..MESSAGE_LEN - 8].copy_from_slice(&start.sign(&KEY)[..MESSAGE_LEN - 8]);
        }
        let honest = is_exact && bytes[MESSAGE_LEN - 8..] == [0; 8];
        scene.steering.on_message(scene.now, member_address(2), &bytes);
        prop_assert!(honest || scene.steering.cached(&flow(1000)) == Some(2));
    }
}
