//! An engine in words alone: it joins, has a session, and reports what a test makes it report.

use crate::http::{Http, Server};
use crate::tables::{flows, host};
use proto::join_token::JoinToken;
use proto::v1::engine_control_client::EngineControlClient;
use proto::v1::{
    Ack, BgpSession, BgpState, ControllerMessage, DesiredState, EngineMessage, FlowAnswer,
    FlowEvent, FlowQuery, FlowTable, Hello, Interface, JoinRequest, OperState, PoolStatus, Report,
    ServerStatus, VipStatus, VirtualServiceStatus, controller_message, engine_message::Body,
};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

const SERVER_NAME: &str = "controller.evenkeel.internal";
/// Messages under way to the controller.
const QUEUE_LEN: usize = 16;

/// An engine that has joined.
pub struct Engine {
    runtime: Runtime,
    address: SocketAddr,
    name: String,
    tls: ClientTlsConfig,
    outbox: Option<mpsc::Sender<EngineMessage>>,
    told: Arc<Mutex<Told>>,
}

/// What an engine was told, in all its sessions.
#[derive(Default)]
pub struct Told {
    pub states: Vec<DesiredState>,
    /// How often it was to start anew.
    pub restarts: usize,
}

fn tls(ca_pem: &str) -> ClientTlsConfig {
    let ca = Certificate::from_pem(ca_pem);
    ClientTlsConfig::new()
        .ca_certificate(ca)
        .domain_name(SERVER_NAME)
}

async fn dial(address: SocketAddr, tls: ClientTlsConfig) -> Channel {
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.unwrap()
}

impl Engine {
    /// Joins with a token that the admin makes, and opens a session.
    pub fn join(server: &Server, admin: &Http, name: &str) -> Self {
        let token = admin
            .post("/api/ek/jointoken", &json!({"name": name}))
            .good();
        let token = JoinToken::decode(token["token"].as_str().unwrap()).unwrap();
        let (runtime, key) = (Runtime::new().unwrap(), KeyPair::generate().unwrap());
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let request = JoinRequest {
            token_id: token.id,
            token_secret: token.secret,
            csr_pem: csr.pem().unwrap(),
            name: name.to_owned(),
            ..JoinRequest::default()
        };
        let (address, first) = (server.engines, tls(&token.ca_pem));
        let reply = runtime.block_on(async {
            let mut client = EngineControlClient::new(dial(address, first).await);
            client.join(request).await.unwrap().into_inner()
        });
        let identity = Identity::from_pem(&reply.certificate_pem, key.serialize_pem());
        let mut engine = Self {
            runtime,
            address,
            name: name.to_owned(),
            tls: tls(&reply.ca_pem).identity(identity),
            outbox: None,
            told: Arc::default(),
        };
        engine.connect();
        engine
    }

    /// Opens a session. Every state that it is told is acknowledged.
    pub fn connect(&mut self) {
        self.connect_as(proto::PROTOCOL_VERSION);
    }

    /// The same, as one that speaks this version of the protocol.
    pub fn connect_as(&mut self, protocol_version: u32) {
        let hello = Hello {
            protocol_version,
            interfaces: interfaces(),
            ..Hello::default()
        };
        self.connect_saying(hello);
    }

    /// The same, with these words first.
    pub fn connect_saying(&mut self, hello: Hello) {
        let (outbox, queue) = mpsc::channel(QUEUE_LEN);
        let protocol_version = match hello.protocol_version {
            0 => proto::PROTOCOL_VERSION,
            said => said,
        };
        let hello = Hello {
            protocol_version,
            name: self.name.clone(),
            ..hello
        };
        let (address, tls, answers) = (self.address, self.tls.clone(), outbox.downgrade());
        let told = self.told.clone();
        self.runtime.block_on(async {
            outbox.send(message(Body::Hello(hello))).await.unwrap();
            let mut client = EngineControlClient::new(dial(address, tls).await);
            let inbox = client.session(ReceiverStream::new(queue)).await.unwrap();
            tokio::spawn(answer(inbox.into_inner(), answers, told));
        });
        self.outbox = Some(outbox);
    }

    /// What it was told until now.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    /// Names of the virtual services that it was told last.
    pub fn told_services(&self) -> Vec<String> {
        let told = self.told();
        let services = told.states.iter().next_back();
        let services = services.into_iter().flat_map(|s| &s.virtual_services);
        services.map(|vs| vs.name.clone()).collect()
    }

    /// Ends the session.
    pub fn disconnect(&mut self) {
        self.outbox = None;
    }

    /// Reports this.
    pub fn report(&self, report: Report) {
        let report = Report {
            interfaces: interfaces(),
            ..report
        };
        let outbox = self.outbox.as_ref().expect("a session");
        outbox
            .blocking_send(message(Body::Report(report)))
            .expect("the session is open");
    }
}

/// Answers what it is told and asked.
async fn answer(
    mut inbox: Streaming<ControllerMessage>,
    answers: mpsc::WeakSender<EngineMessage>,
    all: Arc<Mutex<Told>>,
) {
    while let Ok(Some(told)) = inbox.message().await {
        let answer = match told.body {
            Some(controller_message::Body::DesiredState(state)) => {
                let generation = state.generation;
                all.lock().unwrap().states.push(state);
                Body::Ack(Ack { generation })
            }
            Some(controller_message::Body::FlowQuery(query)) => {
                Body::FlowAnswer(flow_answer(&query))
            }
            Some(controller_message::Body::HostQuery(query)) => Body::HostAnswer(host(&query)),
            Some(controller_message::Body::Restart(_)) => {
                all.lock().unwrap().restarts += 1;
                continue;
            }
            _ => continue,
        };
        match answers.upgrade() {
            Some(answers) => answers.send(message(answer)).await.ok(),
            None => return,
        };
    }
}

/// To a question about events: a packet was just now sent to the engine that has its flow.
fn flow_answer(query: &FlowQuery) -> FlowAnswer {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let event = FlowEvent {
        unix_ns: now.as_nanos().try_into().unwrap(),
        protocol: "tcp".into(),
        client: "192.0.2.7".into(),
        client_port: 40000,
        vip: "10.100.0.1".into(),
        vip_port: 80,
        verdict: "tunnel_cache".into(),
        ..FlowEvent::default()
    };
    let asked = query.table() == FlowTable::Events;
    let flows = flows(query.table());
    FlowAnswer {
        id: query.id,
        matched: u64::from(asked) + flows.len() as u64,
        flows,
        events: asked.then_some(event).into_iter().collect(),
        ..FlowAnswer::default()
    }
}

fn message(body: Body) -> EngineMessage {
    EngineMessage { body: Some(body) }
}

fn interfaces() -> Vec<Interface> {
    vec![Interface {
        name: "eth0".into(),
        up: true,
        addresses: vec!["10.10.10.11/24".into()],
        ..Interface::default()
    }]
}

/// A virtual service with its VIP and a pool of one server, all of them up or down.
pub fn service(vs: &Value, up: bool) -> Report {
    let uuid = |reference: &str| {
        let path = vs[reference].as_str().unwrap().split('#').next().unwrap();
        path.rsplit('/').next().unwrap().to_owned()
    };
    let (state, reason) = match up {
        true => (OperState::Up, "up"),
        false => (OperState::Down, "pool_down"),
    };
    let server = ServerStatus {
        address: "10.1.0.5".into(),
        port: 80,
        state: state.into(),
        reason: if up { "" } else { "connection refused" }.into(),
        ..ServerStatus::default()
    };
    Report {
        virtual_services: vec![VirtualServiceStatus {
            uuid: vs["uuid"].as_str().unwrap().into(),
            state: state.into(),
            reason_code: reason.into(),
            ..VirtualServiceStatus::default()
        }],
        vips: vec![VipStatus {
            vsvip_uuid: uuid("vsvip_ref"),
            address: "10.100.0.1".into(),
            announced: up,
            reason_code: if up { "" } else { "vs_down" }.into(),
            ..VipStatus::default()
        }],
        pools: vec![PoolStatus {
            uuid: uuid("pool_ref"),
            state: state.into(),
            servers: vec![server],
        }],
        ..Report::default()
    }
}

/// A BGP session with 10.10.10.1.
pub fn peer(state: BgpState, error: &str) -> Report {
    Report {
        bgp_sessions: vec![BgpSession {
            peer: "10.10.10.1".into(),
            local_address: "10.10.10.11".into(),
            state: state.into(),
            last_error: error.into(),
            times_established: 1,
            ..BgpSession::default()
        }],
        ..Report::default()
    }
}
