//! Settings of a controller that shares an etcd with others.

use super::Args;
use anyhow::{Context as _, bail};
use std::net::{IpAddr, SocketAddr};
use std::ops::Not as _;
use std::path::Path;
use std::time::Duration;

/// Leases that etcd keeps well: shorter ones end in an election of its own, longer ones leave nobody leading for long.
const LEASES_S: std::ops::RangeInclusive<u64> = 3..=120;

/// Longest name, as of a host.
const NAME_LEN_MAX: usize = 64;

/// What a controller needs to be one of several.
#[derive(Clone)]
pub(crate) struct Shared {
    pub name: String,
    pub etcd: store::etcd::Config,
    /// `HOST:PORT` of our API for the others.
    pub advertise_api: String,
}

impl Args {
    /// How to reach etcd; none without it.
    pub(crate) fn etcd(&self, file: &Self) -> anyhow::Result<Option<store::etcd::Config>> {
        let Some(endpoints) = self.etcd.as_ref().or(file.etcd.as_ref()) else {
            return Ok(None);
        };
        let mut etcd = store::etcd::Config::new(endpoints.clone());
        if let Some(prefix) = either(&self.etcd_prefix, &file.etcd_prefix) {
            etcd.prefix = prefix;
        }
        etcd.ca = either(&self.etcd_ca, &file.etcd_ca);
        let cert = either(&self.etcd_cert, &file.etcd_cert);
        let key = either(&self.etcd_key, &file.etcd_key);
        etcd.identity = together(("etcd_cert", cert), ("etcd_key", key))?;
        let user = either(&self.etcd_user, &file.etcd_user);
        let password = either(&self.etcd_password_file, &file.etcd_password_file);
        etcd.login = together(("etcd_user", user), ("etcd_password_file", password))?
            .map(|(user, password)| login(user, &password))
            .transpose()?;
        if let Some(seconds) = self.etcd_lease.or(file.etcd_lease) {
            etcd.lease_ttl = lease(seconds)?;
        }
        Ok(Some(etcd))
    }

    /// None without etcd.
    pub(super) fn shared(
        &self,
        file: &Self,
        listen_api: SocketAddr,
    ) -> anyhow::Result<Option<Shared>> {
        let Some(etcd) = self.etcd(file)? else {
            return Ok(None);
        };
        let advertised = either(&self.advertise_api, &file.advertise_api);
        Ok(Some(Shared {
            name: checked(either(&self.name, &file.name).map_or_else(host_name, Ok)?)?,
            etcd,
            advertise_api: match advertised {
                Some(text) => host_and_port(text)?,
                None => reachable(listen_api)?,
            },
        }))
    }
}

/// The flag wins.
fn either<T: Clone>(flag: &Option<T>, file: &Option<T>) -> Option<T> {
    flag.clone().or_else(|| file.clone())
}

/// Both or none.
fn together<A, B>(
    (first, a): (&str, Option<A>),
    (second, b): (&str, Option<B>),
) -> anyhow::Result<Option<(A, B)>> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some((a, b))),
        (None, None) => Ok(None),
        _ => bail!("{first} and {second} go together; set both or none"),
    }
}

/// A name that can stand in a key, a path and a table.
fn checked(name: String) -> anyhow::Result<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(fits) {
        bail!(
            "name: {name:?} is no name for a controller; use 1 to {NAME_LEN_MAX} of a-z, A-Z, 0-9, -, _ and ."
        );
    }
    Ok(name)
}

fn login(user: String, file: &Path) -> anyhow::Result<store::etcd::Login> {
    let text = std::fs::read_to_string(file);
    let text = text.with_context(|| format!("cannot read {}", file.display()))?;
    let password = text.lines().next().unwrap_or_default().to_owned();
    Ok(store::etcd::Login { user, password })
}

fn lease(seconds: u64) -> anyhow::Result<Duration> {
    if !LEASES_S.contains(&seconds) {
        let (min, max) = LEASES_S.into_inner();
        bail!("etcd_lease: {seconds} is not between {min} and {max} seconds");
    }
    Ok(Duration::from_secs(seconds))
}

fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => bail!("name: this host has no name; name the controller with --name"),
        name => Ok(name.to_owned()),
    }
}

/// An address at which others can ask us: `HOST:PORT`, and IPv6 in brackets.
fn host_and_port(text: String) -> anyhow::Result<String> {
    let (host, port) = text.rsplit_once(':').unwrap_or((&text, ""));
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let host_fits = match bare.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => bare.len() + 2 == host.len() && !ip.is_unspecified(),
        Ok(IpAddr::V4(ip)) => bare.len() == host.len() && !ip.is_unspecified(),
        Err(_) => !host.is_empty() && host.chars().all(plain),
    };
    if !host_fits || port.parse::<u16>().is_ok_and(|p| p > 0).not() {
        bail!(
            "advertise_api: {text:?} is no address at which others reach the API; write HOST:PORT, IPv6 in brackets ([2001:db8::1]:443)"
        );
    }
    Ok(text)
}

fn reachable(listen_api: SocketAddr) -> anyhow::Result<String> {
    if listen_api.ip().is_unspecified() || listen_api.port() == 0 {
        bail!(
            "advertise_api: the API listens on {listen_api}, which is no address to ask; say at which one the other controllers reach \
             it (--advertise-api HOST:PORT)"
        );
    }
    Ok(listen_api.to_string())
}
