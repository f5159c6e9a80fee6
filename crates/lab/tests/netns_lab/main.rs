//! Tests of the lab in network namespaces. They drive the binary as a user does.
//!
//! They need root, FRR and BIRD; they skip loudly where they cannot run, and fail for that in CI.

#![allow(
    clippy::disallowed_macros, // figures and skips go to the test runner
    clippy::print_stderr, // likewise
    clippy::disallowed_methods, // the pause of waiting for a condition
    clippy::unwrap_used, // a panic is how a test fails, in helpers too
)]

mod controllers;
mod explain;
mod flows;
mod lifecycle;
mod links;
mod native;
mod placement;
mod plans;
mod product;
mod reboot;
mod scenarios;
mod sources;
mod support;
mod web;
mod wide;
