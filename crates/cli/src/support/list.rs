//! What is asked of the controller, and the files that the answers become.

use crate::lookup::text;
use crate::show::addresses;
use serde_json::Value;
use std::collections::HashMap;

/// The configuration as a whole, which is for superusers; of others what they see is read type by type.
pub(super) const EXPORT: &str = "controller/export.json";

/// The largest page of lists (avi-api section 5), and of events.
const PAGE: usize = 200;
const PAGE_OF_EVENTS: usize = 1000;
/// Changes and events: the newest, which are about what is wrong now.
const CHANGES_MAX: usize = 1000;
const EVENTS_MAX: usize = 5000;
/// Items of a list. A controller is measured with 5,000 virtual services (docs/guide/sizing.md).
const ITEMS_MAX: usize = 20_000;
/// Characters of an object's name in a path.
const NAME_LEN_MAX: usize = 80;

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A value.
    Json,
    /// Lines.
    Text,
    /// A list that comes in pages of `size`, of which `max` items are wanted.
    Pages {
        /// Items of a page.
        size: usize,
        /// Items in all.
        max: usize,
    },
}

const LIST: Form = Form::Pages {
    size: PAGE,
    max: ITEMS_MAX,
};
const CHANGES: Form = Form::Pages {
    size: PAGE,
    max: CHANGES_MAX,
};
const EVENTS: Form = Form::Pages {
    size: PAGE_OF_EVENTS,
    max: EVENTS_MAX,
};

/// A question that is asked of the controller, or of each engine or virtual service, and what its answer is for.
#[derive(Debug)]
pub(super) struct Kind {
    /// The file, in the folder of whom it is about.
    pub file: &'static str,
    /// The path of the API, in that of whom it is about.
    path: &'static str,
    form: Form,
    /// A line of `README.txt`.
    pub what: &'static str,
}

const fn kind(file: &'static str, path: &'static str, form: Form, what: &'static str) -> Kind {
    Kind {
        file,
        path,
        form,
        what,
    }
}

/// Of the controller; its inventories are beside this list, because more is asked of what is in them.
pub(super) static CONTROLLER: [Kind; 20] = {
    use Form::{Json, Text};
    [
        kind(
            "version.json",
            "/api/cluster/version",
            Json,
            "version of controller and API",
        ),
        kind(
            "cluster.json",
            "/api/cluster",
            Json,
            "the controller's nodes",
        ),
        kind(
            "runtime.json",
            "/api/cluster/runtime",
            Json,
            "the state of the controller's nodes",
        ),
        kind("healthz.json", "/healthz", Json, "the process answers"),
        kind("readyz.json", "/readyz", Json, "the store answers"),
        kind(
            "metrics.txt",
            "/metrics",
            Text,
            "the controller's metrics, with those of all engines",
        ),
        kind(
            "export.json",
            "/api/ek/export",
            Json,
            "the configuration, secrets masked; `evenkeel import` reads it",
        ),
        kind(
            "audit.json",
            "/api/ek/audit",
            CHANGES,
            "who changed what, newest first",
        ),
        kind(
            "pending.json",
            "/api/ek/pending",
            LIST,
            "changes that revert themselves unless they are confirmed",
        ),
        kind(
            "events.json",
            "/api/analytics/logs",
            EVENTS,
            "what happened, newest first",
        ),
        kind("alerts.json", "/api/alert", LIST, "what is to be looked at"),
        kind(
            "topology.json",
            "/api/ek/topology?page_size=200",
            Json,
            "engines, routers and the first VIPs, and how they are connected",
        ),
        kind(
            "bgp.json",
            "/api/ek/bgp",
            LIST,
            "BGP sessions of all engines, with their routes",
        ),
        kind(
            "bfd.json",
            "/api/ek/bfd",
            LIST,
            "BFD sessions of all engines",
        ),
        kind(
            "learnedroute.json",
            "/api/ek/learnedroute",
            LIST,
            "routes that engines have learned",
        ),
        kind(
            "steering.json",
            "/api/ek/steering",
            LIST,
            "what steering has counted",
        ),
        kind(
            "sealkey.json",
            "/api/ek/sealkey",
            Json,
            "ids of the keys that seal the store",
        ),
        kind(
            "systemconfiguration.json",
            "/api/systemconfiguration",
            Json,
            "settings of the system",
        ),
        kind(
            "controllerproperties.json",
            "/api/controllerproperties",
            Json,
            "settings of the controller",
        ),
        kind(
            "seproperties.json",
            "/api/seproperties",
            Json,
            "settings of the engines",
        ),
    ]
};

const SERVICES: Kind = kind(
    "virtualservice-inventory.json",
    "/api/virtualservice-inventory",
    LIST,
    "virtual services and their state",
);
const ENGINES: Kind = kind(
    "serviceengine-inventory.json",
    "/api/serviceengine-inventory",
    LIST,
    "engines and their state",
);
const POOLS: Kind = kind(
    "pool-inventory.json",
    "/api/pool-inventory",
    LIST,
    "pools, their servers up and their state",
);
/// What more is asked of each item, and of none.
pub(super) static INVENTORIES: [Kind; 3] = [SERVICES, ENGINES, POOLS];

/// Of each engine, below `/api/serviceengine/UUID/`.
pub(super) static ENGINE: [Kind; 17] = {
    use Form::Json;
    [
        kind(
            "runtime.json",
            "runtime",
            Json,
            "state, version, connected since",
        ),
        kind("bgp.json", "bgp", Json, "BGP as the engine reported it"),
        kind(
            "bgp-peer_state.json",
            "bgp/peer_state",
            Json,
            "its BGP sessions",
        ),
        kind(
            "bgp-peer_status.json",
            "bgp/peer_status",
            Json,
            "its BGP sessions, with counters",
        ),
        kind(
            "bgp-peer_info.json",
            "bgp/peer_info",
            Json,
            "its BGP sessions, with capabilities and timers",
        ),
        kind(
            "bgp-advertised_routes.json",
            "bgp/advertised_routes",
            Json,
            "routes that it has sent",
        ),
        kind(
            "bgp-running_config.json",
            "bgp/running_config",
            Json,
            "BGP as it is configured there",
        ),
        kind(
            "bgp-debug.json",
            "bgp/debug",
            Json,
            "BGP, for those who know its inside",
        ),
        kind(
            "bfd-session_status.json",
            "bfd/session_status",
            Json,
            "its BFD sessions",
        ),
        kind(
            "bfd-running_config.json",
            "bfd/running_config",
            Json,
            "BFD as it is configured there",
        ),
        kind(
            "interface.json",
            "interface",
            Json,
            "interfaces of its host",
        ),
        kind("route.json", "route", Json, "IPv4 routes of its host"),
        kind("ip6route.json", "ip6route", Json, "IPv6 routes of its host"),
        kind("arptable.json", "arptable", Json, "neighbours of its host"),
        kind(
            "flowtable.json",
            "flowtable",
            Json,
            "the first 1,000 flows that live there",
        ),
        kind(
            "flowtable_remote.json",
            "flowtable_remote",
            Json,
            "the first 1,000 flows that it sends to another engine",
        ),
        kind(
            "flowtablestat.json",
            "flowtablestat",
            Json,
            "what its programs have counted",
        ),
    ]
};

/// Of each virtual service that is not up, below `/api/virtualservice/UUID/`.
pub(super) static SERVICE: [Kind; 3] = [
    kind("runtime.json", "runtime", Form::Json, "its state, and why"),
    kind(
        "runtime-detail.json",
        "runtime/detail",
        Form::Json,
        "its state on each engine",
    ),
    kind(
        "placement.json",
        "placement",
        Form::Json,
        "where it is placed, and why",
    ),
];

/// Of each address of such a virtual service; the file has the address in its name.
pub(super) static EXPLAIN: Kind = kind(
    "explain-ADDRESS.json",
    "/api/ek/explain/vip/",
    Form::Json,
    "why the VIP is announced or not",
);

/// Types of which the objects are read one by one where there is no export.
pub(super) const OBJECTS: [&str; 13] = [
    "virtualservice",
    "vsvip",
    "pool",
    "poolgroup",
    "healthmonitor",
    "applicationprofile",
    "applicationpersistenceprofile",
    "networkprofile",
    "serviceengine",
    "serviceenginegroup",
    "vrfcontext",
    "cloud",
    "network",
];

/// A question, and the file that its answer becomes.
#[derive(Debug)]
pub(super) struct Ask {
    /// Below the top folder.
    pub file: String,
    /// Of the API.
    pub path: String,
    /// What is an answer.
    pub form: Form,
}

impl Ask {
    fn of_controller(kind: &Kind) -> Self {
        Self {
            file: format!("controller/{}", kind.file),
            path: kind.path.to_owned(),
            form: kind.form,
        }
    }

    fn below(kind: &Kind, folder: &str, path: &str) -> Self {
        Self {
            file: format!("{folder}/{}", kind.file),
            path: format!("{path}/{}", kind.path),
            form: kind.form,
        }
    }
}

pub(super) fn of_controller() -> Vec<Ask> {
    CONTROLLER.iter().map(Ask::of_controller).collect()
}

pub(super) fn engines() -> Ask {
    Ask::of_controller(&ENGINES)
}

pub(super) fn services() -> Ask {
    Ask::of_controller(&SERVICES)
}

pub(super) fn pools() -> Ask {
    Ask::of_controller(&POOLS)
}

pub(super) fn of_objects() -> Vec<Ask> {
    let ask = |path: &&str| Ask {
        file: format!("controller/objects/{path}.json"),
        path: format!("/api/{path}"),
        form: LIST,
    };
    OBJECTS.iter().map(ask).collect()
}

/// Question by question, so that an engine that does not answer takes one place and not all of them.
pub(super) fn of_engines(inventory: &[Value]) -> Vec<Ask> {
    let engines: Vec<&Value> = inventory.iter().collect();
    let folders = folders("engines", &engines);
    let of_kind = |kind: &'static Kind| {
        let each = engines.iter().zip(&folders);
        each.map(move |(item, folder)| {
            let path = format!("/api/serviceengine/{}", uuid(item));
            Ask::below(kind, folder, &path)
        })
    };
    ENGINE.iter().flat_map(of_kind).collect()
}

pub(super) fn of_services(down: &[&Value]) -> Vec<Ask> {
    let folders = folders("virtualservices", down);
    let of_service = |(item, folder): (&&Value, &String)| {
        let path = format!("/api/virtualservice/{}", uuid(item));
        let own = SERVICE.iter().map(|kind| Ask::below(kind, folder, &path));
        let explain = addresses(item).into_iter().map(|vip| Ask {
            file: format!("{folder}/{}", EXPLAIN.file.replace("ADDRESS", &safe(&vip))),
            path: format!("{}{vip}", EXPLAIN.path),
            form: EXPLAIN.form,
        });
        own.chain(explain).collect::<Vec<_>>()
    };
    down.iter().zip(&folders).flat_map(of_service).collect()
}

fn uuid(item: &Value) -> &str {
    text(item, "/config/uuid")
}

/// A folder for each, by name; two that would have the same one have their uuid in it.
fn folders(above: &str, items: &[&Value]) -> Vec<String> {
    let names: Vec<String> = items
        .iter()
        .map(|item| safe(text(item, "/config/name")))
        .collect();
    let mut count: HashMap<String, usize> = HashMap::new();
    for name in &names {
        *count.entry(name.to_lowercase()).or_default() += 1;
    }
    let folder = |(name, item): (&String, &&Value)| match count[&name.to_lowercase()] {
        1 => format!("{above}/{name}"),
        _ => format!("{above}/{name}-{}", safe(uuid(item))),
    };
    names.iter().zip(items).map(folder).collect()
}

/// Letters, digits and `.-_` alone, and no name that leads elsewhere.
fn safe(name: &str) -> String {
    let plain = |c: char| match c {
        c if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') => c,
        _ => '_',
    };
    let name: String = name.chars().take(NAME_LEN_MAX).map(plain).collect();
    match name.starts_with('.') || name.is_empty() {
        true => format!("_{name}"),
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(name: &str, uuid: &str) -> Value {
        json!({"config": {"name": name, "uuid": uuid}})
    }

    #[test]
    fn no_name_of_an_object_leads_out_of_its_folder_and_none_hides_another() {
        let names = ["../../etc", "a b", "a/b", "", "web", "WEB"];
        let numbered = names.iter().enumerate();
        let items: Vec<_> = numbered
            .map(|(n, name)| item(name, &format!("u{n}")))
            .collect();
        let items: Vec<&Value> = items.iter().collect();
        let folders = folders("engines", &items);
        assert_eq!(
            folders,
            [
                "engines/_.._.._etc",
                "engines/a_b-u1",
                "engines/a_b-u2",
                "engines/_",
                "engines/web-u4",
                "engines/WEB-u5"
            ]
        );
        assert_eq!(safe(&"x".repeat(500)).len(), NAME_LEN_MAX);
    }

    #[test]
    fn every_engine_is_asked_a_question_before_any_is_asked_the_next_one() {
        let asks = of_engines(&[item("a", "u1"), item("b", "u2")]);
        assert_eq!(asks.len(), 2 * ENGINE.len());
        let first = asks.iter().take(3).map(|ask| ask.path.as_str());
        assert_eq!(
            first.collect::<Vec<_>>(),
            [
                "/api/serviceengine/u1/runtime",
                "/api/serviceengine/u2/runtime",
                "/api/serviceengine/u1/bgp"
            ]
        );
    }

    #[test]
    fn a_virtual_service_is_explained_by_each_of_its_addresses() {
        let vip =
            json!({"ip_address": {"addr": "192.0.2.1"}, "ip6_address": {"addr": "2001:db8::1"}});
        let mut service = item("web", "u1");
        service["config"]["vip"] = json!([vip]);
        let asks = of_services(&[&service]);
        let explained = asks.iter().filter(|ask| ask.path.contains("explain"));
        let files: Vec<_> = explained.map(|ask| (&*ask.file, &*ask.path)).collect();
        assert_eq!(
            files,
            [
                (
                    "virtualservices/web/explain-192.0.2.1.json",
                    "/api/ek/explain/vip/192.0.2.1"
                ),
                (
                    "virtualservices/web/explain-2001_db8__1.json",
                    "/api/ek/explain/vip/2001:db8::1"
                )
            ]
        );
    }
}
