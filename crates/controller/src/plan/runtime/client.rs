//! `virtualservice/UUID/client` (avi-api 10.2): who has connections, as the engines say when they are asked.

use super::super::flows::{Lookup, number, query};
use super::super::flowtable::{TableFilter, address};
use super::super::service::client_filter;
use super::Observer;
use crate::error::ApiError;
use model::view::{Ref, VirtualService};
use proto::v1::{FlowRow, FlowTable};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Clients of an engine, unless `limit` says otherwise.
const LIMIT: u32 = 1000;
/// Connections that an engine tells at once.
const CONNECTIONS_MAX: u32 = 10_000;

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
        let vs: Arc<VirtualService> = self
            .snapshot
            .view("virtualservice", uuid)
            .ok_or_else(|| ApiError::not_found("VirtualService"))?;
        let (filter, limit) = (client_filter(lookup)?, number(lookup, "limit")?);
        let limit = limit.unwrap_or(LIMIT) as usize;
        let vsvip = vs.vsvip_ref.as_ref().map_or("", Ref::uuid);
        let group = self.planner.assignment(vsvip).group;
        let each = group.members.iter();
        let each = each.map(|m| self.clients_at(&m.engine, uuid, &filter, limit));
        Ok(futures_util::future::join_all(each).await.into())
    }

    async fn clients_at(&self, se: &str, vs: &str, filter: &TableFilter, limit: usize) -> Value {
        let mut asked = filter.of_engine();
        vs.clone_into(&mut asked.vs_uuid);
        let query = query(FlowTable::Local, asked, CONNECTIONS_MAX);
        let mut element =
            json!({"se_uuid": se, "proc_id": "C0", "se_name": self.name(se), "client": []});
        match self.ask_one(se, query).await {
            Err(why) => element["not_answered"] = why.into(),
            Ok(answer) => {
                if !answer.problem.is_empty() {
                    element["not_answered"] = answer.problem.into();
                }
                let clients = by_client(answer.flows.iter().filter(|f| filter.fits(f)));
                let untold = answer.matched > answer.flows.len() as u64;
                element["more"] = (untold || clients.len() > limit).into();
                let shown = clients.into_iter().take(limit);
                element["client"] = shown.map(|(ip, held)| client(ip, held)).collect();
            }
        }
        element
    }
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
