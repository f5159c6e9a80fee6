//! What becomes of a VIP's placement: what it lacks, and what others take over from engines that are lost or drained. The
//! reconciler carries it out, a dry run shows it. Pure.

use super::Action;
use super::assignments::{Assignment, Scaling};
use super::situation::Ground;
use crate::clock::now_unix_s;
use placement::{Cause, Choice, Demand, Demotion, Ha, Step};

/// See the module's documentation.
pub(super) struct Decision {
    /// Its engines from now on, the primary first.
    pub engines: Vec<String>,
    /// New ones in the places of others, which go when these serve.
    pub begun: Vec<Scaling>,
    /// Those that it has not had.
    pub new: Vec<String>,
    /// Those that go, now or then, and why.
    pub going: Vec<(String, String)>,
    /// What is done, with the engine that gets something by it.
    pub done: Vec<(Action, Choice)>,
    /// What cannot be done.
    pub refused: Vec<(Action, String)>,
    /// What is done, in words.
    pub words: Vec<String>,
    /// Nothing else is to be done, and this engine of the pair is to be the active one, as soon as it serves.
    pub back_to: Option<Choice>,
}

impl Decision {
    /// For the VIP of this demand; the ground knows of it then.
    pub(super) fn of(ground: &mut Ground<'_>, demand: &Demand, assignment: &Assignment) -> Self {
        let mut decision = Self {
            engines: assignment.engines.clone(),
            begun: Vec::new(),
            new: Vec::new(),
            going: Vec::new(),
            done: Vec::new(),
            refused: Vec::new(),
            words: Vec::new(),
            back_to: None,
        };
        decision.keep(ground, demand, assignment);
        decision.ensure(ground, demand);
        decision.prefer(ground, demand, assignment);
        decision
    }

    /// Something is to be done.
    pub(super) fn acts(&self) -> bool {
        !self.words.is_empty()
    }

    fn ensure(&mut self, ground: &mut Ground<'_>, demand: &Demand) {
        let (chosen, error) = placement::ensure(demand, &ground.engines, &self.engines);
        for choice in chosen {
            ground.placed(std::slice::from_ref(&choice.engine));
            let words = format!("placed on {}: {}", choice.name, choice.reason);
            self.gets(Action::InitialPlacement, choice, words);
        }
        let why = error.map(|e| (Action::InitialPlacement, e.to_string()));
        self.refused.extend(why);
    }

    fn keep(&mut self, ground: &mut Ground<'_>, demand: &Demand, assignment: &Assignment) {
        let (engines, moves) = (&assignment.engines, assignment.moves());
        let mut stay = Vec::new();
        for step in placement::keep(demand, &ground.engines, engines, &moves) {
            match step {
                Step::Replace { engine, cause, by } => self.replace(ground, engine, cause, by),
                Step::Leave { engine, cause } => {
                    let why = format!("{} {cause}", ground.name(&engine));
                    self.words.push(why.clone());
                    self.goes(engine, why);
                }
                Step::Promote { engine, cause } => self.promote(ground, engine, cause),
                Step::Stay { engine, cause, why } => {
                    let name = ground.name(&engine);
                    stay.push(format!(
                        "{name} {cause}, and nothing can take its place: {why}"
                    ));
                }
            }
        }
        if !stay.is_empty() {
            self.refused.push((Action::SeRemoved, stay.join("; ")));
        }
        self.succeed(ground, demand, assignment);
    }

    /// The active engine of a pair was replaced at once: the standby is active now, before the new one is anything.
    fn succeed(&mut self, ground: &Ground<'_>, demand: &Demand, assignment: &Assignment) {
        let is_told = self.done.iter().any(|(a, _)| *a == Action::Switchover);
        let Some(active) = successor(&assignment.engines, &self.engines, demand.ha) else {
            return;
        };
        if is_told {
            return;
        }
        let choice = succeeds(active, ground.name(active), "is lost");
        self.done.insert(0, (Action::Switchover, choice));
    }

    /// One that is lost goes at once, one that is drained when the other one serves.
    fn replace(&mut self, ground: &mut Ground<'_>, engine: String, cause: Cause, by: Choice) {
        ground.moved(&engine, &by.engine);
        let (name, new) = (ground.name(&engine).to_owned(), by.name.clone());
        let why = format!(
            "{new} takes the place of {name}, which {cause}: {}",
            by.reason
        );
        let action = match cause {
            Cause::Lost => Action::SeRemoved,
            Cause::Drained => Action::MigrateScaleout,
        };
        let begun = (cause == Cause::Drained).then(|| Scaling {
            to: by.engine.clone(),
            from: Some(engine.clone()),
            since_s: now_unix_s(),
            ready_since_s: None,
        });
        let reason = why.clone();
        self.gets(action, Choice { reason, ..by }, why);
        let why = format!("{name} {cause}, and {new} takes its place");
        match begun {
            Some(begun) => {
                self.begun.push(begun);
                self.going.push((engine, why));
            }
            None => self.goes(engine, why),
        }
    }

    fn promote(&mut self, ground: &Ground<'_>, engine: String, cause: Demotion) {
        let name = ground.name(&engine).to_owned();
        let reason = format!("{name} becomes active: the one before {cause}");
        self.engines.retain(|e| *e != engine);
        self.engines.insert(0, engine.clone());
        self.words.push(reason.clone());
        let choice = Choice {
            engine,
            name,
            reason,
            rejected: Vec::new(),
        };
        self.done.push((Action::Switchover, choice));
    }

    /// The active engine of a VIP that is new is the one of its tag. One that has been active stays it, unless the group
    /// redistributes.
    fn prefer(&mut self, ground: &Ground<'_>, demand: &Demand, assignment: &Assignment) {
        let Some(wanted) = placement::preferred(demand, &ground.engines, &self.engines) else {
            return;
        };
        if assignment.engines.is_empty() {
            self.engines.rotate_left(1);
            return;
        }
        let is_free = assignment.is_quiet() && !self.acts();
        if demand.goes_back && is_free && placement::is_back(demand, wanted) {
            self.back_to = Some(back_to(wanted));
        }
    }

    fn gets(&mut self, action: Action, choice: Choice, words: String) {
        self.engines.push(choice.engine.clone());
        self.new.push(choice.engine.clone());
        self.words.push(words);
        self.done.push((action, choice));
    }

    fn goes(&mut self, engine: String, why: String) {
        self.engines.retain(|e| *e != engine);
        self.going.push((engine, why));
    }
}

/// The engine of a pair that is active now because the one before has lost its place; nothing where that one has it still.
pub(super) fn successor<'a>(before: &[String], after: &'a [String], ha: Ha) -> Option<&'a String> {
    let (former, others) = before.split_first()?;
    let active = after.first().filter(|e| others.contains(e))?;
    (ha == Ha::ActiveStandby && !after.contains(former)).then_some(active)
}

/// It becomes active because of what has become of the one before.
pub(super) fn succeeds(engine: &str, name: &str, why: &str) -> Choice {
    Choice {
        engine: engine.to_owned(),
        name: name.to_owned(),
        reason: format!("{name} becomes active: the one before {why}"),
        rejected: Vec::new(),
    }
}

/// The engine of its tag becomes the VIP's active one.
pub(super) fn back_to(wanted: &placement::Engine) -> Choice {
    let name = wanted.name.clone();
    Choice {
        engine: wanted.uuid.clone(),
        reason: format!(
            "{name} becomes active: the virtual service prefers it (active_standby_se_tag)"
        ),
        name,
        rejected: Vec::new(),
    }
}
