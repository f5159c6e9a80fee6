//! Configuration objects: what they are, what is valid, what their defaults are.
//!
//! * [`schema`]: the one definition of every object, parsed from `schema/*.txt`;
//! * [`object`]: validation, defaults and references of a JSON object, driven by the schema;
//! * [`rules`]: what names and ranges cannot say (an eBGP peer needs `remote_as`, …);
//! * [`view`]: typed views of the objects that the product acts on;
//! * [`reason`]: the words for states and reasons, the same in API, CLI, metrics and logs;
//! * [`weight`]: shares of a busy engine, as a type that is in its range;
//! * [`metric`]: names and help texts of metrics; [`log`]: how a daemon writes its log.
//!
//! Objects stay JSON maps so that fields we do not act on are kept and returned untouched; code that
//! acts on an object parses a view of it. No I/O here.

pub mod condition;
pub mod log;
pub mod metric;
pub mod object;
pub mod reason;
pub mod rules;
pub mod schema;
pub mod view;
pub mod weight;
