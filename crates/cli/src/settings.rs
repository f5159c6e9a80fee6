//! Which controller, as whom, trusted how: from flags, environment, the user's file, and the running lab.
//!
//! Four layers, the first that names a value wins. A layer that names **another controller** than the one
//! chosen gives nothing at all, and a password belongs to the user it stands beside: credentials of one
//! controller are never sent to another one.

use crate::output::{Format, Hinted, UsageError};
use client::{Client, ClientConfig, Password, Trust};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where a running lab says how to reach its controller.
pub const LAB_CONTEXT: &str = "/run/evenkeel/lab/current.toml";

/// The user's own file, below the home folder.
const USER_FILE: &str = ".config/evenkeel/cli.toml";

/// Options of every command that talks to a controller.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Controller and output")]
pub struct GlobalArgs {
    /// Address of the controller, https://host:port; of several, separated by commas [env: EVENKEEL_CONTROLLER]
    #[arg(long, global = true, value_name = "URL")]
    pub controller: Option<String>,
    /// User name [env: EVENKEEL_USER] [default: admin]
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Option<String>,
    /// File with the password in its first line [env: EVENKEEL_PASSWORD holds the password itself]
    #[arg(long, global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// File with an API token in its first line, in place of user and password [env: EVENKEEL_TOKEN holds the token itself]
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["user", "password_file"])]
    pub token_file: Option<PathBuf>,
    /// Believe certificates of the CA in this PEM file [env: EVENKEEL_CA_FILE] [default: the host's CAs]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Believe whoever answers [env: EVENKEEL_INSECURE=1]
    #[arg(long, global = true, conflicts_with = "ca_file")]
    pub insecure: bool,
    /// Connect from this network namespace, a name under /run/netns; needs root [env: EVENKEEL_NETNS]
    #[arg(long, global = true, value_name = "NAME")]
    pub netns: Option<String>,
    /// Why: kept in the audit log with what this command writes
    #[arg(long, global = true, value_name = "TEXT")]
    pub message: Option<String>,
    /// How to show the result, errors included
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value_t
    )]
    pub output: Format,
}

/// The values of one source. The files have exactly these keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    controller: Option<String>,
    username: Option<String>,
    password: Option<String>,
    token: Option<String>,
    ca_file: Option<PathBuf>,
    insecure: Option<bool>,
    netns: Option<String>,
    /// Where the values stand, for messages.
    #[serde(skip)]
    source: String,
}

/// How to reach the controller, and which source said so.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the client needs.
    pub config: ClientConfig,
    /// The source of the controller's address, in words.
    pub source: String,
}

impl Settings {
    /// Reads all sources of this process.
    pub fn load(args: &GlobalArgs) -> anyhow::Result<Self> {
        let mut layers = vec![flags(args)?, environment(&|name| std::env::var(name).ok())];
        if let Some(home) = std::env::home_dir() {
            layers.extend(file(&home.join(USER_FILE))?);
        }
        layers.extend(file(Path::new(LAB_CONTEXT))?);
        resolve(&layers)
    }

    /// Logs in.
    pub fn connect(self) -> anyhow::Result<Client> {
        let hint = hint(&self);
        Client::connect(self.config).map_err(|cause| match advice(&cause) {
            Some(advice) => Hinted {
                cause,
                hint: format!("{hint}; {advice}"),
            }
            .into(),
            None => cause.into(),
        })
    }
}

fn hint(settings: &Settings) -> String {
    let namespace = settings
        .config
        .netns
        .as_ref()
        .map(|name| format!(", in network namespace {name}"));
    format!(
        "controller address from {}{}",
        settings.source,
        namespace.unwrap_or_default()
    )
}

fn advice(error: &client::Error) -> Option<&'static str> {
    use client::Error as Api;
    match error {
        Api::Unreachable { .. } | Api::Lost { .. } => {
            Some("check that the controller runs there, or name another with --controller")
        }
        Api::Untrusted { .. } => {
            Some("name its CA certificate with --ca-file, or use --insecure for a first look")
        }
        Api::Login { .. } => Some("check --user and --password-file"),
        Api::Namespace { .. } => {
            Some("check the name with `ip netns`; entering a namespace needs root")
        }
        _ => None,
    }
}

fn flags(args: &GlobalArgs) -> anyhow::Result<Layer> {
    let read = |file: &Option<PathBuf>| file.as_deref().map(first_line).transpose();
    Ok(Layer {
        controller: args.controller.clone(),
        username: args.user.clone(),
        password: read(&args.password_file)?,
        token: read(&args.token_file)?,
        ca_file: args.ca_file.clone(),
        insecure: args.insecure.then_some(true),
        netns: args.netns.clone(),
        source: "--controller".into(),
    })
}

fn environment(variable: &dyn Fn(&str) -> Option<String>) -> Layer {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    Layer {
        controller: variable("EVENKEEL_CONTROLLER"),
        username: variable("EVENKEEL_USER"),
        password: variable("EVENKEEL_PASSWORD"),
        token: variable("EVENKEEL_TOKEN"),
        ca_file: variable("EVENKEEL_CA_FILE").map(PathBuf::from),
        insecure: variable("EVENKEEL_INSECURE")
            .map(|value| !matches!(value.as_str(), "0" | "false" | "no")),
        netns: variable("EVENKEEL_NETNS"),
        source: "EVENKEEL_CONTROLLER".into(),
    }
}

/// A file that does not exist is an empty layer; one that cannot be read or parsed is an error.
fn file(path: &Path) -> anyhow::Result<Option<Layer>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(usage(format!("cannot read {}: {error}", path.display()))),
    };
    parse_file(path, &text).map(Some)
}

fn parse_file(path: &Path, text: &str) -> anyhow::Result<Layer> {
    let parsed = toml::from_str::<Layer>(text);
    let mut layer = parsed.map_err(|error| usage(format!("{}: {error}", path.display())))?;
    layer.source = path.display().to_string();
    Ok(layer)
}

fn first_line(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(text.lines().next().unwrap_or_default().to_string())
}

fn resolve(layers: &[Layer]) -> anyhow::Result<Settings> {
    let Some((url, source)) = layers.iter().find_map(address) else {
        return Err(usage(no_controller()));
    };
    let usable: Vec<&Layer> = layers
        .iter()
        .filter(|layer| speaks_of(layer, &url))
        .collect();
    let mut config = ClientConfig::new(url.clone(), Password::default());
    config.trust = usable
        .iter()
        .find_map(|layer| trust(layer))
        .unwrap_or(Trust::System);
    config.netns = usable.iter().find_map(|layer| layer.netns.clone());
    match token(&usable) {
        Some(token) => config.token = Some(Password::new(token)),
        None => (config.username, config.password) = user(&usable, &url, &source)?,
    }
    Ok(Settings { config, source })
}

/// The API token, unless a layer before it names a user or a password: the first that says who it is wins.
fn token(layers: &[&Layer]) -> Option<String> {
    let says = |l: &&&Layer| l.token.is_some() || l.username.is_some() || l.password.is_some();
    layers.iter().find(says)?.token.clone()
}

fn user(layers: &[&Layer], url: &str, source: &str) -> anyhow::Result<(String, Password)> {
    let username = layers
        .iter()
        .find_map(|l| l.username.clone())
        .unwrap_or_else(|| "admin".into());
    let password = layers
        .iter()
        .filter(|layer| layer.username.as_ref().is_none_or(|name| *name == username))
        .find_map(|layer| layer.password.clone());
    let Some(password) = password else {
        return Err(usage(no_password(&username, url, source)));
    };
    Ok((username, Password::new(password)))
}

fn address(layer: &Layer) -> Option<(String, String)> {
    let url = layer.controller.as_deref()?.trim_end_matches('/');
    Some((url.to_string(), layer.source.clone()))
}

/// True for a layer that names this controller, or none. Of several controllers all must be among those that it names.
fn speaks_of(layer: &Layer, url: &str) -> bool {
    let known = |named: &str, place: &str| named.split(',').any(|n| same_place(n) == place);
    address(layer).is_none_or(|(named, _)| url.split(',').all(|u| known(&named, same_place(u))))
}

/// The address without what may be left out of it: `https://` and its port 443.
fn same_place(url: &str) -> &str {
    let url = url.trim().trim_end_matches('/');
    let url = url.strip_prefix("https://").unwrap_or(url);
    url.strip_suffix(":443").unwrap_or(url)
}

/// A layer that names trust decides it as a whole: `--ca-file` is not weakened by `insecure` further down.
fn trust(layer: &Layer) -> Option<Trust> {
    match (layer.insecure, &layer.ca_file) {
        (Some(true), _) => Some(Trust::Insecure),
        (_, Some(path)) => Some(Trust::CaFile(path.clone())),
        (_, None) => None,
    }
}

fn usage(text: String) -> anyhow::Error {
    UsageError(text).into()
}

fn no_controller() -> String {
    format!(
        "no controller is named: use --controller URL, set EVENKEEL_CONTROLLER, write `controller = \"https://host:port\"` \
         into ~/{USER_FILE}, or start a lab (`evenkeel lab up ecmp-5se`)"
    )
}

fn no_password(username: &str, url: &str, source: &str) -> String {
    format!(
        "no password for {username:?} at {url} (address from {source}): use --password-file FILE, set EVENKEEL_PASSWORD, \
         or write `password` into ~/{USER_FILE}; or an API token (--token-file, EVENKEEL_TOKEN, `token`)"
    )
}

#[cfg(test)]
mod tests;
