//! What a controller says of itself to the others: under the leader's key in etcd, or with its hello.

use crate::api::tls::Served;
use crate::args::Shared;
use crate::auth;
use crate::clock::now_unix_s;
use serde::{Deserialize, Serialize};

/// See the module's documentation.
#[derive(Clone, Serialize, Deserialize)]
pub struct Card {
    /// Among the controllers.
    pub name: String,
    /// `HOST:PORT` of its API for the others.
    pub api: String,
    /// SHA-256 of its API's certificate, hexadecimal: by this the others know that it is the one.
    pub certificate: String,
    /// Version of the program.
    pub version: String,
    /// Since when the process runs, seconds since 1970.
    #[serde(default)]
    pub up_since_unix_s: u64,
    /// With this another controller shows that it reads the same etcd: then its word counts for who calls through it. It
    /// opens nothing else, and is another one for each process.
    #[serde(default)]
    pub pass: String,
}

impl Card {
    /// Ours, with this certificate.
    pub fn make(shared: &Shared, served: &Served) -> Self {
        Self {
            name: shared.name.clone(),
            api: shared.advertise_api.clone(),
            certificate: served.fingerprint.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            up_since_unix_s: now_unix_s(),
            pass: auth::random_token(),
        }
    }

    /// Of a controller that has no others.
    pub fn alone() -> Self {
        Self {
            name: "node-1".into(),
            api: String::new(),
            certificate: String::new(),
            version: env!("CARGO_PKG_VERSION").into(),
            up_since_unix_s: now_unix_s(),
            pass: String::new(),
        }
    }

    /// As it stands in etcd.
    pub fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and numbers")
    }

    /// None for what is no card.
    pub fn read(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}
