//! What engines count of services and pools, and what has come between two reports. Pure.

use super::metric::{Figures, Kind};
use proto::v1::{PoolStatus, Report, VirtualServiceStatus};

/// What an engine counted last; what it does not tell is none. What most do not have is boxed: there is one of these for
/// each service and pool of each engine.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counters {
    /// Received and sent.
    bytes: Option<[u64; 2]>,
    total: u64,
    pub open: u64,
    dropped: Option<u64>,
    responses: Option<Box<[u64; 5]>>,
}

impl Counters {
    /// Before anything is counted.
    pub(super) fn nothing() -> Self {
        Self {
            bytes: Some([0; 2]),
            total: 0,
            open: 0,
            dropped: Some(0),
            responses: Some(Box::default()),
        }
    }

    fn of_service(status: &VirtualServiceStatus) -> Self {
        Self {
            bytes: Some([status.bytes_in, status.bytes_out]),
            total: status.total_connections,
            open: status.open_connections,
            dropped: status.connections_dropped,
            responses: status.responses.as_ref().map(|r| Box::new(r.classes())),
        }
    }

    fn of_pool(status: &PoolStatus) -> Self {
        Self {
            bytes: status.bytes(),
            total: status.servers.iter().map(|s| s.total_connections).sum(),
            open: status.servers.iter().map(|s| s.open_connections).sum(),
            dropped: None,
            responses: None,
        }
    }

    fn classes(&self) -> Option<[u64; 5]> {
        self.responses.as_deref().copied()
    }

    fn ended(&self) -> u64 {
        self.total.saturating_sub(self.open)
    }

    /// What has come since; what was not told then, or is not now, is none.
    pub(super) fn since(&self, old: &Self, kind: Kind) -> Figures {
        let grown: fn(u64, u64) -> u64 = match kind {
            Kind::Pool => u64::saturating_sub,
            Kind::VirtualService | Kind::ServiceEngine | Kind::Controller => grown,
        };
        Figures {
            bytes: each(old.bytes, self.bytes, grown),
            begun: grown(self.total, old.total),
            ended: grown(self.ended(), old.ended()),
            dropped: old.dropped.zip(self.dropped).map(|(o, n)| grown(n, o)),
            responses: each(old.classes(), self.classes(), grown).map(Box::new),
            ..Figures::default()
        }
    }
}

/// A counter that is lower than before has begun anew. Not so the sum of a pool: a server has left it, with what it
/// had counted.
fn grown(new: u64, old: u64) -> u64 {
    match new >= old {
        true => new - old,
        false => new,
    }
}

fn each<const N: usize>(
    old: Option<[u64; N]>,
    new: Option<[u64; N]>,
    grown: fn(u64, u64) -> u64,
) -> Option<[u64; N]> {
    let (old, new) = old.zip(new)?;
    Some(std::array::from_fn(|i| grown(new[i], old[i])))
}

/// What a report has counted: of services and of pools.
pub(super) fn counted(report: &Report) -> impl Iterator<Item = (Kind, &str, Counters)> {
    let services = report.virtual_services.iter().map(|s| {
        let counters = Counters::of_service(s);
        (Kind::VirtualService, s.uuid.as_str(), counters)
    });
    let pools = report
        .pools
        .iter()
        .map(|p| (Kind::Pool, p.uuid.as_str(), Counters::of_pool(p)));
    services.chain(pools)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::v1::{ResponseStats, ServerStatus};

    fn pool(bytes: &[u64]) -> Counters {
        let server = |bytes: &u64| ServerStatus {
            total_connections: *bytes,
            bytes_sent: Some(*bytes),
            bytes_received: Some(2 * *bytes),
            ..ServerStatus::default()
        };
        Counters::of_pool(&PoolStatus {
            servers: bytes.iter().map(server).collect(),
            ..PoolStatus::default()
        })
    }

    #[test]
    fn a_server_that_leaves_its_pool_is_no_burst_of_traffic() {
        let (two, one) = (pool(&[1000, 9000]), pool(&[1010]));
        let left = one.since(&two, Kind::Pool);
        assert_eq!((left.bytes, left.begun), (Some([0, 0]), 0));
        let goes_on = pool(&[1030]).since(&one, Kind::Pool);
        assert_eq!((goes_on.bytes, goes_on.begun), (Some([40, 20]), 20));
    }

    #[test]
    fn a_service_that_becomes_http_has_no_responses_of_before() {
        let responses = |count: Option<u64>| {
            let stats = count.map(|class_2xx| ResponseStats {
                class_2xx,
                ..ResponseStats::default()
            });
            Counters::of_service(&VirtualServiceStatus {
                responses: stats,
                ..VirtualServiceStatus::default()
            })
        };
        let kind = Kind::VirtualService;
        let first = responses(Some(900)).since(&responses(None), kind);
        assert_eq!(first.responses, None);
        let next = responses(Some(905)).since(&responses(Some(900)), kind);
        assert_eq!(next.responses, Some(Box::new([0, 5, 0, 0, 0])));
        let new = responses(Some(7)).since(&Counters::nothing(), kind);
        assert_eq!(new.responses, Some(Box::new([0, 7, 0, 0, 0])));
    }
}
