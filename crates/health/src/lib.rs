//! Health of servers: from the results of checks to up and down.
//!
//! A [`Check`] is one monitor's view of one server: it says when the next probe is due, takes the result, and
//! changes its state after so many in a row (avi-api `successful_checks`, `failed_checks`). The first result decides
//! at once, so that a virtual service comes up in milliseconds and not after the second interval. [`combine`] makes
//! one state of several monitors'. What a response says is judged in `response`,
//! what a SYN is answered with in `half_open`. No clock and no socket here: `now` and results come in.

mod half_open;
mod response;

pub use half_open::{Syn, SynOutcome};
pub use response::{
    CodeClass, Expected, RESPONSE_LEN_MAX, Rest, Text, asks_for_head, http_request, judge_http,
    judge_text,
};

use std::fmt;
use std::time::{Duration, Instant};

/// Whether a server takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The checks pass.
    Up,
    /// The first check has not finished.
    Initializing,
    /// A check fails.
    Down,
}

/// Why a probe failed; the words are those of avi-api section 10.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// RST to our SYN.
    ConnectionRefused,
    /// No answer to our SYN.
    ConnectionTimeout,
    /// RST later.
    ConnectionReset,
    /// The expected text did not come in time.
    PayloadTimeout,
    /// Another text came.
    PayloadContentMismatch,
    /// The response has another code, or is none of HTTP.
    ResponseCodeMismatch,
    /// The response has a code of `maintenance_code`.
    MaintenanceResponseCodeMatch,
    /// The response has the text of `maintenance_response`.
    MaintenancePayloadContentMatch,
    /// The TLS handshake failed.
    SslError,
    /// No route, or the network says so.
    ServerUnreachable,
    /// The engine may not open the raw socket that a half-open check needs.
    NoRawSocket,
    /// Anything else.
    OtherError,
}

impl Failure {
    /// The code as the API shows it.
    pub fn code(self) -> &'static str {
        match self {
            Self::ConnectionRefused => "CONNECTION_REFUSED",
            Self::ConnectionTimeout => "CONNECTION_TIMEOUT",
            Self::ConnectionReset => "CONNECTION_RESET",
            Self::PayloadTimeout => "PAYLOAD_TIMEOUT",
            Self::PayloadContentMismatch => "PAYLOAD_CONTENT_MISMATCH",
            Self::ResponseCodeMismatch => "RESPONSE_CODE_MISMATCH",
            Self::MaintenanceResponseCodeMatch => "MAINTENANCE_RESPONSE_CODE_MATCH",
            Self::MaintenancePayloadContentMatch => "MAINTENANCE_PAYLOAD_CONTENT_MATCH",
            Self::SslError => "SSL_ERROR",
            Self::ServerUnreachable => "SERVER_UNREACHABLE",
            Self::NoRawSocket => "NO_RESOURCES",
            Self::OtherError => "OTHER_ERROR",
        }
    }

    /// Whether the server itself asks for no new connections: those that it has go on.
    pub fn is_maintenance(self) -> bool {
        matches!(
            self,
            Self::MaintenanceResponseCodeMatch | Self::MaintenancePayloadContentMatch
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnectionRefused => "the server refused the connection",
            Self::ConnectionTimeout => "the server did not answer in time",
            Self::ConnectionReset => "the server reset the connection",
            Self::PayloadTimeout => "the expected response did not come in time",
            Self::PayloadContentMismatch => "the response is not the expected one",
            Self::ResponseCodeMismatch => "the response has no expected code",
            Self::MaintenanceResponseCodeMatch => "the response code says maintenance",
            Self::MaintenancePayloadContentMatch => "the response says maintenance",
            Self::SslError => "the TLS handshake with the server failed",
            Self::ServerUnreachable => "the server cannot be reached",
            Self::NoRawSocket => {
                "the engine may not open the raw socket that a half-open check needs (give it CAP_NET_RAW)"
            }
            Self::OtherError => "the check failed",
        })
    }
}

/// When and how often; from a health monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From one probe to the next.
    pub interval: Duration,
    /// Passes in a row that bring a server up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

/// One monitor's view of one server.
#[derive(Debug, Clone)]
pub struct Check {
    timing: Timing,
    state: State,
    failure: Option<Failure>,
    /// Results in a row that speak against the present state.
    against: u32,
    /// No probe has ended yet: the first result decides at once.
    is_first: bool,
    due: Option<Instant>,
}

impl Check {
    /// A check whose first probe is due now. Until it has ended the server is in this state: one that took traffic before it
    /// was checked goes on.
    pub fn new(timing: Timing, now: Instant, until_then: State) -> Self {
        Self {
            timing,
            state: until_then,
            failure: None,
            against: 0,
            is_first: true,
            due: Some(now),
        }
    }

    /// When the next probe is due; `None` while one is under way.
    pub fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// True when a probe is to be made now; it is then under way until [`Check::finished`].
    pub fn start(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|at| at <= now);
        if due {
            self.due = None;
        }
        due
    }

    /// The probe that began at `started` ended with this result; true when the state changed.
    pub fn finished(
        &mut self,
        started: Instant,
        now: Instant,
        result: Result<(), Failure>,
    ) -> bool {
        self.due = Some((started + self.timing.interval).max(now));
        let before = self.state;
        let wanted = if result.is_ok() {
            State::Up
        } else {
            State::Down
        };
        self.against = if wanted == self.state {
            0
        } else {
            self.against + 1
        };
        let needed = match wanted {
            _ if std::mem::take(&mut self.is_first) => 1,
            State::Up => self.timing.rise,
            State::Down | State::Initializing => self.timing.fall,
        };
        if wanted != self.state && self.against >= needed.max(1) {
            (self.state, self.against) = (wanted, 0);
        }
        match result {
            Err(failure) => self.failure = Some(failure),
            // Until it is up it is down for what it was.
            Ok(()) if self.state == State::Up => self.failure = None,
            Ok(()) => {}
        }
        self.state != before
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why the last probe failed, if it did; of one that is down, the last one that failed.
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// Takes over new timing; what is known of the server stays.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }
}

/// The state of a server under its monitors, of which `min_up` must pass (`min_health_monitors_up`; `None`, or more than there
/// are: all). Without a monitor a server counts as up.
pub fn combine(states: impl IntoIterator<Item = State>, min_up: Option<usize>) -> State {
    let states: Vec<State> = states.into_iter().collect();
    let all = states.len();
    quorum(states, min_up.map_or(all, |needed| needed.min(all)))
}

/// Up when so many are, else initializing as long as so many may come to be, else down. Of a pool: `min_servers_up` of its
/// servers.
pub fn quorum(states: impl IntoIterator<Item = State>, needed: usize) -> State {
    let (mut up, mut initializing) = (0, 0);
    for state in states {
        match state {
            State::Up => up += 1,
            State::Initializing => initializing += 1,
            State::Down => {}
        }
    }
    match needed {
        _ if up >= needed => State::Up,
        _ if up + initializing >= needed => State::Initializing,
        _ => State::Down,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIMING: Timing = Timing {
        interval: Duration::from_secs(10),
        rise: 2,
        fall: 3,
    };
    const FAIL: Result<(), Failure> = Err(Failure::ConnectionRefused);

    fn after(results: &[Result<(), Failure>]) -> Vec<State> {
        let mut now = Instant::now();
        let mut check = Check::new(TIMING, now, State::Initializing);
        results
            .iter()
            .map(|result| {
                assert!(check.start(now), "due");
                check.finished(now, now, *result);
                now += TIMING.interval;
                check.state()
            })
            .collect()
    }

    #[test]
    fn one_that_is_up_before_it_is_checked_goes_on_until_the_first_result_decides() {
        for (result, state) in [(Ok(()), State::Up), (Err(Failure::OtherError), State::Down)] {
            let now = Instant::now();
            let mut check = Check::new(TIMING, now, State::Up);
            assert_eq!(check.state(), State::Up);
            assert!(check.start(now));
            check.finished(now, now, result);
            assert_eq!(check.state(), state);
        }
        let now = Instant::now();
        let mut check = Check::new(TIMING, now, State::Up);
        check.finished(now, now, Ok(()));
        check.finished(now, now, Err(Failure::OtherError));
        assert_eq!(
            check.state(),
            State::Up,
            "the second result is one of several"
        );
    }

    #[test]
    fn the_first_result_decides_at_once() {
        assert_eq!(after(&[Ok(())]), [State::Up]);
        assert_eq!(after(&[FAIL]), [State::Down]);
    }

    #[test]
    fn a_server_is_down_for_what_it_was_until_it_is_up() {
        let away = Failure::MaintenanceResponseCodeMatch;
        let mut now = Instant::now();
        let mut check = Check::new(TIMING, now, State::Initializing);
        let mut told = Vec::new();
        for result in [Err(away), Ok(()), Ok(()), FAIL] {
            assert!(check.start(now), "due");
            check.finished(now, now, result);
            now += TIMING.interval;
            told.push((check.state(), check.failure()));
        }
        let refused = Some(Failure::ConnectionRefused);
        let expected = [
            (State::Down, Some(away)),
            (State::Down, Some(away)),
            (State::Up, None),
            (State::Up, refused),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_server_falls_after_three_failures_in_a_row_and_rises_after_two_passes() {
        use State::{Down, Up};
        let results = [Ok(()), FAIL, FAIL, Ok(()), FAIL, FAIL, FAIL, Ok(()), Ok(())];
        assert_eq!(after(&results), [Up, Up, Up, Up, Up, Up, Down, Down, Up]);
    }

    #[test]
    fn a_probe_is_due_one_interval_after_the_last_began_and_never_twice() {
        let now = Instant::now();
        let mut check = Check::new(TIMING, now, State::Initializing);
        assert!(check.start(now));
        assert!(!check.start(now), "it is under way");
        assert_eq!(check.deadline(), None);
        check.finished(now, now + Duration::from_secs(4), Ok(()));
        assert_eq!(check.deadline(), Some(now + TIMING.interval));
        assert!(!check.start(now + Duration::from_secs(9)));
    }

    #[test]
    fn all_monitors_must_pass_and_no_monitor_means_up() {
        use State::{Down, Initializing, Up};
        for few in [None, Some(3)] {
            assert_eq!(combine([], few), Up);
            assert_eq!(combine([Up, Up], few), Up);
            assert_eq!(combine([Up, Initializing], few), Initializing);
            assert_eq!(combine([Up, Down, Initializing], few), Down);
        }
    }

    #[test]
    fn some_monitors_are_enough_when_the_pool_says_so() {
        use State::{Down, Initializing, Up};
        assert_eq!(combine([Up, Down, Down], Some(1)), Up);
        assert_eq!(combine([Up, Down, Down], Some(2)), Down);
        assert_eq!(combine([Up, Down, Initializing], Some(2)), Initializing);
        assert_eq!(combine([Initializing, Initializing], Some(1)), Initializing);
        assert_eq!(combine([], Some(1)), Up);
    }

    #[test]
    fn a_pool_needs_its_servers() {
        use State::{Down, Initializing, Up};
        assert_eq!(quorum([Up, Down], 1), Up);
        assert_eq!(quorum([Up, Down], 2), Down);
        assert_eq!(quorum([Up, Initializing], 2), Initializing);
        assert_eq!(quorum([Up, Up], 3), Down);
        assert_eq!(quorum([], 1), Down);
    }

    proptest! {
        #[test]
        fn the_state_changes_only_after_enough_results_in_a_row(results in prop::collection::vec(any::<bool>(), 1..60)) {
            let list: Vec<_> = results.iter().map(|ok| if *ok { Ok(()) } else { FAIL }).collect();
            let states = after(&list);
            for i in 1..states.len() {
                if states[i] != states[i - 1] {
                    let run = if results[i] { 2 } else { 3 };
                    prop_assert!(i + 1 >= run && results[i + 1 - run..=i].iter().all(|r| *r == results[i]));
                }
            }
        }
    }
}
