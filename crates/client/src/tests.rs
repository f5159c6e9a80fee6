//! The client against a small plain HTTP server on loopback that answers from a script.

use super::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

/// One request as the server saw it.
struct Seen {
    line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }
}

/// Serves one canned answer per connection, in order, then stops listening.
fn serve(answers: Vec<String>) -> (String, Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            sender.send(read_request(&mut stream)).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (url, receiver)
}

fn read_request(stream: &mut TcpStream) -> Seen {
    let mut reader = BufReader::new(stream);
    let line = read_line(&mut reader);
    let mut headers = Vec::new();
    loop {
        let text = read_line(&mut reader);
        let Some((name, value)) = text.split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    let length = headers
        .iter()
        .find(|(n, _)| n == "content-length")
        .map_or(0, |(_, v)| v.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Seen {
        line,
        headers,
        body: String::from_utf8(body).unwrap(),
    }
}

fn read_line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line.trim_end().to_string()
}

fn answer(status: &str, extra: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\n{extra}Content-Length: {length}\r\n\r\n{body}"
    )
}

fn login(session: &str) -> String {
    let cookies = format!(
        "Set-Cookie: csrftoken=csrf-{session}; Path=/; Secure\r\nSet-Cookie: avi-sessionid={session}; HttpOnly; Path=/\r\n"
    );
    answer("200 OK", &cookies, "{}")
}

fn connect(url: &str) -> Result<Client> {
    Client::connect(ClientConfig::new(url, Password::new("secret")))
}

#[test]
fn login_gives_cookies_that_every_call_carries() {
    let (url, seen) = serve(vec![
        login("s1"),
        answer("200 OK", "", r#"{"count":0,"results":[]}"#),
    ]);
    let client = connect(&url).unwrap();
    assert!(client.get_by_name("pool", "a b&c").unwrap().is_none());
    let first = seen.recv().unwrap();
    assert_eq!(first.line, "POST /login HTTP/1.1");
    assert_eq!(first.body, r#"{"username":"admin","password":"secret"}"#);
    let second = seen.recv().unwrap();
    assert_eq!(second.line, "GET /api/pool?name=a%20b%26c HTTP/1.1");
    assert_eq!(
        second.header("cookie"),
        Some("avi-sessionid=s1; csrftoken=csrf-s1")
    );
    assert_eq!(second.header("x-csrftoken"), Some("csrf-s1"));
    assert_eq!(second.header("x-avi-version"), Some(API_VERSION));
    assert_eq!(second.header("referer"), Some(format!("{url}/").as_str()));
}

#[test]
fn forgotten_session_is_renewed_once_and_the_call_repeated() {
    let (url, seen) = serve(vec![
        login("s1"),
        answer("401 Unauthorized", "", r#"{"error":"session unknown"}"#),
        login("s2"),
        answer("200 OK", "", r#"{"name":"p"}"#),
    ]);
    let client = connect(&url).unwrap();
    assert_eq!(client.get("/api/pool/pool-1", &[]).unwrap()["name"], "p");
    let last = seen.iter().nth(3).unwrap();
    assert_eq!(last.header("x-csrftoken"), Some("csrf-s2"));
}

#[test]
fn second_refusal_is_reported_and_not_repeated_for_ever() {
    let refused = || answer("401 Unauthorized", "", r#"{"error":"session unknown"}"#);
    let (url, _seen) = serve(vec![login("s1"), refused(), login("s2"), refused()]);
    let error = connect(&url).unwrap().get("/api/pool", &[]).unwrap_err();
    assert_eq!(error.status(), Some(401));
}

#[test]
fn wrong_password_is_a_login_error_in_the_controllers_words() {
    let (url, _seen) = serve(vec![answer(
        "401 Unauthorized",
        "",
        r#"{"error":"Invalid credentials"}"#,
    )]);
    let error = connect(&url).unwrap_err();
    assert!(matches!(error, Error::Login { .. }));
    assert!(
        error
            .to_string()
            .ends_with(r#"refused the login of "admin": Invalid credentials"#)
    );
}

#[test]
fn error_text_of_the_controller_is_the_message() {
    let refusal = answer(
        "400 Bad Request",
        "",
        r#"{"error":"services[0].port: 70000 is above 65535"}"#,
    );
    let (url, _seen) = serve(vec![login("s1"), refusal]);
    let error = connect(&url)
        .unwrap()
        .post("/api/virtualservice", &json!({}))
        .unwrap_err();
    assert_eq!(
        (error.status(), error.to_string().as_str()),
        (Some(400), "services[0].port: 70000 is above 65535")
    );
}

#[test]
fn list_follows_pages_until_there_is_no_next() {
    let (url, seen) = serve(vec![
        login("s1"),
        answer(
            "200 OK",
            "",
            r#"{"count":2,"results":[{"name":"a"}],"next":"x"}"#,
        ),
        answer("200 OK", "", r#"{"count":2,"results":[{"name":"b"}]}"#),
    ]);
    let names = connect(&url).unwrap().list("pool").unwrap();
    assert_eq!(names, [json!({"name": "a"}), json!({"name": "b"})]);
    assert_eq!(
        seen.iter().nth(2).unwrap().line,
        "GET /api/pool?page=2&page_size=200 HTTP/1.1"
    );
}

#[test]
fn nobody_listening_is_unreachable() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = connect(&format!("http://127.0.0.1:{port}")).unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
}

#[test]
fn connection_that_ends_without_an_answer_leaves_the_outcome_open() {
    let (url, _seen) = serve(vec![login("s1"), String::new()]);
    let error = connect(&url)
        .unwrap()
        .post("/api/pool", &json!({}))
        .unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
}

#[test]
fn password_does_not_print() {
    let config = ClientConfig::new("https://c", Password::new("secret"));
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn bare_address_means_https() {
    assert_eq!(normalise_url("10.0.0.1:9443/"), "https://10.0.0.1:9443");
}

#[test]
fn references_give_uuid_and_name() {
    let reference = "https://c/api/pool/pool-1#web";
    assert_eq!(
        (uuid_of(reference), name_of(reference)),
        ("pool-1", Some("web"))
    );
}

/// Where nobody listens.
fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn of_several_controllers_the_next_is_asked_when_one_cannot_be_reached() {
    let (url, seen) = serve(vec![login("s1"), answer("200 OK", "", "{}")]);
    let client = connect(&format!("{}, {url}/", closed())).unwrap();
    assert_eq!(client.url(), url);
    client.post("/api/pool", &json!({})).unwrap();
    assert_eq!(seen.recv().unwrap().line, "POST /login HTTP/1.1");
    assert_eq!(seen.recv().unwrap().line, "POST /api/pool HTTP/1.1");
}

#[test]
fn what_a_controller_has_certainly_not_done_is_asked_of_the_next_and_nothing_else() {
    let not_done = answer("503 Unavailable", "X-Evenkeel-Not-Done: 1\r\n", "{}");
    let (first, _asked) = serve(vec![login("s1"), not_done]);
    let maybe = answer("503 Unavailable", "", r#"{"error": "perhaps"}"#);
    let (second, seen) = serve(vec![answer("200 OK", "", "{}"), maybe]);
    let client = connect(&format!("{first},{second}")).unwrap();
    client.post("/api/pool", &json!({})).unwrap();
    let asked = seen.recv().unwrap();
    assert_eq!(asked.line, "POST /api/pool HTTP/1.1");
    assert!(asked.header("cookie").unwrap().contains("s1"));
    let error = client.post("/api/pool", &json!({})).unwrap_err();
    assert_eq!(
        (error.status(), error.to_string()),
        (Some(503), "perhaps".into())
    );
    assert_eq!(client.url(), second);
}

#[test]
fn what_was_lost_on_its_way_is_asked_again_when_it_only_reads() {
    let (first, _asked) = serve(vec![login("s1"), String::new()]);
    let (second, seen) = serve(vec![answer("200 OK", "", "{}"), String::new()]);
    let client = connect(&format!("{first},{second}")).unwrap();
    client.get("/api/pool", &[]).unwrap();
    assert_eq!(seen.recv().unwrap().line, "GET /api/pool HTTP/1.1");
    let lost = client.post("/api/pool", &json!({})).unwrap_err();
    assert!(matches!(lost, Error::Lost { .. }), "{lost}");
    assert_eq!(client.url(), second);
}
