//! Settings of the process: flags, and a TOML file with the same names; flags win.

mod shared;

pub(crate) use shared::Shared;

use crate::files;
use anyhow::{Context as _, bail};
use model::log;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const CONFIG: &str = "/etc/evenkeel/controller.toml";
const DATA_DIR: &str = "/var/lib/evenkeel/controller";
const LISTEN_API: &str = "0.0.0.0:443";
const LISTEN_ENGINES: &str = "0.0.0.0:8443";
/// The admin's password at first start, when no file gives it.
const PASSWORD_VARIABLE: &str = "EVENKEEL_ADMIN_PASSWORD";

/// Settings of `evenkeel controller`.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {
    /// Something else than serving.
    #[command(subcommand)]
    #[serde(skip)]
    pub command: Option<Command>,
    /// TOML file with these settings [default: /etc/evenkeel/controller.toml if it exists]
    #[arg(long, value_name = "FILE", global = true)]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Folder for the store, the CA and the certificates [default: /var/lib/evenkeel/controller]
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// File of the keys that seal secrets in the store; made when it is missing. Elsewhere than in the data folder, a copy
    /// of that folder tells no secret, and neither does a backup [default: seal-keys.json in the data folder]
    #[arg(long, value_name = "FILE", global = true)]
    pub seal_keys: Option<PathBuf>,
    /// Address of the REST API [default: 0.0.0.0:443]
    #[arg(long, value_name = "IP:PORT")]
    pub listen_api: Option<SocketAddr>,
    /// Address that engines dial [default: 0.0.0.0:8443]
    #[arg(long, value_name = "IP:PORT")]
    pub listen_engines: Option<SocketAddr>,
    /// Name among the controllers that share an etcd [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// URLs of the etcd members that several controllers share, one of which leads; without it the store is a file in the data folder
    #[arg(long, value_name = "URL", value_delimiter = ',', global = true)]
    pub etcd: Option<Vec<String>>,
    /// What all keys in etcd begin with [default: /evenkeel]
    #[arg(long, value_name = "PREFIX", global = true)]
    pub etcd_prefix: Option<String>,
    /// PEM file of the CA of etcd's certificates; needed for https://
    #[arg(long, value_name = "FILE", global = true)]
    pub etcd_ca: Option<PathBuf>,
    /// PEM file of our certificate for etcd
    #[arg(long, value_name = "FILE", global = true, requires = "etcd_key")]
    pub etcd_cert: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, value_name = "FILE", global = true, requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,
    /// User of an etcd that has users
    #[arg(
        long,
        value_name = "NAME",
        global = true,
        requires = "etcd_password_file"
    )]
    pub etcd_user: Option<String>,
    /// File with this user's password in its first line
    #[arg(long, value_name = "FILE", global = true, requires = "etcd_user")]
    pub etcd_password_file: Option<PathBuf>,
    /// Seconds after which another controller leads when nothing is heard of the one that led [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub etcd_lease: Option<u64>,
    /// Address at which the other controllers reach our API [default: that of --listen-api, when it is one]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_api: Option<String>,
    /// File with the admin's password; used at first start only [default: $EVENKEEL_ADMIN_PASSWORD, else one is made up and printed once]
    #[arg(long, value_name = "FILE")]
    pub admin_password_file: Option<PathBuf>,
    /// PEM certificate chain of the API [default: self-made, kept in the data folder]
    #[arg(long, value_name = "FILE", requires = "api_key")]
    pub api_cert: Option<PathBuf>,
    /// PEM key of the API's certificate
    #[arg(long, value_name = "FILE", requires = "api_cert")]
    pub api_key: Option<PathBuf>,
    /// Form of the log: text, or one JSON object a line [default: json under systemd, else text]
    #[arg(long, value_name = "text|json", global = true)]
    pub log_format: Option<log::Format>,
    /// What is logged: error, warn, info, debug or trace, also by part (info,evenkeel_controller=debug)
    /// [default: $EVENKEEL_LOG, else info]
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log_level: Option<String>,
}

/// What a controller does that does not serve.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a new data folder from a backup (`evenkeel backup`): configuration, passwords, keys, the cluster's CA. The folder must be empty.
    /// With --etcd, the store goes into etcd, where there must be nothing yet.
    Restore {
        /// The backup.
        file: PathBuf,
    },
}

/// Where a backup is restored to.
pub(crate) struct Place {
    /// The data folder.
    pub folder: PathBuf,
    /// The file of the keys.
    pub seal_keys: PathBuf,
    /// How to reach etcd, if the store is to be there.
    pub etcd: Option<store::etcd::Config>,
}

/// Settings in force.
pub(crate) struct Settings {
    pub data_dir: PathBuf,
    pub seal_keys: PathBuf,
    pub listen_api: SocketAddr,
    pub listen_engines: SocketAddr,
    pub api_certificate: Option<(PathBuf, PathBuf)>,
    /// None for a controller that is the only one.
    pub shared: Option<Shared>,
    admin_password_file: Option<PathBuf>,
}

impl Args {
    /// How this process writes its log. A file that cannot be read says nothing here; [`crate::run`] says why.
    pub fn log(&self) -> log::Settings {
        let file = self.file().unwrap_or_default();
        log::Settings {
            format: self.log_format.or(file.log_format),
            level_flag: self.log_level.clone(),
            level_file: file.log_level,
        }
    }

    /// What a restore needs.
    pub(crate) fn place(&self) -> anyhow::Result<Place> {
        let file = self.file()?;
        let folder = self.data_dir.clone().or(file.data_dir.clone());
        let folder = folder.unwrap_or_else(|| DATA_DIR.into());
        let keys = self.seal_keys.clone().or(file.seal_keys.clone());
        Ok(Place {
            seal_keys: keys.unwrap_or_else(|| folder.join(files::SEAL_KEYS)),
            etcd: self.etcd(&file)?,
            folder,
        })
    }

    /// Flags over file over defaults.
    pub(crate) fn settle(self) -> anyhow::Result<Settings> {
        let file = self.file()?;
        let listen_api = self.listen_api.or(file.listen_api);
        let listen_api = listen_api.unwrap_or(LISTEN_API.parse()?);
        let shared = self.shared(&file, listen_api)?;
        let listen_engines = self.listen_engines.or(file.listen_engines);
        let api_certificate = match (
            self.api_cert.or(file.api_cert),
            self.api_key.or(file.api_key),
        ) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => bail!("api_cert and api_key go together; set both or none"),
        };
        let data_dir = self.data_dir.or(file.data_dir);
        let data_dir = data_dir.unwrap_or_else(|| DATA_DIR.into());
        let seal_keys = self.seal_keys.or(file.seal_keys);
        Ok(Settings {
            seal_keys: seal_keys.unwrap_or_else(|| data_dir.join(files::SEAL_KEYS)),
            data_dir,
            listen_api,
            listen_engines: listen_engines.unwrap_or(LISTEN_ENGINES.parse()?),
            api_certificate,
            shared,
            admin_password_file: self.admin_password_file.or(file.admin_password_file),
        })
    }

    fn file(&self) -> anyhow::Result<Self> {
        let path = match &self.config {
            Some(path) => path.as_path(),
            None if Path::new(CONFIG).exists() => Path::new(CONFIG),
            None => return Ok(Self::default()),
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is wrong", path.display()))
    }
}

impl Settings {
    /// The admin's password at first start, if the operator gave one.
    pub(crate) fn admin_password(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.admin_password_file else {
            return Ok(std::env::var(PASSWORD_VARIABLE).ok());
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let password = text.trim_end_matches(['\r', '\n']).to_owned();
        if password.is_empty() {
            bail!(
                "{} is empty; write the admin's password into it",
                path.display()
            );
        }
        Ok(Some(password))
    }
}

#[cfg(test)]
mod tests;
