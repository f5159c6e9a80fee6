//! An SE is disabled, and enabled again: its routes go and come, its flows stay.

use super::{Done, Runner, wall_us};
use anyhow::Result;
use serde_json::json;
use std::time::Instant;

/// Longest time until a disabled SE has withdrawn its routes: the `advertisement_interval` of its peers, at most 60 s,
/// and 5 s more.
const WITHDRAWN_WITHIN_S: f64 = 65.0;

impl Runner<'_> {
    /// Disables an SE and waits until the router has no route over it any more. No other one gets its place, so that it has
    /// it still when it is enabled again.
    pub(super) fn drain(&mut self, node: &str) -> Result<Done> {
        self.enable_others(node, "SE_STATE_DISABLED_FOR_PLACEMENT")?;
        let at = self.enable_state(node, "SE_STATE_DISABLED")?;
        let late = self.await_gone(node, at, 0.0, WITHDRAWN_WITHIN_S);
        self.lost.insert(node.to_owned());
        Ok(Done {
            called_us: wall_us(at),
            violations: late.into_iter().collect(),
            ..Done::default()
        })
    }

    /// Enables it and waits for its route.
    pub(super) fn undrain(&mut self, node: &str) -> Result<Done> {
        let at = self.enable_state(node, "SE_STATE_ENABLED")?;
        self.enable_others(node, "SE_STATE_ENABLED")?;
        self.lost.remove(node);
        Ok(Done {
            called_us: wall_us(at),
            api_to_fib_s: vec![self.await_back(node, at)],
            ..Done::default()
        })
    }

    fn enable_others(&self, node: &str, state: &str) -> Result<()> {
        let engines = self.topology.nodes.iter().filter(|n| n.engine.is_some());
        // Those that are drained stay so.
        let mut others = engines.filter(|n| n.name != node && !self.lost.contains(&n.name));
        others.try_for_each(|n| self.enable_state(&n.name, state).map(drop))
    }

    fn enable_state(&self, node: &str, state: &str) -> Result<Instant> {
        let at = Instant::now();
        let change = json!({ "op": "add", "path": "/enable_state", "value": state });
        self.control
            .patch(&format!("serviceengine/{node}"), &[change])?;
        Ok(at)
    }
}
