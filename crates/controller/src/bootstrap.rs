//! The objects that exist at start (avi-api section 13); made once, found again at every start.

use crate::error::ApiError;
use crate::objects::{Author, Draft, Objects};
use model::object::Object;
use model::schema::object_type;
use model::view::Ref;
use serde_json::{Value, json};

/// Makes what is missing, in one transaction.
///
/// # Errors
/// The store refuses.
pub async fn ensure(objects: &Objects) -> Result<(), ApiError> {
    let author = Author::system("bootstrap");
    objects
        .change(&author, "objects that exist at start", |draft| {
            add(
                draft,
                &author,
                "tenant",
                Some("admin"),
                json!({"name": "admin"}),
            )?;
            add(
                draft,
                &author,
                "cloud",
                None,
                json!({"name": "Default-Cloud", "vtype": "CLOUD_NONE"}),
            )?;
            for (uuid, _) in draft.snapshot.clone().all("cloud") {
                ensure_cloud_parts(draft, &author, uuid)?;
            }
            profiles()
                .into_iter()
                .try_for_each(|(ty, body)| add(draft, &author, ty, None, body))
        })
        .await
}

/// A cloud comes with its VRF contexts `global` and `management` and a `Default-Group` (avi-api section 12).
///
/// # Errors
/// One of them cannot be made.
pub fn ensure_cloud_parts(draft: &mut Draft, author: &Author, cloud: &str) -> Result<(), ApiError> {
    let cloud_ref = Ref::to("cloud", cloud).0;
    for (ty, name) in [
        ("vrfcontext", "global"),
        ("vrfcontext", "management"),
        ("serviceenginegroup", "Default-Group"),
    ] {
        let here =
            |object: &Object| object.get("cloud_ref").and_then(Value::as_str) == Some(&cloud_ref);
        let exists = draft
            .snapshot
            .all(ty)
            .any(|(_, s)| s.name() == name && here(&s.object));
        if !exists {
            make(
                draft,
                author,
                ty,
                None,
                json!({"name": name, "cloud_ref": cloud_ref}),
            )?;
        }
    }
    Ok(())
}

fn add(
    draft: &mut Draft,
    author: &Author,
    ty: &str,
    uuid: Option<&str>,
    body: Value,
) -> Result<(), ApiError> {
    let name = body["name"].as_str().unwrap_or_default();
    if draft.snapshot.by_name(ty, name).is_some() {
        return Ok(());
    }
    make(draft, author, ty, uuid, body)
}

fn make(
    draft: &mut Draft,
    author: &Author,
    ty: &str,
    uuid: Option<&str>,
    body: Value,
) -> Result<(), ApiError> {
    let ty = object_type(ty).expect("in the schema");
    let Value::Object(mut body) = body else {
        return Ok(());
    };
    body.insert("system_default".into(), true.into());
    draft.create(ty, body, uuid.map(str::to_owned), author)?;
    Ok(())
}

/// The profiles and monitors of the resources that exist now.
fn profiles() -> Vec<(&'static str, Value)> {
    let monitor =
        |name: &str, kind: &str| json!({"name": name, "type": format!("HEALTH_MONITOR_{kind}")});
    let network =
        |name: &str, profile: Value| ("networkprofile", json!({"name": name, "profile": profile}));
    let application = |name: &str, kind: &str| {
        let kind = format!("APPLICATION_PROFILE_TYPE_{kind}");
        ("applicationprofile", json!({"name": name, "type": kind}))
    };
    vec![
        ("healthmonitor", monitor("System-TCP", "TCP")),
        ("healthmonitor", monitor("System-Ping", "PING")),
        (
            "healthmonitor",
            json!({"name": "System-HTTP", "type": "HEALTH_MONITOR_HTTP", "successful_checks": 3, "failed_checks": 3}),
        ),
        network(
            "System-TCP-Proxy",
            json!({"type": "PROTOCOL_TYPE_TCP_PROXY", "tcp_proxy_profile": {}}),
        ),
        network(
            "System-TCP-Fast-Path",
            json!({"type": "PROTOCOL_TYPE_TCP_FAST_PATH", "tcp_fast_path_profile": {}}),
        ),
        network(
            "System-UDP-Fast-Path",
            json!({"type": "PROTOCOL_TYPE_UDP_FAST_PATH", "udp_fast_path_profile": {}}),
        ),
        application("System-L4-Application", "L4"),
        application("System-HTTP", "HTTP"),
        application("System-Secure-HTTP", "HTTP"),
        application("System-SSL-Application", "SSL"),
        application("System-DNS", "DNS"),
    ]
}
