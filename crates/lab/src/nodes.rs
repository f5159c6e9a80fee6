//! The processes of the nodes: routers and servers first, then the controller, engines and objects.

use crate::clock;
use crate::control::{self, Control};
use crate::fabric;
use crate::process::{Identity, spawn_daemon, wait_for};
use crate::record::{ClientContext, Member, Record, write_private};
use crate::topology::{Clock, ControllerRole, EngineRole, Folder, Node, Process, Topology};
use anyhow::{Context, Result, bail};
use cli::note;
use rand::Rng;
use rand::distr::Alphanumeric;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

/// How long a program may take until it listens; the first start of a controller makes keys and hashes.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// Name of the controller's process in its node.
pub(crate) const CONTROLLER: &str = "controller";

/// Name of the engine's process in its node.
pub(crate) const ENGINE: &str = "engine";

/// The file with the keys of the store's secrets, in a controller's data folder.
const KEYS: &str = "seal-keys.json";

/// Seconds after which another controller leads: the shortest that there may be.
const LEASE_S: &str = "3";

/// Length of the generated password; 62^24 is beyond guessing.
const PASSWORD_LEN: usize = 24;

/// Starts every process of the topology and creates its objects.
pub(crate) fn start_all(
    record: &mut Record,
    folder: &Folder,
    topology: &Topology,
    bare: bool,
) -> Result<()> {
    for node in &topology.nodes {
        start_programs(record, folder, node).with_context(|| format!("node {}", node.name))?;
    }
    if bare {
        return Ok(());
    }
    let roles = topology.nodes.iter();
    let roles: Vec<_> = roles
        .filter_map(|n| Some((n, n.controller.as_ref()?)))
        .collect();
    let Some((first, _)) = roles.first() else {
        return Ok(());
    };
    let password = new_password();
    for (node, role) in &roles {
        start_controller(record, node, role, &password, &first.name)
            .with_context(|| format!("node {}", node.name))?;
    }
    let urls = roles.iter().map(|(_, role)| url_of(role));
    record.save_client_context(&ClientContext {
        controller: urls.collect::<Vec<_>>().join(","),
        netns: record.namespace(topology.operator.as_ref().unwrap_or(&first.name)),
        username: "admin".into(),
        password,
        insecure: true,
    })?;
    let control = Control::connect(record)?;
    start_engines(record, topology, &control)?;
    if let Some(file) = &topology.objects {
        control.apply(file, &folder.text(file)?)?;
    }
    Ok(())
}

fn start_programs(record: &mut Record, folder: &Folder, node: &Node) -> Result<()> {
    for program in &node.processes {
        let dir = make_dir(record, &node.name, program)?;
        for file in &program.files {
            let name = Path::new(file)
                .file_name()
                .context("a file without a name")?;
            fs::write(dir.join(name), folder.text(file)?)
                .with_context(|| format!("write {file}"))?;
        }
        start_program(record, node, program).with_context(|| program.name.clone())?;
    }
    Ok(())
}

/// Makes the node's own directory: for the owner of a daemon that gives up root, else for root alone.
fn make_dir(record: &Record, node: &str, program: &Process) -> Result<std::path::PathBuf> {
    let dir = record.node_dir(node);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("create {}", dir.display()))?;
    if let Some(owner) = &program.owner {
        let user = nix::unistd::User::from_name(owner)?
            .with_context(|| format!("no user {owner}: is the package installed?"))?;
        nix::unistd::chown(&dir, Some(user.uid), Some(user.gid))?;
    }
    Ok(dir)
}

fn start_program(record: &mut Record, node: &Node, program: &Process) -> Result<()> {
    let dir = record.node_dir(&node.name).display().to_string();
    let exe = own_binary()?;
    let fill = |text: &String| {
        text.replace("{dir}", &dir)
            .replace("{exe}", &exe)
            .replace("{node}", &node.name)
    };
    let command: Vec<_> = program.command.iter().map(fill).collect();
    let identity = start(record, &node.name, &program.name, command)?;
    let namespace = record.namespace(&node.name);
    let ready_file = program.ready_file.as_ref().map(fill);
    wait_until_ready(record, &node.name, &program.name, identity, || {
        ready_file
            .as_ref()
            .is_none_or(|f| fs::exists(f).unwrap_or(false))
            && program.ready_port.is_none_or(|p| listens(&namespace, p))
    })
}

/// Starts a process in a node and puts it on record.
fn start(record: &mut Record, node: &str, name: &str, command: Vec<String>) -> Result<Identity> {
    let log = record.node_dir(node).join(format!("{name}.out"));
    let identity = spawn_daemon(&record.namespace(node), &command, &log)?;
    record.processes.push(Member {
        node: node.to_owned(),
        name: name.to_owned(),
        identity,
        command,
    });
    record.save()?;
    Ok(identity)
}

/// Starts a process of a node again, as it was started before.
pub(crate) fn restart(record: &mut Record, node: &str) -> Result<Identity> {
    let member = record.processes.iter().rev().find(|p| p.node == node);
    let member = member
        .with_context(|| format!("nothing was started in node {node}"))?
        .clone();
    start(record, node, &member.name, member.command)
}

/// Starts programs of a node again, in the order of the topology, each when the one before it is ready.
pub(crate) fn start_again(record: &mut Record, node: &Node, programs: &[&Process]) -> Result<()> {
    let dir = record.node_dir(&node.name).display().to_string();
    for program in programs {
        // One that ended may have left it behind.
        if let Some(file) = &program.ready_file {
            fs::remove_file(file.replace("{dir}", &dir)).ok();
        }
        start_program(record, node, program).with_context(|| program.name.clone())?;
    }
    Ok(())
}

fn wait_until_ready(
    record: &Record,
    node: &str,
    name: &str,
    process: Identity,
    mut ready: impl FnMut() -> bool,
) -> Result<()> {
    if wait_for(READY_TIMEOUT, || ready() || !process.is_alive()) && process.is_alive() {
        return Ok(());
    }
    let log = record.node_dir(node).join(format!("{name}.out"));
    let said = fs::read_to_string(&log).unwrap_or_default();
    let tail: Vec<_> = said.lines().rev().take(5).collect();
    let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
    bail!(
        "{name} in {node} is not ready; its last words ({}):\n{tail}",
        log.display()
    )
}

/// True when something listens on this TCP port in the namespace.
fn listens(namespace: &str, port: u16) -> bool {
    let tables = fabric::inside(namespace, || {
        ["tcp", "tcp6"].map(|t| fs::read_to_string(format!("/proc/thread-self/net/{t}")))
    });
    let tables = tables.into_iter().flatten().flatten();
    tables
        .into_iter()
        .any(|text| text.lines().skip(1).any(|line| is_listener(line, port)))
}

/// A line of /proc/net/tcp: `sl local_address rem_address st …`; state 0A is LISTEN.
fn is_listener(line: &str, port: u16) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let local = fields
        .next()
        .and_then(|a| a.rsplit_once(':'))
        .and_then(|(_, p)| u16::from_str_radix(p, 16).ok());
    local == Some(port) && fields.nth(1) == Some("0A")
}

fn url_of(role: &ControllerRole) -> String {
    format!("https://{}", role.api.trim_end_matches(":443"))
}

/// Those after the first have the key file of the first.
fn start_controller(
    record: &mut Record,
    node: &Node,
    role: &ControllerRole,
    password: &str,
    first: &str,
) -> Result<()> {
    note!("controller: first start on {}", role.api);
    let dir = record.node_dir(&node.name);
    private_dir(&dir)?;
    write_private(&dir.join("admin-password"), &format!("{password}\n"))?;
    private_dir(&dir.join("data"))?;
    if node.name != first {
        copy_keys(&record.node_dir(first), &dir)?;
    }
    let mut command = match role.clock {
        Clock::Host => Vec::new(),
        Clock::Settable => clock::make(&dir)?,
    };
    command.extend(controller_command(&dir, node, role)?);
    let identity = start(record, &node.name, CONTROLLER, command)?;
    let (namespace, port) = (record.namespace(&node.name), port_of(&role.api)?);
    wait_until_ready(record, &node.name, CONTROLLER, identity, || {
        listens(&namespace, port)
    })
}

fn controller_command(dir: &Path, node: &Node, role: &ControllerRole) -> Result<Vec<String>> {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut command = vec![
        own_binary()?,
        "controller".into(),
        "--data-dir".into(),
        path("data"),
        "--listen-api".into(),
        role.api.clone(),
        "--listen-engines".into(),
        role.engines.clone(),
        "--admin-password-file".into(),
        path("admin-password"),
    ];
    if !role.etcd.is_empty() {
        let several = ["--name", &node.name, "--etcd-lease", LEASE_S, "--etcd"];
        command.extend(several.map(str::to_owned));
        command.push(role.etcd.join(","));
    }
    Ok(command)
}

fn copy_keys(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.join("data").join(KEYS), to.join("data").join(KEYS));
    wait_for(READY_TIMEOUT, || from.exists());
    let keys = fs::read_to_string(&from).with_context(|| format!("read {}", from.display()))?;
    write_private(&to, &keys)
}

fn start_engines(record: &mut Record, topology: &Topology, control: &Control) -> Result<()> {
    let engines = topology
        .nodes
        .iter()
        .filter_map(|n| Some((n, n.engine.as_ref()?)));
    let mut names = Vec::new();
    for (node, role) in engines {
        start_engine(record, node, role, control).with_context(|| format!("node {}", node.name))?;
        names.push(node.name.clone());
    }
    note!(
        "engines: {} started, waiting until they have joined",
        names.len()
    );
    control.wait_for_engines(&names, control::join_timeout(names.len()))
}

fn start_engine(
    record: &mut Record,
    node: &Node,
    role: &EngineRole,
    control: &Control,
) -> Result<()> {
    let dir = record.node_dir(&node.name);
    private_dir(&dir)?;
    write_private(
        &dir.join("join-token"),
        &format!("{}\n", control.join_token(&node.name)?),
    )?;
    let path = |name: &str| dir.join(name).display().to_string();
    let mut command = vec![
        own_binary()?,
        "engine".into(),
        "--name".into(),
        node.name.clone(),
    ];
    for controller in &role.controllers {
        command.extend(["--controllers".into(), controller.clone()]);
    }
    command.extend([
        "--state-dir".into(),
        path("state"),
        "--join-token-file".into(),
        path("join-token"),
    ]);
    command.extend(["--mgmt-interface".into(), role.mgmt_interface.clone()]);
    let pins = record.bpf_dir().join(&node.name).display().to_string();
    command.extend(["--bpf-dir".into(), pins]);
    private_dir(&dir.join("state"))?;
    start(record, &node.name, ENGINE, command).map(drop)
}

fn private_dir(dir: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("create {}", dir.display()))
}

fn port_of(address: &str) -> Result<u16> {
    let port = address.rsplit_once(':').and_then(|(_, p)| p.parse().ok());
    port.with_context(|| format!("{address} has no port"))
}

/// The binary whose subcommands the members run: this one, or the one that `EVENKEEL_BIN` names for tests.
pub(crate) fn own_binary() -> Result<String> {
    let path = match std::env::var_os("EVENKEEL_BIN") {
        Some(path) => path.into(),
        None => std::env::current_exe().context("find this binary")?,
    };
    Ok(path.display().to_string())
}

fn new_password() -> String {
    rand::rng()
        .sample_iter(Alphanumeric)
        .take(PASSWORD_LEN)
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection_to_the_same_port() {
        let listener =
            "   0: 00000000:00B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000";
        let connection =
            "   1: 0100007F:00B3 0100007F:C350 01 00000000:00000000 00:00000000 00000000";
        assert!(is_listener(listener, 179));
        assert!(!is_listener(listener, 80));
        assert!(!is_listener(connection, 179));
    }
}
