//! Native scaling: one member of a VIP's group answers ARP and neighbour discovery for it. [`flow::primary`] decides whether it
//! is we; here is the shell around it: packet sockets at the interfaces whose subnet the VIP is in, or at all of them, and a clock.
//!
//! No kernel answers for the VIP: it stands on `lo`, and `arp_ignore` keeps interfaces from answering for it (for IPv6 the kernel
//! does not anyway). So whoever is silent here is silent, also when the process hangs or was killed.
//!
//! One task, owned by [`crate::run`], and one for each socket that it owns.

mod link;

use crate::steering::{Native, Plan};
use flow::neighbour::{self, Mac, Said};
use flow::primary::{Act, Circle, Part, Role};
use link::{Heard, Links, Sought};
use proto::v1::Interface;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

/// What we are for each VIP that is scaled natively, by uuid of the VsVip.
pub(crate) type Parts = BTreeMap<String, Seen>;

/// See [`Parts`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub part: Part,
    /// uuid of the engine that is the primary as far as we know; none = nobody is, or it is we.
    pub primary: Option<String>,
}

/// Of [`Role::tick`].
const TICK: Duration = Duration::from_millis(50);

/// Frames that wait to be read; of a flood of questions the rest is lost, as on a slow link.
const QUEUE: usize = 256;

/// Plays our part for every VIP of the plans, and publishes it. Cancel-safe: it waits for news and for time.
pub(crate) async fn run(
    mut plans: watch::Receiver<Arc<Plan>>,
    mut interfaces: watch::Receiver<Vec<Interface>>,
    parts: watch::Sender<Parts>,
) {
    let parts = Played(parts);
    let (sender, mut frames) = mpsc::channel(QUEUE);
    let mut stage = Stage {
        links: Links::new(sender),
        roles: BTreeMap::new(),
        natives: Vec::new(),
        ticked: Instant::now(),
        speaks_since: BTreeMap::new(),
    };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        stage.natives.clone_from(&plans.borrow_and_update().native);
        stage
            .links
            .follow(&interfaces.borrow_and_update(), &stage.sought());
        stage.follow(Instant::now());
        parts.publish(stage.parts());
        let idle = stage.natives.is_empty();
        tokio::select! {
            biased;
            _ = tick.tick(), if !idle => stage.tick(Instant::now()),
            changed = plans.changed() => if changed.is_err() { return },
            Ok(()) = interfaces.changed() => {}
            Some(heard) = frames.recv() => stage.hear(Instant::now(), &heard),
        }
    }
}

/// What is published; nothing is played when it ends.
struct Played(watch::Sender<Parts>);

impl Played {
    fn publish(&self, new: Parts) {
        self.0.send_if_modified(|old| {
            let is_news = *old != new;
            *old = new;
            is_news
        });
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.publish(Parts::new());
    }
}

struct Stage {
    links: Links,
    /// By uuid of the VsVip.
    roles: BTreeMap<String, Role>,
    natives: Vec<Native>,
    /// When it was looked at last who is to answer.
    ticked: Instant,
    /// Since when we answer for those for which we do: what came before was the former primary's to answer. By uuid of the VsVip.
    speaks_since: BTreeMap<String, Instant>,
}

impl Stage {
    fn sought(&self) -> Vec<Sought> {
        let each = self.natives.iter().flat_map(|native| {
            let everywhere = native.on_all_interfaces;
            let vips = native.vips.iter();
            vips.map(move |vip| Sought {
                vip: *vip,
                everywhere,
            })
        });
        each.collect()
    }

    /// Whoever is new listens first.
    fn follow(&mut self, now: Instant) {
        let natives = &self.natives;
        self.roles
            .retain(|uuid, _| natives.iter().any(|n| n.vsvip_uuid == *uuid));
        let roles = &self.roles;
        self.speaks_since.retain(|uuid, _| roles.contains_key(uuid));
        for native in natives {
            let role = self.roles.entry(native.vsvip_uuid.clone());
            role.or_insert_with(|| Role::new(now));
        }
    }

    fn parts(&self) -> Parts {
        let seen = |native: &Native| {
            let role = self.roles.get(&native.vsvip_uuid)?;
            let primary = native.circle.primary();
            let primary = primary.and_then(|id| native.members.get(&id).cloned());
            let part = role.part();
            Some((native.vsvip_uuid.clone(), Seen { part, primary }))
        };
        self.natives.iter().filter_map(seen).collect()
    }

    fn tick(&mut self, now: Instant) {
        self.ticked = now;
        let mut unread = Vec::new();
        for native in &self.natives {
            let Some(role) = self.roles.get_mut(&native.vsvip_uuid) else {
                continue;
            };
            let before = role.part();
            // Who cannot speak here is not the one who should.
            let able = native.vips.iter().any(|vip| self.links.speak(*vip));
            let circle = Circle {
                fit: native.circle.fit && able,
                leaves: native.circle.leaves && able,
                ..native.circle.clone()
            };
            let acts = role.tick(now, &circle);
            tell(native, before, role.part());
            if before != Part::Answering && role.answers() {
                let each = native.vips.iter();
                unread.extend(each.flat_map(|vip| self.links.unread(*vip)));
                let uuid = native.vsvip_uuid.clone();
                self.speaks_since.insert(uuid, Instant::now());
            }
            for act in acts {
                native.vips.iter().for_each(|vip| self.act(act, *vip));
            }
        }
        unread.iter().for_each(|heard| self.take(heard));
    }

    fn act(&self, act: Act, vip: IpAddr) {
        for link in self.links.of(vip) {
            match act {
                Act::Probe => link.send(vip, &neighbour::probe(vip, link.mac)),
                Act::Announce => {
                    let frames = neighbour::announcements(vip, link.mac);
                    frames.iter().for_each(|frame| link.send(vip, frame));
                }
            }
        }
    }

    /// A process that hung notices before it answers what was asked meanwhile: by the clock, as its timer may hear of it later.
    fn hear(&mut self, now: Instant, heard: &Heard) {
        if now - self.ticked > TICK {
            self.tick(now);
        }
        self.take(heard);
    }

    fn take(&mut self, heard: &Heard) {
        for said in &heard.said {
            match *said {
                Said::WhoHas { target, mac, ip } if self.answers(target, heard.at) => {
                    self.answer(heard.ifindex, target, (mac, ip));
                }
                Said::WhoHas { .. } => {}
                Said::Has { address, mac } => self.claim(heard.ifindex, address, mac),
            }
        }
    }

    fn native_of(&self, vip: IpAddr) -> Option<&Native> {
        self.natives.iter().find(|n| n.vips.contains(&vip))
    }

    /// We answer for the VIP, and did when the question was read.
    fn answers(&self, vip: IpAddr, read: Instant) -> bool {
        let uuid = self.native_of(vip).map(|n| &n.vsvip_uuid);
        let role = uuid.and_then(|uuid| self.roles.get(uuid));
        let since = uuid.and_then(|uuid| self.speaks_since.get(uuid));
        role.is_some_and(Role::answers) && since.is_some_and(|since| read >= *since)
    }

    fn answer(&self, ifindex: u32, vip: IpAddr, (mac, ip): (Mac, IpAddr)) {
        if let Some(link) = self.links.of_stranger(vip, (ifindex, mac)) {
            link.send(vip, &neighbour::answer(vip, link.mac, mac, ip));
        }
    }

    /// Somebody says that he has it.
    fn claim(&mut self, ifindex: u32, vip: IpAddr, mac: Mac) {
        if self.links.of_stranger(vip, (ifindex, mac)).is_some()
            && let Some(uuid) = self.native_of(vip).map(|n| n.vsvip_uuid.clone())
            && let Some(role) = self.roles.get_mut(&uuid)
        {
            role.on_claim();
        }
    }
}

/// Logs what an operator would tell a colleague.
fn tell(native: &Native, before: Part, now: Part) {
    if before == now {
        return;
    }
    let vsvip = &native.vsvip_uuid;
    let vips = native.vips.iter().map(ToString::to_string);
    let vips = vips.collect::<Vec<_>>().join(" ");
    let part = now.code();
    match (before, now) {
        (_, Part::Answering) => tracing::info!(vsvip, vips, part, "we answer for the VIP now"),
        (Part::Answering, _) => tracing::info!(vsvip, vips, part, "we answer for the VIP no more"),
        _ => tracing::debug!(vsvip, vips, part, "part in native scaling"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_that_was_read_before_we_answered_was_the_former_primarys() {
        let (vip, began) = (IpAddr::from([10, 0, 0, 9]), Instant::now());
        let at = |ms| began + Duration::from_millis(ms);
        let circle = Circle {
            fit: true,
            ..Circle::default()
        };
        let mut role = Role::new(began);
        for ms in (0..600).step_by(50) {
            role.tick(at(ms), &circle);
        }
        assert!(role.answers());
        let mut stage = Stage {
            links: Links::new(mpsc::channel(1).0),
            roles: BTreeMap::from([("vsvip-1".to_owned(), role)]),
            natives: vec![Native::of("vsvip-1", vip, circle)],
            ticked: began,
            speaks_since: BTreeMap::from([("vsvip-1".to_owned(), at(500))]),
        };
        assert!(!stage.answers(vip, at(499)));
        assert!(stage.answers(vip, at(500)));
        assert!(!stage.answers(IpAddr::from([10, 0, 0, 8]), at(500)));
        stage.natives.clear();
        stage.follow(at(600));
        assert!(stage.speaks_since.is_empty());
    }
}
