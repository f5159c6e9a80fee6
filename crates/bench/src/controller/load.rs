//! What operators do to the controller: virtual services made, changed and taken away, lists read.

use super::fleet::{self, Fleet};
use anyhow::{Context, Result, ensure};
use client::{Client, uuid_of};
use serde_json::{Value, json};
use std::cell::Cell;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Objects that are created together while the controller is filled.
const BATCH_LEN: usize = 50;
/// Longest wait for a change to be at its engines.
const REACH_TIMEOUT: Duration = Duration::from_secs(60);
const PAGE_SIZE: usize = 100;

/// A kind of write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Patch,
    Create,
    Replace,
    Delete,
}

impl Kind {
    /// What is created is replaced and deleted in this order.
    pub(super) const ALL: [Self; 4] = [Self::Patch, Self::Create, Self::Replace, Self::Delete];

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Patch => "a pool's limit changed (PATCH)",
            Self::Create => "a virtual service with its VIP created (POST)",
            Self::Replace => "a virtual service replaced (PUT)",
            Self::Delete => "a virtual service with its VIP deleted (DELETE)",
        }
    }
}

/// An operator with his session.
pub(super) struct Load<'a> {
    client: &'a Client,
    scaleout: usize,
    /// Number of the next write; also the value that a change sets.
    next: Cell<usize>,
    /// Pools that were made.
    pools: std::cell::RefCell<Vec<String>>,
    /// The virtual service that was created last.
    created: std::cell::RefCell<Option<Value>>,
}

impl<'a> Load<'a> {
    /// Sets up routing and placement.
    pub(super) fn new(client: &'a Client, scaleout: usize) -> Result<Self> {
        configure(client, scaleout)?;
        Ok(Self {
            client,
            scaleout,
            next: Cell::new(1),
            pools: Default::default(),
            created: Default::default(),
        })
    }

    /// Creates so many virtual services, each with a VIP and a pool of its own.
    pub(super) fn fill(&self, count: usize) -> Result<()> {
        for first in (0..count).step_by(BATCH_LEN) {
            let numbers = first..(first + BATCH_LEN).min(count);
            let write = |(ty, object)| json!({"type": ty, "object": object});
            let writes: Vec<Value> = numbers.flat_map(batch_of).map(write).collect();
            let answer = self
                .client
                .post("/api/ek/change", &json!({ "writes": writes }))?;
            let objects = answer["objects"].as_array().context("no objects")?;
            let pools = objects.iter().filter(|o| o["type"] == "pool");
            let uuids = pools.filter_map(|o| o["uuid"].as_str().map(str::to_owned));
            self.pools.borrow_mut().extend(uuids);
        }
        ensure!(
            self.pools.borrow().len() == count,
            "not all pools were made"
        );
        Ok(())
    }

    fn number(&self) -> usize {
        self.next.replace(self.next.get() + 1)
    }

    /// A pool that has not been changed for long.
    fn pool(&self, number: usize) -> String {
        let pools = self.pools.borrow();
        // A prime step, so that neighbours, which share engines, are far apart in time.
        pools[number * 7919 % pools.len()].clone()
    }

    /// One write; how long the client waited for the answer.
    pub(super) fn write(&self, kind: Kind) -> Result<Duration> {
        let number = self.number();
        match kind {
            Kind::Patch => self.patch(&self.pool(number), number),
            Kind::Create => {
                let body = extra_service(number);
                let began = Instant::now();
                let created = self.client.post("/api/virtualservice", &body)?;
                let took = began.elapsed();
                self.created.replace(Some(created));
                Ok(took)
            }
            Kind::Replace => {
                let mut object = self.last_created()?;
                object["description"] = json!(format!("write {number}"));
                let path = path_of(&object)?;
                timed(|| self.client.put(&path, &object).map(drop))
            }
            Kind::Delete => {
                let path = path_of(&self.last_created()?)?;
                timed(|| self.client.delete(&path))
            }
        }
    }

    fn last_created(&self) -> Result<Value> {
        let mut object = self.created.borrow().clone().context("none was created")?;
        // It has been read before the write that may lie between.
        object
            .as_object_mut()
            .context("no object")?
            .remove("_last_modified");
        Ok(object)
    }

    fn patch(&self, pool: &str, number: usize) -> Result<Duration> {
        let change = json!({"replace": {"max_concurrent_connections_per_server": number}});
        timed(|| {
            self.client
                .patch(&format!("/api/pool/{pool}"), &change)
                .map(drop)
        })
    }

    /// One change; how long it takes from the call until all of its engines have it.
    pub(super) fn reach(&self, fleet: &Fleet) -> Result<Duration> {
        let number = self.number();
        let pool = self.pool(number);
        let began = Instant::now();
        self.patch(&pool, number)?;
        let limit = u32::try_from(number)?;
        fleet.wait_for("a change to be at its engines", REACH_TIMEOUT, |states| {
            let pools = states.iter().flat_map(|s| &s.pools);
            let here = pools.filter(|p| p.uuid == pool);
            let told = here.filter(|p| p.max_concurrent_connections_per_server == limit);
            told.count() == self.scaleout
        })?;
        Ok(began.elapsed())
    }

    /// Reads pages of the list, one after the other, with several clients at once; how long each took.
    pub(super) fn read_pages(
        &self,
        clients: &[Client],
        time: Duration,
        runtime: bool,
    ) -> Result<Vec<Duration>> {
        let pages = self.pools.borrow().len().div_ceil(PAGE_SIZE);
        let until = Instant::now() + time;
        let read = |client: &Client, first: usize| -> Result<Vec<Duration>> {
            let mut times = Vec::new();
            for i in first.. {
                let page = i % pages + 1;
                times.push(timed(|| read_page(client, page, runtime))?);
                if Instant::now() >= until {
                    break;
                }
            }
            Ok(times)
        };
        let all = std::thread::scope(|scope| {
            let each = clients.iter().enumerate();
            let readers: Vec<_> = each
                .map(|(i, client)| scope.spawn(move || read(client, i * pages / clients.len())))
                .collect();
            let done = readers
                .into_iter()
                .map(|r| r.join().expect("a reader does not panic"));
            done.collect::<Result<Vec<_>>>()
        })?;
        Ok(all.concat())
    }
}

fn timed(f: impl FnOnce() -> client::Result<()>) -> Result<Duration> {
    let began = Instant::now();
    f()?;
    Ok(began.elapsed())
}

fn read_page(client: &Client, page: usize, runtime: bool) -> client::Result<()> {
    let (page, size) = (page.to_string(), PAGE_SIZE.to_string());
    let mut query = vec![("page", page.as_str()), ("page_size", size.as_str())];
    if runtime {
        query.push(("join_subresources", "runtime"));
    }
    client.get("/api/virtualservice", &query).map(drop)
}

fn path_of(object: &Value) -> Result<String> {
    let url = object["url"].as_str().context("an object without url")?;
    Ok(format!("/api/virtualservice/{}", uuid_of(url)))
}

fn configure(client: &Client, scaleout: usize) -> Result<()> {
    for (ty, name, fields) in settings(scaleout) {
        let object = client.get_by_name(ty, name)?;
        let object = object.with_context(|| format!("no {ty} {name}"))?;
        let uuid = object["uuid"].as_str().context("no uuid")?;
        let change = json!({ "replace": fields });
        client.patch(&format!("/api/{ty}/{uuid}"), &change)?;
    }
    Ok(())
}

/// One router that every engine reaches, and room for everything: fields of objects that are there.
pub(super) fn settings(scaleout: usize) -> [(&'static str, &'static str, Value); 2] {
    let room = json!({
        "max_vs_per_se": 1000, "min_scaleout_per_vs": scaleout, "max_scaleout_per_vs": 64, "max_se": 0,
        "algo": "PLACEMENT_ALGO_DISTRIBUTED",
    });
    let address = |a: &str| json!({"addr": a, "type": "V4"});
    let peer = json!({
        "peer_ip": address(fleet::ROUTER),
        "subnet": {"ip_addr": address(fleet::NETWORK), "mask": fleet::PREFIX_LEN},
        "remote_as": 65000, "advertise_vip": true,
    });
    let profile = json!({"local_as": 65001, "ibgp": false, "peers": [peer]});
    [
        ("vrfcontext", "global", json!({ "bgp_profile": profile })),
        ("serviceenginegroup", "Default-Group", room),
    ]
}

/// A pool with three servers, and a virtual service with its VIP.
pub(super) fn batch_of(number: usize) -> [(&'static str, Value); 2] {
    let server = |i: usize| json!({"ip": ip(172, 16, number * 3 + i), "port": 8080});
    let pool = json!({
        "name": format!("pool-{number}"),
        "servers": (0..3).map(server).collect::<Vec<_>>(),
        "health_monitor_refs": ["/api/healthmonitor?name=System-TCP"],
    });
    [
        ("pool", pool),
        ("virtualservice", service(number, &format!("pool-{number}"))),
    ]
}

fn service(number: usize, pool: &str) -> Value {
    json!({
        "name": format!("vs-{number}"),
        "services": [{"port": 80}],
        "vip": [{"vip_id": "1", "ip_address": ip(10, 128, number)}],
        "pool_ref": format!("/api/pool?name={pool}"),
        "application_profile_ref": "/api/applicationprofile?name=System-L4-Application",
    })
}

/// One beside those that the controller was filled with.
fn extra_service(number: usize) -> Value {
    let mut service = service(number, "pool-0");
    service["name"] = json!(format!("extra-{number}"));
    service["vip"][0]["ip_address"] = ip(10, 192, number);
    service
}

/// The address with this number in a /10 or so.
fn ip(first: u8, second: u8, number: usize) -> Value {
    let base = u32::from(Ipv4Addr::new(first, second, 0, 0));
    let offset = u32::try_from(number + 1).expect("a measurement has fewer than 2^22 addresses");
    json!({"addr": Ipv4Addr::from(base + offset).to_string(), "type": "V4"})
}
