//! What of a header a proxy must change. Pure.

use super::fault::Fault;
use crate::{ForwardedFor, ForwardedForUpdate, HttpSpec};
use hyper::body::Body;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, Uri};
use hyper::{Method, Version};
use std::net::{IpAddr, SocketAddr};

/// Of one connection alone (RFC 9110 section 7.6.1), besides those that Connection names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("te"),
    TRANSFER_ENCODING,
    UPGRADE,
];
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whether it is a request, and for us. One in absolute form becomes what servers know (RFC 9112 section 3.2.2).
pub(super) fn check(head: &mut Parts) -> Result<(), Fault> {
    if head.method == Method::CONNECT {
        return Err(Fault::Tunnel);
    }
    check_host(head)?;
    check_target(&head.uri)?;
    check_coding(&head.headers)?;
    if head.uri.scheme().is_some() {
        let authority = head.uri.authority().map_or("", |a| a.as_str()).to_owned();
        let host = HeaderValue::try_from(authority).map_err(|_| Fault::Malformed)?;
        head.headers.insert(HOST, host);
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = path.parse().map_err(|_| Fault::Malformed)?;
    }
    Ok(())
}

/// RFC 9112 section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that
/// lacks a Host header field and to any request message that contains more than one Host header field line or a Host
/// header field with an invalid field value."
fn check_host(head: &Parts) -> Result<(), Fault> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    let is_missing = host.is_none() && head.version == Version::HTTP_11;
    let is_valid = |host: &HeaderValue| {
        host.is_empty()
            || Authority::try_from(host.as_bytes()).is_ok_and(|a| !a.as_str().contains('@'))
    };
    match is_missing || more.is_some() || host.is_some_and(|host| !is_valid(host)) {
        true => Err(Fault::Malformed),
        false => Ok(()),
    }
}

/// RFC 9112 section 3.2: a path, `*`, or a whole URI of HTTP; what CONNECT alone has is nobody else's.
fn check_target(target: &Uri) -> Result<(), Fault> {
    let authority = target.authority().map(Authority::as_str);
    let is_http = |scheme: &str| scheme == "http" || scheme == "https";
    match (target.scheme_str(), authority) {
        (None, None) => Ok(()),
        (Some(scheme), Some(authority)) if is_http(scheme) && !authority.contains('@') => Ok(()),
        _ => Err(Fault::Malformed),
    }
}

/// RFC 9112 section 6.1: what is coded in another way, a server that gets it without a word cannot read.
fn check_coding(headers: &HeaderMap) -> Result<(), Fault> {
    let mut codings = tokens(headers, &TRANSFER_ENCODING);
    match codings.all(|coding| coding.eq_ignore_ascii_case("chunked")) {
        true => Ok(()),
        false => Err(Fault::Coding),
    }
}

/// What a client wants to speak instead of HTTP/1.1. HTTP/2 is not passed on: requests in it would not be seen here.
pub(super) fn upgrade(head: &Parts) -> Option<HeaderValue> {
    let asked = tokens(&head.headers, &CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
    let mut wanted = head.headers.get_all(UPGRADE).iter();
    let (first, more) = (wanted.next()?, wanted.next());
    let is_http =
        |t: &str| t.eq_ignore_ascii_case("h2c") || t.to_ascii_lowercase().starts_with("http/");
    let is_other = !tokens(&head.headers, &UPGRADE).any(is_http);
    let fits = asked && more.is_none() && is_other && head.version == Version::HTTP_11;
    fits.then(|| first.clone())
}

/// What the server has chosen of it (RFC 9110 section 7.8).
pub(super) fn agreed(answer: &HeaderMap, asked: &HeaderValue) -> Option<HeaderValue> {
    let chosen = answer.get(UPGRADE)?;
    let asked = asked.to_str().ok()?;
    let is_asked = |token: &str| {
        asked
            .split(',')
            .any(|a| a.trim().eq_ignore_ascii_case(token))
    };
    let mut tokens = chosen.to_str().ok()?.split(',').map(str::trim);
    tokens.all(is_asked).then(|| chosen.clone())
}

/// Who asks.
pub(super) struct Asker {
    pub client: IpAddr,
    pub vip: SocketAddr,
    pub is_tls: bool,
}

/// Makes of a client's request ours to a server.
pub(super) fn to_server(
    head: &mut Parts,
    body: &impl Body,
    asker: &Asker,
    spec: &HttpSpec,
    upgrade: Option<&HeaderValue>,
) {
    strip(&mut head.headers);
    // We have told the client to go on, or it did not wait.
    head.headers.remove(EXPECT);
    // What comes behind a body would pass by all that is looked at here.
    head.headers.remove(TRAILER);
    if let Some(forwarded) = &spec.forwarded_for {
        forwarded_for(&mut head.headers, forwarded, asker.client);
    }
    if spec.forwarded_proto {
        let proto = if asker.is_tls { "https" } else { "http" };
        let proto = HeaderValue::from_static(proto);
        remove_alike(&mut head.headers, &FORWARDED_PROTO);
        head.headers.insert(FORWARDED_PROTO, proto);
    }
    if !head.headers.contains_key(HOST)
        && let Ok(vip) = HeaderValue::try_from(asker.vip.to_string())
    {
        head.headers.insert(HOST, vip);
    }
    // Or the codec would take it that a GET has no body.
    if !body.is_end_stream() && !head.headers.contains_key(CONTENT_LENGTH) {
        let chunked = HeaderValue::from_static("chunked");
        head.headers.insert(TRANSFER_ENCODING, chunked);
    }
    switch(&mut head.headers, upgrade);
    head.version = Version::HTTP_11;
}

/// Makes of a server's answer ours to the client.
pub(super) fn to_client(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    strip(headers);
    switch(headers, upgrade);
}

fn switch(headers: &mut HeaderMap, upgrade: Option<&HeaderValue>) {
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
}

/// Takes away what is of one connection alone. What says whom a request is for, and where it ends, nobody can name away.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|token| HeaderName::try_from(token).ok())
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Whether a scheme is named there that authenticates a connection instead of a request.
pub(super) fn authenticates_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    let schemes = tokens(headers, name).filter_map(|item| item.split(' ').next());
    let mut schemes = schemes.map(str::to_ascii_lowercase);
    schemes.any(|scheme| scheme == "ntlm" || scheme == "negotiate")
}

/// The items of a list over all lines of a header.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter();
    let texts = lines.filter_map(|line| line.to_str().ok());
    texts.flat_map(|text| text.split(',').map(str::trim))
}

/// And those that servers take for it: CGI makes the same of `-` and `_` (RFC 3875 section 4.1.18).
fn remove_alike(headers: &mut HeaderMap, name: &HeaderName) {
    let folded = |name: &HeaderName| name.as_str().replace('_', "-");
    let wanted = folded(name);
    let alike = headers.keys().filter(|key| folded(key) == wanted);
    for key in alike.cloned().collect::<Vec<_>>() {
        headers.remove(key);
    }
}

fn forwarded_for(headers: &mut HeaderMap, wanted: &ForwardedFor, client: IpAddr) {
    let (Ok(name), Ok(own)) = (
        HeaderName::try_from(&wanted.name),
        HeaderValue::try_from(client.to_string()),
    ) else {
        return;
    };
    match wanted.update {
        ForwardedForUpdate::Replace => {
            remove_alike(headers, &name);
            headers.insert(name, own);
        }
        ForwardedForUpdate::Add => drop(headers.append(name, own)),
        ForwardedForUpdate::Append => {
            let said = headers.get_all(&name).iter().map(HeaderValue::as_bytes);
            let all: Vec<&[u8]> = said.chain([own.as_bytes()]).collect();
            let all = HeaderValue::from_bytes(&all.join(&b", "[..]));
            headers.insert(name, all.unwrap_or(own));
        }
    }
}

/// The name of the host that a request is for; `None` for an address.
pub(super) fn host_name(headers: &HeaderMap) -> Option<String> {
    let host = headers.get(HOST)?.to_str().ok()?;
    let authority: Authority = host.parse().ok()?;
    let name = authority.host();
    let is_address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
    (!is_address && !name.is_empty()).then(|| name.to_ascii_lowercase())
}

/// Where the request is to be asked for by TLS; `None` when nobody can tell.
pub(super) fn secure(head: &Parts, vip: SocketAddr, port: u16) -> Option<HeaderValue> {
    let host = head.headers.get(HOST).and_then(|h| h.to_str().ok());
    let authority: Option<Authority> = host.and_then(|host| host.parse().ok());
    let host = match &authority {
        Some(authority) => authority.host().to_owned(),
        None if vip.is_ipv4() => vip.ip().to_string(),
        None => format!("[{}]", vip.ip()),
    };
    let authority = match port {
        443 => host,
        port => format!("{host}:{port}"),
    };
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let to = Uri::builder().scheme("https").authority(authority);
    let to = to.path_and_query(path).build().ok()?;
    HeaderValue::try_from(to.to_string()).ok()
}

#[cfg(test)]
mod tests;
