//! What a server has answered: enough to judge it by, and what it says. Pure functions over the bytes seen so far.

use crate::Failure;

/// How much of a response is looked at, head and body (avi-api section 12, healthmonitor).
pub const RESPONSE_LEN_MAX: usize = 2048;

/// What a response must contain, and what it says when the server is in maintenance. Empty = nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    /// `http_response`, `tcp_response`, `udp_response`.
    pub response: String,
    /// `maintenance_response`.
    pub maintenance: String,
}

/// A class of response codes (avi-api `http_response_code`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeClass {
    /// HTTP_ANY.
    Any,
    /// HTTP_1XX to HTTP_5XX, by the first digit.
    Hundred(u16),
}

impl CodeClass {
    fn has(self, code: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Hundred(digit) => code / 100 == digit,
        }
    }
}

/// What an HTTP response must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Codes of a healthy server; none = 2XX.
    pub codes: Vec<CodeClass>,
    /// Codes of a server in maintenance; they count before `codes`.
    pub maintenance_codes: Vec<u16>,
    /// In head or body.
    pub text: Text,
    /// The request was HEAD: no body follows, whatever the head says.
    pub head_only: bool,
}

/// What comes after the bytes that have been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// Perhaps more.
    Open,
    /// Nothing: the server has ended it.
    Ended,
    /// Nothing that counts: the time is over.
    Late,
}

impl Rest {
    fn is_open(self) -> bool {
        self == Self::Open
    }
}

impl Expected {
    fn has(&self, code: u16) -> bool {
        match self.codes.as_slice() {
            [] => CodeClass::Hundred(2).has(code),
            codes => codes.iter().any(|class| class.has(code)),
        }
    }
}

/// What these bytes of a response mean; `None` while more must be read. A server that says that it is in maintenance is in
/// maintenance, whatever else it says.
pub fn judge_text(seen: &[u8], rest: Rest, text: &Text) -> Option<Result<(), Failure>> {
    let whole = !rest.is_open() || seen.len() >= RESPONSE_LEN_MAX;
    let seen = &seen[..seen.len().min(RESPONSE_LEN_MAX)];
    if !text.maintenance.is_empty() && contains(seen, &text.maintenance) {
        return Some(Err(Failure::MaintenancePayloadContentMatch));
    }
    let missing = match rest {
        Rest::Late => Failure::PayloadTimeout,
        Rest::Open | Rest::Ended => Failure::PayloadContentMismatch,
    };
    // With a response to wait for, that is what a healthy server ends with; without one only its end says that nothing of
    // maintenance comes any more.
    match (text.response.is_empty(), text.maintenance.is_empty()) {
        (false, _) if contains(seen, &text.response) => Some(Ok(())),
        (false, _) => whole.then_some(Err(missing)),
        (true, true) => Some(Ok(())),
        (true, false) => whole.then_some(Ok(())),
    }
}

/// The same for HTTP. The order is that of what a server says of itself: maintenance, then its code, then its text. A code is
/// judged for itself: a server with a wrong one that keeps the connection open is not late.
pub fn judge_http(seen: &[u8], rest: Rest, expected: &Expected) -> Option<Result<(), Failure>> {
    let seen = &seen[..seen.len().min(RESPONSE_LEN_MAX)];
    let whole = seen.len() == RESPONSE_LEN_MAX || is_complete(seen, expected.head_only);
    let rest = match rest {
        _ if whole => Rest::Ended,
        rest => rest,
    };
    let Some(line) = status_line(seen) else {
        return match rest {
            Rest::Open => None,
            Rest::Ended => Some(Err(Failure::ResponseCodeMismatch)),
            Rest::Late => Some(Err(Failure::PayloadTimeout)),
        };
    };
    let Some(code) = status_code(line) else {
        return Some(Err(Failure::ResponseCodeMismatch));
    };
    if expected.maintenance_codes.contains(&code) {
        return Some(Err(Failure::MaintenanceResponseCodeMatch));
    }
    if expected.has(code) {
        return judge_text(seen, rest, &expected.text);
    }
    // A page that speaks of maintenance often has a code that says the same less clearly.
    let maintenance = Text {
        response: String::new(),
        maintenance: expected.text.maintenance.clone(),
    };
    let judged = judge_text(seen, rest, &maintenance)?;
    Some(judged.and(Err(Failure::ResponseCodeMismatch)))
}

/// The first line, when all of it is here.
fn status_line(seen: &[u8]) -> Option<&[u8]> {
    let end = seen.iter().position(|byte| *byte == b'\n')?;
    let line = &seen[..end];
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// RFC 9112 section 4: `HTTP-version SP status-code SP [ reason-phrase ]`; the last space may be missing (section 4 lets
/// recipients be lenient there).
fn status_code(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/")?;
    let space = rest.iter().position(|byte| *byte == b' ')?;
    let code = &rest[space + 1..];
    let (digits, after) = code.split_at_checked(3)?;
    let separated = after.is_empty() || after.starts_with(b" ");
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (separated && digits.iter().all(u8::is_ascii_digit) && number >= 100).then_some(number)
}

/// Whether the response says by itself that it ends here (RFC 9112 section 6.3): a server may keep the connection open.
fn is_complete(seen: &[u8], head_only: bool) -> bool {
    let Some((head, body)) = split_head(seen) else {
        return false;
    };
    if head_only || has_no_body(seen) {
        return true;
    }
    if header(head, "transfer-encoding").is_some_and(|v| v.contains("chunked")) {
        return has_last_chunk(body);
    }
    let length = header(head, "content-length").and_then(|v| v.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}

/// RFC 9112 section 6.3: "any response with a 1xx (Informational), 204 (No Content), or 304 (Not Modified) status code is
/// always terminated by the first empty line after the header fields".
fn has_no_body(seen: &[u8]) -> bool {
    let code = status_line(seen).and_then(status_code);
    matches!(code, Some(100..=199 | 204 | 304))
}

/// RFC 9112 section 7.1: chunks with their lengths, one of length 0, trailer fields, an empty line.
fn has_last_chunk(mut body: &[u8]) -> bool {
    while let Some((length, rest)) = chunk_length(body) {
        if length == 0 {
            return rest.starts_with(b"\r\n") || rest.windows(4).any(|w| w == b"\r\n\r\n");
        }
        let Some(next) = length.checked_add(2).and_then(|skip| rest.get(skip..)) else {
            return false;
        };
        body = next;
    }
    false
}

/// The length of the first chunk, and what is behind its line; extensions do not matter.
fn chunk_length(body: &[u8]) -> Option<(usize, &[u8])> {
    let end = body.windows(2).position(|w| w == b"\r\n")?;
    let line = std::str::from_utf8(&body[..end]).ok()?;
    let digits = line.split(';').next()?.trim();
    Some((usize::from_str_radix(digits, 16).ok()?, &body[end + 2..]))
}

/// Head and body, when all of the head is here.
fn split_head(seen: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = |mark: &[u8]| {
        let at = seen.windows(mark.len()).position(|w| w == mark)?;
        Some((at, at + mark.len()))
    };
    let ends = [end(b"\r\n\r\n"), end(b"\n\n")];
    let (at, body) = ends.into_iter().flatten().min()?;
    Some((&seen[..at], &seen[body..]))
}

/// The value of a field, in lower case.
fn header(head: &[u8], name: &str) -> Option<String> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields
        .find(|(field, _)| *field == name)
        .map(|(_, value)| value.trim().to_owned())
}

fn contains(seen: &[u8], wanted: &str) -> bool {
    let wanted = wanted.as_bytes();
    seen.windows(wanted.len()).any(|w| w == wanted)
}

/// An HTTP request as it is sent. `text` is the request line with header fields, as an operator has written them, with any
/// line ends. An empty line ends it and is added when missing, and what is behind it is a body. Unless the text is `exact`,
/// every line of the head ends in CR LF, and a `Host` of its own is added for `host` when it has none.
pub fn http_request(text: &str, host: &str, exact: bool) -> String {
    let (head, body) = split_text(text);
    if exact {
        return match body {
            Some(_) => text.to_owned(),
            None => format!("{}\r\n\r\n", head.trim_end()),
        };
    }
    let mut lines: Vec<&str> = head.lines().filter(|line| !line.is_empty()).collect();
    let names = lines.iter().skip(1).filter_map(|line| line.split_once(':'));
    let has_host = names.clone().any(|(n, _)| n.eq_ignore_ascii_case("host"));
    let host = format!("Host: {host}");
    if !has_host {
        lines.push(&host);
    }
    format!("{}\r\n\r\n{}", lines.join("\r\n"), body.unwrap_or_default())
}

/// Whether an HTTP request as it is sent asks for the head alone (RFC 9110 section 9.3.2).
pub fn asks_for_head(request: &str) -> bool {
    request.starts_with("HEAD ")
}

/// Head and, behind an empty line, body.
fn split_text(text: &str) -> (&str, Option<&str>) {
    let marks = ["\r\n\r\n", "\n\n", "\n\r\n"];
    let ends = marks
        .iter()
        .filter_map(|mark| Some((text.find(mark)?, mark.len())));
    match ends.min_by_key(|(at, _)| *at) {
        Some((at, length)) => (&text[..at], Some(&text[at + length..])),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expected(codes: &[CodeClass], response: &str) -> Expected {
        Expected {
            codes: codes.to_vec(),
            maintenance_codes: vec![503],
            text: Text {
                response: response.into(),
                maintenance: "back soon".into(),
            },
            head_only: false,
        }
    }

    fn judged(response: &str, expected: &Expected) -> Option<Result<(), Failure>> {
        judge_http(response.as_bytes(), Rest::Ended, expected)
    }

    #[test]
    fn the_code_must_be_of_an_expected_class_and_2xx_is_expected_when_nothing_is_said() {
        use CodeClass::{Any, Hundred};
        let wrong = Some(Err(Failure::ResponseCodeMismatch));
        for (codes, line, result) in [
            (vec![], "HTTP/1.1 204 No Content\r\n", Some(Ok(()))),
            (vec![], "HTTP/1.0 302 Found\r\n", wrong),
            (vec![Hundred(2), Hundred(3)], "HTTP/1.0 302\n", Some(Ok(()))),
            (vec![Any], "HTTP/1.1 500 Oops\r\n", Some(Ok(()))),
            (vec![Any], "SSH-2.0-OpenSSH_9.9\r\n", wrong),
            (vec![Any], "HTTP/1.1 +20 x\r\n", wrong),
            (vec![Any], "HTTP/1.1 2000 x\r\n", wrong),
            (vec![Any], "HTTP/1.1 200", wrong),
            (vec![Any], "", wrong),
        ] {
            assert_eq!(judged(line, &expected(&codes, "")), result, "{line:?}");
        }
    }

    #[test]
    fn the_text_may_be_in_head_or_body_of_the_first_2_kb() {
        let wanted = expected(&[], "ready");
        let far = format!(
            "HTTP/1.0 200 OK\r\n\r\n{}ready",
            " ".repeat(RESPONSE_LEN_MAX)
        );
        let wrong = Some(Err(Failure::PayloadContentMismatch));
        for (response, result) in [
            ("HTTP/1.0 200 OK\r\nX: ready\r\n\r\n", Some(Ok(()))),
            ("HTTP/1.0 200 OK\r\n\r\nall is ready", Some(Ok(()))),
            ("HTTP/1.0 200 OK\r\n\r\nnot yet", wrong),
            (far.as_str(), wrong),
        ] {
            assert_eq!(judged(response, &wanted), result, "{response:?}");
        }
    }

    #[test]
    fn maintenance_counts_before_anything_else() {
        let any = expected(&[CodeClass::Any], "ready");
        let by_code = Some(Err(Failure::MaintenanceResponseCodeMatch));
        let by_text = Some(Err(Failure::MaintenancePayloadContentMatch));
        assert_eq!(judged("HTTP/1.0 503 x\r\n\r\nready", &any), by_code);
        assert_eq!(
            judged("HTTP/1.0 200 OK\r\n\r\nready, back soon", &any),
            by_text
        );
        let only_2xx = expected(&[], "");
        assert_eq!(
            judged("HTTP/1.0 500 x\r\n\r\nback soon", &only_2xx),
            by_text
        );
    }

    #[test]
    fn no_more_is_read_than_decides() {
        let partial = |response: &str, wanted| judge_http(response.as_bytes(), Rest::Open, wanted);
        let plain = Expected::default();
        assert_eq!(partial("HTTP/1.1 20", &plain), None);
        assert_eq!(partial("HTTP/1.1 200 OK\r\n", &plain), Some(Ok(())));
        let wanted = expected(&[], "");
        assert_eq!(partial("HTTP/1.1 200 OK\r\n\r\n", &wanted), None);
        for whole in [
            "HTTP/1.1 200 OK\r\ncontent-LENGTH: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ] {
            assert_eq!(partial(whole, &wanted), Some(Ok(())), "{whole:?}");
            assert_eq!(partial(&whole[..whole.len() - 1], &wanted), None);
        }
    }

    #[test]
    fn a_response_without_a_body_ends_with_its_head() {
        let wanted = expected(&[CodeClass::Any], "");
        let partial = |response: &str, head_only| {
            let wanted = Expected {
                head_only,
                ..wanted.clone()
            };
            judge_http(response.as_bytes(), Rest::Open, &wanted)
        };
        for line in ["204 No Content", "304 Not Modified", "101 x"] {
            let whole = format!("HTTP/1.1 {line}\r\nContent-Length: 9\r\n\r\n");
            assert_eq!(partial(&whole, false), Some(Ok(())), "{line}");
            assert_eq!(partial(&whole[..whole.len() - 1], false), None, "{line}");
        }
        let promised = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        assert_eq!(partial(promised, false), None);
        assert_eq!(partial(promised, true), Some(Ok(())));
        assert!(asks_for_head("HEAD / HTTP/1.1\r\n\r\n"));
        assert!(!asks_for_head("HEADER / HTTP/1.1\r\n\r\n"));
    }

    #[test]
    fn chunks_end_where_their_lengths_say() {
        for (body, ends) in [
            ("0\r\n\r\n", true),
            ("2\r\nok\r\n0\r\n\r\n", true),
            ("A;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n", true),
            ("2\r\nok\r\n0\r\n", false),
            ("9\r\n\r\n0\r\n\r\n", false),
            ("ffffffffffffffff\r\nx", false),
            ("-1\r\nx\r\n0\r\n\r\n", false),
            ("", false),
        ] {
            assert_eq!(has_last_chunk(body.as_bytes()), ends, "{body:?}");
        }
    }

    /// The server keeps the connection open, and the time is over.
    #[test]
    fn when_the_time_is_over_a_wrong_code_is_that_and_what_is_missing_is_late() {
        let late =
            |response: &str, wanted| judge_http(response.as_bytes(), Rest::Late, wanted).unwrap();
        let wanted = expected(&[], "ready");
        let (open, code) = ("HTTP/1.1 404 x\r\n\r\nno", Failure::ResponseCodeMismatch);
        assert_eq!(judge_http(open.as_bytes(), Rest::Open, &wanted), None);
        assert_eq!(late(open, &wanted), Err(code));
        let without_maintenance = Expected {
            text: Text {
                response: "ready".into(),
                ..Text::default()
            },
            ..Expected::default()
        };
        let early = judge_http(open.as_bytes(), Rest::Open, &without_maintenance);
        assert_eq!(early, Some(Err(code)), "nothing else can come of it");
        for response in ["", "HTTP/1.1 40", "HTTP/1.1 200 OK\r\n\r\nnot yet"] {
            let outcome = late(response, &wanted);
            assert_eq!(outcome, Err(Failure::PayloadTimeout), "{response:?}");
        }
        let silent = expected(&[], "");
        assert_eq!(late("HTTP/1.1 200 OK\r\n\r\n", &silent), Ok(()));
    }

    #[test]
    fn a_request_gets_its_host_and_its_empty_line() {
        let sent = |text| http_request(text, "10.0.0.1:80", false);
        let plain = "GET / HTTP/1.0\r\nHost: 10.0.0.1:80\r\n\r\n";
        for text in [
            "GET / HTTP/1.0",
            "GET / HTTP/1.0\n",
            "GET / HTTP/1.0\r\n\r\n",
        ] {
            assert_eq!(sent(text), plain, "{text:?}");
        }
        assert_eq!(
            sent("POST /a HTTP/1.1\nhost: b\nContent-Length: 4\n\na\nbc"),
            "POST /a HTTP/1.1\r\nhost: b\r\nContent-Length: 4\r\n\r\na\nbc"
        );
    }

    #[test]
    fn an_exact_request_is_sent_as_it_stands() {
        let sent = |text| http_request(text, "10.0.0.1:80", true);
        assert_eq!(sent("GET / HTTP/1.0"), "GET / HTTP/1.0\r\n\r\n");
        assert_eq!(
            sent("GET / HTTP/1.0\nA: b\n\nbody"),
            "GET / HTTP/1.0\nA: b\n\nbody"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_and_the_end_always_decides(
            mut bytes in prop::collection::vec(any::<u8>(), 0..3000),
            start in prop::sample::select(vec!["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 503 x\nContent-Length: 99999999999999999999\n\n"]),
        ) {
            bytes.splice(0..0, start.bytes());
            let wanted = expected(&[], "ready");
            prop_assert!(judge_http(&bytes, Rest::Ended, &wanted).is_some());
            prop_assert!(judge_text(&bytes, Rest::Late, &wanted.text).is_some());
            if bytes.len() >= RESPONSE_LEN_MAX {
                prop_assert!(judge_http(&bytes, Rest::Open, &wanted).is_some());
            }
        }

        #[test]
        fn what_is_decided_early_is_what_the_whole_would_be_without_maintenance(
            code in 100_u16..600,
            body in "[a-z]{0,40}",
            cut in 0_usize..80,
        ) {
            let whole = format!("HTTP/1.1 {code} x\r\n\r\n{body}");
            let wanted = Expected { text: Text { response: "ab".into(), ..Text::default() }, ..Expected::default() };
            let seen = &whole.as_bytes()[..cut.min(whole.len())];
            if let Some(early) = judge_http(seen, Rest::Open, &wanted) {
                prop_assert_eq!(Some(early), judge_http(whole.as_bytes(), Rest::Ended, &wanted));
            }
        }

        #[test]
        fn a_request_has_one_head_whatever_was_written(text in "[ -~\r\n]{0,200}", exact in any::<bool>()) {
            let sent = http_request(&text, "h", exact);
            prop_assert!(["\r\n\r\n", "\n\n", "\n\r\n"].iter().any(|end| sent.contains(end)));
        }
    }
}
