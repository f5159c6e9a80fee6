//! The letter of the API's contract, header by header, against a real controller on loopback (avi-api): what the
//! typed client hides or never does. `api.rs` beside this has the objects as that client sees them.

#![allow(clippy::unwrap_used, reason = "tests")]

mod access;
mod actions;
mod alerts;
mod applications;
mod audit;
mod certificates;
mod doc;
mod documented;
mod dry_run;
mod engine;
mod engine_tables;
mod engines;
mod events;
mod flows;
mod full_disk;
mod history;
mod http;
mod inventories;
mod ipam;
mod limits;
mod metrics;
mod monitoring;
mod objects;
mod patch;
mod query;
mod routing;
mod runtime_views;
mod sealing;
mod sequences;
mod server_fields;
mod servers;
mod service_views;
mod sessions;
mod settings;
mod tables;
mod tenants_view;
mod tokens;
mod topology;
mod transfer;
mod types;
mod udp;
mod viewers;
