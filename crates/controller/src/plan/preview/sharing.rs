//! Which virtual services share which VIP, gathered in one pass over all of them: for questions about many VIPs.

use crate::objects::Snapshot;
use model::view::Ref;
use serde_json::Value;
use std::collections::BTreeMap;

/// uuids of virtual services, by that of their VsVip.
pub(super) struct Sharing(BTreeMap<String, Vec<String>>);

impl Sharing {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut by_vip: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (uuid, stored) in snapshot.all("virtualservice") {
            let reference = stored.object.get("vsvip_ref").and_then(Value::as_str);
            if let Some(reference) = reference {
                let vsvip = Ref(reference.to_owned()).uuid().to_owned();
                by_vip.entry(vsvip).or_default().push(uuid.to_owned());
            }
        }
        Self(by_vip)
    }

    /// VsVips that virtual services use.
    pub(super) fn vsvips(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// uuids of the virtual services of a VIP.
    pub(super) fn uuids(&self, vsvip: &str) -> &[String] {
        self.0.get(vsvip).map_or(&[], Vec::as_slice)
    }
}
