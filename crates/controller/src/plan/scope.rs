//! Whose routes and flows a caller may ask about. Who may see the controller in all tenants may see everybody's; any
//! other sees the VIPs of his own, and of flows only those to a VIP that he names.

use super::flows::Question;
use super::runtime::Observer;
use crate::access::{self, Level, is_seen_in};
use crate::api::Context;
use crate::error::ApiError;
use crate::objects::{Snapshot, Stored};
use model::view::{Ref, Vip, VsVip};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// True when the caller may see everybody's.
pub(super) fn is_everywhere(context: &Context) -> bool {
    let access = &context.access;
    access.may_everywhere(Level::Read, &access::resource(""))
}

/// True when a VsVip is among those that the caller may ask about.
pub(super) fn sees_vip(context: &Context, uuid: &str, stored: &Stored) -> bool {
    is_everywhere(context) || context.sees("vsvip", uuid, stored)
}

/// Whether somebody is told of an object that something else is shown with: by its path and uuid.
pub(super) type Tells<'a> = dyn Fn(&str, &str) -> bool + 'a;

/// What the caller is told of: everything if he may see everybody's, else what he sees.
pub(super) fn tells<'a>(
    context: &'a Context,
    snapshot: &'a Snapshot,
) -> impl Fn(&str, &str) -> bool + 'a {
    let everything = is_everywhere(context);
    move |path, uuid| {
        let stored = snapshot.get(path, uuid);
        everything || stored.is_some_and(|s| context.sees(path, uuid, s))
    }
}

impl Observer<'_> {
    /// What somebody is told of who is in the tenant of this object.
    pub(super) fn told_beside(&self, path: &str, uuid: &str) -> impl Fn(&str, &str) -> bool {
        let stored = self.snapshot.get(path, uuid);
        let tenant = stored.map(|s| s.tenant().to_owned()).unwrap_or_default();
        move |path, uuid| {
            let stored = self.snapshot.get(path, uuid);
            stored.is_some_and(|s| is_seen_in(&tenant, path, s))
        }
    }
}

/// One VIP, and the engines that know of its flows.
pub(super) struct Narrow {
    /// uuid of the virtual service, if one is named.
    vs: Option<String>,
    vip: IpAddr,
    /// uuids.
    engines: Vec<String>,
}

impl Narrow {
    /// What a question is narrowed to; nothing where the caller may see everything.
    ///
    /// # Errors
    /// 400 with the parameter: he names none, or none that he sees.
    pub(super) fn of(observer: &Observer<'_>, context: &Context) -> Result<Option<Self>, ApiError> {
        if is_everywhere(context) {
            return Ok(None);
        }
        let given = |name: &str| context.get(name).filter(|v| !v.is_empty());
        let service = given("vs").map(|vs| service(observer, context, vs));
        let service = service.transpose()?;
        let of_service = service.as_ref().map(|(_, vsvip)| vsvip.as_str());
        let (vsvip, vip) = match given("vip") {
            Some(text) => of_address(observer, context, of_service, text)?,
            None => only_address(observer, of_service)?,
        };
        let group = observer.planner.assignment(&vsvip).group;
        Ok(Some(Self {
            vs: service.map(|(uuid, _)| uuid),
            vip,
            engines: group.members.into_iter().map(|m| m.engine).collect(),
        }))
    }

    /// The parameter in the place of what was written.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        match name {
            "vs" => self.vs.clone(),
            _ => None,
        }
    }

    /// Only this VIP is asked about, and only its engines.
    pub(super) fn narrow(&self, mut question: Question) -> Question {
        let filter = question.query.filter.get_or_insert_default();
        filter.vip = self.vip.to_string();
        question.engines.retain(|e| self.engines.contains(e));
        question
    }
}

/// uuids of a virtual service that the caller sees and of its VsVip.
fn service(
    observer: &Observer<'_>,
    context: &Context,
    name: &str,
) -> Result<(String, String), ApiError> {
    let mut all = observer.snapshot.all("virtualservice");
    let found = all.find(|(uuid, s)| {
        (*uuid == name || s.name() == name) && context.sees("virtualservice", uuid, s)
    });
    let (uuid, stored) = found.ok_or_else(|| {
        ApiError::bad_request(format!(
            "vs: there is no virtual service {name:?}; see /api/virtualservice"
        ))
    })?;
    let reference = stored.object.get("vsvip_ref").and_then(Value::as_str);
    let reference = reference
        .ok_or_else(|| ApiError::bad_request(format!("vs: virtual service {name:?} has no VIP")))?;
    let vsvip = Ref(reference.to_owned()).uuid().to_owned();
    Ok((uuid.to_owned(), vsvip))
}

/// The VsVip that has this address, which may have a port with it: that of the service, or any that he sees.
fn of_address(
    observer: &Observer<'_>,
    context: &Context,
    of_service: Option<&str>,
    text: &str,
) -> Result<(String, IpAddr), ApiError> {
    let with_port = text.parse::<SocketAddr>().map(|end| end.ip());
    let vip = text.parse::<IpAddr>().or(with_port);
    let vip = vip.map_err(|_| ApiError::bad_request(format!("vip: {text:?} is no IP address")))?;
    let all = observer.snapshot.all("vsvip");
    let mut own = all.filter(|(uuid, s)| match of_service {
        Some(vsvip) => *uuid == vsvip,
        None => context.sees("vsvip", uuid, s),
    });
    let found = own.find(|(uuid, _)| addresses(observer, uuid).contains(&vip));
    let found = found.ok_or_else(|| {
        ApiError::bad_request(format!(
            "vip: {vip} is no VIP that you see; /api/vsvip lists those"
        ))
    })?;
    Ok((found.0.to_owned(), vip))
}

fn only_address(
    observer: &Observer<'_>,
    of_service: Option<&str>,
) -> Result<(String, IpAddr), ApiError> {
    let vsvip = of_service.ok_or_else(|| {
        ApiError::bad_request(
            "vip: is missing; name a VIP, or its virtual service (vs): you see flows of your own",
        )
    })?;
    match addresses(observer, vsvip).as_slice() {
        [only] => Ok((vsvip.to_owned(), *only)),
        several => {
            let several: Vec<_> = several.iter().map(ToString::to_string).collect();
            let text = format!("vip: is missing; name one of {}", several.join(", "));
            Err(ApiError::bad_request(text))
        }
    }
}

fn addresses(observer: &Observer<'_>, vsvip: &str) -> Vec<IpAddr> {
    let view = observer.snapshot.view::<VsVip>("vsvip", vsvip);
    let vips = view.iter().flat_map(|v| &v.vip);
    vips.flat_map(Vip::addresses).collect()
}
