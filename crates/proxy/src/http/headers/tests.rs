use super::*;
use crate::http::body::RequestBody;
use hyper::Request;

fn head(lines: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri("/path?query");
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

fn asker() -> Asker {
    Asker {
        client: "192.0.2.7".parse().expect("address"),
        vip: "198.51.100.1:8080".parse().expect("address"),
        is_tls: true,
    }
}

/// What a server gets of a request.
fn sent(lines: &[(&str, &str)], spec: &HttpSpec) -> HeaderMap {
    let mut head = head(lines);
    to_server(&mut head, &RequestBody::none(), &asker(), spec, None);
    head.headers
}

fn all<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter();
    lines.map(|v| v.to_str().expect("text")).collect()
}

fn forwarding(name: &str, update: ForwardedForUpdate) -> HttpSpec {
    let name = name.to_owned();
    HttpSpec {
        forwarded_for: Some(ForwardedFor { name, update }),
        ..HttpSpec::default()
    }
}

#[test]
fn what_is_of_one_connection_is_not_passed_on_but_host_and_length_are() {
    let lines = [
        ("Host", "a.example"),
        ("Connection", "close, X-Mine, Host"),
        ("Connection", "content-length"),
        ("X-Mine", "1"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("Proxy-Authorization", "secret"),
        ("Expect", "100-continue"),
        ("Content-Length", "0"),
        ("X-Other", "2"),
    ];
    let headers = sent(&lines, &HttpSpec::default());
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let left = ["content-length", "host", "x-forwarded-for", "x-other"];
    assert_eq!(names, left);
}

#[test]
fn a_client_cannot_name_away_who_it_is() {
    let lines = [("Host", "a"), ("Connection", "x-forwarded-for")];
    let headers = sent(&lines, &HttpSpec::default());
    assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.7"]);
}

#[test]
fn what_clients_say_of_themselves_is_replaced_or_continued_or_followed() {
    let lines = [
        ("Host", "a"),
        ("X-Client", "1.1.1.1"),
        ("X-Client", "2.2.2.2"),
    ];
    let said = |update| {
        let headers = sent(&lines, &forwarding("X-Client", update));
        all(&headers, "x-client").join(" | ")
    };
    assert_eq!(said(ForwardedForUpdate::Replace), "192.0.2.7");
    let appended = said(ForwardedForUpdate::Append);
    assert_eq!(appended, "1.1.1.1, 2.2.2.2, 192.0.2.7");
    let added = said(ForwardedForUpdate::Add);
    assert_eq!(added, "1.1.1.1 | 2.2.2.2 | 192.0.2.7");
}

#[test]
fn servers_are_told_of_clients_only_where_that_is_wanted() {
    let mut spec = HttpSpec {
        forwarded_for: None,
        ..HttpSpec::default()
    };
    let lines = [
        ("Host", "a"),
        ("X-Forwarded-For", "1.1.1.1"),
        ("X-Forwarded-Proto", "gopher"),
    ];
    let headers = sent(&lines, &spec);
    assert_eq!(all(&headers, "x-forwarded-for"), ["1.1.1.1"]);
    assert_eq!(all(&headers, "x-forwarded-proto"), ["gopher"]);
    spec.forwarded_proto = true;
    assert_eq!(all(&sent(&lines, &spec), "x-forwarded-proto"), ["https"]);
}

#[test]
fn a_request_has_one_host_that_is_one() {
    let checked = |lines: &[(&str, &str)]| check(&mut head(lines));
    assert_eq!(checked(&[("Host", "a.example:80")]), Ok(()));
    assert_eq!(checked(&[("Host", "[2001:db8::1]")]), Ok(()));
    assert_eq!(checked(&[("Host", "")]), Ok(()));
    assert_eq!(checked(&[]), Err(Fault::Malformed));
    assert_eq!(
        checked(&[("Host", "a"), ("Host", "b")]),
        Err(Fault::Malformed)
    );
    assert_eq!(checked(&[("Host", "a, b")]), Err(Fault::Malformed));
    assert_eq!(checked(&[("Host", "a@b")]), Err(Fault::Malformed));
}

#[test]
fn one_without_a_host_of_http_1_0_gets_the_vip() {
    let mut head = head(&[]);
    head.version = Version::HTTP_10;
    assert_eq!(check(&mut head), Ok(()));
    let spec = HttpSpec::default();
    to_server(&mut head, &RequestBody::none(), &asker(), &spec, None);
    assert_eq!(head.headers[HOST], "198.51.100.1:8080");
    assert_eq!(head.version, Version::HTTP_11);
}

#[test]
fn the_absolute_form_becomes_the_host_and_the_path() {
    let mut head = head(&[("Host", "other.example")]);
    head.uri = "http://a.example:81/x?y".parse().expect("uri");
    assert_eq!(check(&mut head), Ok(()));
    assert_eq!(head.headers[HOST], "a.example:81");
    assert_eq!(head.uri, "/x?y");
}

#[test]
fn a_tunnel_is_refused() {
    let mut head = head(&[("Host", "a")]);
    head.method = Method::CONNECT;
    assert_eq!(check(&mut head), Err(Fault::Tunnel));
}

#[test]
fn an_upgrade_is_passed_on_but_not_to_http_2() {
    let asked = |upgrade: &str| upgrade_of(&[("Connection", "Upgrade"), ("Upgrade", upgrade)]);
    assert_eq!(asked("websocket").as_deref(), Some("websocket"));
    assert_eq!(asked("h2c"), None);
    assert_eq!(asked("websocket, h2c"), None);
    assert_eq!(asked("HTTP/2.0"), None);
    assert_eq!(upgrade_of(&[("Upgrade", "websocket")]), None);
}

fn upgrade_of(lines: &[(&str, &str)]) -> Option<String> {
    let protocol = upgrade(&head(lines))?;
    Some(protocol.to_str().expect("text").to_owned())
}

#[test]
fn clients_are_sent_to_the_host_and_path_that_they_asked_for() {
    let vip = asker().vip;
    let to = |host: &str, port| {
        let to = secure(&head(&[("Host", host)]), vip, port).expect("known");
        to.to_str().expect("text").to_owned()
    };
    assert_eq!(to("a.example:80", 443), "https://a.example/path?query");
    assert_eq!(to("a.example", 8443), "https://a.example:8443/path?query");
    assert_eq!(
        to("[2001:db8::1]:80", 443),
        "https://[2001:db8::1]/path?query"
    );
    assert_eq!(to("", 443), "https://198.51.100.1/path?query");
}

#[test]
fn schemes_that_authenticate_a_connection_are_known_in_lists_too() {
    let found = |value: &str| {
        let headers = head(&[("www-authenticate", value)]).headers;
        authenticates_connection(&headers, &hyper::header::WWW_AUTHENTICATE)
    };
    for value in ["NTLM", "Basic realm=x, negotiate", "NTLM TlRMTVNTUAAC"] {
        assert!(found(value), "{value}");
    }
    assert!(!found("Basic realm=ntlm") && !found("Bearer"));
}

#[test]
fn headers_that_servers_take_for_ours_do_not_pass() {
    let spec = HttpSpec {
        forwarded_proto: true,
        ..forwarding("X-Forwarded-For", ForwardedForUpdate::Replace)
    };
    let lines = [
        ("x_forwarded_for", "203.0.113.9"),
        ("x-forwarded_proto", "ftp"),
        ("trailer", "x-forwarded-for"),
        ("x_other", "1"),
    ];
    let headers = sent(&lines, &spec);
    assert_eq!(all(&headers, "x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(all(&headers, "x-forwarded-proto"), ["https"]);
    for gone in ["x_forwarded_for", "x-forwarded_proto", "trailer"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    assert!(headers.contains_key("x_other"));
}

#[test]
fn targets_and_codings_of_another_kind_are_refused() {
    let checked = |target: &str, coding: &str| {
        let request = Request::builder().uri(target).header("host", "a.example");
        let request = request.header("transfer-encoding", coding);
        check(&mut request.body(()).expect("a request").into_parts().0)
    };
    for target in ["/path", "*", "http://b.example/path", "https://b.example"] {
        assert_eq!(checked(target, "chunked"), Ok(()), "{target}");
    }
    for target in ["b.example", "http://user@b.example/", "ftp://b.example/"] {
        assert_eq!(
            checked(target, "chunked"),
            Err(Fault::Malformed),
            "{target}"
        );
    }
    assert_eq!(checked("/", "gzip, chunked"), Err(Fault::Coding));
}

#[test]
fn a_server_chooses_among_the_protocols_that_a_client_asked_for() {
    let asked = HeaderValue::from_static("foo, WebSocket");
    let answer = |value: &str| head(&[("upgrade", value)]).headers;
    let chosen = agreed(&answer("websocket"), &asked);
    assert_eq!(
        chosen.as_ref().map(HeaderValue::as_bytes),
        Some(&b"websocket"[..])
    );
    assert_eq!(agreed(&answer("h2c"), &asked), None);
    assert_eq!(agreed(&head(&[]).headers, &asked), None);
}
