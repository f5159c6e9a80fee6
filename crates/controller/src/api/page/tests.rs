use super::super::{operation::Operation, routes};
use super::*;

/// What stands in the row of this id.
fn row<'a>(html: &'a str, id: &str) -> &'a str {
    let start = format!("<tr id=\"{id}\">");
    let rest = html.split(&start).nth(1);
    let rest = rest.unwrap_or_else(|| panic!("{id} is not on the page"));
    rest.split("<tr").next().unwrap()
}

#[test]
fn every_operation_is_on_the_page_with_its_permission() {
    let (html, paths) = (html(), openapi::paths());
    let mut seen = 0;
    for operation in routes::OPERATIONS.iter() {
        for (path, _) in openapi::concrete(operation.path()) {
            let described = &paths[&path][&method(operation)];
            let row = row(&html, described["operationId"].as_str().unwrap());
            assert!(row.contains(&format!("<code>{path}</code>")), "{row}");
            let permission = described["x-permission"].as_str().unwrap();
            assert!(row.contains(&format!("<td>{permission}<td>")), "{row}");
            assert!(PERMISSIONS.iter().any(|(word, _)| *word == permission));
            seen += 1;
        }
    }
    assert!(seen > 200, "{seen}");
}

fn method(operation: &Operation) -> String {
    operation.method().as_str().to_lowercase()
}

#[test]
fn every_type_and_field_is_on_the_page_and_those_that_do_nothing_are_listed() {
    let html = html();
    let (mut fields, mut idle) = (0, 0);
    for ty in messages() {
        assert!(
            html.contains(&format!("id=\"type-{}\"", ty.name)),
            "{}",
            ty.name
        );
        for field in &ty.fields {
            let row = row(&html, &format!("{}.{}", ty.name, field.name));
            let class = openapi::class(field.class);
            assert!(row.contains(&format!(">{class}<td>")), "{row}");
            fields += 1;
            if matches!(field.class, Class::Soon | Class::Echo) {
                let listed = self::row(&html, &format!("idle-{}", ty.name));
                let name = format!("<code>{}</code>", field.name);
                assert!(listed.contains(&name), "{}: {name}", ty.name);
                idle += 1;
            }
        }
    }
    assert!(fields > 1000 && idle > 100, "{fields} fields, {idle} idle");
}

#[test]
fn every_shape_of_an_answer_and_every_header_is_on_the_page() {
    let html = html();
    for shape in openapi::shapes() {
        assert!(html.contains(&format!("id=\"type-{}\"", shape.name)));
        for field in &shape.fields {
            let row = row(&html, &format!("{}.{}", shape.name, field.name));
            assert!(row.contains(&escape(field.about)), "{row}");
        }
    }
    for header in openapi::headers() {
        let cell = format!("<td><code>{}</code><td>", header.name);
        assert!(html.contains(&cell), "{}", header.name);
    }
}

#[test]
fn what_is_answered_is_a_link_and_parameters_of_many_calls_are_named() {
    let html = html();
    let flows = row(&html, "get_ek_flow");
    assert!(flows.contains("200 <a href=\"#type-Flows\">"), "{flows}");
    assert!(flows.contains("<code>client_port</code>"), "{flows}");
    let pools = row(&html, "get_pool");
    assert!(pools.contains("page of <a href=\"#type-Pool\">"), "{pools}");
    assert!(pools.contains("<code>refers_to</code>"), "{pools}");
    assert!(!pools.contains("X-Avi-Tenant"), "{pools}");
    let made = row(&html, "post_pool");
    assert!(made.contains("<code>Slug:</code>"), "{made}");
    let servers = row(&html, "get_pool_by_uuid_runtime_server");
    assert!(
        servers.contains("list of <a href=\"#type-ServerRuntime\">"),
        "{servers}"
    );
}

#[test]
fn a_field_is_described_by_unit_range_default_and_help() {
    let html = html();
    let mintx = row(&html, "BfdProfile.mintx");
    assert!(
        mintx.contains("10 to 4000000 milliseconds") && mintx.contains("<td>300<td>"),
        "{mintx}"
    );
    let force = row(&html, "VsScaleinParams.force");
    assert!(force.contains("Ends the engine's connections"), "{force}");
    let hold = row(&html, "BgpPeer.hold_time");
    assert!(hold.contains("3 to 7200 or 0"), "{hold}");
}

#[test]
fn every_link_leads_to_something_and_nothing_is_loaded() {
    let html = html();
    let links = html
        .split("href=\"")
        .skip(1)
        .map(|l| l.split('"').next().unwrap());
    let mut seen = 0;
    for link in links {
        let id = link.strip_prefix('#').expect("links stay on the page");
        assert!(html.contains(&format!("id=\"{id}\"")), "{link}");
        seen += 1;
    }
    assert!(seen > 500, "{seen}");
    for word in [
        "src=", "url(", "@import", "http:", "https:", "onclick", "style=\"",
    ] {
        assert!(!html.contains(word), "{word}");
    }
}

#[test]
fn the_policy_lets_what_is_on_the_page_run_and_nothing_else() {
    let html = html();
    let inside = |tag: &str| {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        assert_eq!(html.matches(&open).count(), 1, "{tag}");
        let rest = html.split(&open).nth(1).unwrap();
        rest.split(&close).next().unwrap().to_owned()
    };
    let page = Page::new();
    let script = format!("script-src '{}'", hash(&inside("script")));
    let style = format!("style-src '{}'", hash(&inside("style")));
    assert!(page.policy.contains(&script), "{}", page.policy);
    assert!(page.policy.contains(&style), "{}", page.policy);
    assert!(
        page.policy.starts_with("default-src 'none';"),
        "{}",
        page.policy
    );
    assert!(!page.policy.contains("unsafe"), "{}", page.policy);
}

#[test]
fn whoever_has_the_page_is_not_sent_it_again() {
    let first = show(&HeaderMap::new());
    assert_eq!(first.status(), StatusCode::OK);
    let mut headers = HeaderMap::new();
    headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
    assert_eq!(show(&headers).status(), StatusCode::NOT_MODIFIED);
}

#[test]
fn text_cannot_become_markup() {
    assert_eq!(escape("<a href=\"&\">"), "&lt;a href=&quot;&amp;&quot;&gt;");
}
