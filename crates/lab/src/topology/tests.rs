use super::*;

fn load(settings: &[(&str, &str)]) -> Result<(Folder, Topology)> {
    let settings = settings
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let mut folder = Folder::find("ecmp-5se")?;
    let topology = folder.load(&settings)?;
    Ok((folder, topology))
}

#[test]
fn every_embedded_topology_loads_with_its_scenarios_and_objects() {
    for name in embedded_names() {
        let mut folder = Folder::find(name).unwrap();
        let topology = folder.load(&Params::new()).unwrap();
        for scenario in folder.scenarios().unwrap() {
            folder
                .toml::<crate::scenario::Scenario>(&format!("scenarios/{scenario}.toml"))
                .unwrap();
        }
        if let Some(objects) = &topology.objects {
            let text = folder.text(objects).unwrap();
            cli::apply::Manifest::parse(objects, &text).unwrap();
        }
    }
}

#[test]
fn a_scenario_that_is_named_alone_is_looked_for_in_every_topology() {
    let named = [
        "scale-out",
        "peer-changes",
        "any-order",
        "link-loss",
        "wide",
        "nonsense",
    ];
    let found = named.map(|s| of_scenario(s, "ecmp-5se"));
    let expected = [
        "ecmp-5se",
        "two-routers",
        "ecmp-8se",
        "dual-homed",
        "ecmp-64se",
        "ecmp-5se",
    ];
    assert_eq!(found, expected);
}

#[test]
fn each_makes_one_node_per_element() {
    let (_, topology) = load(&[]).unwrap();
    let engines = topology.engines_on(|segment| segment == "se");
    assert_eq!(engines.len(), 5);
    assert_eq!(engines[&"10.10.10.13".parse().unwrap()], "se-3");
    assert_eq!(
        topology.owner_of("10.20.20.15".parse().unwrap()),
        Some("se-5")
    );
}

#[test]
fn each_takes_ranges_of_numbers_with_a_parameter_as_their_end() {
    let load = |engines: &str| {
        let settings = Params::from([("engines".to_owned(), engines.to_owned())]);
        Folder::find("ecmp-64se").unwrap().load(&settings)
    };
    let names = |topology: Topology| topology.engines_on(|segment| segment == "se");
    let all = names(load("64").unwrap());
    assert_eq!(all.len(), 64);
    assert_eq!(all[&"10.10.10.164".parse().unwrap()], "se-64");
    assert_eq!(names(load("2").unwrap()).len(), 2);
    for (engines, why) in [("0", "has no element"), ("many", "is no range")] {
        let error = format!("{:#}", load(engines).unwrap_err());
        assert!(
            error.contains("node se-{n}") && error.contains(why),
            "{error}"
        );
    }
}

#[test]
fn a_segment_in_a_node_is_its_bridge() {
    let (_, topology) = load(&[]).unwrap();
    let router = topology.node("router").unwrap();
    assert_eq!(
        topology.interface(router, &router.links[1]).unwrap(),
        "vlan10"
    );
}

#[test]
fn a_setting_replaces_the_parameter_everywhere() {
    let (folder, _) = load(&[("as", "65099")]).unwrap();
    assert!(
        folder
            .text("router/bgpd.conf")
            .unwrap()
            .contains("router bgp 65099")
    );
    assert!(
        folder
            .text("objects.yaml")
            .unwrap()
            .contains("local_as: 65099")
    );
}

#[test]
fn an_unknown_setting_is_refused_by_name() {
    let error = load(&[("colour", "red")]).unwrap_err();
    assert!(
        error.to_string().contains("no parameter colour"),
        "{error:#}"
    );
}

#[test]
fn an_unknown_topology_is_refused_with_the_known_ones() {
    let error = Folder::find("nowhere").unwrap_err();
    assert!(error.to_string().contains("ecmp-5se"), "{error:#}");
}

#[test]
fn a_copied_folder_loads_from_disk() {
    let target = std::env::temp_dir().join(format!("ek-topology-{}", std::process::id()));
    Folder::find("ecmp-5se").unwrap().copy_to(&target).unwrap();
    let topology = Folder::on_disk(&target).unwrap().load(&Params::new());
    std::fs::remove_dir_all(&target).unwrap();
    assert_eq!(topology.unwrap().nodes.len(), 11);
}

#[test]
fn a_placeholder_without_a_parameter_is_an_error() {
    assert!(render("a ${b}", &Params::new()).is_err());
    assert!(render("a ${b", &Params::new()).is_err());
    assert_eq!(render("plain", &Params::new()).unwrap(), "plain");
}

/// A topology of two nodes, `a` and `b`, with these lines in it; loaded from a folder that goes again.
fn load_text(ipv6: bool, segment: &str, links: &str, rest: &str) -> Result<Topology> {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("ek-topology-{}-{count}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let text = format!(
        "description = \"test\"\nipv6 = {ipv6}\n[params]\nrouter = \"frr\"\n[[segment]]\nname = \"s\"\n{segment}\n\
         [[node]]\nname = \"a\"\nlinks = [{links}]\n[[node]]\nname = \"b\"\nlinks = [{{ segment = \"s\", interface = \"eth0\" }}]\n{rest}\n"
    );
    std::fs::write(folder.join("topology.toml"), text).unwrap();
    let loaded = Folder::on_disk(&folder).unwrap().load(&Params::new());
    std::fs::remove_dir_all(&folder).unwrap();
    loaded
}

const LINK: &str =
    r#"{ segment = "s", interface = "eth0", address = ["10.0.0.0/31", "fd00::/127"] }"#;

#[test]
fn a_link_has_one_address_or_several() {
    let topology = load_text(true, "kind = \"point_to_point\"", LINK, "").unwrap();
    let ips: Vec<_> = topology.nodes[0].links[0].ips().collect();
    assert_eq!(
        ips,
        ["10.0.0.0", "fd00::"].map(|a| a.parse::<IpAddr>().unwrap())
    );
    assert_eq!(topology.ends("s").len(), 2);
}

/// What is refused, and words that the error must have.
struct Broken<'a> {
    segment: &'a str,
    links: &'a str,
    rest: &'a str,
    wanted: &'a [&'a str],
}

const FINE: Broken<'static> = Broken {
    segment: "",
    links: LINK,
    rest: "",
    wanted: &[],
};

fn assert_refused(cases: &[Broken<'_>]) {
    for case in cases {
        let error = load_text(true, case.segment, case.links, case.rest).unwrap_err();
        let error = format!("{error:#}");
        for part in case.wanted {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
}

#[test]
fn a_broken_segment_is_refused_with_its_name_and_the_reason() {
    let broken = |segment, wanted| Broken {
        segment,
        wanted,
        ..FINE
    };
    assert_refused(&[
        broken("kind = \"token_ring\"", &["token_ring", "point_to_point"]),
        broken(
            "kind = \"port_channel\"\nlinks = 1",
            &["segment s", "2 to 8 links, not 1"],
        ),
        broken(
            "kind = \"point_to_point\"\nlinks = 2",
            &["`links` is for a port_channel"],
        ),
        broken(
            "kind = \"point_to_point\"\nnode = \"a\"",
            &["are for bridges"],
        ),
        broken("colour = \"red\"", &["colour"]),
        Broken {
            segment: "kind = \"point_to_point\"",
            links: "",
            wanted: &["segment s", "joins two nodes; 1 are on it"],
            ..FINE
        },
    ]);
}

#[test]
fn a_broken_link_or_route_is_refused_with_its_node_and_the_reason() {
    let broken = |links, wanted| Broken {
        links,
        wanted,
        ..FINE
    };
    let route = |route: &str| format!("{LINK}]\nroutes = [{route}");
    let two_families = route(r#"{ to = "10.9.0.0/16", via = "fd00::1" }"#);
    let no_gateway = route(r#"{ to = "default", via = "eth0" }"#);
    assert_refused(&[
        broken(
            r#"{ segment = "s", interface = "eth0", address = "10.0.0.1" }"#,
            &["node a", "link to s", "10.0.0.1", "prefix length"],
        ),
        broken(
            r#"{ segment = "s", interface = "eth0", address = 7 }"#,
            &["a text, or a list of them"],
        ),
        broken(
            r#"{ segment = "s", interface = "a-very-long-name" }"#,
            &["a-very-long-name", "too long"],
        ),
        broken(&two_families, &["10.9.0.0/16", "another address family"]),
        broken(&no_gateway, &["gateway \"eth0\" is no IP address"]),
    ]);
    let error = format!("{:#}", load_text(false, "", LINK, "").unwrap_err());
    assert!(error.contains("ipv6 = false"), "{error}");
}

#[test]
fn a_broken_router_or_expected_route_is_refused_with_the_reason() {
    let broken = |rest, wanted| Broken {
        rest,
        wanted,
        ..FINE
    };
    assert_refused(&[
        broken(
            "[[expect]]\nrouter = \"r9\"\nvip = \"10.100.0.1\"\nnext_hops = []",
            &["expected route to 10.100.0.1", "no node r9"],
        ),
        broken(
            "[node.router]\nkind = \"cisco\"\nconfig = \"r\"",
            &["cisco", "frr", "bird"],
        ),
        broken(
            "[node.router]\nkind = \"${router}\"\nconfig = \"r\"",
            &["node b", "no r/zebra.conf for a frr router"],
        ),
    ]);
}

#[test]
fn every_router_of_every_topology_can_be_frr_and_bird() {
    for name in embedded_names() {
        for (kind, first) in [("frr", "zebra"), ("bird", "bird")] {
            let settings = Params::from([("router".to_owned(), kind.to_owned())]);
            let topology = Folder::find(name).unwrap().load(&settings).unwrap();
            let routers: Vec<_> = topology
                .nodes
                .iter()
                .filter(|n| n.router.is_some())
                .collect();
            assert!(!routers.is_empty(), "{name}");
            for router in routers {
                assert_eq!(router.processes[0].name, first, "{name}");
            }
        }
    }
}

#[test]
fn every_expected_next_hop_is_an_address_of_the_topology() {
    for name in embedded_names() {
        let topology = Folder::find(name).unwrap().load(&Params::new()).unwrap();
        for route in &topology.expected {
            for hop in &route.next_hops {
                assert!(topology.owner_of(*hop).is_some(), "{name}: {hop}");
                assert_eq!(hop.is_ipv4(), route.vip.is_ipv4(), "{name}: {hop}");
            }
        }
    }
}
