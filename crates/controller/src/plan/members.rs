//! What the engines of a VIP say of the connections of a virtual service: all of them are asked at once, and there is an
//! element for each (avi-api 10.2).

use super::flows::{Lookup, Question, Said, number, query};
use super::flowtable::TableFilter;
use super::runtime::Observer;
use crate::error::ApiError;
use model::view::{Ref, VirtualService};
use proto::v1::{FlowAnswer, FlowFilter, FlowRow, FlowTable};
use serde_json::{Value, json};
use std::sync::Arc;

/// Rows of an engine, unless `limit` says otherwise.
const LIMIT: u32 = 1000;
/// Connections that an engine tells at once.
pub(super) const CONNECTIONS_MAX: u32 = 10_000;

/// What is asked.
pub(super) struct Inquiry {
    /// uuid of the virtual service.
    vs: String,
    /// uuids of the engines.
    members: Vec<String>,
    /// Of the client.
    pub filter: TableFilter,
    /// Rows of an engine.
    pub limit: u32,
}

impl Inquiry {
    /// The connections that were asked for: an engine cannot sift by all of the filter.
    pub(super) fn fitting<'a>(
        &'a self,
        answer: &'a FlowAnswer,
    ) -> impl Iterator<Item = &'a FlowRow> {
        answer.flows.iter().filter(move |f| self.filter.fits(f))
    }

    fn question(&self, connections: u32) -> Question {
        let filter = FlowFilter {
            vs_uuid: self.vs.clone(),
            ..self.filter.of_engine()
        };
        Question {
            query: query(FlowTable::Local, filter, connections),
            engines: self.members.clone(),
        }
    }
}

/// What is shown of an answer.
pub(super) struct Shown {
    pub rows: Vec<Value>,
    /// The answer has more.
    pub cut: bool,
}

impl Observer<'_> {
    /// Parameters are `ip_addr`, `ip_mask` and `port` of the client, and `limit`.
    ///
    /// # Errors
    /// 400 with the parameter, 404.
    pub(super) fn inquiry(&self, uuid: &str, lookup: &Lookup<'_>) -> Result<Inquiry, ApiError> {
        let vs: Arc<VirtualService> = self
            .snapshot
            .view("virtualservice", uuid)
            .ok_or_else(|| ApiError::not_found("VirtualService"))?;
        let filter = client_filter(lookup)?;
        let limit = number(lookup, "limit")?.unwrap_or(LIMIT);
        let vsvip = vs.vsvip_ref.as_ref().map_or("", Ref::uuid);
        let members = self.planner.assignment(vsvip).group.members;
        Ok(Inquiry {
            vs: uuid.to_owned(),
            members: members.into_iter().map(|m| m.engine).collect(),
            filter,
            limit: limit.min(CONNECTIONS_MAX),
        })
    }

    /// Asks each engine for so many connections. `field` of its element is what is shown of its answer; `not_answered` says
    /// why that is nothing, or not all.
    pub(super) async fn ask_members(
        &self,
        inquiry: &Inquiry,
        connections: u32,
        field: &str,
        show: fn(&Inquiry, &FlowAnswer) -> Shown,
    ) -> Value {
        let said = self.ask(&inquiry.question(connections)).await;
        let element = |Said { se, answer }| {
            let mut element = json!({"se_uuid": se, "proc_id": "C0", "se_name": self.name(&se)});
            element[field] = json!([]);
            match answer {
                Err(why) => element["not_answered"] = why.into(),
                Ok(answer) => fill(&mut element, field, &answer, show(inquiry, &answer)),
            }
            element
        };
        said.into_iter().map(element).collect()
    }
}

fn fill(element: &mut Value, field: &str, answer: &FlowAnswer, Shown { rows, cut }: Shown) {
    if !answer.problem.is_empty() {
        element["not_answered"] = answer.problem.as_str().into();
    }
    let untold = answer.matched > answer.flows.len() as u64;
    element["more"] = (untold || cut).into();
    element[field] = rows.into();
}

fn client_filter(lookup: &Lookup<'_>) -> Result<TableFilter, ApiError> {
    if lookup("conn_type").is_some() {
        return Err(ApiError::bad_request(
            "conn_type: connections have no types here; leave it out",
        ));
    }
    let of_client = |name: &str| match name.strip_prefix("src_") {
        Some(own @ ("ip_addr" | "ip_mask" | "port")) => lookup(own),
        _ => None,
    };
    TableFilter::of(&of_client).map_err(|e| ApiError::new(e.status, e.text.replace("src_", "")))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    use crate::engines::outbox::{Messages, Outbox};
    use futures_util::StreamExt as _;
    use proto::v1::controller_message::Body;
    use proto::v1::{FlowQuery, Hello};

    /// Reads what the engine is sent until it is asked, and tells two connections of three.
    async fn answer(fixture: &Fixture, mut inbox: Messages) -> FlowQuery {
        let flow = |client: &str| FlowRow {
            client: client.into(),
            ..FlowRow::default()
        };
        while let Some(Ok(message)) = inbox.next().await {
            if let Some(Body::FlowQuery(query)) = message.body {
                let answer = FlowAnswer {
                    id: query.id,
                    flows: vec![flow("192.0.2.7"), flow("198.51.100.7")],
                    matched: 3,
                    ..FlowAnswer::default()
                };
                fixture.registry.answered(&fixture.engine, answer);
                return query;
            }
        }
        panic!("the session ended before a question came");
    }

    #[tokio::test]
    async fn each_engine_is_an_element_and_one_that_says_nothing_has_a_reason() {
        let fixture = Fixture::new().await;
        let second = fixture
            .create("serviceengine", json!({"name": "se-2"}))
            .await;
        fixture
            .place(&fixture.vsvip, &[&fixture.engine, &second])
            .await;
        let (outbox, inbox) = Outbox::new();
        let hello = Hello::default();
        fixture.registry.open(&fixture.engine, hello, outbox);
        let (snapshot, vs) = (fixture.snapshot(), fixture.uuid("virtualservice", "vs-1"));
        let observer = fixture.observer(&snapshot);
        let lookup = |name: &str| (name == "ip_addr").then(|| "192.0.2.7".to_owned());
        let asked = observer.clients(&vs, &lookup);
        let (shown, query) = tokio::join!(asked, answer(&fixture, inbox));
        let filter = query.filter.expect("sent");
        assert_eq!((filter.vs_uuid, filter.client.as_str()), (vs, "192.0.2.7"));
        let shown = shown.expect("good");
        let (first, other) = (&shown[0], &shown[1]);
        assert_eq!(first["client"][0]["client_ip"]["addr"], "192.0.2.7");
        assert_eq!(
            (&first["client"][1], &first["more"]),
            (&Value::Null, &json!(true))
        );
        let silent = json!({
            "se_uuid": second, "proc_id": "C0", "se_name": "se-2", "client": [],
            "not_answered": "it has no session with the controller",
        });
        assert_eq!(other, &silent);
    }

    #[test]
    fn what_connections_cannot_be_asked_for_is_named_as_it_was_written() {
        for (name, value) in [("ip_addr", "x"), ("port", "0"), ("conn_type", "1")] {
            let lookup = |asked: &str| (asked == name).then(|| value.to_owned());
            let text = client_filter(&lookup).expect_err(name).text;
            assert!(text.starts_with(&format!("{name}: ")), "{text}");
        }
    }
}
