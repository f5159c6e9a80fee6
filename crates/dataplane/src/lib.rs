//! Raw socket options and other kernel interfaces; the only crate with unsafe code.
