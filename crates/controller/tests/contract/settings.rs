//! Objects of which there is one (avi-api section 8).

use crate::http::Server;
use serde_json::{Value, json};
use tempfile::tempdir;

const ALL: [&str; 3] = [
    "systemconfiguration",
    "seproperties",
    "controllerproperties",
];

#[test]
fn the_only_one_is_read_written_and_never_deleted() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    for ty in ALL {
        let path = format!("/api/{ty}");
        let mut read = http.get(&path).good();
        assert_eq!(read["url"], format!("{}{path}", http.url));
        assert_eq!(
            http.delete(&path).refused(405),
            "Method 'DELETE' not allowed"
        );
        let one = format!("{path}/{}", read["uuid"].as_str().unwrap());
        assert_eq!(http.get(&one).good(), read, "its uuid may be in the path");
        assert_eq!(
            http.delete(&one).refused(405),
            "Method 'DELETE' not allowed"
        );
        assert!(
            http.put(&format!("{path}/other"), &json!({}))
                .refused(404)
                .contains(" object not found!")
        );
        read["x_unknown"] = json!([2, 1]);
        http.put(&path, &read).good();
        let again = http.get(&path).good();
        assert_eq!(
            (&again["x_unknown"], &again["uuid"]),
            (&json!([2, 1]), &read["uuid"])
        );
        assert!(
            http.put(&path, &read)
                .refused(412)
                .starts_with("Need to reload"),
            "{ty}"
        );
        let sparse = http.get(&format!("{path}?skip_default=true")).good();
        http.put(&path, &sparse).good();
        let mut last = http.get(&path).good();
        last["_last_modified"] = again["_last_modified"].clone();
        assert_eq!(last, again, "{ty}");
    }
}

#[test]
fn the_properties_show_their_defaults_and_keep_what_is_set() {
    let folder = tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    let probes = |object: &Value| object["se_runtime_properties"]["disable_flow_probes"].clone();
    let engines = http.get("/api/seproperties").good();
    assert_eq!(probes(&engines), false);
    assert_eq!(engines["se_agent_properties"]["controller_rpc_timeout"], 10);
    let set = json!({"replace": {"se_runtime_properties": {"disable_flow_probes": true}}});
    assert_eq!(probes(&http.patch("/api/seproperties", &set).good()), true);
    assert_eq!(probes(&http.get("/api/seproperties").good()), true);
    assert_eq!(
        probes(&http.put("/api/seproperties", &json!({})).good()),
        false
    );

    let controller = http.get("/api/controllerproperties").good();
    assert_eq!(
        (
            &controller["api_idle_timeout"],
            &controller["unresponsive_se_reboot"]
        ),
        (&json!(15), &json!(300))
    );
    let wrong = json!({"replace": {"api_idle_timeout": 1441}});
    let text = http.patch("/api/controllerproperties", &wrong).refused(400);
    assert!(
        text.starts_with("api_idle_timeout: 1441 is out of range; use 0 to 1440 min"),
        "{text}"
    );
    let token = json!({"add": {"portal_token": "hunter2"}});
    let shown = http.patch("/api/controllerproperties", &token).good();
    assert_eq!(shown["portal_token"], "<sensitive>");
}
