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
}

impl Expected {
    fn has(&self, code: u16) -> bool {
        match self.codes.as_slice() {
            [] => CodeClass::Hundred(2).has(code),
            codes => codes.iter().any(|class| class.has(code)),
        }
    }
}

/// What these bytes of a response mean; `None` while more must be read. `ended`: no more will come. A server that says
/// that it is in maintenance is in maintenance, whatever else it says.
pub fn judge_text(seen: &[u8], ended: bool, text: &Text) -> Option<Result<(), Failure>> {
    let whole = ended || seen.len() >= RESPONSE_LEN_MAX;
    let seen = &seen[..seen.len().min(RESPONSE_LEN_MAX)];
    if !text.maintenance.is_empty() && contains(seen, &text.maintenance) {
        return Some(Err(Failure::MaintenancePayloadContentMatch));
    }
    // With a response to wait for, that is what a healthy server ends with; without one only its end says that nothing of
    // maintenance comes any more.
    match (text.response.is_empty(), text.maintenance.is_empty()) {
        (false, _) if contains(seen, &text.response) => Some(Ok(())),
        (false, _) => whole.then_some(Err(Failure::PayloadContentMismatch)),
        (true, true) => Some(Ok(())),
        (true, false) => whole.then_some(Ok(())),
    }
}

/// The same for HTTP. The order is that of what a server says of itself: maintenance, then its code, then its text.
pub fn judge_http(seen: &[u8], ended: bool, expected: &Expected) -> Option<Result<(), Failure>> {
    let seen = &seen[..seen.len().min(RESPONSE_LEN_MAX)];
    let ended = ended || seen.len() == RESPONSE_LEN_MAX || is_complete(seen);
    let Some(line) = status_line(seen) else {
        return ended.then_some(Err(Failure::ResponseCodeMismatch));
    };
    let Some(code) = status_code(line) else {
        return Some(Err(Failure::ResponseCodeMismatch));
    };
    if expected.maintenance_codes.contains(&code) {
        return Some(Err(Failure::MaintenanceResponseCodeMatch));
    }
    if expected.has(code) {
        return judge_text(seen, ended, &expected.text);
    }
    // A page that speaks of maintenance often has a code that says the same less clearly.
    let maintenance = Text {
        response: String::new(),
        maintenance: expected.text.maintenance.clone(),
    };
    let judged = judge_text(seen, ended, &maintenance)?;
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
fn is_complete(seen: &[u8]) -> bool {
    let Some((head, body)) = split_head(seen) else {
        return false;
    };
    let chunked = header(head, "transfer-encoding").is_some_and(|v| v.contains("chunked"));
    if chunked {
        return body == b"0\r\n\r\n" || body.ends_with(b"\r\n0\r\n\r\n");
    }
    let length = header(head, "content-length").and_then(|v| v.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
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
        }
    }

    fn judged(response: &str, expected: &Expected) -> Option<Result<(), Failure>> {
        judge_http(response.as_bytes(), true, expected)
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
        let partial = |response: &str, wanted| judge_http(response.as_bytes(), false, wanted);
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
            prop_assert!(judge_http(&bytes, true, &wanted).is_some());
            prop_assert!(judge_text(&bytes, true, &wanted.text).is_some());
            if bytes.len() >= RESPONSE_LEN_MAX {
                prop_assert!(judge_http(&bytes, false, &wanted).is_some());
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
            if let Some(early) = judge_http(seen, false, &wanted) {
                prop_assert_eq!(Some(early), judge_http(whole.as_bytes(), true, &wanted));
            }
        }

        #[test]
        fn a_request_has_one_head_whatever_was_written(text in "[ -~\r\n]{0,200}", exact in any::<bool>()) {
            let sent = http_request(&text, "h", exact);
            prop_assert!(["\r\n\r\n", "\n\n", "\n\r\n"].iter().any(|end| sent.contains(end)));
        }
    }
}
