//! Many SEs more or fewer at once, as an operator asks for them.

use super::{Done, Runner, SETTLE_TIMEOUT, wall_us};
use crate::scenario::Direction;
use anyhow::Result;
use cli::note;
use serde_json::json;
use std::time::{Duration, Instant};

/// The SE group of objects that name none.
const SE_GROUP: &str = "serviceenginegroup/Default-Group";

impl Runner<'_> {
    /// A larger minimum is filled by the planner in one step; to a smaller one the virtual service is scaled in by calls, since a
    /// minimum takes no SE away.
    pub(super) fn scale_to(&mut self, engines: usize) -> Result<Done> {
        let placed = self.ask_placement()?.len();
        let at = Instant::now();
        self.set_minimum(engines)?;
        for _ in engines..placed {
            self.control.scale(&self.service, Direction::In, None)?;
        }
        let calls_took_s = at.elapsed().as_secs_f64();
        let timeout = Duration::from_secs_f64(self.scenario.bars.fib_s) + SETTLE_TIMEOUT;
        let all = |hops: &_| self.names(hops).len() == engines;
        let reached = self.fib.wait(at, timeout, all);
        let api_to_fib_s = reached.map(|r| (r - at).as_secs_f64());
        if let Some(took_s) = api_to_fib_s {
            note!("  {engines} SEs in the FIB after {took_s:.3} s");
        }
        Ok(Done {
            api_to_fib_s: vec![api_to_fib_s],
            called_us: wall_us(at),
            calls_took_s,
            ..Done::default()
        })
    }

    /// `min_scaleout_per_vs` of the SE group: so many SEs a VIP has by itself.
    pub(super) fn set_minimum(&self, engines: usize) -> Result<()> {
        let change = json!({ "op": "add", "path": "/min_scaleout_per_vs", "value": engines });
        self.control.patch(SE_GROUP, &[change])
    }
}
