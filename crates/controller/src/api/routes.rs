//! The table of operations. More literal paths stand before those with braces.

mod views;

use super::operation::{Audit, Call, Operation, Permission};
use super::{
    actions, alerts, audit, backup, cluster, events, flowstream, history, inventory, metrics, ok,
    openapi, page, parse, preview, query, resources, sealkey, series, session, singleton, stream,
    transfer, users, usertoken,
};
use crate::engines::join;
use crate::error::ApiError;
use crate::plan::{FlowView, HostView, RoutingText, TopologyPage};
use crate::series::Kind;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::sync::LazyLock;

/// Every operation.
pub(super) static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    let mut all = sessions_and_system();
    all.extend(controllers());
    all.extend(settings());
    all.extend(log_and_whole());
    all.extend(actions::placed());
    all.extend(actions::roles());
    all.extend(observed());
    all.extend(happened());
    all.extend(counted());
    all.extend(views::of_services());
    all.extend(engine_routing());
    all.extend(engine_tables());
    all.extend(views::more());
    all.extend(actions::anew());
    all.extend(actions::refused());
    all.extend(objects());
    all
});

/// What only reads.
pub(super) fn get(
    path: &str,
    permission: Permission,
    handler: for<'a> fn(
        &'a Call<'a>,
    ) -> futures_util::future::BoxFuture<'a, Result<Response, ApiError>>,
) -> Operation {
    Operation::new(Method::GET, path, permission, Audit::None, handler)
}

fn sessions_and_system() -> Vec<Operation> {
    use Permission::{Administer, LoggedIn, Public};
    vec![
        Operation::new(Method::POST, "/login", Public, Audit::Session, |c| {
            Box::pin(session::login(c))
        }),
        Operation::new(Method::POST, "/logout", Public, Audit::Session, |c| {
            Box::pin(async { Ok(session::logout(c)) })
        }),
        get("/api/cluster/status", Public, |c| {
            Box::pin(async { Ok(ok(cluster::status(c.app))) })
        }),
        get("/api/initial-data", Public, |c| {
            Box::pin(async { Ok(ok(cluster::initial_data(c.app))) })
        }),
        get("/healthz", Public, |_| {
            Box::pin(async { Ok(ok(cluster::health())) })
        }),
        get("/readyz", Public, |c| {
            Box::pin(async { Ok(ok(cluster::readiness(c.app).await?)) })
        }),
        get("/api/ek/doc", Public, |c| {
            Box::pin(async { Ok(page::show(c.headers)) })
        }),
        get("/api/ek/openapi", LoggedIn, |_| {
            Box::pin(async { Ok(ok(openapi::document())) })
        }),
        get("/api/useraccount", LoggedIn, |c| {
            Box::pin(async { users::own(c) })
        }),
        Operation::new(
            Method::PUT,
            "/api/useraccount",
            LoggedIn,
            Audit::Change,
            |c| Box::pin(users::change_password(c)),
        )
        .with_plan(),
        get("/api/user-token", LoggedIn, |c| {
            Box::pin(usertoken::list(c))
        }),
        // A token is its user's own to make and to revoke; the handlers see to that.
        Operation::new(
            Method::POST,
            "/api/user-token",
            LoggedIn,
            Audit::Action,
            |c| Box::pin(usertoken::create(c)),
        )
        .with_plan(),
        Operation::new(
            Method::DELETE,
            "/api/user-token/{uuid}",
            LoggedIn,
            Audit::Action,
            |c| Box::pin(usertoken::revoke(c)),
        )
        .with_plan(),
        Operation::new(
            Method::POST,
            "/api/ek/jointoken",
            Administer,
            Audit::Action,
            |c| Box::pin(create_join_token(c)),
        )
        .with_plan(),
    ]
}

/// The controllers (avi-api section 8).
fn controllers() -> Vec<Operation> {
    use Permission::{Administer, LoggedIn, Public};
    vec![
        get("/api/cluster", LoggedIn, |c| {
            Box::pin(async { Ok(ok(cluster::cluster(c))) })
        }),
        get("/api/cluster/version", LoggedIn, |_| {
            Box::pin(async { Ok(ok(cluster::version())) })
        }),
        get("/api/cluster/runtime", LoggedIn, |c| {
            Box::pin(async { Ok(ok(cluster::runtime(c.app))) })
        }),
        // Its pass says who may, as that of a session would.
        Operation::new(
            Method::POST,
            "/api/ek/cluster/hello",
            Public,
            Audit::Question,
            |c| Box::pin(async { Ok(ok(cluster::hello(c).await?)) }),
        ),
        Operation::new(
            Method::DELETE,
            "/api/ek/cluster/node/{uuid}",
            Administer,
            Audit::Action,
            |c| Box::pin(cluster::forget(c)),
        )
        .with_plan(),
    ]
}

/// Objects of which there is one (avi-api section 8), with and without their uuid in the path. None can be deleted.
fn settings() -> Vec<Operation> {
    use Permission::{Administer, LoggedIn};
    macro_rules! one {
        ($one:ident) => {
            ["", "/{uuid}"].into_iter().flat_map(|end| {
                let path = format!("/api/{}{end}", singleton::$one.0);
                [
                    get(&path, LoggedIn, |c| {
                        Box::pin(async { singleton::read(c, singleton::$one) })
                    }),
                    Operation::new(Method::PUT, &path, Administer, Audit::Change, |c| {
                        Box::pin(singleton::put(c, singleton::$one))
                    })
                    .with_plan(),
                    Operation::new(Method::PATCH, &path, Administer, Audit::Change, |c| {
                        Box::pin(singleton::patch(c, singleton::$one))
                    })
                    .with_plan(),
                ]
            })
        };
    }
    one!(SETTINGS)
        .chain(one!(SE_PROPERTIES))
        .chain(one!(CONTROLLER_PROPERTIES))
        .collect()
}

/// What was changed by whom, ways back, and the configuration as a whole.
fn log_and_whole() -> Vec<Operation> {
    use Permission::{Everything, LoggedIn};
    let post = |path: &str, permission, audit, handler| {
        Operation::new(Method::POST, path, permission, audit, handler)
    };
    vec![
        get("/api/ek/audit", Everything, |c| Box::pin(audit::list(c))),
        post("/api/ek/revert", Everything, Audit::Change, |c| {
            Box::pin(history::revert(c))
        })
        .with_plan(),
        get("/api/ek/pending", LoggedIn, |c| {
            Box::pin(history::pending(c))
        }),
        // Whoever made a change confirms it; the handler sees to that.
        post("/api/ek/confirm", LoggedIn, Audit::Action, |c| {
            Box::pin(history::confirm(c))
        })
        .with_plan(),
        // Each of the writes takes its own right; the handler sees to that.
        post("/api/ek/change", LoggedIn, Audit::Change, |c| {
            Box::pin(transfer::change(c))
        })
        .with_plan(),
        get("/api/ek/export", Everything, |c| {
            Box::pin(async { Ok(ok(transfer::export(c))) })
        }),
        post("/api/ek/import", Everything, Audit::Change, |c| {
            Box::pin(transfer::import(c))
        })
        .with_plan(),
        // No GET: it gives away the keys of the cluster, and the log shall say to whom.
        post("/api/ek/backup", Everything, Audit::Action, |c| {
            Box::pin(backup::take(c))
        })
        .with_plan(),
        get("/api/ek/sealkey", Everything, |c| {
            Box::pin(async { Ok(ok(sealkey::show(c))) })
        }),
        post("/api/ek/sealkey/rotate", Everything, Audit::Action, |c| {
            Box::pin(sealkey::rotate(c))
        })
        .with_plan(),
    ]
}

/// What is observed, and the actions on it (avi-api sections 9 and 10).
fn observed() -> Vec<Operation> {
    use Permission::{Read, Services};
    let vs = |action: &str| format!("/api/virtualservice/{{uuid}}/{action}");
    vec![
        get("/api/ek/bgp", Read, |c| {
            Box::pin(async { Ok(ok(c.app.backend.ek_bgp())) })
        }),
        get("/api/ek/bfd", Read, |c| {
            Box::pin(async { Ok(ok(c.app.backend.ek_bfd())) })
        }),
        get("/api/ek/learnedroute", Read, |c| {
            Box::pin(async { Ok(ok(c.app.backend.ek_learned())) })
        }),
        get("/api/ek/steering", Read, |c| {
            Box::pin(async { Ok(ok(c.app.backend.ek_steering())) })
        }),
        get("/api/ek/flow", Services, |c| {
            Box::pin(async { Ok(ok(c.app.backend.ek_flows(c.context).await?)) })
        }),
        get("/api/ek/flowevent", Services, |c| {
            Box::pin(async { Ok(ok(c.app.backend.ek_flow_events(c.context).await?)) })
        }),
        get("/api/ek/flowevent/stream", Services, |c| {
            Box::pin(flowstream::flow_events(c))
        }),
        get("/api/ek/traceflow", Services, |c| {
            Box::pin(async { Ok(ok(c.app.backend.trace_flow(c.context).await?)) })
        }),
        get("/api/ek/topology", Services, |c| {
            Box::pin(async { topology(c) })
        }),
        get("/metrics", Read, |c| Box::pin(async { Ok(metrics(c)) })),
        get("/api/ek/explain/vip/{address}", Services, |c| {
            Box::pin(async { Ok(ok(c.app.backend.explain_vip(c.last, c.context)?)) })
        }),
        get("/api/{type}-inventory", Read, |c| {
            Box::pin(async { inventory::list(c) })
        }),
        get("/api/{type}-inventory/{uuid}", Read, |c| {
            Box::pin(async { inventory::read(c) })
        }),
        get(&vs("runtime"), Read, |c| {
            Box::pin(async { Ok(ok(c.app.backend.vs_runtime(c.uuid, c.context)?)) })
        }),
        get("/api/serviceengine/{uuid}/runtime", Read, |c| {
            Box::pin(async {
                exists(c, "serviceengine")?;
                Ok(ok(c.app.backend.se_runtime(c.uuid, c.context)?))
            })
        }),
        get("/api/serviceengine/{uuid}/bgp", Read, |c| {
            Box::pin(async {
                exists(c, "serviceengine")?;
                Ok(ok(c.app.backend.se_bgp(c.uuid, c.context)?))
            })
        }),
        get("/api/pool/{uuid}/runtime", Read, |c| {
            Box::pin(async { Ok(ok(c.app.backend.pool_runtime(c.uuid)?)) })
        }),
        get("/api/pool/{uuid}/runtime/server", Read, |c| {
            Box::pin(async {
                exists(c, "pool")?;
                Ok(ok(c.app.backend.pool_servers(c.uuid, c.context)?))
            })
        }),
    ]
}

/// What happened, and what is to be looked at (avi-api section 11). Who has logged in sees what is of objects that he sees.
fn happened() -> Vec<Operation> {
    use Permission::{LoggedIn, Read, Write};
    vec![
        get("/api/analytics/logs", LoggedIn, |c| {
            Box::pin(async { events::logs(c) })
        }),
        get("/api/ek/event", LoggedIn, |c| {
            Box::pin(async { stream::events(c) })
        }),
        get("/api/alert", Read, |c| Box::pin(async { alerts::list(c) })),
        get("/api/alert/{uuid}", Read, |c| {
            Box::pin(async { alerts::read(c) })
        }),
        Operation::new(
            Method::PUT,
            "/api/alert/{uuid}",
            Write,
            Audit::Action,
            |c| Box::pin(alerts::put(c)),
        )
        .with_plan(),
        Operation::new(
            Method::DELETE,
            "/api/alert/{uuid}",
            Write,
            Audit::Action,
            |c| Box::pin(alerts::delete(c)),
        )
        .with_plan(),
    ]
}

/// Time series (avi-api section 11), of what the caller sees.
fn counted() -> Vec<Operation> {
    use Permission::LoggedIn;
    macro_rules! of {
        ($path:literal, $kind:ident) => {
            [
                get(concat!("/api/analytics/metrics/", $path), LoggedIn, |c| {
                    Box::pin(async { series::list(c, Kind::$kind) })
                }),
                get(
                    concat!("/api/analytics/metrics/", $path, "/{uuid}"),
                    LoggedIn,
                    |c| Box::pin(async { series::one(c, Kind::$kind) }),
                ),
            ]
        };
    }
    let score = "/api/analytics/healthscore/virtualservice/{uuid}";
    let mut all = vec![
        get("/api/analytics/metrics/controller", LoggedIn, |c| {
            Box::pin(async { series::one(c, Kind::Controller) })
        }),
        get("/api/analytics/metrics/controller/{uuid}", LoggedIn, |c| {
            Box::pin(async { series::one(c, Kind::Controller) })
        }),
        Operation::new(
            Method::POST,
            "/api/analytics/metrics/collection",
            LoggedIn,
            Audit::Question,
            |c| Box::pin(async { series::collection(c) }),
        ),
        get(score, LoggedIn, |c| {
            Box::pin(async { series::health_score(c, false) })
        }),
        get(&format!("{score}/detail"), LoggedIn, |c| {
            Box::pin(async { series::health_score(c, true) })
        }),
    ];
    all.extend(of!("virtualservice", VirtualService));
    all.extend(of!("pool", Pool));
    all.extend(of!("serviceengine", ServiceEngine));
    all
}

/// The texts of the engine's routing (avi-api 10.4).
fn engine_routing() -> Vec<Operation> {
    macro_rules! text {
        ($path:literal, $what:ident) => {
            get(
                concat!("/api/serviceengine/{uuid}/", $path),
                Permission::Read,
                |c| {
                    Box::pin(async {
                        exists(c, "serviceengine")?;
                        Ok(ok(c.app.backend.se_routing(c.uuid, RoutingText::$what)))
                    })
                },
            )
        };
    }
    vec![
        text!("bgp/peer_state", PeerState),
        text!("bgp/peer_status", PeerStatus),
        text!("bgp/peer_info", PeerInfo),
        text!("bgp/advertised_routes", AdvertisedRoutes),
        text!("bgp/running_config", RunningConfig),
        text!("bgp/debug", Debug),
        text!("bfd/session_status", BfdStatus),
        text!("bfd/running_config", BfdConfig),
        Operation::new(
            Method::POST,
            "/api/serviceengine/{uuid}/bgp/reset",
            Permission::Operate,
            Audit::Action,
            |c| Box::pin(async { reset_sessions(c) }),
        )
        .with_plan(),
    ]
}

/// The engine's host and its flow tables, as the engine says when it is asked (avi-api 10.4).
fn engine_tables() -> Vec<Operation> {
    macro_rules! host {
        ($path:literal, $what:ident) => {
            get(
                concat!("/api/serviceengine/{uuid}/", $path),
                Permission::Read,
                |c| {
                    Box::pin(async {
                        exists(c, "serviceengine")?;
                        Ok(ok(c.app.backend.se_host(c.uuid, HostView::$what).await))
                    })
                },
            )
        };
    }
    macro_rules! flows {
        ($path:literal, $what:ident) => {
            // Whoever sees all that engines report sees whose flows there are.
            get(
                concat!("/api/serviceengine/{uuid}/", $path),
                Permission::Observe,
                |c| {
                    Box::pin(async {
                        exists(c, "serviceengine")?;
                        let backend = &c.app.backend;
                        Ok(ok(backend
                            .se_flows(c.uuid, FlowView::$what, c.context)
                            .await?))
                    })
                },
            )
        };
    }
    vec![
        host!("interface", Interface),
        host!("route", Route),
        host!("ip6route", Route6),
        host!("arptable", Arp),
        flows!("flowtable", Local),
        flows!("flowtable_remote", Remote),
        get(
            "/api/serviceengine/{uuid}/flowtablestat",
            Permission::Read,
            |c| {
                Box::pin(async {
                    exists(c, "serviceengine")?;
                    Ok(ok(c.app.backend.se_flow_counters(c.uuid)))
                })
            },
        ),
    ]
}

/// Create, read, update and delete: the same for every resource.
fn objects() -> Vec<Operation> {
    use Permission::{Read, Write};
    let (all, one) = ("/api/{type}", "/api/{type}/{uuid}");
    vec![
        get(all, Read, |c| Box::pin(async { resources::list(c) })),
        Operation::new(Method::POST, all, Write, Audit::Change, |c| {
            Box::pin(resources::create(c))
        })
        .with_plan(),
        get(one, Read, |c| Box::pin(async { resources::read(c) })),
        Operation::new(Method::PUT, one, Write, Audit::Change, |c| {
            Box::pin(resources::put(c))
        })
        .with_plan(),
        Operation::new(Method::PATCH, one, Write, Audit::Change, |c| {
            Box::pin(resources::patch(c))
        })
        .with_plan(),
        Operation::new(Method::DELETE, one, Write, Audit::Change, |c| {
            Box::pin(resources::delete(c))
        })
        .with_plan(),
    ]
}

/// Says so when there is no such object.
pub(super) fn exists(call: &Call<'_>, path: &str) -> Result<(), ApiError> {
    let ty = resources::known(path)?;
    let snapshot = call.app.objects.snapshot();
    snapshot.require(ty, call.uuid).map(drop)
}

/// The VIPs are a page; the rest is as small as there are engines and routers.
fn topology(call: &Call<'_>) -> Result<Response, ApiError> {
    let context = call.context;
    let window = |count| query::window(context, count);
    let TopologyPage {
        vsvips,
        mut vips,
        mut fabric,
    } = call.app.backend.topology(context, window)?;
    let show = |uuid: String| vips.remove(&uuid).unwrap_or_default();
    fabric["vips"] = query::page(context, "ek/topology", vsvips, show);
    Ok(ok(fabric))
}

fn reset_sessions(call: &Call<'_>) -> Result<Response, ApiError> {
    exists(call, "serviceengine")?;
    let (body, backend) = (parse(&call.body)?, &call.app.backend);
    let peers = backend.peers_to_reset(call.uuid, &body)?;
    if call.context.author.dry_run {
        let effect = |peer| {
            format!(
                "the session with {peer} is closed and opened again; until then its routes are withdrawn"
            )
        };
        let effects: Vec<String> = peers.iter().map(effect).collect();
        return Ok(preview::of_effects(call, &effects));
    }
    Ok(ok(backend.reset_sessions(call.uuid, &peers)))
}

/// As Prometheus and OpenMetrics readers take it.
fn metrics(call: &Call<'_>) -> Response {
    const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let content_type = [(header::CONTENT_TYPE, FORMAT)];
    let own = |all: &mut _| metrics::register(call.app, all);
    (content_type, call.app.backend.metrics(own)).into_response()
}

async fn create_join_token(call: &Call<'_>) -> Result<Response, ApiError> {
    let wish = join::wish(&call.app.objects, &parse(&call.body)?)?;
    if call.context.author.dry_run {
        let whose = wish.name.as_deref().unwrap_or("any engine");
        let effect = format!(
            "a join token for {whose} is made, good for {} s",
            wish.ttl_s
        );
        return Ok(preview::of_effects(call, &[effect]));
    }
    let token = call.app.backend.create_join_token(wish);
    Ok((StatusCode::CREATED, axum::Json(token.await?)).into_response())
}

/// What is read of an action.
pub(super) fn empty_page() -> Result<Response, ApiError> {
    Ok(ok(json!({"count": 0, "results": []})))
}
