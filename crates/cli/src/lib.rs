//! Commands that talk to a controller, and their renderers.

pub mod output;
