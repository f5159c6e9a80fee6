//! The letter of the API's contract, header by header, against a real controller on loopback (avi-api): what the
//! typed client hides or never does. `api.rs` beside this has the objects as that client sees them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod access;
mod alerts;
mod audit;
mod certificates;
mod engine;
mod events;
mod flows;
mod full_disk;
mod history;
mod http;
mod metrics;
mod objects;
mod patch;
mod query;
mod routing;
mod sessions;
mod settings;
mod transfer;
mod types;
mod udp;
