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
