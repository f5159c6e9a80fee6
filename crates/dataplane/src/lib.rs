//! Raw socket options and other kernel interfaces; the only crate with unsafe code.
//!
//! The workspace denies `unsafe`; a module that needs it says so with an attribute of its own and a
//! safety comment at each block. Everything public here is safe to call.

pub mod datagram;
pub mod filter;
pub mod packet;
pub mod process;
pub mod realtime;
pub mod sockopt;
pub mod steering;
pub mod timestamp;
