//! Names and help texts of metrics. What controller and engine both tell has one name, one help text and one meaning.

/// What a number does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Grows, and begins again at 0 with what counts it.
    Counter,
}

/// One metric; Prometheus sees it under `evenkeel_` and the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Without prefix, and without the `_total` of a counter.
    pub name: &'static str,
    /// A sentence about what is counted.
    pub help: &'static str,
    /// What it does over time.
    pub kind: Kind,
}

/// What stands before every name.
pub const PREFIX: &str = "evenkeel";

impl Metric {
    const fn gauge(name: &'static str, help: &'static str) -> Self {
        let kind = Kind::Gauge;
        Self { name, help, kind }
    }

    const fn counter(name: &'static str, help: &'static str) -> Self {
        let kind = Kind::Counter;
        Self { name, help, kind }
    }

    /// The name of its samples, as queries have it.
    pub fn sample(&self) -> String {
        let end = match self.kind {
            Kind::Gauge => "",
            Kind::Counter => "_total",
        };
        format!("{PREFIX}_{}{end}", self.name)
    }
}

/// The value of a label as the text format has it (OpenMetrics 1.0, escaped-string): a name may have any character, and must
/// not end the label or the line.
pub fn label(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text
}

macro_rules! metrics {
    ($(#[$doc:meta])* $all:ident { $($constant:ident: $kind:ident($name:literal, $help:literal);)* }) => {
        $(#[doc = $help] pub const $constant: Metric = Metric::$kind($name, $help);)*

        $(#[$doc])*
        pub const $all: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    /// What the controller tells of its own process, beside what engines report.
    OF_CONTROLLER {
        CONTROLLER_CALLS: counter("controller_calls", "Calls of the API, by method and class of the answer's status");
        CONTROLLER_CALL_SECONDS: counter("controller_call_seconds", "Time that these calls took, from their head to the head of the answer");
        CONTROLLER_SESSIONS: gauge("controller_sessions", "Sessions of users that are open");
        CONTROLLER_OBJECTS: gauge("controller_objects", "Objects of the configuration, by type");
        CONTROLLER_REVISION: gauge("controller_revision", "Revision of the configuration; it grows with every change");
        CONTROLLER_RESIDENT_MEMORY: gauge("controller_resident_memory_bytes", "Resident memory of the controller's process");
        CONTROLLER_UPTIME: gauge("controller_uptime_seconds", "Time since the controller's process was started");
    }
}

metrics! {
    /// All that an engine tells at its own `/metrics`; of these the controller tells what engines report.
    OF_ENGINES {
    SE_CONNECTED: gauge("se_connected", "1 while the engine has a session with the controller");
    BGP_SESSION_UP: gauge("bgp_session_up", "1 while the session is ESTABLISHED");
    BFD_SESSION_UP: gauge("bfd_session_up", "1 while the session is up");
    VS_OPEN_CONNECTIONS: gauge("vs_open_connections", "Connections of a virtual service that are open at the engine");
    VS_UDP_FLOWS: gauge("vs_udp_flows", "UDP flows of a virtual service at the engine");
    VS_UDP_EVENTS: counter(
        "vs_udp_events",
        "Datagrams dropped (full: as many flows as may be; dropped: a buffer was full, or no server was left) or dispatched again, and flows moved to another server"
    );
    VS_CONNECTIONS_DROPPED: counter(
        "vs_connections_dropped",
        "Connections of a virtual service that no server took, and datagrams of UDP that began no flow"
    );
    VS_RESPONSES: counter(
        "vs_responses",
        "HTTP responses of a virtual service that have come from servers whole, or are the engine's own, by class of status"
    );
    POOL_BYTES: counter(
        "pool_bytes",
        "Bytes from servers of a pool (received) and to them (sent), with what TLS adds, without health checks"
    );
    FLOW_PACKETS: counter("flow_packets", "Packets to VIPs and between engines, by what steering did with them");
    FLOW_TUNNELLED_FLOWS: counter(
        "flow_tunnelled_flows",
        "Flows that a question has found at another engine, or that went there because this one drains"
    );
    FLOW_TUNNELLED_FLOWS_NOW: gauge(
        "flow_tunnelled_flows_now",
        "Flows of which packets were sent to the engine that owns them within 10 s, about"
    );
    FLOW_TUNNELLED_PACKETS: counter("flow_tunnelled_packets", "Packets sent to the engine that owns their flow");
    FLOW_TUNNELLED_BYTES: counter("flow_tunnelled_bytes", "Bytes of these packets, without the outer header");
    FLOW_PROBE_BUDGET: gauge("flow_probe_budget_copies_per_second", "Copies of probes that may be sent");
    FLOW_HINT_STAMPS: counter("flow_hint_stamps", "Connections that were made to carry their owner, by result");
    SE_CPU_SECONDS: counter(
        "se_cpu_seconds",
        "Processors' time by what used it: process (the engine), host (all that runs on its host), softirq (of that, the kernel's network)"
    );
    SE_PACKETS: counter("se_packets", "Packets of the engine's data interfaces, by direction (received, sent)");
    SE_BYTES: counter("se_bytes", "Bytes of these packets, by direction");
    SE_MEMORY: gauge("se_memory_bytes", "Memory of the engine's host: all of it, and what is available to programs without swapping");
    // Of the engine's own process; the controller does not tell them.
    ENGINE_BGP_SESSIONS: gauge("engine_bgp_sessions", "BGP sessions by state");
    ENGINE_BFD_SESSIONS: gauge("engine_bfd_sessions", "BFD sessions by state");
    ENGINE_VIP_ANNOUNCED: gauge("engine_vip_announced", "1 while the VIP is handed to the BGP speaker; else 0, with the reason code");
    ENGINE_VS_UP: gauge("engine_vs_up", "1 while the virtual service is up at the engine; else 0, with the reason code");
    ENGINE_GENERATION: gauge("engine_generation", "Generation of the desired state that is in force; it grows with every change for the engine");
    ENGINE_OPEN_CONNECTIONS: gauge("engine_open_connections", "Connections of all virtual services that are open at the engine");
    ENGINE_RESIDENT_MEMORY: gauge("engine_resident_memory_bytes", "Resident memory of the engine's process");
    ENGINE_UPTIME: gauge("engine_uptime_seconds", "Time since the engine's process was started");
    ENGINE_BFD_KERNEL_DROPS: counter("engine_bfd_kernel_drops", "BFD packets that the kernel did not queue: no room, or under a flood those from afar");
    }
}

/// Words of the label `of` of [`SE_CPU_SECONDS`], in the order in which the counters are given.
pub const CPU_OF: [&str; 3] = ["process", "host", "softirq"];
/// Words of the label `of` of [`SE_MEMORY`]: all of it, and what is available.
pub const MEMORY_OF: [&str; 2] = ["all", "available"];
/// Words of the label `status` of [`VS_RESPONSES`].
pub const STATUS_CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Words of the label `direction`.
pub const DIRECTIONS: [&str; 2] = ["received", "sent"];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_words_and_help_texts_are_sentences() {
        let all: Vec<Metric> = [OF_ENGINES, OF_CONTROLLER].concat();
        let names: BTreeSet<&str> = all.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), all.len());
        for metric in all {
            let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(metric.name.chars().all(is_word), "{}", metric.name);
            let begins = metric
                .help
                .starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit());
            assert!(begins && metric.help.len() > 10, "{}", metric.name);
        }
    }

    #[test]
    fn a_label_ends_where_its_value_does() {
        assert_eq!(label("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
        assert_eq!(label("plain é"), "plain é");
    }

    #[test]
    fn a_counter_is_sampled_as_total() {
        assert_eq!(FLOW_PACKETS.sample(), "evenkeel_flow_packets_total");
        assert_eq!(SE_CONNECTED.sample(), "evenkeel_se_connected");
    }
}
