//! What BFD's reports mean for BGP, and a thread that ends.

use super::*;
use ::bfd::Diagnostic;

fn key() -> BfdKey {
    BfdKey {
        peer: [127, 88, 0, 2].into(),
        local: [127, 88, 0, 1].into(),
        interface: String::new(),
        multihop: true,
    }
}

fn watching() -> Watch {
    Watch {
        wanted: BTreeMap::from([(key(), timers(None))]),
        ..Watch::default()
    }
}

fn hear(watch: &mut Watch, from: State, to: State, remote_state: State, failures: u64) {
    let event = BfdEvent {
        key: Arc::new(key()),
        from,
        to,
        diagnostic: Diagnostic::NONE,
        failures,
        remote_state,
    };
    watch.note(&BfdNews::Report(BfdReport::State(event)));
}

#[tokio::test]
async fn the_view_follows_our_state_and_the_peers_admin_down() {
    use State as S;
    let mut watch = watching();
    let steps = [
        // The router has shut BFD down before we came; that opens the strict gate (RFC 5882 section 3.2).
        (S::Down, S::Down, S::AdminDown, 0, BfdState::AdminDown),
        (S::Down, S::Down, S::Down, 0, BfdState::WaitingForPeer),
        (S::Down, S::Init, S::Down, 0, BfdState::WaitingForPeer),
        (S::Init, S::Up, S::Up, 0, BfdState::Up),
        (S::Up, S::Down, S::AdminDown, 0, BfdState::AdminDown),
        // It falls silent in AdminDown, or leaves it: the gate closes again.
        (S::Down, S::Down, S::Down, 0, BfdState::WaitingForPeer),
        (S::Down, S::Up, S::Up, 0, BfdState::Up),
        (S::Up, S::Down, S::Down, 1, BfdState::Down),
        (S::Down, S::Init, S::Down, 0, BfdState::Down),
        // Put together on the way here.
        (S::Down, S::Up, S::Up, 2, BfdState::Up),
    ];
    for (from, to, remote, failures, expected) in steps {
        hear(&mut watch, from, to, remote, failures);
        let view = watch.views[&key()];
        assert_eq!(view.state, expected, "{from} {to} {remote}");
    }
    assert_eq!(watch.views[&key()].failures, 3);
}

#[tokio::test]
async fn a_session_that_cannot_be_started_is_seen_as_such_until_it_is() {
    let mut watch = watching();
    let failed = BfdReport::CannotStart(key(), "no such device".to_owned());
    watch.note(&BfdNews::Report(failed));
    assert_eq!(watch.views[&key()].state.word(), "cannot_start");
    watch.note(&BfdNews::Report(BfdReport::Started(key())));
    assert_eq!(watch.views[&key()].state, BfdState::WaitingForPeer);
}

#[tokio::test]
async fn a_thread_that_ends_is_noticed_and_followed_by_another() {
    let mut watch = watching();
    watch.push();
    hear(&mut watch, State::Init, State::Up, State::Up, 0);
    hear(&mut watch, State::Up, State::Down, State::Down, 1);
    watch.running.as_ref().expect("a thread").0.stop();
    loop {
        let news = watch.news().await;
        watch.note(&news);
        if matches!(news, BfdNews::Ended) {
            break;
        }
    }
    assert!(watch.running.is_none());
    let view = watch.views[&key()];
    assert_eq!((view.state, view.failures), (BfdState::CannotStart, 1));
    let monitor = watch.monitor.get().expect("a monitor").clone();
    assert!(monitor.status().is_empty());
    assert!(watch.retry_at.expect("another try") > now());
    watch.retry_at = Some(now());
    let news = watch.news().await;
    assert!(matches!(news, BfdNews::Retry), "{news:?}");
    watch.note(&news);
    let deadline = Instant::now() + Duration::from_secs(20);
    while monitor.status().is_empty() {
        assert!(Instant::now() < deadline, "the session is there again");
        std::thread::yield_now();
    }
}

#[test]
fn a_path_that_flaps_does_not_fill_the_log() {
    let start = now();
    let mut logged = Logged::new(start);
    let lines = (0..100).filter_map(|_| logged.admit(start));
    assert_eq!(lines.count(), LOG_LINES_MAX as usize);
    assert_eq!(logged.admit(start + LOG_PERIOD), Some(94));
}
