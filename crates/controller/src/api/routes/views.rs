//! What else is observed of virtual services, pools and engines (avi-api 10.2 to 10.4).

use super::super::ok;
use super::super::operation::{Operation, Permission};
use super::{exists, get};
use crate::plan::{EngineView, ServiceView};

/// Every operation of this kind.
pub(super) fn all() -> Vec<Operation> {
    let mut all = of_services();
    all.extend(of_pools());
    all.extend(of_engines());
    all
}

fn of_services() -> Vec<Operation> {
    macro_rules! view {
        ($path:literal, $what:ident) => {
            get(
                concat!("/api/virtualservice/{uuid}/", $path),
                Permission::Read,
                |c| Box::pin(async { Ok(ok(c.app.backend.vs_view(c.uuid, ServiceView::$what)?)) }),
            )
        };
    }
    vec![
        view!("runtime/internal", Internal),
        view!("scaleoutstatus/detail", ScaleoutDetail),
        view!("sescaleoutstatus", EngineScaleout),
        view!("tcpstat", Tcp),
        view!("udpstat", Udp),
        view!("keyval", KeyVal),
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
