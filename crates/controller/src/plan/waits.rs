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

/// When the operation began, and since when the engine has served.
#[derive(Debug, Clone, Copy)]
pub(super) struct Since {
    pub begun_s: u64,
    pub ready_s: Option<u64>,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Wait,
    /// It is to be kept in mind since when the engine has served; `None`: it does not any more.
    Ready(Option<u64>),
    /// The operation goes on.
    GoOn,
    /// The engine does not serve after so many seconds, which was the time for it.
    Late(u64),
}

impl Since {
    /// For an engine that serves, does not, or of which that is not known just now: it has no session, or has not put in
    /// force yet what it was told last. What is not known ends no wait.
    pub(super) fn next(self, times: Times, serves: Option<bool>, now_s: u64) -> Next {
        let for_s = |since_s: u64| now_s.saturating_sub(since_s);
        match (serves, self.ready_s) {
            (Some(true), _) if times.wait_s == 0 => Next::GoOn,
            (Some(true), None) => Next::Ready(Some(now_s)),
            // By another clock, or ours was set back.
            (Some(true), Some(since_s)) if since_s > now_s => Next::Ready(Some(now_s)),
            (Some(true), Some(since_s)) if for_s(since_s) >= times.wait_s => Next::GoOn,
            (Some(false), Some(_)) => Next::Ready(None),
            (Some(false) | None, None) if for_s(self.begun_s) >= times.timeout_s => {
                Next::Late(for_s(self.begun_s))
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
        for (wait_s, ready_s, serves, now_s, next) in [
            (0, None, Some(false), 159, Next::Wait),
            (0, None, Some(false), 160, Next::Late(60)),
            (0, None, None, 160, Next::Late(60)),
            (0, None, Some(true), 300, Next::GoOn),
            (5, None, Some(true), 110, Next::Ready(Some(110))),
            (5, Some(110), Some(true), 114, Next::Wait),
            (5, Some(110), Some(true), 115, Next::GoOn),
            (5, Some(110), Some(false), 112, Next::Ready(None)),
            (5, Some(110), None, 300, Next::Wait),
            (5, Some(110), Some(true), 90, Next::Ready(Some(90))),
        ] {
            let since = Since {
                begun_s: 100,
                ready_s,
            };
            assert_eq!(since.next(times(wait_s), serves, now_s), next, "{now_s}");
        }
    }
}
