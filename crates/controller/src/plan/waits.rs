//! When an operation that waits for an engine goes on, and when it has waited long enough. Pure.

/// What the SE group says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// The engine is to have served for so long.
    pub wait_s: u64,
    /// It is to serve after so long.
    pub timeout_s: u64,
}

/// A timeout of the SE group; 0 is none.
pub(super) fn or_never(timeout_s: u32) -> u64 {
    match timeout_s {
        0 => u64::MAX,
        some => some.into(),
    }
}

/// For how long the operation has been under way, and for how long the engine has served, where that is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since {
    pub begun_for_s: u64,
    pub ready_for_s: Option<u64>,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Wait,
    /// It is to be kept in mind that the engine serves since now, or that it does not any more.
    Ready(bool),
    /// The operation goes on.
    GoOn,
    /// The engine does not serve after so many seconds, which was the time for it.
    Late(u64),
}

impl Since {
    /// For an engine that serves, does not, or of which that is not known just now: it has no session, or has not put in
    /// force yet what it was told last. What is not known ends no wait.
    pub(super) fn next(self, times: Times, serves: Option<bool>) -> Next {
        match (serves, self.ready_for_s) {
            (Some(true), _) if times.wait_s == 0 => Next::GoOn,
            (Some(true), None) => Next::Ready(true),
            (Some(true), Some(for_s)) if for_s >= times.wait_s => Next::GoOn,
            (Some(false), Some(_)) => Next::Ready(false),
            (Some(false) | None, None) if self.begun_for_s >= times.timeout_s => {
                Next::Late(self.begun_for_s)
            }
            (_, Some(_)) | (Some(false) | None, None) => Next::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_goes_on_when_the_engine_has_served_for_a_while_and_waits_no_longer_than_is_said()
     {
        let times = |wait_s| Times {
            wait_s,
            timeout_s: 60,
        };
        for (wait_s, begun_for_s, ready_for_s, serves, next) in [
            (0, 59, None, Some(false), Next::Wait),
            (0, 60, None, Some(false), Next::Late(60)),
            (0, 60, None, None, Next::Late(60)),
            (0, 200, None, Some(true), Next::GoOn),
            (5, 10, None, Some(true), Next::Ready(true)),
            (5, 14, Some(4), Some(true), Next::Wait),
            (5, 15, Some(5), Some(true), Next::GoOn),
            (5, 12, Some(2), Some(false), Next::Ready(false)),
            (5, 200, Some(190), None, Next::Wait),
        ] {
            let since = Since {
                begun_for_s,
                ready_for_s,
            };
            assert_eq!(since.next(times(wait_s), serves), next, "{since:?}");
        }
    }
}
