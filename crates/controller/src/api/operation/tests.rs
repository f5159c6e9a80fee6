use super::super::routes::OPERATIONS;
use super::*;

fn name(method: Method, path: &str) -> String {
    let segments: Vec<String> = path
        .split('/')
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect();
    match find(&OPERATIONS, &method, &segments) {
        Ok(found) => format!(
            "{} [{}|{}]",
            found.operation.name(),
            found.type_path,
            found.uuid
        ),
        Err(response) => response.status().to_string(),
    }
}

#[test]
fn who_may_do_what_is_as_the_checked_in_list_says() {
    let lines: String = OPERATIONS.iter().map(|o| o.line() + "\n").collect();
    let list = include_str!("../operations.txt");
    assert!(
        lines == list,
        "if this is meant, write to src/api/operations.txt:\n{lines}"
    );
}

#[test]
fn a_path_finds_the_most_literal_operation() {
    for (method, path, found) in [
        (
            Method::GET,
            "/api/cluster/version",
            "GET /api/cluster/version [|]",
        ),
        (Method::GET, "//api//pool//", "GET /api/{type} [pool|]"),
        (
            Method::HEAD,
            "/api/pool/p-1",
            "GET /api/{type}/{uuid} [pool|p-1]",
        ),
        (
            Method::GET,
            "/api/pool-inventory/p-1",
            "GET /api/{type}-inventory/{uuid} [pool|p-1]",
        ),
        (
            Method::POST,
            "/api/virtualservice/v/scaleout",
            "POST /api/virtualservice/{uuid}/scaleout [|v]",
        ),
        (Method::DELETE, "/api/cluster", "405 Method Not Allowed"),
        (Method::GET, "/elsewhere", "404 Not Found"),
        (Method::GET, "/api/pool/p-1/nothing", "404 Not Found"),
    ] {
        assert_eq!(name(method, path), found, "{path}");
    }
}

#[test]
fn only_what_a_client_needs_before_it_logs_in_is_public() {
    let public = OPERATIONS
        .iter()
        .filter(|o| o.permission == Permission::Public);
    let names: Vec<_> = public.map(Operation::name).collect();
    assert_eq!(
        names,
        [
            "POST /login",
            "POST /logout",
            "GET /api/cluster/status",
            "GET /api/initial-data",
            "GET /healthz",
            "GET /readyz",
            "GET /api/ek/doc",
            // Its own pass says who may.
            "POST /api/ek/cluster/hello"
        ]
    );
}

#[test]
fn every_write_has_a_plan() {
    let writes = OPERATIONS
        .iter()
        .filter(|o| !matches!(o.audit, Audit::None | Audit::Question | Audit::Session));
    let planless = writes.filter(|o| !o.plans);
    let without: Vec<_> = planless.map(Operation::name).collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn everything_that_is_no_get_is_audited() {
    for operation in OPERATIONS.iter() {
        let reads = operation.method == Method::GET;
        assert_eq!(
            operation.audit == Audit::None,
            reads,
            "{}",
            operation.name()
        );
    }
}
