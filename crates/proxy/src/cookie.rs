//! Cookies that name the server of a client (avi-api `PERSISTENCE_TYPE_HTTP_COOKIE`). Nothing is kept of clients: what a
//! cookie says is worked out from the pool and the server alone, so that every engine knows those of the others, and it
//! says no address to whoever does not know the pool's uuid.

use crate::{CookieSpec, PoolSpec};
use hyper::header::{COOKIE, HeaderMap, HeaderValue};
use ring::hmac;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// Bytes of a server's name: enough that no two are the same.
const NAME_LEN: usize = 16;

/// The servers of a pool by what cookies say; empty where it has no cookies.
#[derive(Default)]
pub(crate) struct Cookies {
    /// The cookie.
    name: String,
    /// By the server's place in the pool.
    values: Vec<String>,
    places: HashMap<String, usize>,
}

impl Cookies {
    pub(crate) fn of(pool: &PoolSpec) -> Self {
        let Some(spec) = &pool.back.cookie else {
            return Self::default();
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, pool.uuid.as_bytes());
        let values: Vec<_> = pool.servers.iter().map(|s| value(&key, s.addr)).collect();
        let places = values.iter().cloned().zip(0..);
        Self {
            name: spec.name.clone(),
            places: places.collect(),
            values,
        }
    }

    /// The place of the server that a client names.
    pub(crate) fn server(&self, headers: &HeaderMap) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let lines = headers.get_all(COOKIE).into_iter();
        let pairs = lines.filter_map(|line| line.to_str().ok());
        let pairs = pairs.flat_map(|line| line.split(';').map(str::trim));
        let mut own = pairs.filter_map(|pair| pair.strip_prefix(&self.name)?.strip_prefix('='));
        own.find_map(|value| self.places.get(value).copied())
    }

    /// What a client is told of the server at this place.
    pub(crate) fn tell(&self, spec: &CookieSpec, place: usize) -> Option<HeaderValue> {
        let mut text = format!("{}={}; Path=/", self.name, self.values.get(place)?);
        if let Some(age) = spec.max_age {
            write!(text, "; Max-Age={}", age.as_secs()).ok()?;
        }
        if spec.http_only {
            text.push_str("; HttpOnly");
        }
        HeaderValue::try_from(text).ok()
    }
}

fn value(key: &hmac::Key, server: SocketAddr) -> String {
    let tag = hmac::sign(key, server.to_string().as_bytes());
    let bytes = tag.as_ref().iter().take(NAME_LEN);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}
