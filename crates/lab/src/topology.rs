//! Topologies are data: a folder with `topology.toml`, configurations, objects and scenarios.
//!
//! The folder is either one of those embedded in the binary (`tests/topologies` at build time) or one named
//! by its path. `${name}` in any of its files is replaced by the topology's parameter of that name.

use crate::router::RouterRole;
use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, iter};

mod link;

pub use link::{Link, Route, Segment, SegmentKind};
pub(crate) use link::{member_name, one_or_several};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/topologies.rs"));
}

/// Values of parameters by name.
pub type Params = BTreeMap<String, String>;

/// IFNAMSIZ without its final zero.
const INTERFACE_NAME_LEN_MAX: usize = 15;

/// A parsed `topology.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// One line for people.
    pub description: String,
    /// Name of the virtual service that `scale-out` and the scenarios act on.
    pub virtual_service: Option<String>,
    /// Node from which clients call the controllers; none: the controller's own.
    pub operator: Option<String>,
    /// File with the API objects to create, in order: `{"type": [object, …]}`.
    pub objects: Option<String>,
    /// False switches IPv6 off in every namespace: no duplicate address detection to wait for.
    #[serde(default)]
    pub ipv6: bool,
    /// Parameters and their defaults.
    #[serde(default)]
    pub params: Params,
    /// Layer 2 segments.
    #[serde(default, rename = "segment")]
    pub segments: Vec<Segment>,
    /// Nodes, each a network namespace; started in this order.
    #[serde(default, rename = "node")]
    pub nodes: Vec<Node>,
    /// Routes that the routers' kernels hold once all engines that shall announce do.
    #[serde(default, rename = "expect")]
    pub expected: Vec<ExpectedRoute>,
}

/// A VIP's route in a router's kernel as it shall be; `lab status` compares.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedRoute {
    /// Node of the router.
    pub router: String,
    /// The VIP.
    pub vip: IpAddr,
    /// Exactly these; none: the router must not have the route.
    pub next_hops: BTreeSet<IpAddr>,
}

/// A network namespace with what runs in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Name; with `each`, `{n}` stands for the element.
    pub name: String,
    /// Makes one node per element; `{n}` is replaced in name, links, routes and the router's folder. `1-64` is every number from
    /// 1 to 64.
    #[serde(default)]
    pub each: Vec<String>,
    /// Interfaces.
    #[serde(default)]
    pub links: Vec<Link>,
    /// Static routes.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Values under `/proc/sys`, by dotted name, on top of those every node gets.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Ordinary programs, started in this order.
    #[serde(default, rename = "process")]
    pub processes: Vec<Process>,
    /// Runs a router: its programs start before the node's others.
    pub router: Option<RouterRole>,
    /// Runs `evenkeel controller`.
    pub controller: Option<ControllerRole>,
    /// Runs `evenkeel engine`.
    pub engine: Option<EngineRole>,
}

/// A program in a node. In its texts `{dir}` is the node's own directory, `{exe}` this binary, `{node}` the node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Name, unique in its node.
    pub name: String,
    /// Files of the topology that are rendered into the node's directory first, under their last name.
    #[serde(default)]
    pub files: Vec<String>,
    /// User that the node's directory and files are given to.
    pub owner: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The program is ready when this path exists.
    pub ready_file: Option<String>,
    /// The program is ready when something listens on this TCP port.
    pub ready_port: Option<u16>,
}

/// Where the controller listens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerRole {
    /// Address and port of the REST API.
    pub api: String,
    /// Address and port for engines.
    pub engines: String,
    /// URLs of the etcd members, where several controllers share them.
    #[serde(default)]
    pub etcd: Vec<String>,
    /// Its time of day.
    #[serde(default)]
    pub clock: Clock,
}

/// Whose time of day a process has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// The host's.
    #[default]
    Host,
    /// Its own, which scenarios set.
    Settable,
}

/// How an engine finds its controllers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineRole {
    /// Addresses and ports of controllers.
    pub controllers: Vec<String>,
    /// Interface that carries management only.
    pub mgmt_interface: String,
}

impl Topology {
    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        let found = self.nodes.iter().find(|n| n.name == name);
        found.with_context(|| format!("no node {name} (there are: {})", self.node_names()))
    }

    /// The segment of this name.
    pub fn segment(&self, name: &str) -> Result<&Segment> {
        let found = self.segments.iter().find(|s| s.name == name);
        found.with_context(|| format!("no segment {name} in the topology"))
    }

    /// The interface by which `node` is on `segment`.
    pub fn interface(&self, node: &Node, link: &Link) -> Result<String> {
        let segment = self.segment(&link.segment)?;
        if segment.is_owned_by(&node.name) {
            return Ok(segment.bridge().to_owned());
        }
        let name = link.interface.clone();
        name.with_context(|| {
            format!(
                "node {}: the link to {} has no interface",
                node.name, link.segment
            )
        })
    }

    /// Engines by their addresses on the segments that are meant.
    pub fn engines_on(&self, meant: impl Fn(&str) -> bool) -> BTreeMap<IpAddr, String> {
        let engines = self.nodes.iter().filter(|n| n.engine.is_some());
        let links = engines.flat_map(|n| n.links.iter().map(move |l| (n, l)));
        let named = links.filter(|(_, link)| meant(&link.segment));
        named
            .flat_map(|(node, link)| link.ips().map(|ip| (ip, node.name.clone())))
            .collect()
    }

    /// The node that has this address.
    pub fn owner_of(&self, address: IpAddr) -> Option<&str> {
        let owns = |n: &&Node| n.links.iter().any(|l| l.ips().any(|ip| ip == address));
        self.nodes.iter().find(owns).map(|n| n.name.as_str())
    }

    fn node_names(&self) -> String {
        let names: Vec<_> = self.nodes.iter().map(|n| n.name.as_str()).collect();
        names.join(", ")
    }

    fn expand(&mut self) -> Result<()> {
        let mut nodes = Vec::new();
        for node in &self.nodes {
            nodes.extend(
                node.expand()
                    .with_context(|| format!("node {}", node.name))?,
            );
        }
        self.nodes = nodes;
        Ok(())
    }

    fn check(&self) -> Result<()> {
        for node in &self.nodes {
            self.check_node(node)
                .with_context(|| format!("node {}", node.name))?;
        }
        for segment in &self.segments {
            self.check_segment(segment)
                .with_context(|| format!("segment {}", segment.name))?;
        }
        for route in &self.expected {
            self.node(&route.router)
                .with_context(|| format!("expected route to {}", route.vip))?;
        }
        Ok(())
    }

    fn check_segment(&self, segment: &Segment) -> Result<()> {
        let duplicates = self.segments.iter().filter(|s| s.name == segment.name);
        ensure!(duplicates.count() == 1, "the name is used twice");
        ensure!(
            segment.bridge().len() <= INTERFACE_NAME_LEN_MAX,
            "name too long"
        );
        if let Some(owner) = &segment.node {
            self.node(owner)?;
        }
        segment.check(self.ends(&segment.name).len())
    }

    /// Nodes on a segment with their links, in the order of the nodes.
    pub fn ends(&self, segment: &str) -> Vec<(&Node, &Link)> {
        let links = self
            .nodes
            .iter()
            .flat_map(|n| n.links.iter().map(move |l| (n, l)));
        links.filter(|(_, l)| l.segment == segment).collect()
    }

    fn check_node(&self, node: &Node) -> Result<()> {
        let duplicates = self.nodes.iter().filter(|n| n.name == node.name).count();
        ensure!(duplicates == 1, "the name is used {duplicates} times");
        ensure!(
            node.name != crate::fabric::SWITCHES,
            "the name is taken by the switches"
        );
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(node.name.chars().all(fits), "a name has a-z, 0-9 and -");
        for (index, link) in node.links.iter().enumerate() {
            let name = self.interface(node, link)?;
            let names = [port_name(&node.name, index), member_name(&name, 0), name];
            let long = names.iter().find(|n| n.len() > INTERFACE_NAME_LEN_MAX);
            if let Some(long) = long {
                bail!("interface name {long} is too long");
            }
            link.check(self.ipv6)
                .with_context(|| format!("link to {}", link.segment))?;
        }
        node.routes.iter().try_for_each(Route::check)
    }
}

/// Name of the switch port of a node's link.
pub(crate) fn port_name(node: &str, index: usize) -> String {
    format!("{node}.{index}")
}

impl Node {
    fn expand(&self) -> Result<Vec<Self>> {
        if self.each.is_empty() {
            return Ok(vec![self.clone()]);
        }
        let mut nodes = Vec::new();
        for element in &self.each {
            nodes.extend(elements(element)?.iter().map(|n| self.instance(n)));
        }
        Ok(nodes)
    }

    fn instance(&self, n: &str) -> Self {
        let put = |text: &mut String| *text = text.replace("{n}", n);
        let mut node = Self {
            each: Vec::new(),
            ..self.clone()
        };
        put(&mut node.name);
        for link in &mut node.links {
            put(&mut link.segment);
            link.addresses.iter_mut().for_each(put);
        }
        node.router.iter_mut().for_each(|r| put(&mut r.config));
        if let Some(role) = &mut node.controller {
            put(&mut role.api);
            put(&mut role.engines);
        }
        let commands = node.processes.iter_mut().flat_map(|p| &mut p.command);
        commands.for_each(put);
        for route in &mut node.routes {
            put(&mut route.to);
            put(&mut route.via);
        }
        node
    }
}

/// What an element of `each` stands for: itself, or the numbers of a range `FIRST-LAST`.
fn elements(element: &str) -> Result<Vec<String>> {
    let Some((first, last)) = element.split_once('-') else {
        return Ok(vec![element.to_owned()]);
    };
    let number = |text: &str| text.parse::<u16>().ok();
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        bail!("each = {element:?} is no range: write two numbers, such as 1-64");
    };
    ensure!(
        first <= last,
        "each = {element:?} has no element: the smaller number comes first"
    );
    Ok((first..=last).map(|n| n.to_string()).collect())
}

/// A topology's folder, in the binary or on disk.
#[derive(Debug, Clone)]
pub struct Folder {
    /// Name: the folder's last component.
    pub name: String,
    source: Source,
    /// Parameters in force.
    pub params: Params,
}

#[derive(Debug, Clone)]
enum Source {
    Embedded,
    Disk(PathBuf),
}

/// The `params` of a topology or scenario file, read before they are put in: elsewhere a `${name}` may stand
/// where only certain words fit.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Defaults {
    #[serde(default)]
    params: Params,
}

impl Folder {
    /// Finds an embedded topology by name, or one on disk by its path.
    pub fn find(name: &str) -> Result<Self> {
        if embedded_names().any(|n| n == name) {
            return Ok(Self {
                name: name.to_owned(),
                source: Source::Embedded,
                params: Params::new(),
            });
        }
        let path = Path::new(name);
        if path.join("topology.toml").exists() {
            return Self::on_disk(path);
        }
        let known: Vec<_> = embedded_names().collect();
        bail!(
            "no topology {name}: neither built in ({}) nor a folder with a topology.toml",
            known.join(", ")
        )
    }

    /// A folder on disk.
    pub fn on_disk(path: &Path) -> Result<Self> {
        let path = path
            .canonicalize()
            .with_context(|| format!("topology {}", path.display()))?;
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or("topology")
            .to_owned();
        Ok(Self {
            name,
            source: Source::Disk(path),
            params: Params::new(),
        })
    }

    /// Parses the topology and settles the parameters: its defaults, then `settings`.
    pub fn load(&mut self, settings: &Params) -> Result<Topology> {
        self.params = self
            .parse_toml::<Defaults>("topology.toml", &self.raw("topology.toml")?)?
            .params;
        for (name, value) in settings {
            ensure!(
                self.params.contains_key(name),
                "topology {} has no parameter {name}",
                self.name
            );
            self.params.insert(name.clone(), value.clone());
        }
        let mut topology: Topology =
            self.parse_toml("topology.toml", &self.text("topology.toml")?)?;
        topology
            .expand()
            .and_then(|()| topology.check())
            .and_then(|()| self.add_routers(&mut topology))
            .with_context(|| format!("topology {}", self.name))?;
        Ok(topology)
    }

    /// The programs of routers, before the other ones of their nodes.
    fn add_routers(&self, topology: &mut Topology) -> Result<()> {
        for node in &mut topology.nodes {
            let Some(router) = &node.router else { continue };
            let programs = router
                .processes(self)
                .with_context(|| format!("node {}", node.name))?;
            node.processes.splice(0..0, programs);
        }
        Ok(())
    }

    /// True when the folder has this file.
    pub(crate) fn has(&self, file: &str) -> bool {
        match &self.source {
            Source::Disk(path) => path.join(file).is_file(),
            Source::Embedded => self.raw(file).is_ok(),
        }
    }

    /// A file with its parameters replaced.
    pub fn text(&self, file: &str) -> Result<String> {
        render(&self.raw(file)?, &self.params).with_context(|| format!("{}/{file}", self.name))
    }

    /// A TOML file with its parameters replaced.
    pub fn toml<T: for<'de> Deserialize<'de>>(&self, file: &str) -> Result<T> {
        self.parse_toml(file, &self.text(file)?)
    }

    /// Names of the scenarios.
    pub fn scenarios(&self) -> Result<Vec<String>> {
        let files = self.files()?;
        let names = files
            .iter()
            .filter_map(|(name, _)| name.strip_prefix("scenarios/")?.strip_suffix(".toml"));
        Ok(names.map(str::to_owned).collect())
    }

    /// The parameters that a scenario asks for.
    pub fn scenario_params(&self, scenario: &str) -> Result<Params> {
        let file = format!("scenarios/{scenario}.toml");
        let raw = self.raw(&file).with_context(|| self.scenario_hint())?;
        Ok(self.parse_toml::<Defaults>(&file, &raw)?.params)
    }

    fn scenario_hint(&self) -> String {
        let known = self.scenarios().unwrap_or_default().join(", ");
        format!("topology {} has the scenarios: {known}", self.name)
    }

    /// Writes all files below `target`, so that a lab that is up depends on no other folder.
    pub fn copy_to(&self, target: &Path) -> Result<()> {
        for (name, content) in self.files()? {
            let path = target.join(name);
            let parent = path.parent().expect("a joined path has a parent");
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&path, content))
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    fn parse_toml<T: for<'de> Deserialize<'de>>(&self, file: &str, text: &str) -> Result<T> {
        toml::from_str(text).with_context(|| format!("{}/{file}", self.name))
    }

    fn raw(&self, file: &str) -> Result<String> {
        let found = match &self.source {
            Source::Disk(path) => fs::read_to_string(path.join(file)).ok(),
            Source::Embedded => {
                let wanted = format!("{}/{file}", self.name);
                embedded::FILES
                    .iter()
                    .find(|(name, _)| *name == wanted)
                    .map(|(_, text)| (*text).to_owned())
            }
        };
        found.with_context(|| format!("topology {} has no file {file}", self.name))
    }

    fn files(&self) -> Result<Vec<(String, String)>> {
        match &self.source {
            Source::Disk(path) => read_tree(path, path),
            Source::Embedded => {
                let prefix = format!("{}/", self.name);
                let own = embedded::FILES
                    .iter()
                    .filter_map(|(name, text)| Some((name.strip_prefix(&prefix)?, text)));
                Ok(own
                    .map(|(name, text)| (name.to_owned(), (*text).to_owned()))
                    .collect())
            }
        }
    }
}

/// Names of the topologies in the binary.
pub fn embedded_names() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    let mut files = embedded::FILES.iter();
    iter::from_fn(move || {
        let (name, _) = files
            .by_ref()
            .find_map(|(path, _)| path.split_once('/').filter(|(n, _)| *n != last))?;
        last = name;
        Some(name)
    })
}

/// The embedded topology that a scenario named alone is of: `usual` where it has it, or where none has.
pub fn of_scenario(scenario: &str, usual: &'static str) -> &'static str {
    let file = format!("scenarios/{scenario}.toml");
    let has = |name: &&str| Folder::find(name).is_ok_and(|folder| folder.has(&file));
    let mut candidates = iter::once(usual).chain(embedded_names());
    candidates.find(has).unwrap_or(usual)
}

fn read_tree(root: &Path, folder: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(read_tree(root, &path)?);
        } else {
            let name = path
                .strip_prefix(root)
                .expect("found under the root")
                .display()
                .to_string();
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            files.push((name, text));
        }
    }
    files.sort();
    Ok(files)
}

/// Replaces `${name}` by the parameter's value; an unknown name is an error.
fn render(text: &str, params: &Params) -> Result<String> {
    let mut rendered = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) = after.split_once('}').context("a ${ has no }")?;
        let value = params
            .get(name)
            .with_context(|| format!("no parameter {name}"))?;
        rendered.push_str(before);
        rendered.push_str(value);
        rest = tail;
    }
    rendered.push_str(rest);
    Ok(rendered)
}

#[cfg(test)]
mod tests;
