//! The programs in the kernel. They are loaded at start, when nobody waits for them: that takes the kernel a fifth of a second.

use super::Steers;
use super::house::House;
use super::seen::Watch;
use super::voices::Turns;
use crate::sysctl::Sysctls;
use dataplane::steering::{
    Attach, Attaching, Attachment, Error, Hook, LOOPBACK_SETTINGS, Steering,
};
use flow::Config;
use flow::config::Answers;
use nix::net::if_::if_nametoindex;
use proto::v1::Interface;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The shell around [`Steering`].
pub(crate) struct Kernel {
    dir: PathBuf,
    attach: Attach,
    /// Restored with the process; steering without it goes on at tc alone.
    loopback: Sysctls,
    steering: Option<Steering>,
    in_force: Option<Config>,
    house: House,
    watch: Watch,
}

impl Kernel {
    /// Nothing is loaded yet; what an earlier process has left in the folder goes on.
    pub(crate) fn new(dir: PathBuf, attach: Attach, state_dir: &Path, watch: Watch) -> Self {
        Self {
            dir,
            attach,
            loopback: Sysctls::of_loopback(state_dir),
            steering: None,
            in_force: None,
            house: House::default(),
            watch,
        }
    }
}

/// Sets what native XDP needs, and tells what is new; `wanted`: what the operator wants.
fn settle(
    now: Vec<Attachment>,
    wanted: Attach,
    loopback: &mut Sysctls,
    before: &mut Vec<Attachment>,
) {
    if now.iter().any(|a| a.hook == Hook::Xdp) {
        let without = "native XDP leaves to tc what is to be tunnelled";
        ask_for_routes(loopback, without);
    }
    for Attachment {
        interface,
        hook,
        reason,
    } in now.iter().filter(|a| !before.contains(a))
    {
        let hook = hook.code();
        if wanted == Attach::Xdp && hook != Hook::Xdp.code() {
            tracing::warn!(
                interface,
                hook,
                reason,
                "no native XDP; steering goes on at tc"
            );
        } else {
            tracing::info!(interface, hook, reason, "steering attached");
        }
    }
    *before = now;
}

/// Lets programs ask the kernel for routes.
fn ask_for_routes(loopback: &mut Sysctls, without: &str) {
    for (setting, value) in LOOPBACK_SETTINGS {
        loopback.put(setting, value, without);
    }
}

/// Without who gets which new flow and how answers leave, which moves no flow.
fn unspread(mut config: Config) -> Config {
    for group in &mut config.groups {
        (group.spread, group.answers) = (None, Answers::Directly);
    }
    config
}

/// Some VIP's answers go through its primary.
fn relays(config: &Config) -> bool {
    let mut groups = config.groups.iter();
    groups.any(|g| g.answers != Answers::Directly)
}

fn refused(what: &str, error: Error) -> String {
    format!("{what}: {:#}", anyhow::Error::from(error))
}

impl Steers for Kernel {
    fn index_of(&self, interface: &str) -> u32 {
        if_nametoindex(interface).unwrap_or(0)
    }

    fn steer(&mut self, config: &Config, interfaces: &[Interface]) -> Result<(), String> {
        let all = |error| refused("packets are not steered", error);
        let steering = match &mut self.steering {
            Some(steering) => steering,
            none => none.insert(Steering::open(&self.dir).map_err(all)?),
        };
        if self.in_force.as_ref() != Some(config) {
            let before = self.in_force.take();
            let now = Instant::now();
            if before.is_none_or(|before| unspread(before) != unspread(config.clone())) {
                self.house.on_event(now);
            }
            let budgeted = Config {
                settings: self.house.budgeted(now, config),
                ..config.clone()
            };
            steering.apply(&budgeted).map_err(all)?;
            self.in_force = Some(config.clone());
        }
        let Attaching { mut failed, others } =
            steering.attach(interfaces.iter().map(|i| i.name.as_str()));
        if let Err(error) = others {
            tracing::warn!(%error, "steering programs of another version are still attached");
        }
        failed.extend(steering.attach_out(relays(config)));
        if relays(config) {
            let without =
                "answers of other engines go to clients by the interface that they come by";
            ask_for_routes(&mut self.loopback, without);
        }
        let attached = steering.attach_in_front(self.attach);
        let before = &mut self.watch.lock().attached;
        settle(attached, self.attach, &mut self.loopback, before);
        let first = failed.into_iter().next();
        first.map_or(Ok(()), |(name, error)| {
            Err(refused(
                &format!("packets on {name} are not steered"),
                error,
            ))
        })
    }

    fn on_event(&mut self) {
        self.house.on_event(Instant::now());
    }

    fn turns(&self) -> Turns {
        self.house.turns()
    }

    fn loads(&self) -> BTreeMap<String, u8> {
        self.house.loads()
    }

    fn keep_house(&mut self) -> Result<(), String> {
        let (Some(steering), Some(config)) = (&mut self.steering, &self.in_force) else {
            return Ok(());
        };
        let done = self
            .house
            .tick(Instant::now(), steering, config, &self.watch);
        done.map_err(|error| refused("steering is not watched", error))
    }
}
