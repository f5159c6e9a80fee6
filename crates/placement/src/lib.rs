//! Planner: which virtual service on which service engine, and why, without I/O.
