//! Who sees which event: that of an object, who sees the object; all others, who may read what belongs to the controller.

use super::event::Subject;
use crate::access::{ADMIN_TENANT, Access, Level, is_seen_in, resource, tenant_of};
use crate::api::singleton;
use crate::objects::Snapshot;

/// Where somebody looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// uuid of the tenant that he is in.
    pub tenant: String,
    /// He looks at all tenants that he may enter.
    pub every_tenant: bool,
}

impl View {
    /// True when he sees what is of this object, be it there still or not.
    pub fn shows(&self, snapshot: &Snapshot, access: &Access, subject: &Subject) -> bool {
        let path = subject.path.as_str();
        let resource = resource(path);
        match path {
            "tenant" if access.enters(&subject.uuid) => true,
            "" | "user" | "role" | "tenant" => access.may_everywhere(Level::Read, &resource),
            _ if singleton::known(path).is_some() => access.may_everywhere(Level::Read, &resource),
            _ => self.shows_object(snapshot, access, subject),
        }
    }

    fn shows_object(&self, snapshot: &Snapshot, access: &Access, subject: &Subject) -> bool {
        let (path, owner) = (subject.path.as_str(), subject.tenant.as_str());
        let resource = resource(path);
        let may = |tenant: &str| access.may(Level::Read, &resource, tenant);
        if self.every_tenant && may(owner) || self.tenant == owner && may(owner) {
            return true;
        }
        // What was an object of another tenant is not shown to who sees the one that has its uuid now.
        let stored = snapshot.get(path, &subject.uuid);
        let shared =
            stored.is_some_and(|s| tenant_of(s) == owner && is_seen_in(&self.tenant, path, s));
        owner == ADMIN_TENANT && shared && may(&self.tenant)
    }
}
