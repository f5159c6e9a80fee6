//! Layer 4 proxying: listeners, pools, connections.
