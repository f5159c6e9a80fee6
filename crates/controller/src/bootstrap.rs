//! The objects that exist at start (avi-api section 13); made once, found again at every start.

pub mod access;

use crate::api::singleton;
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
            add_settings(draft, &author)?;
            for (ty, body) in access::roles() {
                add(draft, &author, ty, None, body)?;
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

/// The system's settings, with nothing set (avi-api section 8).
fn add_settings(draft: &mut Draft, author: &Author) -> Result<(), ApiError> {
    let (path, uuid) = (singleton::PATH, singleton::UUID);
    if draft.snapshot.get(path, uuid).is_some() {
        return Ok(());
    }
    let body = json!({"portal_configuration": {"allow_basic_authentication": false}});
    make(draft, author, path, Some(uuid), body)
}

/// The profiles and monitors of the resources that exist now (avi-api section 13).
fn profiles() -> Vec<(&'static str, Value)> {
    let mut all = monitors();
    all.extend(network_profiles());
    all.extend(application_profiles());
    all
}

fn monitors() -> Vec<(&'static str, Value)> {
    let plain = |name: &str, kind: &str| {
        let kind = format!("HEALTH_MONITOR_{kind}");
        ("healthmonitor", json!({"name": name, "type": kind}))
    };
    let http = |name: &str, kind: &str, part: &str| {
        let (ty, mut body) = plain(name, kind);
        body[part] = json!({"http_request": "HEAD / HTTP/1.0", "http_response_code": ["HTTP_2XX", "HTTP_3XX"]});
        (body["successful_checks"], body["failed_checks"]) = (json!(3), json!(3));
        (ty, body)
    };
    vec![
        plain("System-TCP", "TCP"),
        plain("System-Ping", "PING"),
        plain("System-UDP", "UDP"),
        http("System-HTTP", "HTTP", "http_monitor"),
        http("System-HTTPS", "HTTPS", "https_monitor"),
    ]
}

fn network_profiles() -> Vec<(&'static str, Value)> {
    let profile = |name: &str, kind: &str, part: &str, settings: Value| {
        let kind = format!("PROTOCOL_TYPE_{kind}");
        let body = json!({"name": name, "profile": {"type": kind, part: settings}});
        ("networkprofile", body)
    };
    let udp = |name: &str, settings: Value| {
        profile(name, "UDP_FAST_PATH", "udp_fast_path_profile", settings)
    };
    vec![
        profile(
            "System-TCP-Proxy",
            "TCP_PROXY",
            "tcp_proxy_profile",
            json!({}),
        ),
        profile(
            "System-TCP-Fast-Path",
            "TCP_FAST_PATH",
            "tcp_fast_path_profile",
            json!({}),
        ),
        udp("System-UDP-Fast-Path", json!({})),
        udp("System-UDP-Fast-Path-VDI", json!({})),
        udp("System-UDP-Per-Pkt", json!({"per_pkt_loadbalance": true})),
        udp("System-UDP-No-SNAT", json!({"snat": false})),
    ]
}

fn application_profiles() -> Vec<(&'static str, Value)> {
    let profile = |(name, kind): (&str, &str)| {
        let kind = format!("APPLICATION_PROFILE_TYPE_{kind}");
        ("applicationprofile", json!({"name": name, "type": kind}))
    };
    let all = [
        ("System-L4-Application", "L4"),
        ("System-HTTP", "HTTP"),
        ("System-Secure-HTTP", "HTTP"),
        ("System-Secure-HTTP-VDI", "HTTP"),
        ("System-SSL-Application", "SSL"),
        ("System-DNS", "DNS"),
        ("System-Syslog", "SYSLOG"),
    ];
    all.map(profile).into()
}
