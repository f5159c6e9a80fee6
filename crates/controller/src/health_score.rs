//! The health score of a virtual service: what is observed of it now, in one number.
//!
//! 100 × (its engines on which it is up ÷ all of its engines) × (servers of its pools that are up ÷ those switched on).
//! Without a pool, or while nobody has reported its servers, the second part is 1. Where it is up on no engine it is 0.

use crate::events::observe::Count;
use serde_json::{Value, json};

/// See the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    engines_up: u32,
    engines: u32,
    servers_up: u32,
    servers: u32,
}

impl Score {
    /// From how its engines see the service, and servers of its pool: those up, and all of them.
    pub fn new(service: Count, (servers_up, servers): (u32, u32)) -> Self {
        let Count {
            up,
            down,
            off,
            unknown,
        } = service;
        Self {
            engines_up: up,
            engines: up + down + off + unknown,
            servers_up,
            servers,
        }
    }

    /// 0 to 100.
    pub fn value(self) -> f32 {
        let share = |up: u32, all: u32| match all {
            0 => 1.0,
            all => f64::from(up) / f64::from(all),
        };
        if self.engines_up == 0 {
            return 0.0;
        }
        let score =
            100.0 * share(self.engines_up, self.engines) * share(self.servers_up, self.servers);
        score.round() as f32
    }

    /// What it is made of.
    pub fn detail(self) -> Value {
        let Self {
            engines_up,
            engines,
            servers_up,
            servers,
        } = self;
        let reason = match () {
            () if engines == 0 => "no engine has reported it",
            () if engines_up == 0 => "it is up on no engine",
            () if engines_up < engines => "it is not up on all of its engines",
            () if servers_up < servers => "not all servers of its pool are up",
            () => "",
        };
        json!({
            "health_score": self.value(), "reason": reason,
            "engines_up": engines_up, "engines": engines, "servers_up": servers_up, "servers": servers,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(up: u32, down: u32, servers: (u32, u32)) -> f32 {
        let count = Count {
            up,
            down,
            ..Count::default()
        };
        Score::new(count, servers).value()
    }

    #[test]
    fn engines_and_servers_that_are_down_cost_their_share() {
        for (up, down, servers, expected) in [
            (2, 0, (4, 4), 100.0),
            (2, 0, (0, 0), 100.0),
            (1, 1, (4, 4), 50.0),
            (1, 0, (1, 3), 33.0),
            (1, 1, (1, 2), 25.0),
            (0, 2, (4, 4), 0.0),
            (0, 0, (0, 0), 0.0),
        ] {
            let found = score(up, down, servers);
            assert!(
                (found - expected).abs() < 0.01,
                "{up} {down} {servers:?}: {found}"
            );
        }
    }

    #[test]
    fn it_says_why_it_is_not_100() {
        let reason = |up, down, servers| {
            let count = Count {
                up,
                down,
                ..Count::default()
            };
            Score::new(count, servers).detail()["reason"].clone()
        };
        assert_eq!(reason(1, 0, (1, 1)), "");
        assert_eq!(reason(1, 1, (1, 1)), "it is not up on all of its engines");
        assert_eq!(reason(1, 0, (0, 1)), "not all servers of its pool are up");
        assert_eq!(reason(0, 1, (1, 1)), "it is up on no engine");
    }
}
