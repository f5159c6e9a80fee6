//! How many engines a virtual service is to have, and which have it: for who says that there are too few of them.

use super::{Planner, situation};
use crate::objects::Snapshot;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redundancy {
    /// uuid of the VsVip.
    pub vsvip: String,
    /// Engines that the SE group asks for; of an active/standby pair, two.
    pub asked: usize,
    /// uuids of those that it is placed on and that have a session. Others are not known to serve.
    pub here: Vec<String>,
}

impl Planner {
    /// Of the virtual services of this VIP; nothing where no SE group says.
    pub fn redundancy(&self, snapshot: &Snapshot, vsvip: &str) -> Option<Redundancy> {
        let group = situation::group_of(snapshot, vsvip)?;
        let services = situation::services_of(snapshot, vsvip);
        let mut here = self.assignment(vsvip).engines;
        here.retain(|se| self.is_connected(se));
        Some(Redundancy {
            vsvip: vsvip.to_owned(),
            asked: situation::fewest(&group, situation::is_native(&services)),
            here,
        })
    }
}
