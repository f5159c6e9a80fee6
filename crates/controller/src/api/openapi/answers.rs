//! What calls answer with that is no object of the schema: the tables in `answers/`, by what they are about.

use super::shape::{Shape, Shapes, Type, counted};
use crate::api::operation::Operation;
use crate::api::routes;
use axum::http::Method;
use serde_json::{Value, json};
use std::sync::LazyLock;

const TEXTS: [&str; 7] = [
    include_str!("answers/system.txt"),
    include_str!("answers/changes.txt"),
    include_str!("answers/runtime.txt"),
    include_str!("answers/routing.txt"),
    include_str!("answers/flows.txt"),
    include_str!("answers/topology.txt"),
    include_str!("answers/counted.txt"),
];

static SHAPES: LazyLock<Shapes> =
    LazyLock::new(|| Shapes::parse(&TEXTS).expect("the tables can be read: a test proves it"));

/// All of them.
pub(in crate::api) fn shapes() -> &'static [Shape] {
    &SHAPES.all
}

/// What an operation answers with, where it is JSON; of one that no table has, nothing is known.
pub(super) fn of(operation: &Operation) -> Value {
    match listed(operation) {
        Some(Some(ty)) => ty.schema(),
        // Some clients read an action's path before they post to it (avi-api 4.2): nothing is there.
        None if is_before_action(operation) => counted(&json!({}), false),
        Some(None) | None => json!({}),
    }
}

/// It is refused, whatever it is asked.
pub(in crate::api) fn is_refused(operation: &Operation) -> bool {
    matches!(listed(operation), Some(None))
}

/// As a table has it.
fn listed(operation: &Operation) -> Option<&'static Option<Type>> {
    let wanted = (operation.method().as_str(), operation.path());
    let mut all = SHAPES.answers.iter();
    all.find(|(call, _)| **call == wanted).map(|(_, ty)| ty)
}

/// A GET of what can be posted to, and is no list.
fn is_before_action(operation: &Operation) -> bool {
    let posts = |o: &Operation| *o.method() == Method::POST && o.path() == operation.path();
    *operation.method() == Method::GET && routes::OPERATIONS.iter().any(posts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::schema::message;
    use std::collections::BTreeSet;

    #[test]
    fn the_tables_can_be_read_and_say_each_thing_once() {
        let shapes = Shapes::parse(&TEXTS).unwrap();
        let mut names = BTreeSet::new();
        for shape in &shapes.all {
            assert!(names.insert(shape.name), "{} is there twice", shape.name);
            assert!(message(shape.name).is_none(), "{} is a type", shape.name);
            assert!(!shape.fields.is_empty(), "{} has no fields", shape.name);
        }
        for (method, path) in shapes.answers.keys() {
            let mut all = routes::OPERATIONS.iter();
            let there = all.any(|o| o.method().as_str() == *method && o.path() == *path);
            assert!(there, "{method} {path} is no operation");
        }
    }

    #[test]
    fn every_shape_is_part_of_an_answer() {
        let text = crate::api::openapi::document().to_string();
        for shape in shapes() {
            let reference = format!("\"#/components/schemas/{}\"", shape.name);
            assert!(text.contains(&reference), "{}", shape.name);
        }
    }
}
