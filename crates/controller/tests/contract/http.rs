//! A controller that can be stopped and started again, and HTTP without any manners of a client.

use evenkeel_controller::{Args, Controller};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use ureq::http::{HeaderMap, Request};

/// What takes longer has not come.
const DEADLINE: Duration = Duration::from_secs(60);

pub const PASSWORD: &str = "for this test only";
/// Password of the users that [`Server::user`] makes.
pub const SECRET: &str = "a secret of this test";

/// A controller on a runtime of its own; stopped in order when dropped.
pub struct Server {
    pub address: SocketAddr,
    /// Where engines dial.
    pub engines: SocketAddr,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, |_| {})
    }

    /// With other settings.
    pub fn start_with(folder: &Path, edit: impl FnOnce(&mut Args)) -> Self {
        let password = folder.join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        let mut args = Args {
            data_dir: Some(folder.join("data")),
            listen_api: Some("127.0.0.1:0".parse().unwrap()),
            listen_engines: Some("127.0.0.1:0".parse().unwrap()),
            admin_password_file: Some(password),
            ..Args::default()
        };
        edit(&mut args);
        let stop = CancellationToken::new();
        let told = stop.clone().cancelled_owned();
        let (sender, addresses) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let controller = Controller::start(args).await.unwrap();
                let addresses = (controller.api_address(), controller.engines_address());
                sender.send(addresses).unwrap();
                controller.run_until(told).await.unwrap();
            });
        });
        let (address, engines) = addresses.recv().unwrap();
        Self {
            address,
            engines,
            stop,
            thread: Some(thread),
        }
    }

    pub fn http(&self) -> Http {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ureq::tls::TlsConfig::builder()
            .disable_verification(true)
            .unversioned_rustls_crypto_provider(provider);
        let agent = ureq::Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            .proxy(None)
            .allow_non_standard_methods(true)
            .build()
            .new_agent();
        let url = format!("https://{}", self.address);
        Http {
            headers: vec![("Referer".into(), url.clone())],
            agent,
            url,
        }
    }

    /// A user with this role in this tenant, or in all: his path, and he himself, logged in.
    pub fn user(
        &self,
        admin: &Http,
        name: &str,
        role: &str,
        tenant: Option<&str>,
    ) -> (String, Http) {
        let role = format!("/api/role?name={role}");
        let access = match tenant {
            Some(tenant) => {
                json!({"role_ref": role, "tenant_ref": format!("/api/tenant?name={tenant}")})
            }
            None => json!({"role_ref": role, "all_tenants": true}),
        };
        let body = json!({"username": name, "password": SECRET, "access": [access]});
        let (path, _) = admin.make("user", body);
        let mut http = self.http();
        http.log_in_as(name, SECRET).good();
        (path, http)
    }

    pub fn logged_in(&self) -> Http {
        let mut http = self.http();
        http.log_in(PASSWORD);
        http
    }
}

/// Waits until it is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    wait_for(what, || {
        is_so().then_some(()).ok_or_else(|| "not yet".to_owned())
    });
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(
            std::thread::panicking() || ended.is_some_and(|e| e.is_ok()),
            "the controller did not stop in order"
        );
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The JSON of a call that must have succeeded.
    pub fn good(&self) -> Value {
        assert!(
            (200..300).contains(&self.status),
            "{}: {}",
            self.status,
            self.text
        );
        self.json()
    }

    /// The text of a refusal with this status.
    pub fn refused(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        self.json()["error"].as_str().unwrap().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn cookie(&self, name: &str) -> Option<String> {
        let all = self.headers.get_all("set-cookie").iter();
        let mut pairs = all.map(|c| c.to_str().unwrap().split(';').next().unwrap());
        let found = pairs.find_map(|p| p.strip_prefix(name)?.strip_prefix('='));
        found.map(str::to_owned)
    }
}

#[derive(Clone)]
pub struct Http {
    agent: ureq::Agent,
    pub url: String,
    pub headers: Vec<(String, String)>,
}

impl Http {
    /// The same with one header set, or without it when the value is empty.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.headers.retain(|(n, _)| n != name);
        if !value.is_empty() {
            other.headers.push((name.into(), value.into()));
        }
        other
    }

    pub fn log_in(&mut self, password: &str) -> Reply {
        self.log_in_as("admin", password)
    }

    pub fn log_in_as(&mut self, user: &str, password: &str) -> Reply {
        self.log_in_with(&json!({"username": user, "password": password}))
    }

    pub fn log_in_with(&mut self, body: &Value) -> Reply {
        let reply =
            self.with("Content-Type", "application/json")
                .text("POST", "/login", &body.to_string());
        if let (Some(id), Some(csrf)) = (reply.cookie("avi-sessionid"), reply.cookie("csrftoken")) {
            let cookies = format!("avi-sessionid={id}; sessionid={id}; csrftoken={csrf}");
            *self = self.with("Cookie", &cookies).with("X-CSRFToken", &csrf);
        }
        reply
    }

    pub fn text(&self, method: &str, path: &str, body: &str) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut response = self
            .agent
            .run(request.body(body.to_owned()).unwrap())
            .unwrap();
        Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: response.body_mut().read_to_string().unwrap(),
        }
    }

    /// The body of a GET as it comes.
    pub fn stream(&self, path: &str) -> impl std::io::BufRead + use<> {
        let mut request = Request::builder().uri(format!("{}{path}", self.url));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = self.agent.run(request.body(()).unwrap()).unwrap();
        assert_eq!(response.status(), 200, "{path}");
        std::io::BufReader::new(response.into_body().into_reader())
    }

    /// Status and body as they are, of a call with an empty body.
    pub fn bytes(&self, method: &str, path: &str) -> (u16, Vec<u8>) {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut response = self
            .agent
            .run(request.body(String::new()).unwrap())
            .unwrap();
        let body = response.body_mut().with_config().limit(1 << 30);
        let body = body.read_to_vec().unwrap();
        (response.status().as_u16(), body)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.text("GET", path, "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.text("POST", path, &body.to_string())
    }

    pub fn put(&self, path: &str, body: &Value) -> Reply {
        self.text("PUT", path, &body.to_string())
    }

    pub fn patch(&self, path: &str, body: &Value) -> Reply {
        self.text("PATCH", path, &body.to_string())
    }

    pub fn delete(&self, path: &str) -> Reply {
        self.text("DELETE", path, "")
    }

    /// Makes an object; gives `/api/TYPE/UUID` and what was answered.
    pub fn make(&self, ty: &str, body: Value) -> (String, Value) {
        let made = self.post(&format!("/api/{ty}"), &body).good();
        (own_path(&made), made)
    }

    /// The fields that the newest change of an object (`/api/TYPE/UUID`) changed: a secret, too, shows here.
    pub fn changed_fields(&self, path: &str) -> Vec<String> {
        let (ty, uuid) = path[5..].split_once('/').unwrap();
        let log = self
            .get(&format!("/api/ek/audit?type={ty}&uuid={uuid}"))
            .good();
        let objects = log["results"][0]["objects"].as_array().unwrap().clone();
        let ours = objects.iter().find(|o| o["uuid"] == uuid).unwrap();
        let fields = ours["changes"].as_array().unwrap().iter();
        fields
            .map(|c| c["field"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until every secret in the store is sealed by the newest key.
    pub fn wait_until_sealed(&self) {
        let sealed = || self.get("/api/ek/sealkey").good()["state"] == "sealed";
        wait_until("every secret is sealed", sealed);
    }

    pub fn count(&self, query: &str) -> i64 {
        self.get(query).good()["count"].as_i64().unwrap()
    }
}

pub fn own_path(object: &Value) -> String {
    let url = object["url"].as_str().unwrap().split('#').next().unwrap();
    url[url.find("/api/").unwrap()..].to_owned()
}

/// Waits until `look` gives something.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) => assert!(
                Instant::now() < deadline,
                "{what} did not come; seen: {seen}"
            ),
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "the pause inside a wait that has a deadline"
        )]
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn v4(addr: &str) -> Value {
    json!({"addr": addr, "type": "V4"})
}
