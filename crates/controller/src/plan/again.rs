//! Engines that are told once more what they are to do (`resync`): the state of each is made anew, from the objects and nothing that was made
//! before, and put into force again there also where it is the same.

use super::Planner;

/// Why an engine is told nothing.
pub(super) const NO_SESSION: &str = "it has no session with the controller";

/// What an engine was sent.
pub(super) struct Sent {
    /// uuid.
    pub engine: String,
    /// Generation of the state.
    pub generation: Option<u64>,
    /// It says something else than what the engine had been sent before.
    pub changed: bool,
    /// Why it was sent nothing.
    pub why_not: Option<String>,
}

impl Planner {
    /// Sends these engines their states.
    pub(super) fn send_again(&self, engines: &[String]) -> Vec<Sent> {
        let generations = engines.iter().map(|se| self.newest(se));
        let before: Vec<Option<u64>> = generations.collect();
        self.mark_engines(engines);
        self.publish();
        let each = engines.iter().zip(before);
        each.map(|(se, before)| self.sent(se, before)).collect()
    }

    /// What an engine has been sent since its state was of this generation; the same again, if that is nothing.
    fn sent(&self, se: &str, before: Option<u64>) -> Sent {
        let nothing = |why: String| Sent {
            engine: se.to_owned(),
            generation: None,
            changed: false,
            why_not: Some(why),
        };
        if let Some(why) = self.why_not_told(se) {
            return nothing(why);
        }
        let now = self.newest(se);
        let changed = now != before;
        let generation = match changed {
            true => now,
            false => self.registry.repeat(se),
        };
        if generation.is_none() {
            return nothing("it reads too slowly; its next session begins with all of it".into());
        }
        Sent {
            engine: se.to_owned(),
            generation,
            changed,
            why_not: None,
        }
    }

    fn newest(&self, se: &str) -> Option<u64> {
        let desired = self.registry.get(se).desired;
        desired.map(|desired| desired.generation)
    }

    /// Why an engine does not hear of what is new.
    pub(super) fn why_not_told(&self, se: &str) -> Option<String> {
        let state = self.registry.get(se);
        if state.connected_since.is_none() {
            return Some(NO_SESSION.to_owned());
        }
        let stuck = state.stuck?;
        Some(format!("no state can be made for it: {stuck}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use serde_json::json;

    #[tokio::test]
    async fn what_has_not_changed_is_sent_as_a_newer_generation_and_says_so() {
        let fixture = Fixture::new().await;
        let before = fixture.told();
        let engines = [fixture.engine.clone()];
        let sent = fixture.planner.send_again(&engines);
        let told = fixture.told();
        assert_eq!(
            (sent[0].generation, sent[0].changed),
            (Some(told.generation), false)
        );
        assert!(told.generation > before.generation);
        let mut same = (*told).clone();
        same.generation = before.generation;
        assert_eq!(same, *before);
    }

    #[tokio::test]
    async fn what_nobody_has_noticed_is_sent_with_it() {
        let fixture = Fixture::new().await;
        fixture.told();
        let vs = fixture.uuid("virtualservice", "vs-1");
        fixture
            .update("virtualservice", &vs, |o| {
                drop(o.insert("services".into(), json!([{"port": 81}])));
            })
            .await;
        let sent = fixture
            .planner
            .send_again(std::slice::from_ref(&fixture.engine));
        assert!(sent[0].changed);
        let told = fixture.registry.get(&fixture.engine).desired;
        let told = told.expect("told");
        assert_eq!(told.virtual_services[0].ports[0].first, 81);
        assert_eq!(sent[0].generation, Some(told.generation));
    }

    #[tokio::test]
    async fn an_engine_without_a_session_is_sent_nothing() {
        let fixture = Fixture::new().await;
        let (se, session) = (fixture.engine.as_str(), fixture.session);
        fixture.registry.close(se, session, "gone");
        let sent = fixture.planner.send_again(&[se.to_owned()]);
        assert_eq!(sent[0].generation, None);
        assert_eq!(sent[0].why_not.as_deref(), Some(super::NO_SESSION));
    }
}
