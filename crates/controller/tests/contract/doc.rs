//! The API's own documentation.

use crate::http::Server;

#[test]
fn the_page_is_shown_to_anybody_and_may_load_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let page = server.http().get("/api/ek/doc");
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert!(page.text.starts_with("<!DOCTYPE html>"));
    assert!(page.text.ends_with("</html>\n"));
    let tag = page.header("etag").to_owned();
    let again = server.http().with("If-None-Match", &tag);
    assert_eq!(again.get("/api/ek/doc").status, 304);
}

#[test]
fn a_type_has_an_inventory_or_none_whatever_objects_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let http = server.logged_in();
    assert_eq!(http.count("/api/pool-inventory"), 0);
    for none in ["sslprofile", "healthmonitor", "unknown"] {
        let refused = http.get(&format!("/api/{none}-inventory")).refused(404);
        assert!(refused.contains("there is no"), "{refused}");
    }
}
