//! Network namespaces, routers, traffic and scenarios.
