//! Service engine: agent, BGP shell, health monitors, addresses.

pub mod bgp;
