//! What calls understand in their query and headers: `parameters.txt`, one line each.

use super::shape::{METHODS, Type, lines, split_word};
use crate::api::operation::{Audit, Operation, Permission};
use axum::http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

const TEXT: &str = include_str!("parameters.txt");

static TABLE: LazyLock<Table> =
    LazyLock::new(|| Table::parse(TEXT).expect("the table can be read: a test proves it"));

/// One that a call may have.
pub(in crate::api) struct Parameter {
    pub(in crate::api) name: &'static str,
    pub(in crate::api) about: &'static str,
    /// It is one of the headers, else of the query.
    pub(in crate::api) is_header: bool,
    is_required: bool,
    ty: Type,
}

impl Parameter {
    /// # Errors
    /// What cannot be read.
    fn parse(line: &'static str) -> Result<Self, String> {
        let (name, rest) = split_word(line);
        let (ty, about) = split_word(rest);
        Ok(Self {
            name: name.trim_end_matches([':', '!']),
            about,
            is_header: name.ends_with(':'),
            is_required: name.ends_with('!'),
            ty: Type::parse(ty)?,
        })
    }

    fn show(&self) -> Value {
        let place = if self.is_header { "header" } else { "query" };
        let mut shown = json!({"name": self.name, "in": place, "schema": self.ty.schema()});
        if self.is_required {
            shown["required"] = true.into();
        }
        if !self.about.is_empty() {
            shown["description"] = self.about.into();
        }
        shown
    }
}

/// What a group or a call has.
#[derive(Default)]
struct Section {
    /// Groups that a call has, too.
    groups: Vec<&'static str>,
    own: Vec<Parameter>,
}

#[derive(Default)]
struct Table {
    groups: BTreeMap<&'static str, Vec<Parameter>>,
    /// By method and path of the table of operations.
    calls: BTreeMap<(&'static str, &'static str), Section>,
}

impl Table {
    /// # Errors
    /// The line that cannot be read, and why.
    fn parse(text: &'static str) -> Result<Self, String> {
        let mut table = Self::default();
        let (mut group, mut call) = (None, None);
        for line in lines(&[text]) {
            let (first, rest) = split_word(line);
            if let Some(name) = first.strip_prefix('@') {
                (group, call) = (Some(name), None);
            } else if METHODS.contains(&first) {
                let (path, groups) = split_word(rest);
                let groups = groups.split_whitespace();
                let section = table.calls.entry((first, path)).or_default();
                section.groups = groups.map(|g| g.trim_start_matches('@')).collect();
                (group, call) = (None, Some((first, path)));
            } else {
                let parameter = Parameter::parse(line).map_err(|e| format!("{line:?}: {e}"))?;
                let known = match (group, call) {
                    (Some(name), _) => table.groups.entry(name).or_default(),
                    (None, Some(call)) => &mut table.calls.entry(call).or_default().own,
                    (None, None) => return Err(format!("{line:?}: it is of no call")),
                };
                known.push(parameter);
            }
        }
        Ok(table)
    }

    fn section(&self, operation: &Operation) -> Option<&Section> {
        let wanted = (operation.method().as_str(), operation.path());
        let mut all = self.calls.iter();
        all.find(|(call, _)| **call == wanted).map(|(_, s)| s)
    }
}

/// Of an operation: those of its groups by reference.
pub(super) fn of(operation: &Operation) -> Vec<Value> {
    let section = TABLE.section(operation);
    let listed = section.iter().flat_map(|s| s.groups.iter().copied());
    let groups = by_rule(operation).chain(listed);
    let shared = groups.flat_map(|group| {
        let all = TABLE.groups.get(group).into_iter().flatten();
        all.map(move |p| json!({"$ref": format!("#/components/parameters/{}", key(group, p))}))
    });
    let own = section.iter().flat_map(|s| &s.own);
    shared.chain(own.map(Parameter::show)).collect()
}

/// Names of what an operation has in its query.
pub(in crate::api) fn names(operation: &Operation) -> Vec<&'static str> {
    let section = TABLE.section(operation);
    let listed = section.iter().flat_map(|s| s.groups.iter().copied());
    let groups = by_rule(operation).chain(listed);
    let shared = groups.flat_map(|group| TABLE.groups.get(group).into_iter().flatten());
    let all = shared.chain(section.iter().flat_map(|s| &s.own));
    all.filter(|p| !p.is_header).map(|p| p.name).collect()
}

/// True for what clients may write behind any call: how objects are shown, which changes nothing where none is.
pub(in crate::api) fn is_of_objects(name: &str) -> bool {
    let mut shown = TABLE.groups.get("object").into_iter().flatten();
    shown.any(|parameter| parameter.name == name)
}

/// Groups that need not be written down for each call.
fn by_rule(operation: &Operation) -> impl Iterator<Item = &'static str> {
    let is_known = operation.permission != Permission::Public;
    let method = operation.method();
    let shows = super::is_written_whole(operation) && *method != Method::DELETE;
    let rules = [
        ("caller", is_known),
        ("origin", is_known && *method != Method::GET),
        ("change", operation.audit == Audit::Change),
        ("plan", operation.plans),
        ("object", shows),
    ];
    let applies = rules.into_iter().filter(|(_, applies)| *applies);
    applies.map(|(group, _)| group)
}

/// `pages.page_size`.
fn key(group: &str, parameter: &Parameter) -> String {
    format!("{group}.{}", parameter.name)
}

/// Those of groups, by their key.
pub(super) fn shared() -> BTreeMap<String, Value> {
    let groups = TABLE.groups.iter();
    let all = groups.flat_map(|(group, all)| all.iter().map(move |p| (key(group, p), p.show())));
    all.collect()
}

/// Of a group, by its key.
pub(in crate::api) fn find(wanted: &str) -> Option<&'static Parameter> {
    let (group, _) = wanted.split_once('.')?;
    let mut all = TABLE.groups.get(group)?.iter();
    all.find(|parameter| key(group, parameter) == wanted)
}

/// Headers, those of groups first.
pub(in crate::api) fn headers() -> impl Iterator<Item = &'static Parameter> {
    every().filter(|parameter| parameter.is_header)
}

fn every() -> impl Iterator<Item = &'static Parameter> {
    let of_groups = TABLE.groups.values().flatten();
    of_groups.chain(TABLE.calls.values().flat_map(|call| &call.own))
}

#[cfg(test)]
mod tests;
