use super::*;
use crate::objects::{Author, Objects};
use serde_json::{Value, json};
use std::sync::Arc;
use store::Memory;

/// Roles `reader` (pools) and `writer` (pools and virtual services), tenants t1 and t2, and this user.
async fn access(user: Value) -> Option<Access> {
    let objects = Objects::open(Arc::new(Memory::default())).await.unwrap();
    let author = Author::system("test");
    let role = |name: &str, privileges: Value| json!({"name": name, "privileges": privileges});
    let reads = json!([{"resource": "PERMISSION_POOL", "type": "READ_ACCESS"}]);
    let writes = json!([{"resource": "PERMISSION_POOL", "type": "WRITE_ACCESS"},
        {"resource": "PERMISSION_VIRTUALSERVICE", "type": "WRITE_ACCESS"},
        {"resource": "PERMISSION_CLOUD", "type": "NO_ACCESS"}]);
    let all = [
        ("tenant", "admin", json!({"name": "admin"})),
        ("tenant", "t1", json!({"name": "t1"})),
        ("tenant", "t2", json!({"name": "t2"})),
        ("role", "reader", role("reader", reads)),
        ("role", "writer", role("writer", writes)),
        ("user", "u", user),
    ];
    let change = |draft: &mut crate::objects::Draft| {
        all.into_iter().try_for_each(|(ty, uuid, body)| {
            let (ty, Value::Object(body)) = (model::schema::object_type(ty).unwrap(), body) else {
                panic!("a body is an object")
            };
            draft.create(ty, body, Some(uuid.into()), &author).map(drop)
        })
    };
    objects.change(&author, "test", change).await.unwrap();
    Access::of(&objects.snapshot(), "anna")
}

fn anna(roles: Value) -> Value {
    json!({"name": "anna", "access": roles})
}

fn in_tenant(role: &str, tenant: &str) -> Value {
    json!({"role_ref": format!("/api/role/{role}"), "tenant_ref": format!("/api/tenant/{tenant}")})
}

const POOL: &str = "PERMISSION_POOL";

#[tokio::test]
async fn a_role_counts_in_its_tenant_and_as_far_as_it_goes() {
    let roles = json!([in_tenant("reader", "t1"), in_tenant("writer", "t2")]);
    let anna = access(anna(roles)).await.unwrap();
    assert!(anna.may(Level::Read, POOL, "t1") && !anna.may(Level::Write, POOL, "t1"));
    assert!(anna.may(Level::Read, POOL, "t2") && anna.may(Level::Write, POOL, "t2"));
    assert!(!anna.may(Level::Read, "PERMISSION_CLOUD", "t2"));
    assert!(!anna.may(Level::Read, POOL, "admin") && !anna.enters("admin"));
    assert!(!anna.may_everywhere(Level::Read, POOL));
    assert_eq!(anna.home(), "t1");
}

#[tokio::test]
async fn who_is_in_all_tenants_begins_in_admin_or_where_he_is_at_home() {
    let all = json!({"role_ref": "/api/role/writer", "all_tenants": true});
    let everywhere = access(anna(json!([all]))).await.unwrap();
    assert!(everywhere.may_everywhere(Level::Write, POOL) && everywhere.enters("t2"));
    assert_eq!(everywhere.home(), "admin");
    let mut body = anna(json!([all]));
    body["default_tenant_ref"] = json!("/api/tenant/t2");
    assert_eq!(access(body).await.unwrap().home(), "t2");
}

#[tokio::test]
async fn who_is_not_active_or_not_there_may_nothing() {
    let mut body = anna(json!([in_tenant("writer", "t1")]));
    body["is_active"] = json!(false);
    assert_eq!(access(body).await, None);
    assert_eq!(access(json!({"name": "bert"})).await, None);
    let nothing = access(anna(json!([]))).await.unwrap();
    assert!(!nothing.enters("admin") && !nothing.may(Level::Read, POOL, "admin"));
}

#[tokio::test]
async fn nobody_covers_more_than_he_may() {
    let of = async |roles| access(anna(roles)).await.unwrap();
    let reader = of(json!([in_tenant("reader", "t1")])).await;
    let writer = of(json!([in_tenant("writer", "t1")])).await;
    let everywhere = of(json!([{"role_ref": "/api/role/writer", "all_tenants": true}])).await;
    let root = Access {
        superuser: true,
        ..Access::default()
    };
    let order = [&reader, &writer, &everywhere, &root];
    for (i, one) in order.iter().enumerate() {
        for (j, other) in order.iter().enumerate() {
            assert_eq!(one.covers(other), i >= j, "{i} {j}");
        }
    }
}
