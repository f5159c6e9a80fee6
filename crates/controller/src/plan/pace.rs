//! When an operation that waits for an engine goes on, and when it has waited long enough. Pure.

/// What the SE group says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// The engine is to have served for so long.
    pub wait_s: u64,
    /// It is to serve after so long.
    pub timeout_s: u64,
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
    /// For an engine that serves, or does not.
    pub(super) fn next(self, times: Times, serves: bool, now_s: u64) -> Next {
        let for_s = |since_s: u64| now_s.saturating_sub(since_s);
        match (serves, self.ready_s) {
            (true, _) if times.wait_s == 0 => Next::GoOn,
            (true, None) => Next::Ready(Some(now_s)),
            (true, Some(since_s)) if for_s(since_s) >= times.wait_s => Next::GoOn,
            (true, Some(_)) => Next::Wait,
            (false, Some(_)) => Next::Ready(None),
            (false, None) if for_s(self.begun_s) >= times.timeout_s => {
                Next::Late(for_s(self.begun_s))
            }
            (false, None) => Next::Wait,
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
            (0, None, false, 159, Next::Wait),
            (0, None, false, 160, Next::Late(60)),
            (0, None, true, 300, Next::GoOn),
            (5, None, true, 110, Next::Ready(Some(110))),
            (5, Some(110), true, 114, Next::Wait),
            (5, Some(110), true, 115, Next::GoOn),
            (5, Some(110), false, 112, Next::Ready(None)),
            (5, Some(110), true, 90, Next::Wait),
        ] {
            let since = Since {
                begun_s: 100,
                ready_s,
            };
            assert_eq!(since.next(times(wait_s), serves, now_s), next, "{now_s}");
        }
    }
}
