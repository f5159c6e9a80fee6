//! Who belongs to the cluster, as its leader sees it: by the hellos of the others, and by what is kept of those that say
//! none.

use super::ask::{FOR, PASS};
use super::card::Card;
use crate::clock;
use crate::error::ApiError;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use store::{Expect, Meta, Op, Store};

/// Prefix of what is kept: `/cluster/node/NAME`.
pub const NODES: &str = "/cluster/node/";
/// How often a follower says hello.
pub const HELLO: Duration = Duration::from_secs(1);
/// A follower that has said nothing for so long is not there: three hellos and an election of etcd's.
const SILENT: Duration = Duration::from_secs(5);
/// Commits that a follower may be behind: what is on its way, and a burst.
const LAG_MAX: u64 = 1000;

/// What a follower says.
#[derive(Clone, Serialize, Deserialize)]
pub struct Hello {
    /// Who it is; without a pass.
    pub card: Card,
    /// The newest revision that it has heard of from etcd.
    pub revision: u64,
}

struct Seen {
    api: String,
    /// When it was heard of last; before that, when this term began.
    heard: Instant,
    hello: Option<Hello>,
}

/// See the module's documentation.
pub struct Nodes {
    us: Card,
    term: u64,
    others: Mutex<BTreeMap<String, Seen>>,
}

impl Nodes {
    /// Of a controller that has no others.
    pub fn alone() -> Self {
        Self::new(Card::alone(), 0)
    }

    /// Of the leader of this term, with those that an older leader has known.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn open(us: Card, term: u64, store: &dyn Store) -> anyhow::Result<Self> {
        let nodes = Self::new(us, term);
        for entry in store.list(NODES).await?.entries {
            if let Some(card) = Card::read(&entry.value).filter(|c| c.name != nodes.us.name) {
                let seen = Seen {
                    api: card.api,
                    heard: Instant::now(),
                    hello: None,
                };
                nodes.others().insert(card.name, seen);
            }
        }
        keep(store, &nodes.us).await?;
        Ok(nodes)
    }

    fn new(us: Card, term: u64) -> Self {
        Self {
            us,
            term,
            others: Mutex::default(),
        }
    }

    fn others(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True for one whose store others may share.
    pub fn share_a_store(&self) -> bool {
        self.term > 0
    }

    /// Whose call it is: whoever connects, or whom another controller asks for.
    pub fn caller(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        let said = headers.get(FOR).and_then(|v| v.to_str().ok());
        let address = said.and_then(|text| text.parse::<IpAddr>().ok());
        match address.filter(|_| self.is_one_of_us(headers)) {
            Some(address) => SocketAddr::new(address, 0),
            None => peer,
        }
    }

    fn is_one_of_us(&self, headers: &HeaderMap) -> bool {
        let pass = headers.get(PASS).map_or(&[][..], |v| v.as_bytes());
        // Of digests, comparing tells nothing by the time that it takes.
        self.share_a_store() && Sha256::digest(pass) == Sha256::digest(&self.us.pass)
    }

    /// A follower is there; one that is new or has moved is kept.
    ///
    /// # Errors
    /// 403 for somebody who does not know the pass, 409 for one with our own name, or the store refuses.
    pub async fn hello(
        &self,
        headers: &HeaderMap,
        hello: Hello,
        store: &dyn Store,
    ) -> Result<(), ApiError> {
        if !self.is_one_of_us(headers) {
            let text = "only the controllers of this cluster say hello to each other";
            return Err(ApiError::new(StatusCode::FORBIDDEN, text));
        }
        if hello.card.name == self.us.name {
            let text = format!(
                "name: the leader is named {}, too; give each controller a name of its own (--name)",
                self.us.name
            );
            return Err(ApiError::new(StatusCode::CONFLICT, text));
        }
        let card = hello.card.clone();
        if self.note(hello) {
            keep(store, &card).await?;
        }
        Ok(())
    }

    /// True when it is new, or was elsewhere.
    fn note(&self, hello: Hello) -> bool {
        let (name, api) = (hello.card.name.clone(), hello.card.api.clone());
        let seen = Seen {
            api: api.clone(),
            heard: Instant::now(),
            hello: Some(hello),
        };
        let before = self.others().insert(name, seen);
        before.is_none_or(|b| b.api != api)
    }

    /// Forgets a controller that is gone for good.
    ///
    /// # Errors
    /// 404 for an unknown one, 409 for one that is there, or the store refuses.
    pub async fn forget(&self, name: &str, store: &dyn Store) -> Result<(), ApiError> {
        self.check_gone(name)?;
        let op = Op::delete(format!("{NODES}{name}"), Expect::Any);
        store.commit(vec![op], meta("a controller is gone")).await?;
        self.others().remove(name);
        Ok(())
    }

    /// That a controller is known, and not there.
    ///
    /// # Errors
    /// As of [`Self::forget`].
    pub fn check_gone(&self, name: &str) -> Result<(), ApiError> {
        let known = self.others().get(name).map(Seen::is_silent);
        let refused = |status, text: &str| Err(ApiError::new(status, format!("{name}: {text}")));
        match known {
            Some(true) => Ok(()),
            Some(false) => refused(
                StatusCode::CONFLICT,
                "it is there; stop that controller first",
            ),
            None => refused(StatusCode::NOT_FOUND, "no other controller has this name"),
        }
    }

    /// `nodes` of `GET /api/cluster`: name and address of each.
    pub fn list(&self) -> Value {
        let others = self.others();
        let others = others.iter().map(|(name, seen)| (name, &seen.api));
        let all: BTreeMap<_, _> = others.chain([(&self.us.name, &self.us.api)]).collect();
        let node = |(name, api): (&String, &String)| {
            let mut node = json!({"name": name, "vm_uuid": name});
            if let Some((host, _)) = api.rsplit_once(':') {
                node["ip"] = address(host);
                node["api"] = json!(api);
            }
            node
        };
        all.into_iter().map(node).collect()
    }

    /// The words of `cluster_state.state` (avi-api section 8), why it is not better, and what to do about it.
    pub fn state(&self, revision: u64) -> Value {
        let others = self.others();
        let problem = |(name, seen): (&String, &Seen)| {
            let problem = seen.problem(revision)?;
            Some(format!("{name}: {problem}"))
        };
        let reasons: Vec<_> = others.iter().filter_map(problem).collect();
        let state = match others.values().any(Seen::is_silent) {
            _ if others.is_empty() => "CLUSTER_UP_NO_HA",
            _ if reasons.is_empty() => "CLUSTER_UP_HA_ACTIVE",
            true => "CLUSTER_UP_HA_COMPROMISED",
            false => "CLUSTER_UP_HA_NOT_READY",
        };
        json!({"state": state, "reason": reasons, "progress": 100})
    }

    /// `node_states` of `GET /api/cluster/runtime`.
    pub fn states(&self, revision: u64) -> Value {
        let us = json!({
            "name": self.us.name,
            "role": "CLUSTER_LEADER",
            "state": "CLUSTER_ACTIVE",
            "version": self.us.version,
            "revision": revision,
            "lag": 0,
            "up_since_unix_s": self.us.up_since_unix_s,
            "up_since": since(self.us.up_since_unix_s),
            "term": self.term,
        });
        let others = self.others();
        let others = others.iter().map(|(name, seen)| seen.state(name, revision));
        std::iter::once(us).chain(others).collect()
    }
}

impl Seen {
    fn is_silent(&self) -> bool {
        self.heard.elapsed() > SILENT
    }

    fn lag(&self, revision: u64) -> Option<u64> {
        let hello = self.hello.as_ref()?;
        Some(revision.saturating_sub(hello.revision))
    }

    /// The word for it (avi-api section 8).
    fn word(&self) -> &'static str {
        match &self.hello {
            _ if self.is_silent() => "CLUSTER_INACTIVE",
            None => "CLUSTER_STARTING",
            Some(_) => "CLUSTER_ACTIVE",
        }
    }

    /// What is to be done about it.
    fn problem(&self, revision: u64) -> Option<String> {
        if self.is_silent() {
            let text = "says nothing; see that it runs and reaches the leader's API and etcd, or take it out with \
                        `evenkeel delete controller`";
            return Some(text.into());
        }
        let Some(lag) = self.lag(revision) else {
            return Some("has not said yet that it is there; wait some seconds".into());
        };
        (lag > LAG_MAX).then(|| {
            format!(
                "is {lag} changes behind; see that it reaches a member of etcd that has the others"
            )
        })
    }

    fn state(&self, name: &str, revision: u64) -> Value {
        let mut all = json!({"name": name, "role": "CLUSTER_FOLLOWER", "state": self.word()});
        if let Some(hello) = &self.hello {
            all["version"] = json!(hello.card.version);
            all["revision"] = json!(hello.revision);
            all["lag"] = json!(revision.saturating_sub(hello.revision));
            all["up_since_unix_s"] = json!(hello.card.up_since_unix_s);
            all["up_since"] = json!(since(hello.card.up_since_unix_s));
            all["heard_of_s"] = json!(self.heard.elapsed().as_secs());
        }
        if let Some(problem) = self.problem(revision) {
            all["reason"] = json!(problem);
        }
        all
    }
}

/// The form of a time for people (avi-api section 8).
fn since(unix_s: u64) -> String {
    clock::rfc3339(unix_s.saturating_mul(1_000_000))
}

/// The form of an address in objects.
fn address(host: &str) -> Value {
    let host = host.trim_matches(['[', ']']);
    let kind = match host.parse() {
        Ok(IpAddr::V4(_)) => "V4",
        Ok(IpAddr::V6(_)) => "V6",
        Err(_) => "DNS",
    };
    json!({"addr": host, "type": kind})
}

fn meta(message: &str) -> Meta {
    Meta {
        who: "cluster".into(),
        from: String::new(),
        message: message.into(),
    }
}

/// Keeps who belongs to the cluster; its pass is nobody else's.
async fn keep(store: &dyn Store, card: &Card) -> Result<(), store::StoreError> {
    let card = Card {
        pass: String::new(),
        ..card.clone()
    };
    let (key, value) = (format!("{NODES}{}", card.name), card.text());
    if store.get(&key).await?.is_some_and(|e| e.value == value) {
        return Ok(());
    }
    let op = Op::put(key, value, Expect::Any);
    store
        .commit(vec![op], meta("a controller is there"))
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use store::Memory;

    fn card(name: &str) -> Card {
        Card {
            name: name.into(),
            api: format!("{name}.example:443"),
            pass: "the pass".into(),
            up_since_unix_s: 0,
            ..Card::alone()
        }
    }

    fn hello(name: &str, revision: u64) -> Hello {
        Hello {
            card: card(name),
            revision,
        }
    }

    fn headers(pass: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(PASS, HeaderValue::from_str(pass).unwrap());
        headers.insert(FOR, HeaderValue::from_static("192.0.2.7"));
        headers
    }

    async fn leader(store: &Memory) -> Nodes {
        Nodes::open(card("a"), 7, store).await.unwrap()
    }

    #[tokio::test]
    async fn a_follower_is_known_by_its_hello_and_to_the_next_leader_until_it_is_forgotten() {
        let store = Memory::default();
        let nodes = leader(&store).await;
        assert_eq!(nodes.state(9)["state"], "CLUSTER_UP_NO_HA");
        let said = nodes
            .hello(&headers("the pass"), hello("b", 9), &store)
            .await;
        said.unwrap();
        assert_eq!(nodes.state(9)["state"], "CLUSTER_UP_HA_ACTIVE");
        assert_eq!(nodes.states(9)[1]["state"], "CLUSTER_ACTIVE");
        assert_eq!(nodes.states(9)[0]["up_since"], "1970-01-01T00:00:00Z");
        let late = nodes.state(9 + LAG_MAX + 1);
        assert_eq!(late["state"], "CLUSTER_UP_HA_NOT_READY");
        assert!(
            late["reason"][0].as_str().unwrap().contains("behind"),
            "{late}"
        );
        let there = nodes.forget("b", &store).await.unwrap_err();
        assert_eq!(there.status, StatusCode::CONFLICT);

        let next = Nodes::open(card("c"), 8, &store).await.unwrap();
        let names: Vec<_> = next
            .list()
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n["name"].clone())
            .collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(next.state(9)["state"], "CLUSTER_UP_HA_NOT_READY");
        next.others().get_mut("b").unwrap().heard -= SILENT * 2;
        assert_eq!(next.state(9)["state"], "CLUSTER_UP_HA_COMPROMISED");
        next.forget("b", &store).await.unwrap();
        let after = Nodes::open(card("c"), 9, &store).await.unwrap();
        assert_eq!(after.list().as_array().unwrap().len(), 2);
        let unknown = after.forget("b", &store).await.unwrap_err();
        assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn only_who_knows_the_pass_says_hello_and_speaks_for_others() {
        let store = Memory::default();
        let nodes = leader(&store).await;
        let peer: SocketAddr = "198.51.100.1:5".parse().unwrap();
        let stranger = nodes
            .hello(&headers("guessed"), hello("b", 1), &store)
            .await;
        assert_eq!(stranger.unwrap_err().status, StatusCode::FORBIDDEN);
        assert_eq!(nodes.caller(peer, &headers("guessed")), peer);
        assert_eq!(
            nodes.caller(peer, &headers("the pass")).ip().to_string(),
            "192.0.2.7"
        );
        let twin = nodes
            .hello(&headers("the pass"), hello("a", 1), &store)
            .await;
        assert_eq!(twin.unwrap_err().status, StatusCode::CONFLICT);
        let alone = Nodes::alone();
        assert_eq!(alone.caller(peer, &headers("")), peer);
    }

    #[tokio::test]
    async fn what_is_kept_of_a_controller_has_no_pass() {
        let store = Memory::default();
        leader(&store).await;
        let kept = store.get("/cluster/node/a").await.unwrap().unwrap().value;
        let kept = Card::read(&kept).unwrap();
        assert_eq!(
            (kept.pass.as_str(), kept.api.as_str()),
            ("", "a.example:443")
        );
    }
}
