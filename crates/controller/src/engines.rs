//! Sessions with the service engines: who they are, what they were told, what they report.

pub mod ca;
pub mod join;
pub mod news;
pub mod outbox;
mod questions;
pub mod registry;
mod service;

pub use registry::Registry;
pub use service::{bind, serve};

/// The name in the controller's certificate for engines: the same for every controller, so that an engine can be
/// given addresses alone.
pub const SERVER_NAME: &str = "controller.evenkeel.internal";
