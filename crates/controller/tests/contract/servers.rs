//! Servers: how they are checked.

use crate::http::Server;
use serde_json::{Value, json};
use tempfile::tempdir;

#[test]
fn a_half_open_check_has_nothing_to_say() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let body =
        |tcp: Value| json!({"name": "half", "type": "HEALTH_MONITOR_TCP", "tcp_monitor": tcp});
    for field in ["tcp_request", "tcp_response", "maintenance_response"] {
        let tcp = json!({"tcp_half_open": true, field: "hello"});
        let text = http.post("/api/healthmonitor", &body(tcp)).refused(400);
        let expected = format!("tcp_monitor.{field}: goes with no tcp_half_open");
        assert!(text.starts_with(&expected), "{text}");
    }
    let tcp = json!({"tcp_half_open": true, "tcp_request": ""});
    let (path, _) = http.make("healthmonitor", body(tcp));
    let read = http.get(&path).good();
    assert_eq!(read["tcp_monitor"]["tcp_half_open"], true);
}
