//! Where engines say something else than before, until somebody has looked there.

use proto::v1::Report;
use std::collections::{BTreeSet, HashSet};

/// uuids, since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Engines whose session began or ended, or that refuse what they are told, or do so no longer.
    pub engines: BTreeSet<String>,
    /// Virtual services, VsVips and pools of which an engine says another state than before.
    pub objects: BTreeSet<String>,
}

impl News {
    /// Of one that says this now, and said that before.
    pub(super) fn between(before: Option<&Report>, now: &Report) -> Self {
        let before = || before.into_iter().flat_map(said);
        if before().eq(said(now)) {
            return Self::default();
        }
        let (before, now): (HashSet<Said<'_>>, HashSet<Said<'_>>) =
            (before().collect(), said(now).collect());
        let changed = before.symmetric_difference(&now);
        Self {
            objects: changed.map(|(uuid, ..)| (*uuid).to_owned()).collect(),
            ..Self::default()
        }
    }

    pub(super) fn add(&mut self, more: Self) {
        let Self { engines, objects } = more;
        self.engines.extend(engines);
        self.objects.extend(objects);
    }
}

/// uuid, which part of it, and its state; a VIP has none, and is told of or not.
type Said<'a> = (&'a str, &'a str, i32);

fn said(report: &Report) -> impl Iterator<Item = Said<'_>> {
    let services = report.virtual_services.iter();
    let services = services.map(|s| (s.uuid.as_str(), "", s.state));
    let vips = report.vips.iter();
    let vips = vips.map(|v| (v.vsvip_uuid.as_str(), v.vip_id.as_str(), 0));
    let pools = report.pools.iter().map(|p| (p.uuid.as_str(), "", p.state));
    services.chain(vips).chain(pools)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{OperState, PoolStatus, VipStatus, VirtualServiceStatus};

    fn report(state: OperState, vips: &[&str]) -> Report {
        let vip = |id: &&str| VipStatus {
            vsvip_uuid: "vsvip-1".into(),
            vip_id: (*id).into(),
            ..VipStatus::default()
        };
        Report {
            virtual_services: vec![VirtualServiceStatus {
                uuid: "virtualservice-1".into(),
                state: state.into(),
                ..VirtualServiceStatus::default()
            }],
            pools: vec![PoolStatus {
                uuid: "pool-1".into(),
                state: OperState::Up.into(),
                ..PoolStatus::default()
            }],
            vips: vips.iter().map(vip).collect(),
            ..Report::default()
        }
    }

    fn objects(before: Option<&Report>, now: &Report) -> Vec<String> {
        News::between(before, now).objects.into_iter().collect()
    }

    #[test]
    fn news_are_what_an_engine_says_otherwise_than_before() {
        let up = report(OperState::Up, &["1"]);
        let first = ["pool-1", "virtualservice-1", "vsvip-1"];
        assert_eq!(objects(None, &up), first);
        let again = Report {
            sequence: 2,
            ..up.clone()
        };
        assert_eq!(objects(Some(&up), &again), [""; 0]);
        let down = report(OperState::Down, &["1"]);
        assert_eq!(objects(Some(&up), &down), ["virtualservice-1"]);
        let more = report(OperState::Up, &["1", "2"]);
        assert_eq!(objects(Some(&up), &more), ["vsvip-1"]);
        assert_eq!(objects(Some(&up), &Report::default()), first);
    }
}
