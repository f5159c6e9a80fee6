//! Who may use the API: passwords, tokens, sessions, and the brake on guessing (avi-api section 2).

mod address;
mod pace;
mod strangers;
pub mod token;

use crate::access::Access;
use crate::api::singleton;
use crate::error::ApiError;
use crate::objects::Objects;
pub use address::host;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pace::Pace;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
pub use strangers::Strangers;
use tokio::sync::Semaphore;

/// The user that exists from the first start on, and may do everything.
pub const ADMIN: &str = "admin";
/// His uuid (avi-api section 5).
pub const ADMIN_UUID: &str = "user-1";
/// id of the session of one who has none: the word that his cookie is set to.
const NO_SESSION: &str = "None";
/// Password hashes computed at the same time: each takes 19 MiB and a core.
const HASHES_MAX: usize = 2;
/// Failed logins from one address before it has to wait.
const FAILURES_MAX: u32 = 10;
/// How long it has to wait.
const FAILURES_FORGOTTEN: Duration = Duration::from_secs(60);
/// Longest password: a bound for what an unknown client can make us hash.
const PASSWORD_LEN_MAX: usize = 512;
/// Sessions kept at most; the least recently used goes first.
const SESSIONS_MAX: usize = 10_000;
/// The same of one user. Ansible opens one for every task and leaves it.
const SESSIONS_PER_USER_MAX: usize = 500;
/// Calls of a session: so many per second for long, and twice as many at once.
const CALLS_PER_S: u32 = 1000;
/// A token that was not used for so long has earned all it can.
const PACE_FORGOTTEN: Duration = Duration::from_secs(10);

/// A password in clear; it can neither be printed nor serialised.
pub struct Password(String);

impl Password {
    /// Takes a password over from where it was read.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// A session as the client holds it.
#[derive(Clone)]
pub struct Ticket {
    /// Value of the session cookies.
    pub id: String,
    /// Value of the `csrftoken` cookie, repeated in `X-CSRFToken`.
    pub csrf: String,
    /// Name of the user.
    pub user: String,
    /// uuid of the user: another one may get the name.
    pub uuid: String,
    /// id of the API token that stands behind it; with that it ends.
    pub token: Option<String>,
}

impl Ticket {
    fn new(user: &str, uuid: &str, id: String, csrf: String) -> Self {
        Self {
            id,
            csrf,
            user: user.to_owned(),
            uuid: uuid.to_owned(),
            token: None,
        }
    }

    /// False for one who proves himself with each call.
    pub fn has_session(&self) -> bool {
        self.id != NO_SESSION
    }

    /// Of no session: who calls proves himself with each call (avi-api 2.4), and the cookies are set to the word `None`.
    fn once(user: &str, uuid: &str) -> Self {
        Self::new(user, uuid, NO_SESSION.into(), String::new())
    }
}

struct Session {
    ticket: Ticket,
    pace: Pace,
}

/// Passwords and sessions of one controller.
pub struct Auth {
    objects: Arc<Objects>,
    sessions: Mutex<HashMap<String, Session>>,
    /// Of API tokens that come with each call, by id.
    paces: Mutex<HashMap<String, Pace>>,
    failures: Mutex<HashMap<IpAddr, (u32, Instant)>>,
    /// The brake on those without a session.
    pub strangers: Strangers,
    hashing: Semaphore,
}

impl Auth {
    /// Over these users; no session is known yet.
    pub fn new(objects: Arc<Objects>) -> Self {
        Self {
            objects,
            sessions: Mutex::default(),
            paces: Mutex::default(),
            failures: Mutex::default(),
            strangers: Strangers::default(),
            hashing: Semaphore::new(HASHES_MAX),
        }
    }

    /// A password as it is stored.
    ///
    /// # Errors
    /// It is empty or too long.
    pub async fn hash(&self, password: Password) -> Result<String, ApiError> {
        if password.0.is_empty() || password.0.len() > PASSWORD_LEN_MAX {
            let text =
                format!("password: must have 1 to {PASSWORD_LEN_MAX} bytes; choose another one");
            return Err(ApiError::bad_request(text));
        }
        let _permit = self.hashing.acquire().await;
        blocking(move || hash(&password)).await?
    }

    /// Opens a session.
    ///
    /// # Errors
    /// 401 with `Invalid credentials`; 429 after too many failures from one address.
    pub async fn login(
        &self,
        user: &str,
        password: Password,
        from: IpAddr,
    ) -> Result<Ticket, ApiError> {
        self.check(user, password, from).await?;
        tracing::info!(user, %from, "login");
        let access = self.known(user)?;
        Ok(self.open(user, &access.uuid))
    }

    /// Opens a session by an API token, which ends with the token (avi-api 2.4). `user` is the name that was given with it,
    /// if one was.
    ///
    /// # Errors
    /// As [`Auth::login`].
    pub async fn login_by_token(
        &self,
        user: Option<&str>,
        text: &str,
        from: IpAddr,
    ) -> Result<Ticket, ApiError> {
        self.check_brake(from)?;
        let found = self.by_token(text).await?;
        let found = found.filter(|(access, _)| user.is_none_or(|user| user == access.user));
        let Some((access, id)) = found else {
            self.count_failure(from);
            tracing::warn!(user, %from, "login by token refused");
            return Err(refused());
        };
        lock(&self.failures).remove(&host(from));
        tracing::info!(user = access.user, %from, token = id, "login");
        let ticket = Ticket::new(&access.user, &access.uuid, random_token(), random_token());
        Ok(self.keep(Ticket {
            token: Some(id),
            ..ticket
        }))
    }

    /// For a caller who sends an API token with each call: a ticket of no session.
    ///
    /// # Errors
    /// 401 for a token that is none, or no longer; 429 after too many calls.
    pub async fn once_by_token(&self, text: &str) -> Result<Ticket, ApiError> {
        let found = self.by_token(text).await?;
        let (access, id) = found.ok_or_else(|| {
            let text = "the API token is unknown, was revoked or has expired; make a new one";
            ApiError::new(StatusCode::UNAUTHORIZED, text)
        })?;
        self.check_pace(&id)?;
        Ok(Ticket {
            token: Some(id),
            ..Ticket::once(&access.user, &access.uuid)
        })
    }

    async fn by_token(&self, text: &str) -> Result<Option<(Access, String)>, ApiError> {
        let found = token::redeem(&**self.objects.store(), text).await?;
        let snapshot = self.objects.snapshot();
        Ok(found.and_then(|t| Some((Access::of_user(&snapshot, &t.user)?, t.id))))
    }

    fn check_pace(&self, id: &str) -> Result<(), ApiError> {
        let now = Instant::now();
        let mut paces = lock(&self.paces);
        paces.retain(|_, pace| now.duration_since(pace.used) < PACE_FORGOTTEN);
        let pace = paces.entry(id.to_owned());
        let may = pace
            .or_insert_with(|| Pace::new(CALLS_PER_S, now))
            .call(now);
        may.then_some(()).ok_or_else(|| too_many("with this token"))
    }

    /// False when the token behind this ticket is no longer good; its session has ended then.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn still_good(&self, ticket: &Ticket) -> Result<bool, ApiError> {
        let Some(id) = &ticket.token else {
            return Ok(true);
        };
        let good = token::is_good(&**self.objects.store(), id).await?;
        if !good {
            self.logout(&ticket.id);
        }
        Ok(good)
    }

    /// For a caller who sends his password with each call (avi-api 2.4): a ticket of no session.
    ///
    /// # Errors
    /// As [`Auth::login`].
    pub async fn once(
        &self,
        user: &str,
        password: Password,
        from: IpAddr,
    ) -> Result<Ticket, ApiError> {
        self.check(user, password, from).await?;
        let access = self.known(user)?;
        Ok(Ticket::once(user, &access.uuid))
    }

    /// Whether it is this user's password; guessing is braked by address.
    ///
    /// # Errors
    /// As [`Auth::login`].
    pub async fn check(
        &self,
        user: &str,
        password: Password,
        from: IpAddr,
    ) -> Result<(), ApiError> {
        // Those who waited here while others failed are refused without a hash.
        let _permit = self.hashing.acquire().await;
        self.check_brake(from)?;
        if self.verify(user, password).await? {
            lock(&self.failures).remove(&host(from));
            return Ok(());
        }
        self.count_failure(from);
        tracing::warn!(user, %from, "login refused");
        Err(refused())
    }

    fn open(&self, user: &str, uuid: &str) -> Ticket {
        self.keep(Ticket::new(user, uuid, random_token(), random_token()))
    }

    fn keep(&self, ticket: Ticket) -> Ticket {
        let idle_max = self.idle_max();
        let mut sessions = lock(&self.sessions);
        sessions.retain(|_, s| idle_max.is_none_or(|max| s.pace.used.elapsed() < max));
        make_room(&mut sessions, SESSIONS_MAX, |_| true);
        make_room(&mut sessions, SESSIONS_PER_USER_MAX, |s| {
            s.ticket.uuid == ticket.uuid
        });
        let session = Session {
            ticket: ticket.clone(),
            pace: Pace::new(CALLS_PER_S, Instant::now()),
        };
        sessions.insert(ticket.id.clone(), session);
        ticket
    }

    /// After what time a session ends that nobody uses (`api_idle_timeout` of the controller's properties); none: never.
    fn idle_max(&self) -> Option<Duration> {
        let minutes = singleton::api_idle_timeout_min(&self.objects.snapshot());
        (minutes > 0).then(|| Duration::from_secs(60 * minutes))
    }

    /// The session with this id, whose idle time starts again; none when there is no such session.
    ///
    /// # Errors
    /// 429 after too many calls.
    pub fn session(&self, id: &str) -> Result<Option<Ticket>, ApiError> {
        self.session_at(id, Instant::now())
    }

    fn session_at(&self, id: &str, now: Instant) -> Result<Option<Ticket>, ApiError> {
        let idle_max = self.idle_max();
        let mut sessions = lock(&self.sessions);
        let Some(session) = sessions.get_mut(id) else {
            return Ok(None);
        };
        let idle = now.saturating_duration_since(session.pace.used);
        if idle_max.is_some_and(|max| idle >= max) {
            sessions.remove(id);
            return Ok(None);
        }
        if !session.pace.call(now) {
            return Err(too_many("in this session"));
        }
        Ok(Some(session.ticket.clone()))
    }

    /// Ends a session; gives it, if there was one.
    pub fn logout(&self, id: &str) -> Option<Ticket> {
        lock(&self.sessions).remove(id).map(|s| s.ticket)
    }

    /// Whether there is a session with this id; to ask is no use of it.
    pub fn is_open(&self, id: &str) -> bool {
        let idle_max = self.idle_max();
        let is_used = |s: &Session| idle_max.is_none_or(|max| s.pace.used.elapsed() < max);
        lock(&self.sessions).get(id).is_some_and(is_used)
    }

    /// How many sessions there are.
    pub fn open_sessions(&self) -> usize {
        let idle_max = self.idle_max();
        let is_used = |s: &&Session| idle_max.is_none_or(|max| s.pace.used.elapsed() < max);
        lock(&self.sessions).values().filter(is_used).count()
    }

    /// Ends all sessions of the user with this uuid, but for one.
    pub fn end_sessions(&self, uuid: &str, but: Option<&str>) {
        let stays = |id: &str, session: &Session| session.ticket.uuid != uuid || but == Some(id);
        lock(&self.sessions).retain(|id, session| stays(id, session));
    }

    async fn verify(&self, user: &str, password: Password) -> Result<bool, ApiError> {
        if password.0.len() > PASSWORD_LEN_MAX {
            return Ok(false);
        }
        let stored = self.stored_hash(user);
        // An unknown user costs as much time as a wrong password.
        blocking(move || match stored {
            None => hash(&password).map(|_| false),
            Some(stored) => matches(&password, &stored),
        })
        .await?
    }

    /// A user who has just given his password, unless he is gone meanwhile.
    fn known(&self, user: &str) -> Result<Access, ApiError> {
        let access = Access::of(&self.objects.snapshot(), user);
        access.ok_or_else(refused)
    }

    /// None for a user who may not log in.
    fn stored_hash(&self, user: &str) -> Option<String> {
        let snapshot = self.objects.snapshot();
        let access = Access::of(&snapshot, user)?;
        let stored = snapshot.get("user", &access.uuid)?;
        let hash = stored.object.get("password")?.as_str();
        hash.map(str::to_owned)
    }

    fn check_brake(&self, from: IpAddr) -> Result<(), ApiError> {
        let mut failures = lock(&self.failures);
        failures.retain(|_, (_, at)| at.elapsed() < FAILURES_FORGOTTEN);
        match failures.get(&host(from)) {
            Some((count, _)) if *count >= FAILURES_MAX => {
                let text = "too many failed logins from this address; try again in a minute";
                Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, text))
            }
            _ => Ok(()),
        }
    }

    fn count_failure(&self, from: IpAddr) {
        let mut failures = lock(&self.failures);
        let entry = failures.entry(host(from)).or_insert((0, Instant::now()));
        *entry = (entry.0 + 1, Instant::now());
    }
}

/// Ends the sessions that were used longest ago, so that one more of these fits.
fn make_room(sessions: &mut HashMap<String, Session>, max: usize, of: impl Fn(&Session) -> bool) {
    while sessions.values().filter(|s| of(s)).count() >= max {
        let these = sessions.iter().filter(|(_, s)| of(s));
        let oldest = these.min_by_key(|(_, s)| s.pace.used);
        let Some(oldest) = oldest.map(|(id, _)| id.clone()) else {
            return;
        };
        sessions.remove(&oldest);
    }
}

/// The words that clients match.
fn refused() -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "Invalid credentials")
}

fn too_many(whose: &str) -> ApiError {
    let text = format!("more than {CALLS_PER_S} calls per second {whose}; wait a second");
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, text)
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(f).await;
    done.map_err(|e| ApiError::internal("hashing a password", &e))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Compares in a time that does not depend on where the difference is.
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

/// 256 bits of randomness as text.
pub fn random_token() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// The digest as text, hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
fn argon() -> Argon2<'static> {
    let params = Params::new(19 * 1024, 2, 1, None).expect("constants within argon2's limits");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(password: &Password) -> Result<String, ApiError> {
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>())
        .map_err(|e| ApiError::internal("making a salt", &e))?;
    let hash = argon().hash_password(password.0.as_bytes(), &salt);
    hash.map(|h| h.to_string())
        .map_err(|e| ApiError::internal("hashing a password", &e))
}

fn matches(password: &Password, stored: &str) -> Result<bool, ApiError> {
    let hash =
        PasswordHash::new(stored).map_err(|e| ApiError::internal("reading a password hash", &e))?;
    Ok(argon()
        .verify_password(password.0.as_bytes(), &hash)
        .is_ok())
}

#[cfg(test)]
mod tests;
