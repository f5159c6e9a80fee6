//! Typed client of the controller API: blocking, one connection pool, one session.
//!
//! [`Client::connect`] logs in; after that every call carries the session, and a session that the
//! controller has forgotten (its restart, its idle timeout) is renewed once per call without the
//! caller noticing. Objects travel as [`serde_json::Value`], as they do in the whole product: fields
//! that this program does not know are never lost.
//!
//! Nothing here prints, and nothing here starts a thread.

mod error;
mod namespace;
mod session;
mod tls;

#[cfg(test)]
mod tests;

pub use error::{Error, Result};
pub use namespace::enter as enter_namespace;

use serde_json::{Map, Value, json};
use session::Session;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use ureq::http::{Method, Request, Response, header};

/// The version of the object model that this client asks for (avi-api 2.5).
pub const API_VERSION: &str = "30.2.1";

/// How long a connection may take; a controller is near, a silent address is not one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call may take as a whole; the slowest is a placement over many engines.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause between attempts while the controller refuses connections ([`ClientConfig::retry_for`]).
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The largest page that the API gives (avi-api 5).
const PAGE_SIZE: usize = 200;

/// A bound for answers; an inventory of a thousand virtual services is about 2 MB.
const ANSWER_LEN_MAX: u64 = 64 << 20;

/// How long a file may take to come; a backup of years of changes is some GB.
const FILE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A word to the audit log about a write, percent-encoded.
const MESSAGE: &str = "X-Evenkeel-Message";

/// Header of a controller that does not lead and could not pass the call on to the one that does.
const NOT_DONE: &str = "X-Evenkeel-Not-Done";

/// Asks for the plan of a write instead of the write.
const DRY_RUN: (&str, &str) = ("dry_run", "true");

/// Headers of one call beside those of every call.
type Headers<'a> = &'a [(&'a str, &'a str)];

/// A password, which cannot be printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Takes the password over from where it was read.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// True when no password was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whom the client believes to be the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Whoever answers: for a first look and for labs.
    Insecure,
    /// Certificates that the CA certificates in this PEM file vouch for.
    CaFile(PathBuf),
    /// Certificates that the host's own CA bundle vouches for.
    System,
}

/// Everything needed to log in.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `https://host:port`; a bare `host:port` means https. Several controllers are separated by commas: one that cannot be
    /// reached is followed by the next.
    pub url: String,
    /// Name of the user, usually `admin`.
    pub username: String,
    /// The user's password.
    pub password: Password,
    /// An API token, which takes the place of user, password and session.
    pub token: Option<Password>,
    /// Name of the tenant that the calls act in.
    pub tenant: String,
    /// Whom to believe.
    pub trust: Trust,
    /// Network namespace (a name under `/run/netns`) to connect from.
    ///
    /// The **calling thread moves there and stays**: right for a command that runs on one thread.
    /// A program with several gives each namespace a thread of its own.
    pub netns: Option<String>,
    /// How long to keep trying while nobody listens; zero reports the first refusal.
    pub retry_for: Duration,
}

impl ClientConfig {
    /// `admin` in tenant `admin`, trusting the host's CA bundle, in this namespace, without retries.
    pub fn new(url: impl Into<String>, password: Password) -> Self {
        Self {
            url: url.into(),
            username: "admin".into(),
            password,
            token: None,
            tenant: "admin".into(),
            trust: Trust::System,
            netns: None,
            retry_for: Duration::ZERO,
        }
    }
}

/// A logged-in client. It can be shared between threads; calls do not wait for each other.
pub struct Client {
    config: ClientConfig,
    urls: Vec<String>,
    /// Which of them is asked.
    asked: AtomicUsize,
    agent: ureq::Agent,
    session: Mutex<Session>,
    /// Percent-encoded.
    message: Option<String>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Enters the namespace if one is named, connects and logs in; with an API token there is nothing to log in to.
    pub fn connect(config: ClientConfig) -> Result<Self> {
        if let Some(name) = &config.netns {
            namespace::enter(name)?;
        }
        let agent = new_agent(&config.trust)?;
        let client = Self {
            urls: config.url.split(',').map(normalise_url).collect(),
            asked: AtomicUsize::new(0),
            config,
            agent,
            session: Mutex::default(),
            message: None,
        };
        if client.can_log_in() {
            client.login()?;
        }
        Ok(client)
    }

    /// What the audit log shall say about the writes to come.
    pub fn set_message(&mut self, text: &str) {
        self.message = Some(percent_encode(text));
    }

    /// The controller's address as it is used: with scheme, without a slash at the end. Of several, the one that is asked.
    pub fn url(&self) -> &str {
        &self.urls[self.asked.load(Ordering::Relaxed) % self.urls.len()]
    }

    /// GET of `path` (such as `/api/pool/pool-1`) with query parameters.
    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value> {
        self.call(&Method::GET, &with_query(path, query), None)
    }

    /// POST of a body; an action without parameters takes `{}`.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(&Method::POST, path, Some(body))
    }

    /// [`Client::post`] with headers of its own, such as `X-Evenkeel-Confirm-Within`.
    pub fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> Result<Value> {
        self.call_with(&Method::POST, path, Some(body), headers)
    }

    /// POST whose answer is a file, to be read as it comes.
    pub fn post_for_file(&self, path: &str) -> Result<impl std::io::Read + use<>> {
        let (method, body) = (Method::POST, Value::Object(Map::new()));
        let response = self.send(&method, path, Some(&body), &[], Some(FILE_TIMEOUT))?;
        if response.status().is_success() {
            self.lock().learn(response.headers());
            return Ok(response.into_body().into_reader());
        }
        match self.read(&method, path, response) {
            Err(error) => Err(error),
            Ok(_) => unreachable!("a status that is no success is an error"),
        }
    }

    /// GET whose answer is read as it comes, for as long as `lasts`: a stream of events.
    pub fn get_stream(
        &self,
        path: &str,
        query: &[(&str, &str)],
        headers: &[(&str, &str)],
        lasts: Duration,
    ) -> Result<impl std::io::Read + use<>> {
        let path = with_query(path, query);
        let open = || self.send(&Method::GET, &path, None, headers, Some(lasts));
        let mut response = open()?;
        if response.status() == 401 && self.can_log_in() {
            self.login()?;
            response = open()?;
        }
        if response.status().is_success() {
            self.lock().learn(response.headers());
            return Ok(response.into_body().into_reader());
        }
        match self.read(&Method::GET, &path, response) {
            Err(error) => Err(error),
            Ok(_) => unreachable!("a status that is no success is an error"),
        }
    }

    /// PUT: replaces the object.
    pub fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(&Method::PUT, path, Some(body))
    }

    /// PATCH with `add`, `replace`, `delete` (avi-api 6).
    pub fn patch(&self, path: &str, body: &Value) -> Result<Value> {
        self.call(&Method::PATCH, path, Some(body))
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.call(&Method::DELETE, path, None).map(drop)
    }

    /// What [`Client::delete`] would do; nothing is deleted.
    pub fn plan_delete(&self, path: &str) -> Result<Value> {
        let path = with_query(path, &[DRY_RUN]);
        self.call(&Method::DELETE, &path, None)
    }

    /// What [`Client::post`] would do; nothing is done.
    pub fn plan_post(&self, path: &str, body: &Value) -> Result<Value> {
        let path = with_query(path, &[DRY_RUN]);
        self.call(&Method::POST, &path, Some(body))
    }

    /// The object of this type and name, if there is one. Names are unique per type and tenant.
    pub fn get_by_name(&self, object_type: &str, name: &str) -> Result<Option<Value>> {
        let mut page = self.get(&collection(object_type), &[("name", name)])?;
        let results = page.get_mut("results").and_then(Value::as_array_mut);
        Ok(results.and_then(|list| (!list.is_empty()).then(|| list.swap_remove(0))))
    }

    /// All objects of a type, or all items of an inventory, page by page.
    pub fn list(&self, object_type: &str) -> Result<Vec<Value>> {
        self.list_with(object_type, &[])
    }

    /// [`Client::list`] with query parameters (filters, `include_name`, …).
    pub fn list_with(&self, object_type: &str, query: &[(&str, &str)]) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        for page_number in 1.. {
            let mut page = self.page(object_type, query, page_number)?;
            let results = page
                .get_mut("results")
                .and_then(Value::as_array_mut)
                .map(std::mem::take);
            let results = results.unwrap_or_default();
            let last = results.is_empty() || page.get("next").is_none();
            all.extend(results);
            if last {
                break;
            }
        }
        Ok(all)
    }

    fn page(&self, object_type: &str, query: &[(&str, &str)], number: usize) -> Result<Value> {
        let (number, size) = (number.to_string(), PAGE_SIZE.to_string());
        let mut query = query.to_vec();
        query.extend([("page", number.as_str()), ("page_size", size.as_str())]);
        self.get(&collection(object_type), &query)
    }

    fn call(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.call_with(method, path, body, &[])
    }

    /// One call, with a new login and a second attempt when the session is unknown.
    fn call_with(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        headers: Headers<'_>,
    ) -> Result<Value> {
        match self.call_once(method, path, body, headers) {
            Err(Error::Status { status: 401, .. }) if self.can_log_in() => {
                self.login()?;
                self.call_once(method, path, body, headers)
            }
            other => other,
        }
    }

    /// A token is good or not; there is no password to log in with.
    fn can_log_in(&self) -> bool {
        self.config.token.is_none()
    }

    fn login(&self) -> Result<()> {
        *self.lock() = Session::default();
        let body = json!({ "username": self.config.username, "password": self.config.password.0 });
        match self.call_once(&Method::POST, "/login", Some(&body), &[]) {
            Err(Error::Status {
                status: 401 | 403,
                message,
                ..
            }) => {
                let username = self.config.username.clone();
                Err(Error::Login {
                    url: self.url().to_owned(),
                    username,
                    message,
                })
            }
            other => other.map(drop),
        }
    }

    fn call_once(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        headers: Headers<'_>,
    ) -> Result<Value> {
        let deadline = Instant::now() + self.config.retry_for;
        loop {
            match self.send(method, path, body, headers, None) {
                Err(error) if error.is_unreachable() && Instant::now() < deadline => {
                    pause();
                }
                Err(error) => return Err(error),
                Ok(response) => return self.read(method, path, response),
            }
        }
    }

    /// Asks one controller after the other, until one can be reached. What was lost on its way may be asked again elsewhere
    /// when it only reads.
    fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        headers: Headers<'_>,
        timeout: Option<Duration>,
    ) -> Result<Response<ureq::Body>> {
        // Others may go on at the same time, and must not be led back to one that cannot be reached.
        let first = self.asked.load(Ordering::Relaxed);
        let mut outcome = self.send_once(first, method, path, body, headers, timeout);
        for next in first + 1..first + self.urls.len() {
            match &outcome {
                Ok(answer) if answer.headers().contains_key(NOT_DONE) => {}
                Err(Error::Unreachable { .. }) => {}
                Err(Error::Lost { .. }) if method == Method::GET => {}
                _ => break,
            }
            self.asked.store(next % self.urls.len(), Ordering::Relaxed);
            outcome = self.send_once(next, method, path, body, headers, timeout);
        }
        outcome
    }

    fn send_once(
        &self,
        number: usize,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        headers: Headers<'_>,
        timeout: Option<Duration>,
    ) -> Result<Response<ureq::Body>> {
        let url = &self.urls[number % self.urls.len()];
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("{url}{path}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::REFERER, format!("{url}/"))
            .header("X-Avi-Version", API_VERSION)
            .header("X-Avi-Tenant", &self.config.tenant);
        let message = self.message.as_deref().map(|m| (MESSAGE, m));
        for (name, value) in headers.iter().copied().chain(message) {
            request = request.header(name, value);
        }
        request = match &self.config.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Token {}", token.0)),
            None => self.lock().sign(request),
        };
        let sent = match body {
            None => {
                let request = request.body(()).map_err(ureq::Error::from);
                request.and_then(|r| self.run(r, timeout))
            }
            Some(body) => {
                let request = request.body(body.to_string()).map_err(ureq::Error::from);
                request.and_then(|r| self.run(r, timeout))
            }
        };
        sent.map_err(|cause| error::from_transport(url, cause))
    }

    fn run(
        &self,
        request: Request<impl ureq::AsSendBody>,
        timeout: Option<Duration>,
    ) -> std::result::Result<Response<ureq::Body>, ureq::Error> {
        let Some(timeout) = timeout else {
            return self.agent.run(request);
        };
        let request = self.agent.configure_request(request);
        self.agent
            .run(request.timeout_global(Some(timeout)).build())
    }

    /// Keeps renewed cookies, then turns the answer into a value or an error.
    fn read(
        &self,
        method: &Method,
        path: &str,
        mut response: Response<ureq::Body>,
    ) -> Result<Value> {
        self.lock().learn(response.headers());
        let status = response.status();
        let text = response
            .body_mut()
            .with_config()
            .limit(ANSWER_LEN_MAX)
            .read_to_string()
            .map_err(|cause| error::from_transport(self.url(), cause))?;
        if status.is_success() {
            return parse_answer(method, path, &text);
        }
        Err(Error::Status {
            method: method.to_string(),
            path: path.to_string(),
            status: status.as_u16(),
            message: error::message_of(&text),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        self.session
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The last path segment of an object's `url` or of a reference, without the `#name`: its UUID.
pub fn uuid_of(reference: &str) -> &str {
    let path = reference.split('#').next().unwrap_or(reference);
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(path)
}

/// The name behind the `#` of a reference, where the answer has one.
pub fn name_of(reference: &str) -> Option<&str> {
    reference.split_once('#').map(|(_, name)| name)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause inside a wait that has a deadline"
)]
fn pause() {
    std::thread::sleep(RETRY_PAUSE);
}

fn collection(object_type: &str) -> String {
    format!("/api/{object_type}")
}

fn normalise_url(url: &str) -> String {
    let url = url.trim().trim_end_matches('/');
    if url.contains("://") {
        url.to_string()
    } else {
        format!("https://{url}")
    }
}

fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let mut target = path.to_string();
    for (index, (key, value)) in query.iter().enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        target.push_str(&percent_encode(key));
        target.push('=');
        target.push_str(&percent_encode(value));
    }
    target
}

/// RFC 3986 section 2.3: everything but unreserved characters is escaped.
/// As a part of a path or a query.
pub fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn parse_answer(method: &Method, path: &str, text: &str) -> Result<Value> {
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    serde_json::from_str(text).map_err(|source| Error::Answer {
        method: method.to_string(),
        path: path.to_string(),
        source,
    })
}

fn new_agent(trust: &Trust) -> Result<ureq::Agent> {
    let config = ureq::Agent::config_builder()
        .tls_config(tls::config(trust)?)
        // A proxy from the environment cannot reach a management network, or a namespace.
        .proxy(None)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(concat!("evenkeel/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_global(Some(CALL_TIMEOUT))
        .build();
    Ok(config.new_agent())
}
