//! The controller as a process of its own, on loopback.

use anyhow::{Context, Result, bail, ensure};
use client::{Client, ClientConfig, Password, Trust};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Longest wait for a start, and for a stop.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A controller; killed when dropped.
pub(super) struct Process {
    data: PathBuf,
    api: SocketAddr,
    engines: SocketAddr,
    password: String,
    flags: Vec<String>,
    child: Child,
    client: Client,
}

/// Of the process, in MB (10^6 bytes).
pub(super) struct Memory {
    pub(super) now_mb: f64,
    pub(super) peak_mb: f64,
}

impl Process {
    /// A new controller with this data folder, which answers.
    pub(super) fn start(data: &Path) -> Result<Self> {
        Self::start_with(data, &[])
    }

    /// The same with more flags.
    pub(super) fn start_with(data: &Path, flags: &[String]) -> Result<Self> {
        let (api, engines) = (free_address()?, free_address()?);
        // It guards a controller that lives as long as the measurement.
        let password = format!("{api}-{}", std::process::id());
        let mut child = spawn(data, api, engines, &password, flags)?;
        let client = connect(api, &password).inspect_err(|_| {
            // It may have ended already.
            child.kill().ok();
            child.wait().ok();
        })?;
        Ok(Self {
            data: data.to_owned(),
            api,
            engines,
            password,
            flags: flags.to_vec(),
            child,
            client,
        })
    }

    /// Where engines dial.
    pub(super) fn engines(&self) -> SocketAddr {
        self.engines
    }

    /// A client with a session of its own.
    pub(super) fn client(&self) -> Result<Client> {
        connect(self.api, &self.password)
    }

    /// Sends it this signal, and waits until it has ended.
    pub(super) fn end(&mut self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        kill(Pid::from_raw(pid), signal)?;
        let child = &mut self.child;
        let ended = lab::process::wait_for(TIMEOUT, || matches!(child.try_wait(), Ok(Some(_))));
        ensure!(ended, "the controller does not end with {signal}");
        Ok(())
    }

    /// Starts it once more, until it says that it is ready.
    pub(super) fn start_again(&mut self) -> Result<()> {
        self.child = spawn(
            &self.data,
            self.api,
            self.engines,
            &self.password,
            &self.flags,
        )?;
        self.wait_until_ready()
    }

    /// It says so to everybody; the client's session is not looked at.
    fn wait_until_ready(&mut self) -> Result<()> {
        let (child, client) = (&mut self.child, &self.client);
        let mut ended = None;
        let ready = lab::process::wait_for(TIMEOUT, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some() || client.get("/readyz", &[]).is_ok()
        });
        match ended {
            Some(status) => bail!("the controller ended: {status}"),
            None => ensure!(ready, "the controller is not ready in time"),
        }
        Ok(())
    }

    /// As the kernel counts it.
    pub(super) fn memory(&self) -> Result<Memory> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        Ok(Memory {
            now_mb: field_mb(&status, "VmRSS:")?,
            peak_mb: field_mb(&status, "VmHWM:")?,
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A line such as `VmRSS:   1234 kB`.
fn field_mb(status: &str, name: &str) -> Result<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix(name));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("no {name} of the process"))? * 1024.0 / 1e6)
}

/// Tries for as long as nobody listens.
fn connect(api: SocketAddr, password: &str) -> Result<Client> {
    let mut config = ClientConfig::new(api.to_string(), Password::new(password));
    config.trust = Trust::Insecure;
    config.retry_for = TIMEOUT;
    Ok(Client::connect(config)?)
}

fn spawn(
    data: &Path,
    api: SocketAddr,
    engines: SocketAddr,
    password: &str,
    flags: &[String],
) -> Result<Child> {
    let program = std::env::current_exe()?.with_file_name("evenkeel");
    Command::new(&program)
        .arg("controller")
        .arg("--data-dir")
        .arg(data)
        .args(["--listen-api", &api.to_string()])
        .args(["--listen-engines", &engines.to_string()])
        .args(flags)
        .env("EVENKEEL_ADMIN_PASSWORD", password)
        .env("EVENKEEL_LOG", "error")
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| {
            format!(
                "cannot run {}: build the workspace first",
                program.display()
            )
        })
}

/// On loopback, and not in use now.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_words() {
        let status = "Name:\tevenkeel\nVmHWM:\t  250000 kB\nVmRSS:\t  100 kB\n";
        assert_eq!(field_mb(status, "VmHWM:").ok(), Some(256.0));
        assert!(field_mb(status, "VmSwap:").is_err());
    }
}
