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
fn each_makes_one_node_per_element() {
    let (_, topology) = load(&[]).unwrap();
    let engines = topology.engines_on("se");
    assert_eq!(engines.len(), 5);
    assert_eq!(
        engines[2],
        ("se-3".to_owned(), "10.10.10.13".parse().unwrap())
    );
    assert_eq!(
        topology.owner_of("10.20.20.15".parse().unwrap()),
        Some("se-5")
    );
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
