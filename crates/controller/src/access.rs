//! What a user may do: his roles, in the tenants where he has them (avi-api sections 12 and 13). It is worked out at each
//! call, so that a role that is taken away is gone at once.

use crate::objects::{Snapshot, Stored};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// uuid of the tenant that always exists, and some of whose objects all tenants see.
pub const ADMIN_TENANT: &str = "admin";

/// Of tenant admin, too, these are seen in that tenant alone; all else is shared.
const PRIVATE: [&str; 5] = [
    "virtualservice",
    "vsvip",
    "pool",
    "poolgroup",
    "sslkeyandcertificate",
];

/// How far a right goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// To see.
    Read,
    /// To change, and to act on what runs.
    Write,
}

/// See the module's documentation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Name of the user.
    pub user: String,
    /// uuid of the user.
    pub uuid: String,
    /// May do everything.
    pub superuser: bool,
    grants: Vec<Grant>,
    default_tenant: Option<String>,
}

/// A role somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    /// uuid of the tenant; none: in all.
    tenant: Option<String>,
    /// By resource, e.g. `PERMISSION_POOL`.
    levels: BTreeMap<String, Level>,
}

#[derive(Clone, Deserialize)]
struct User {
    is_active: bool,
    is_superuser: bool,
    #[serde(default)]
    access: Vec<UserRole>,
    default_tenant_ref: Option<String>,
}

#[derive(Clone, Deserialize)]
struct UserRole {
    #[serde(default)]
    all_tenants: bool,
    role_ref: Option<String>,
    tenant_ref: Option<String>,
}

#[derive(Clone, Deserialize)]
struct Role {
    #[serde(default)]
    privileges: Vec<Privilege>,
}

#[derive(Clone, Deserialize)]
struct Privilege {
    resource: String,
    #[serde(rename = "type")]
    level: String,
}

impl Access {
    /// Of the user with this name; none when there is no such user, or he is not active.
    pub fn of(snapshot: &Snapshot, name: &str) -> Option<Self> {
        let (uuid, _) = snapshot.by_name("user", name)?;
        Self::of_user(snapshot, uuid)
    }

    /// Of the user with this uuid.
    pub fn of_user(snapshot: &Snapshot, uuid: &str) -> Option<Self> {
        let user: Arc<User> = snapshot.view("user", uuid)?;
        let grants = user.access.iter().filter_map(|a| grant(snapshot, a));
        user.is_active.then(|| Self {
            user: snapshot
                .name_of("user", uuid)
                .unwrap_or_default()
                .to_owned(),
            uuid: uuid.to_owned(),
            superuser: user.is_superuser,
            grants: grants.collect(),
            default_tenant: user.default_tenant_ref.as_deref().map(last),
        })
    }

    /// True when he has this right on a type's objects in a tenant.
    pub fn may(&self, level: Level, resource: &str, tenant: &str) -> bool {
        let here = |grant: &&Grant| grant.tenant.as_deref().is_none_or(|t| t == tenant);
        self.superuser
            || self
                .grants
                .iter()
                .filter(here)
                .any(|g| g.gives(level, resource))
    }

    /// True when he has it in all tenants.
    pub fn may_everywhere(&self, level: Level, resource: &str) -> bool {
        let all = |grant: &&Grant| grant.tenant.is_none();
        self.superuser
            || self
                .grants
                .iter()
                .filter(all)
                .any(|g| g.gives(level, resource))
    }

    /// True when he has it in some tenant.
    pub fn may_somewhere(&self, level: Level, resource: &str) -> bool {
        self.superuser || self.grants.iter().any(|g| g.gives(level, resource))
    }

    /// True when he may look into a tenant at all.
    pub fn enters(&self, tenant: &str) -> bool {
        let here = |grant: &Grant| grant.tenant.as_deref().is_none_or(|t| t == tenant);
        self.superuser || self.grants.iter().any(here)
    }

    /// uuid of the tenant that he is in when he names none.
    pub fn home(&self) -> &str {
        let default = self.default_tenant.as_deref().filter(|t| self.enters(t));
        let first = || self.grants.iter().find_map(|g| g.tenant.as_deref());
        match default {
            Some(tenant) => tenant,
            None if self.enters(ADMIN_TENANT) => ADMIN_TENANT,
            None => first().unwrap_or(ADMIN_TENANT),
        }
    }

    /// True when everything that `other` may, he may: then he may give it, and take it away.
    pub fn covers(&self, other: &Self) -> bool {
        let covered = |grant: &Grant| {
            grant
                .levels
                .iter()
                .all(|(resource, level)| match &grant.tenant {
                    Some(tenant) => self.may(*level, resource, tenant),
                    None => self.may_everywhere(*level, resource),
                })
        };
        self.superuser || !other.superuser && other.grants.iter().all(covered)
    }
}

impl Grant {
    fn gives(&self, level: Level, resource: &str) -> bool {
        self.levels.get(resource).is_some_and(|has| *has >= level)
    }
}

fn grant(snapshot: &Snapshot, access: &UserRole) -> Option<Grant> {
    let tenant = match (access.all_tenants, &access.tenant_ref) {
        (true, _) => None,
        (false, Some(tenant)) => Some(last(tenant)),
        (false, None) => return None,
    };
    let role: Arc<Role> = snapshot.view("role", &last(access.role_ref.as_deref()?))?;
    let levels = role.privileges.iter();
    let levels = levels.filter_map(|p| Some((p.resource.clone(), level(&p.level)?)));
    Some(Grant {
        tenant,
        levels: levels.collect(),
    })
}

fn level(word: &str) -> Option<Level> {
    match word {
        "READ_ACCESS" => Some(Level::Read),
        "WRITE_ACCESS" => Some(Level::Write),
        _ => None,
    }
}

fn last(reference: &str) -> String {
    reference.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The resource of a type's objects in roles; of no type ("") that of the controller itself.
pub fn resource(path: &str) -> String {
    let word = match path {
        "vsvip" => "virtualservice",
        "useraccount" | "useraccountprofile" => "user",
        "" | "seproperties" | "controllerproperties" | "cluster" => "controller",
        other => other,
    };
    format!("PERMISSION_{}", word.to_uppercase())
}

/// uuid of the tenant that an object belongs to; what has none belongs to tenant admin.
pub fn tenant_of(stored: &Stored) -> &str {
    stored.tenant()
}

/// True when an object is seen in a tenant: it is his, or tenant admin shares it with all (avi-api section 5).
pub fn is_seen_in(tenant: &str, path: &str, stored: &Stored) -> bool {
    let owner = tenant_of(stored);
    let shared = stored.is_system() || !PRIVATE.contains(&path);
    owner == tenant || owner == ADMIN_TENANT && shared
}

#[cfg(test)]
mod tests;
