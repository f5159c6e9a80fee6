//! The roles and the user that exist at start (avi-api section 13).

use crate::access::resource;
use crate::auth::{ADMIN, ADMIN_UUID};
use crate::error::ApiError;
use crate::objects::{Author, Draft, Objects};
use model::schema::object_type;
use serde_json::{Value, json};

/// What belongs to an application.
const APPLICATION: [&str; 12] = [
    "virtualservice",
    "pool",
    "poolgroup",
    "healthmonitor",
    "networkprofile",
    "applicationprofile",
    "applicationpersistenceprofile",
    "analyticsprofile",
    "sslprofile",
    "sslkeyandcertificate",
    "alertconfig",
    "alert",
];

/// What applications run on.
const FABRIC: [&str; 8] = [
    "cloud",
    "vrfcontext",
    "network",
    "networkservice",
    "ipamdnsproviderprofile",
    "serviceengine",
    "serviceenginegroup",
    "actiongroupconfig",
];

/// Who may do what, and the controller itself.
const SYSTEM: [&str; 5] = [
    "user",
    "role",
    "tenant",
    "systemconfiguration",
    "controller",
];

const SECURITY: [&str; 2] = ["sslprofile", "sslkeyandcertificate"];

/// How far each role goes: for applications, security, fabric and system; W writes, R reads, - does neither.
const ROLES: [(&str, [char; 4]); 6] = [
    ("System-Admin", ['W', 'W', 'W', 'W']),
    ("Tenant-Admin", ['W', 'W', 'R', '-']),
    ("Application-Admin", ['W', 'W', 'R', '-']),
    ("Application-Operator", ['R', 'R', 'R', '-']),
    ("Security-Admin", ['R', 'W', 'R', '-']),
    ("WAF-Admin", ['R', 'R', 'R', '-']),
];

/// The roles.
pub fn roles() -> Vec<(&'static str, Value)> {
    let role = |(name, levels): (&str, [char; 4])| {
        let [application, security, fabric, system] = levels;
        let is_security = |ty: &&&str| SECURITY.contains(*ty);
        let groups = [
            (
                application,
                APPLICATION
                    .iter()
                    .filter(|ty| !is_security(ty))
                    .collect::<Vec<_>>(),
            ),
            (security, SECURITY.iter().collect()),
            (fabric, FABRIC.iter().collect()),
            (system, SYSTEM.iter().collect()),
        ];
        let privileges = groups
            .into_iter()
            .flat_map(|(level, types)| types.into_iter().map(move |ty| privilege(ty, level)));
        (
            "role",
            json!({"name": name, "privileges": privileges.collect::<Vec<_>>()}),
        )
    };
    ROLES.map(role).into()
}

fn privilege(ty: &str, level: char) -> Value {
    let level = match level {
        'W' => "WRITE_ACCESS",
        'R' => "READ_ACCESS",
        _ => "NO_ACCESS",
    };
    json!({"resource": resource(ty), "type": level})
}

/// True when the user admin has not been made yet.
pub fn lacks_admin(objects: &Objects) -> bool {
    objects.snapshot().get("user", ADMIN_UUID).is_none()
}

/// His password as versions before users were objects have stored it.
///
/// # Errors
/// The store refuses.
pub async fn old_hash(objects: &Objects) -> Result<Option<String>, ApiError> {
    let entry = objects.store().get("/auth/password/admin").await?;
    Ok(entry.and_then(|e| String::from_utf8(e.value).ok()))
}

/// Makes the user admin, with this hash of his password.
///
/// # Errors
/// The store refuses.
pub async fn make_admin(objects: &Objects, hash: String) -> Result<(), ApiError> {
    let body = json!({
        "name": ADMIN, "full_name": "System Administrator", "is_superuser": true, "local": true,
        "default_tenant_ref": "/api/tenant/admin", "password": hash,
        "access": [{"role_ref": "/api/role?name=System-Admin", "all_tenants": true}],
    });
    let author = Author::system("bootstrap");
    let make = |draft: &mut Draft| {
        let ty = object_type("user").expect("in the schema");
        let Value::Object(mut body) = body else {
            return Ok(());
        };
        body.insert("system_default".into(), true.into());
        draft
            .create(ty, body, Some(ADMIN_UUID.into()), &author)
            .map(drop)
    };
    objects.change(&author, "user admin", make).await
}
