//! Controller: REST API, store, planner, engine sessions.
