//! What Prometheus reads.

use crate::http::Server;
use serde_json::json;

#[test]
fn a_name_with_quotes_ends_neither_its_label_nor_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    http.make("serviceengine", json!({"name": "a\"} 1\nforged{x=\"\\"}));
    let page = http.get("/metrics");
    assert_eq!(page.status, 200);
    let sample = r#"evenkeel_se_connected{se="a\"} 1\nforged{x=\"\\"} 0"#;
    assert!(
        page.text.lines().any(|line| line == sample),
        "{}",
        page.text
    );
    assert!(
        !page.text.lines().any(|line| line.starts_with("forged")),
        "{}",
        page.text
    );
}

#[test]
fn the_controller_counts_its_calls_and_objects_and_says_what_memory_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    http.make("pool", json!({"name": "one"}));
    assert_eq!(http.get("/api/pool/nobody").status, 404);
    let page = http.get("/metrics").text;
    let value = |sample: &str| -> f64 {
        let mut lines = page.lines().filter_map(|line| line.strip_prefix(sample));
        let found = lines
            .next()
            .unwrap_or_else(|| panic!("no {sample} in {page}"));
        found.trim().parse().unwrap()
    };
    let calls = |method: &str, status: &str| {
        value(&format!(
            "evenkeel_controller_calls_total{{method=\"{method}\",status=\"{status}\"}}"
        ))
    };
    // The login is a POST, too.
    assert_eq!((calls("POST", "2xx"), calls("GET", "4xx")), (2.0, 1.0));
    assert_eq!(value("evenkeel_controller_objects{type=\"pool\"}"), 1.0);
    assert_eq!(value("evenkeel_controller_sessions"), 1.0);
    assert!(value("evenkeel_controller_revision") > 1.0);
    assert!(value("evenkeel_controller_resident_memory_bytes") > 1e6);
    assert!(
        page.contains("# HELP evenkeel_controller_call_seconds "),
        "{page}"
    );
}
