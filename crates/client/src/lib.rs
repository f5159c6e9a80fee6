//! Typed client of the controller API.
