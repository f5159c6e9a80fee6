//! Lists without spare room. A decoder and an iterator of unknown length give room for four to a list of one, and up to
//! twice the room that a long one needs; what is kept for as long as thousands of virtual services are there has none to spare.

use crate::v1::{DesiredState, Report, VirtualService};

impl Report {
    /// Gives back what its lists do not use, of those that are longer with more virtual services.
    pub fn shrink_to_fit(&mut self) {
        for pool in &mut self.pools {
            for server in &mut pool.servers {
                server.monitors.shrink_to_fit();
            }
            pool.servers.shrink_to_fit();
        }
        for session in &mut self.bgp_sessions {
            session.routes.shrink_to_fit();
        }
        self.pools.shrink_to_fit();
        self.virtual_services.shrink_to_fit();
        self.vips.shrink_to_fit();
    }
}

impl VirtualService {
    /// Gives back what its lists do not use, of those that are longer with more virtual services.
    pub fn shrink_to_fit(&mut self) {
        self.ports.shrink_to_fit();
        if let Some(tls) = &mut self.tls {
            tls.certificate_uuids.shrink_to_fit();
        }
    }
}

impl DesiredState {
    /// Gives back what its lists do not use, of those that are longer with more virtual services.
    pub fn shrink_to_fit(&mut self) {
        for pool in &mut self.pools {
            pool.servers.shrink_to_fit();
            pool.health_monitor_uuids.shrink_to_fit();
        }
        for group in &mut self.groups {
            group.members.shrink_to_fit();
        }
        self.virtual_services
            .iter_mut()
            .for_each(VirtualService::shrink_to_fit);
        self.virtual_services.shrink_to_fit();
        self.pools.shrink_to_fit();
        self.vips.shrink_to_fit();
        self.groups.shrink_to_fit();
        self.health_monitors.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{MonitorStatus, PoolStatus, ServerStatus};
    use prost::Message;

    #[test]
    fn a_report_that_was_decoded_keeps_no_room_to_spare() {
        let server = ServerStatus {
            monitors: vec![MonitorStatus::default()],
            ..ServerStatus::default()
        };
        let pool = PoolStatus {
            servers: vec![server],
            ..PoolStatus::default()
        };
        let report = Report {
            pools: vec![pool; 5],
            ..Report::default()
        };
        let mut decoded = Report::decode(report.encode_to_vec().as_slice()).expect("decodes");
        assert!(decoded.pools[0].servers.capacity() > 1, "room to spare");
        decoded.shrink_to_fit();
        assert_eq!(decoded, report);
        assert_eq!(decoded.pools.capacity(), 5);
        assert_eq!(decoded.pools[0].servers.capacity(), 1);
        assert_eq!(decoded.pools[0].servers[0].monitors.capacity(), 1);
    }
}
