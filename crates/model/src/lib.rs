//! Configuration objects: schema, validation, defaults, typed views; no I/O.
