//! Being told to stop while the engine stops to start anew.

use super::*;
use nix::sys::signal::{Signal as Number, raise};

/// Other signals than those in use: the process of the tests is all tests'. The second listener hears what the first does.
fn listeners() -> (Signals, Signal) {
    let (first, second) = (SignalKind::user_defined1(), SignalKind::user_defined2());
    let signals = Signals {
        terminate: signal(first).expect("may be had"),
        interrupt: signal(second).expect("may be had"),
    };
    (signals, signal(first).expect("may be had"))
}

async fn tell_to_stop(witness: &mut Signal) {
    raise(Number::SIGUSR1).expect("sent");
    witness.recv().await.expect("heard");
}

/// Everything is down.
async fn ended() -> Task<()> {
    let task = Task(tokio::spawn(async {}));
    while !task.0.is_finished() {
        tokio::task::yield_now().await;
    }
    task
}

#[tokio::test]
async fn a_start_anew_is_none_when_the_engine_is_told_to_stop_however_late() {
    let (mut signals, mut witness) = listeners();
    // Often, so that no chance hides it.
    for _ in 0..20 {
        tell_to_stop(&mut witness).await;
        let mut result = Ok(End::Again);
        let down = taken_down(&mut ended().await, &mut signals, &mut result).await;
        down.expect("all is down");
        assert_eq!(result.expect("in order"), End::Stop);
    }
    let mut result = Ok(End::Again);
    let down = taken_down(&mut ended().await, &mut signals, &mut result).await;
    down.expect("all is down");
    assert_eq!(result.expect("in order"), End::Again, "nobody has told it");
    assert!(!signals.have_come());
    tell_to_stop(&mut witness).await;
    assert!(signals.have_come(), "after that, and before the start");
}
