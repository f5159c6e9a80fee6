//! `virtualservice/UUID/client` (avi-api 10.2): who has connections, as the engines say when they are asked.

use super::super::flows::Lookup;
use super::super::flowtable::address;
use super::super::members::{CONNECTIONS_MAX, Inquiry, Shown};
use super::Observer;
use crate::error::ApiError;
use proto::v1::{FlowAnswer, FlowRow};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What a client has there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    open: u64,
    oldest_ms: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Observer<'_> {
    /// An element per engine; `ip_addr`, `ip_mask` and `port` are of the client.
    ///
    /// # Errors
    /// 400 with the parameter, 404.
    pub(in crate::plan) async fn clients(
        &self,
        uuid: &str,
        lookup: &Lookup<'_>,
    ) -> Result<Value, ApiError> {
        let inquiry = self.inquiry(uuid, lookup)?;
        let shown = self.ask_members(&inquiry, CONNECTIONS_MAX, "client", clients);
        Ok(shown.await)
    }
}

/// As many as are to be shown.
fn clients(inquiry: &Inquiry, answer: &FlowAnswer) -> Shown {
    let clients = by_client(inquiry.fitting(answer));
    let limit = inquiry.limit as usize;
    let cut = clients.len() > limit;
    let shown = clients.into_iter().take(limit);
    let rows = shown.map(|(ip, held)| client(ip, held)).collect();
    Shown { rows, cut }
}

/// Those with the most connections first.
fn by_client<'a>(flows: impl Iterator<Item = &'a FlowRow>) -> Vec<(IpAddr, Held)> {
    let mut clients: BTreeMap<IpAddr, Held> = BTreeMap::new();
    for flow in flows {
        let Ok(ip) = flow.client.parse() else {
            continue;
        };
        let held = clients.entry(ip).or_default();
        held.open += 1;
        held.oldest_ms = held.oldest_ms.max(flow.age_ms);
        held.bytes_in = held.bytes_in.saturating_add(flow.bytes_in);
        held.bytes_out = held.bytes_out.saturating_add(flow.bytes_out);
    }
    let mut clients: Vec<_> = clients.into_iter().collect();
    clients.sort_by_key(|(_, held)| Reverse(held.open));
    clients
}

fn client(ip: IpAddr, held: Held) -> Value {
    let Held {
        open,
        oldest_ms,
        bytes_in,
        bytes_out,
    } = held;
    json!({
        "client_ip": address(ip), "open_conns": open, "oldest_ms": oldest_ms,
        "rx_bytes": bytes_in, "tx_bytes": bytes_out,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_added_up_by_client_and_the_busiest_comes_first() {
        let flow = |client: &str, age_ms: u64, bytes_in: u64| FlowRow {
            client: client.into(),
            age_ms,
            bytes_in,
            bytes_out: 1,
            ..FlowRow::default()
        };
        let flows = [
            flow("192.0.2.7", 5, 10),
            flow("2001:db8::7", 9, 20),
            flow("2001:db8::7", 3, 30),
            flow("no address", 1, 1),
        ];
        let clients = by_client(flows.iter());
        let shown: Vec<Value> = clients.into_iter().map(|(ip, h)| client(ip, h)).collect();
        let expected = json!([
            {"client_ip": {"addr": "2001:db8::7", "type": "V6"}, "open_conns": 2, "oldest_ms": 9, "rx_bytes": 50, "tx_bytes": 2},
            {"client_ip": {"addr": "192.0.2.7", "type": "V4"}, "open_conns": 1, "oldest_ms": 5, "rx_bytes": 10, "tx_bytes": 1},
        ]);
        assert_eq!(json!(shown), expected);
    }
}
