//! A controller's objects, placement and engines without sockets, for the tests of this module.

use super::runtime::Observer;
use super::{Planner, reconcile};
use crate::bootstrap;
use crate::engines::Registry;
use crate::engines::outbox::Outbox;
use crate::objects::{Author, Objects, Snapshot};
use model::object::Object;
use model::schema::object_type;
use proto::v1::{
    BgpRoute, BgpSession, BgpState, DesiredState, Hello, Interface, Report, VipStatus,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// The VIP of [`Fixture::new`].
pub(super) const VIP: &str = "10.100.0.1";
/// The router.
pub(super) const PEER: &str = "10.10.10.1";

/// Engine `se-1` with a session, virtual service `vs-1` with its VIP placed there.
pub(super) struct Fixture {
    pub objects: Arc<Objects>,
    pub registry: Arc<Registry>,
    pub planner: Planner,
    pub engine: String,
    pub session: u64,
    pub vsvip: String,
}

impl Fixture {
    pub async fn new() -> Self {
        let objects = Objects::open(Arc::new(store::Memory::default())).await;
        let objects = Arc::new(objects.expect("an empty store"));
        bootstrap::ensure(&objects).await.expect("made");
        let registry = Arc::new(Registry::default());
        let planner = Planner::open(objects.clone(), registry.clone()).await;
        let mut fixture = Self {
            planner: planner.expect("an empty store"),
            objects,
            registry,
            engine: String::new(),
            session: 0,
            vsvip: String::new(),
        };
        fixture.fill().await;
        fixture
    }

    async fn fill(&mut self) {
        let vrf = self.uuid("vrfcontext", "global");
        let profile = json!({"local_as": 65001, "ibgp": true, "peers": [peer(json!({}))]});
        self.change("vrfcontext", &vrf, |o| {
            drop(o.insert("bgp_profile".into(), profile))
        })
        .await;
        self.engine = self.create("serviceengine", json!({"name": "se-1"})).await;
        let vip = json!([{"vip_id": "1", "ip_address": v4(VIP)}]);
        self.vsvip = self
            .create("vsvip", json!({"name": "vip-1", "vip": vip}))
            .await;
        let service = json!({"name": "vs-1", "services": [{"port": 80}], "vsvip_ref": self.vsvip, "enable_rhi": true});
        self.create("virtualservice", service).await;
        self.place(&self.vsvip, &[&self.engine]).await;
        self.connect();
        self.planner.publish();
    }

    /// Places a VIP on these engines; those that it is taken off linger.
    pub async fn place(&self, vsvip: &str, engines: &[&str]) {
        let engines = engines.iter().map(|e| (*e).to_owned()).collect();
        let placed = self
            .planner
            .assign(vsvip, engines, Vec::new(), "placed".into());
        placed.await.expect("stored");
    }

    /// The engine's session begins; nothing reads what is sent to it.
    pub fn connect(&mut self) {
        self.session = self.open_session(&self.engine, "10.10.10.11/24");
    }

    /// A session of an engine with this address on `eth0`.
    pub fn open_session(&self, engine: &str, address: &str) -> u64 {
        self.open_session_on("", engine, address)
    }

    /// The same, of an engine on this host.
    pub fn open_session_on(&self, host: &str, engine: &str, address: &str) -> u64 {
        let (outbox, receiver) = Outbox::new();
        std::mem::forget(receiver);
        let hello = Hello {
            interfaces: vec![Interface {
                name: "eth0".into(),
                up: true,
                addresses: vec![address.into()],
                ..Interface::default()
            }],
            host: host.into(),
            protocol_version: proto::PROTOCOL_VERSION,
            ..Hello::default()
        };
        self.registry.open(engine, hello, outbox)
    }

    /// The reconciler runs once.
    pub async fn round(&self) {
        reconcile::round(&self.planner).await;
    }

    /// The reconciler looks at what is marked.
    pub async fn short_round(&self) {
        reconcile::short_round(&self.planner).await;
    }

    pub async fn create(&self, path: &str, body: Value) -> String {
        let ty = object_type(path).expect("known");
        let body = body.as_object().expect("object").clone();
        let author = author();
        let created = self.objects.change(&author, "test", |draft| {
            draft.create(ty, body, None, &author)
        });
        created.await.unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// Changes an object past the API's checks, as an older version might have stored it.
    pub async fn change(&self, path: &str, uuid: &str, f: impl FnOnce(&mut Object)) {
        let ty = object_type(path).expect("known");
        let author = author();
        let changed = self.objects.change(&author, "test", |draft| {
            let mut object = draft.snapshot.require(ty, uuid)?.object.clone();
            f(&mut object);
            draft.put(ty, uuid, object);
            Ok(())
        });
        changed.await.expect("changed");
    }

    /// Changes an object as a client does.
    pub async fn update(&self, path: &str, uuid: &str, f: impl FnOnce(&mut Object)) {
        let changed = self.try_update(path, uuid, f).await;
        changed.expect("changed");
    }

    /// The same, which may be refused.
    pub async fn try_update(
        &self,
        path: &str,
        uuid: &str,
        f: impl FnOnce(&mut Object),
    ) -> Result<(), String> {
        let ty = object_type(path).expect("known");
        let author = author();
        let changed = self.objects.change(&author, "test", |draft| {
            let mut object = draft.snapshot.require(ty, uuid)?.object.clone();
            object.shift_remove("_last_modified");
            f(&mut object);
            draft.update(ty, uuid, object, &author)
        });
        changed.await.map(drop).map_err(|e| e.text)
    }

    /// Takes an object away as a client does.
    pub async fn delete(&self, path: &str, uuid: &str) {
        let ty = object_type(path).expect("known");
        let author = author();
        let deleted = self
            .objects
            .change(&author, "test", |draft| draft.delete(ty, uuid));
        deleted.await.expect("deleted");
    }

    pub fn uuid(&self, path: &str, name: &str) -> String {
        let snapshot = self.snapshot();
        let found = snapshot.by_name(path, name);
        found
            .unwrap_or_else(|| panic!("no {path} {name}"))
            .0
            .to_owned()
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.objects.snapshot()
    }

    /// What the engine was told last.
    pub fn told(&self) -> Arc<DesiredState> {
        self.told_to(&self.engine)
    }

    /// What this engine was told last.
    pub fn told_to(&self, engine: &str) -> Arc<DesiredState> {
        self.planner.publish();
        self.registry.get(engine).desired.expect("told")
    }

    pub fn report(&self, sessions: Vec<BgpSession>) {
        self.report_of(&self.engine, self.session, sessions);
    }

    /// An engine reports that it announces the VIP, with these sessions.
    pub fn report_of(&self, engine: &str, session: u64, sessions: Vec<BgpSession>) {
        let report = Report {
            bgp_sessions: sessions,
            vips: vec![VipStatus {
                address: VIP.into(),
                announced: true,
                ..VipStatus::default()
            }],
            ..Report::default()
        };
        self.registry.reported(engine, session, report);
    }

    pub fn observe<T>(&self, f: impl FnOnce(&Observer<'_>) -> T) -> T {
        let snapshot = self.snapshot();
        f(&self.observer(&snapshot))
    }

    pub fn observer<'a>(&'a self, snapshot: &'a Snapshot) -> Observer<'a> {
        Observer {
            snapshot,
            registry: &self.registry,
            planner: &self.planner,
        }
    }
}

fn author() -> Author {
    Author::system("test")
}

pub(super) fn v4(addr: &str) -> Value {
    json!({"addr": addr, "type": "V4"})
}

/// The router as a peer, with these fields more.
pub(super) fn peer(more: Value) -> Value {
    let mut peer =
        json!({"peer_ip": v4(PEER), "subnet": {"ip_addr": v4("10.10.10.0"), "mask": 24}});
    let fields = more.as_object().expect("object").clone();
    peer.as_object_mut().expect("object").extend(fields);
    peer
}

/// An established session that has sent the VIP.
pub(super) fn established() -> BgpSession {
    BgpSession {
        peer: PEER.into(),
        local_address: "10.10.10.11".into(),
        interface: "eth0".into(),
        state: BgpState::Established.into(),
        local_as: 65001,
        remote_as: 65001,
        routes: vec![BgpRoute {
            prefix: format!("{VIP}/32"),
            next_hop: "10.10.10.11".into(),
            sent: true,
            ..BgpRoute::default()
        }],
        ..BgpSession::default()
    }
}
