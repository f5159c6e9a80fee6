//! What else is observed of virtual services, pools and engines (avi-api 10.2 to 10.4).

use super::super::ok;
use super::super::operation::{Operation, Permission};
use super::{exists, get};
use crate::plan::{EngineView, ServiceView};

/// A view of a virtual service.
macro_rules! of_service {
    ($path:literal, $what:ident) => {
        get(
            concat!("/api/virtualservice/{uuid}/", $path),
            Permission::Read,
            |c| Box::pin(async { Ok(ok(c.app.backend.vs_view(c.uuid, ServiceView::$what)?)) }),
        )
    };
}

/// What else is observed of a virtual service (avi-api 10.2).
pub(super) fn of_services() -> Vec<Operation> {
    vec![
        of_service!("runtime/detail", Detail),
        of_service!("scaleoutstatus", ScaleoutStatus),
        of_service!("placement", Placement),
        of_service!("candidatesehostlist", Candidates),
        get(
            "/api/virtualservice/{uuid}/connections",
            Permission::Read,
            |c| {
                let backend = &c.app.backend;
                Box::pin(async { Ok(ok(backend.vs_connections(c.uuid, c.context).await?)) })
            },
        ),
    ]
}

/// The others of virtual services, and those of pools and engines.
pub(super) fn more() -> Vec<Operation> {
    let mut all = more_of_services();
    all.extend(of_pools());
    all.extend(of_engines());
    all
}

fn more_of_services() -> Vec<Operation> {
    vec![
        of_service!("runtime/internal", Internal),
        of_service!("scaleoutstatus/detail", ScaleoutDetail),
        of_service!("sescaleoutstatus", EngineScaleout),
        of_service!("tcpstat", Tcp),
        of_service!("udpstat", Udp),
        of_service!("keyval", KeyVal),
        get("/api/virtualservice/{uuid}/client", Permission::Read, |c| {
            let backend = &c.app.backend;
            Box::pin(async { Ok(ok(backend.vs_clients(c.uuid, c.context).await?)) })
        }),
    ]
}

fn of_pools() -> Vec<Operation> {
    use Permission::Read;
    vec![
        get("/api/pool/{uuid}/runtime/detail", Read, |c| {
            Box::pin(async {
                exists(c, "pool")?;
                Ok(ok(c.app.backend.pool_detail(c.uuid)))
            })
        }),
        get("/api/pool/{uuid}/runtime/server/detail", Read, |c| {
            Box::pin(async {
                exists(c, "pool")?;
                let backend = &c.app.backend;
                Ok(ok(backend.pool_server_counters(c.uuid, c.context)?))
            })
        }),
    ]
}

fn of_engines() -> Vec<Operation> {
    macro_rules! view {
        ($path:literal, $what:ident) => {
            get(
                concat!("/api/serviceengine/{uuid}/", $path),
                Permission::Read,
                |c| {
                    Box::pin(async {
                        exists(c, "serviceengine")?;
                        let backend = &c.app.backend;
                        Ok(ok(backend.se_view(c.uuid, EngineView::$what, c.context)))
                    })
                },
            )
        };
    }
    vec![
        view!("runtime/detail", Detail),
        view!("placement", Placement),
        view!("cpu", Cpu),
        view!("meminfo", Memory),
    ]
}
