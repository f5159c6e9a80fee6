//! What the load of a VIP recommends, as it was decided last: kept for those who ask, told when it changes.

use super::{Due, Planner};
use placement::autoscale::{Decision, Figure, Step};
use serde_json::{Value, json};

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(in crate::plan) struct Outlook {
    decision: Decision,
    /// `auto_rebalance`: it is done, and not only said.
    acts: bool,
    /// When it was decided, and since when it is this step, in seconds since 1970.
    decided_s: u64,
    since_s: u64,
}

impl Outlook {
    /// As the runtime shows it (`autoscale`). Numbers are in the units of the criteria.
    pub(in crate::plan) fn show(&self) -> Value {
        let figures = self.decision.figures.iter();
        json!({
            "auto_rebalance": self.acts,
            "action": self.decision.step.word(),
            "reason_code": self.decision.why.code(),
            "reason": self.decision.to_string(),
            "criteria": figures.map(show_figure).collect::<Vec<_>>(),
            "decided_unix_s": self.decided_s,
            "since_unix_s": self.since_s,
        })
    }
}

fn show_figure(figure: &Figure) -> Value {
    let Figure {
        limit,
        engines,
        load,
        others,
        percent,
        percent_with_one_more,
        percent_with_one_fewer,
    } = figure;
    json!({
        "criterion": limit.criterion.word(),
        "capacity_per_se": limit.capacity,
        "num_se": engines,
        "load": rounded(*load),
        "load_of_others_per_se": rounded(*others),
        "percent": rounded(*percent),
        "percent_with_one_more": rounded(*percent_with_one_more),
        "percent_with_one_fewer": percent_with_one_fewer.map(rounded),
    })
}

/// To a tenth.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

impl Planner {
    /// What the load of the VIP recommends; nothing before it was measured.
    pub(in crate::plan) fn outlook(&self, vsvip: &str) -> Option<Outlook> {
        self.read().outlooks.get(vsvip).cloned()
    }

    /// Keeps what was decided, and tells of it where it is another step than before and is only said.
    pub(super) fn note_outlook(&self, due: &Due, now_s: u64) {
        let mut tables = self.write();
        let before = tables.outlooks.get(&due.vsvip);
        let step_before = before.map_or(Step::Keep, |o| o.decision.step);
        let is_new = step_before != due.decision.step;
        let since_s = before.filter(|_| !is_new).map_or(now_s, |o| o.since_s);
        let outlook = Outlook {
            decision: due.decision.clone(),
            acts: due.acts,
            decided_s: now_s,
            since_s,
        };
        tables.outlooks.insert(due.vsvip.clone(), outlook);
        drop(tables);
        if is_new && !due.acts {
            self.witness
                .tell(|w| w.recommended(&due.vsvip, &due.decision));
        }
    }

    /// Only these VIPs have one.
    pub(super) fn forget_outlooks(&self, keep: impl Fn(&str) -> bool) {
        let is_gone = |tables: &super::super::Tables| tables.outlooks.keys().any(|v| !keep(v));
        if is_gone(&self.read()) {
            self.write().outlooks.retain(|vsvip, _| keep(vsvip));
        }
    }
}
