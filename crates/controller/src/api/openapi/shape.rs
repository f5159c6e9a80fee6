//! Shapes of what calls take and give that is no object of the schema, one line a field (`answers/*.txt`):
//!
//! ```text
//! GET /api/ek/flow Flows                    a call, and the type of its answer; refused: it has none, whatever it is asked
//! @Flow As one engine knows it.             a shape, and what it is about
//! ..Other                                   it has the fields of that shape, too; ..?Other: but they may be missing
//! owner text|null name of the engine        a field, its type, what it means
//! server? text ADDRESS:PORT                 one that may be missing
//! ```
//!
//! A type has no spaces in it: `text`, `like(PATTERN)`, `time`, `int`, `int(1..200)`, `int(0..)`, `number`, `bool`, `object`, `any`,
//! `null`, `"word"`, `5`, `true`; the name of a shape, or of a type of the schema; `[T]` a list, `{T}` values by name, `list(T)` with
//! `count` and `results`, `page(T)` with `next` as well; `A|B` one of these.
//!
//! A field that is not named may be there all the same: the shapes stay open.

use super::reference;
use model::object::Object;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Words that a line of a call begins with.
pub(super) const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// The type of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) enum Type {
    Text,
    /// Text that fits this pattern.
    Like(&'static str),
    /// RFC 3339, or microseconds since 1970.
    Time,
    /// A whole number: the least and the greatest.
    Int(Option<i64>, Option<i64>),
    Number,
    Bool,
    Object,
    Any,
    Null,
    /// This value.
    Is(Value),
    /// A shape, or a type of the schema.
    Named(&'static str),
    List(Box<Type>),
    /// Values by name.
    Map(Box<Type>),
    /// With `count` and `results`; true: with `next` where more follow.
    Counted(Box<Type>, bool),
    Either(Vec<Type>),
}

impl Type {
    /// # Errors
    /// What cannot be read.
    pub(super) fn parse(text: &'static str) -> Result<Self, String> {
        let parts = alternatives(text);
        match parts.as_slice() {
            [one] => Self::parse_one(one),
            several => {
                let each = several.iter().map(|part| Self::parse_one(part));
                Ok(Self::Either(each.collect::<Result<_, _>>()?))
            }
        }
    }

    fn parse_one(text: &'static str) -> Result<Self, String> {
        let plain = match text {
            "text" => Self::Text,
            "time" => Self::Time,
            "int" => Self::Int(None, None),
            "number" => Self::Number,
            "bool" => Self::Bool,
            "object" => Self::Object,
            "any" => Self::Any,
            "null" => Self::Null,
            "true" => Self::Is(true.into()),
            _ => return Self::parse_made(text),
        };
        Ok(plain)
    }

    /// One that is made of others, or names something.
    fn parse_made(text: &'static str) -> Result<Self, String> {
        let of = |text: &'static str| Self::parse(text).map(Box::new);
        if let Some(item) = inside(text, "[", ']') {
            return Ok(Self::List(of(item)?));
        }
        if let Some(value) = inside(text, "{", '}') {
            return Ok(Self::Map(of(value)?));
        }
        if let Some(item) = inside(text, "list(", ')') {
            return Ok(Self::Counted(of(item)?, false));
        }
        if let Some(item) = inside(text, "page(", ')') {
            return Ok(Self::Counted(of(item)?, true));
        }
        if let Some(pattern) = inside(text, "like(", ')') {
            return Ok(Self::Like(pattern));
        }
        if let Some((least, greatest)) = inside(text, "int(", ')').and_then(range) {
            return Ok(Self::Int(least, greatest));
        }
        if let Some(word) = inside(text, "\"", '"') {
            return Ok(Self::Is(word.into()));
        }
        if let Ok(number) = text.parse::<i64>() {
            return Ok(Self::Is(number.into()));
        }
        let is_name = text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.bytes().all(|b| b.is_ascii_alphanumeric());
        is_name
            .then_some(Self::Named(text))
            .ok_or_else(|| format!("{text:?} is no type"))
    }

    /// As JSON Schema has it.
    pub(super) fn schema(&self) -> Value {
        match self {
            Self::Text => json!({"type": "string"}),
            Self::Like(pattern) => json!({"type": "string", "pattern": pattern}),
            Self::Time => {
                json!({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "integer", "minimum": 0}]})
            }
            Self::Int(least, greatest) => bounded(*least, *greatest),
            Self::Number => json!({"type": "number"}),
            Self::Bool => json!({"type": "boolean"}),
            Self::Object => json!({"type": "object"}),
            Self::Any => json!({}),
            Self::Null => json!({"type": "null"}),
            Self::Is(value) => json!({"const": value}),
            Self::Named(name) => reference(name),
            Self::List(item) => json!({"type": "array", "items": item.schema()}),
            Self::Map(value) => json!({"type": "object", "additionalProperties": value.schema()}),
            Self::Counted(item, pages) => counted(&item.schema(), *pages),
            Self::Either(all) => either(all),
        }
    }

    /// In words, for people; `name` shows a shape or type by its name.
    pub(in crate::api) fn words(&self, name: &dyn Fn(&str) -> String) -> String {
        let of = |item: &Self| item.words(name);
        match self {
            Self::Text | Self::Like(_) => "text".to_owned(),
            Self::Time => "time".to_owned(),
            Self::Int(..) => "whole number".to_owned(),
            Self::Number => "number".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Object => "object".to_owned(),
            Self::Any => "any".to_owned(),
            Self::Null => "null".to_owned(),
            Self::Is(Value::String(word)) => word.clone(),
            Self::Is(value) => value.to_string(),
            Self::Named(named) => name(named),
            Self::List(item) => format!("list of {}", of(item)),
            Self::Map(value) => format!("{} by name", of(value)),
            Self::Counted(item, false) => format!("count and list of {}", of(item)),
            Self::Counted(item, true) => format!("page of {}", of(item)),
            Self::Either(all) => all.iter().map(of).collect::<Vec<_>>().join(" or "),
        }
    }

    /// The word that JSON Schema has for it, where that is all there is to say.
    fn plain(&self) -> Option<Value> {
        let schema = self.schema();
        let word = schema.get("type").cloned();
        word.filter(|_| schema.as_object().is_some_and(|s| s.len() == 1))
    }

    fn value(&self) -> Option<&Value> {
        match self {
            Self::Is(value) => Some(value),
            _ => None,
        }
    }
}

/// What stands between these.
fn inside(text: &'static str, open: &str, close: char) -> Option<&'static str> {
    text.strip_prefix(open)?.strip_suffix(close)
}

/// What `|` separates, and no bracket holds together.
fn alternatives(text: &'static str) -> Vec<&'static str> {
    let mut depth = 0_usize;
    let separates = |c: char| {
        match c {
            '[' | '{' | '(' => depth += 1,
            ']' | '}' | ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == '|' && depth == 0
    };
    text.split(separates).collect()
}

/// `1..200`, `0..`.
fn range(text: &str) -> Option<(Option<i64>, Option<i64>)> {
    let (least, greatest) = text.split_once("..")?;
    let bound = |text: &str| match text {
        "" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some((bound(least)?, bound(greatest)?))
}

fn bounded(least: Option<i64>, greatest: Option<i64>) -> Value {
    let mut schema = json!({"type": "integer"});
    for (name, bound) in [("minimum", least), ("maximum", greatest)] {
        if let Some(bound) = bound {
            schema[name] = bound.into();
        }
    }
    schema
}

/// `count` is the total; `next`: where there are more pages.
pub(super) fn counted(item: &Value, pages: bool) -> Value {
    let mut properties =
        json!({"count": {"type": "integer"}, "results": {"type": "array", "items": item}});
    if pages {
        properties["next"] = json!({"type": "string", "description": "URL of the next page"});
    }
    json!({"type": "object", "required": ["count", "results"], "properties": properties})
}

fn either(all: &[Type]) -> Value {
    let values: Vec<&Value> = all.iter().filter_map(Type::value).collect();
    if values.len() == all.len() {
        return json!({"enum": values});
    }
    let plain: Vec<Value> = all.iter().filter_map(Type::plain).collect();
    if plain.len() == all.len() {
        return json!({"type": plain});
    }
    json!({"anyOf": all.iter().map(Type::schema).collect::<Vec<_>>()})
}

/// A field of a shape.
#[derive(Debug, Clone)]
pub(in crate::api) struct Field {
    pub(in crate::api) name: &'static str,
    pub(in crate::api) ty: Type,
    /// It may be missing.
    pub(in crate::api) optional: bool,
    /// What it means, where its name does not say it.
    pub(in crate::api) about: &'static str,
}

impl Field {
    /// # Errors
    /// What cannot be read.
    fn parse(name: &'static str, rest: &'static str) -> Result<Self, String> {
        let (ty, about) = split_word(rest);
        Ok(Self {
            name: name.trim_end_matches('?'),
            ty: Type::parse(ty)?,
            optional: name.ends_with('?'),
            about,
        })
    }

    fn schema(&self) -> Value {
        let mut schema = self.ty.schema();
        if !self.about.is_empty() {
            schema["description"] = self.about.into();
        }
        schema
    }
}

/// An object of the API that is none of the schema.
#[derive(Debug)]
pub(in crate::api) struct Shape {
    pub(in crate::api) name: &'static str,
    pub(in crate::api) about: &'static str,
    pub(in crate::api) fields: Vec<Field>,
}

impl Shape {
    /// As JSON Schema has it.
    pub(super) fn schema(&self) -> Value {
        let fields = self.fields.iter();
        let properties: Object = fields.map(|f| (f.name.to_owned(), f.schema())).collect();
        let needed = self.fields.iter().filter(|f| !f.optional);
        let required: Vec<&str> = needed.map(|f| f.name).collect();
        let mut schema = json!({"type": "object", "properties": properties});
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        if !self.about.is_empty() {
            schema["description"] = self.about.into();
        }
        schema
    }

    /// In the place of one of the same name.
    fn put(&mut self, field: Field) {
        match self.fields.iter_mut().find(|f| f.name == field.name) {
            Some(known) => *known = field,
            None => self.fields.push(field),
        }
    }
}

/// The shapes, and what calls answer with.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    pub(super) all: Vec<Shape>,
    /// By method and path of the table of operations; none of what is always refused.
    pub(super) answers: BTreeMap<(&'static str, &'static str), Option<Type>>,
}

impl Shapes {
    /// # Errors
    /// The line that cannot be read, and why.
    pub(super) fn parse(texts: &[&'static str]) -> Result<Self, String> {
        let mut shapes = Self::default();
        for line in lines(texts) {
            shapes
                .line(line)
                .map_err(|why| format!("{line:?}: {why}"))?;
        }
        Ok(shapes)
    }

    fn line(&mut self, line: &'static str) -> Result<(), String> {
        let (first, rest) = split_word(line);
        if METHODS.contains(&first) {
            let (path, ty) = split_word(rest);
            let ty = match ty {
                "refused" => None,
                ty => Some(Type::parse(ty)?),
            };
            let before = self.answers.insert((first, path), ty);
            return before.map_or(Ok(()), |_| Err("it was there already".to_owned()));
        }
        if let Some(name) = first.strip_prefix('@') {
            self.all.push(Shape {
                name,
                about: rest,
                fields: Vec::new(),
            });
            return Ok(());
        }
        let fields = match first.strip_prefix("..") {
            Some(other) => self.fields_of(other)?,
            None => vec![Field::parse(first, rest)?],
        };
        let shape = self.all.last_mut().ok_or("it is of no shape")?;
        fields.into_iter().for_each(|field| shape.put(field));
        Ok(())
    }

    /// Those of a shape above; `?NAME`: any of them may be missing.
    fn fields_of(&self, name: &str) -> Result<Vec<Field>, String> {
        let (name, all_optional) = match name.strip_prefix('?') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let known = self.all.iter().find(|shape| shape.name == name);
        let known = known.ok_or_else(|| format!("there is no {name} above"))?;
        let mut fields = known.fields.clone();
        for field in &mut fields {
            field.optional |= all_optional;
        }
        Ok(fields)
    }
}

/// Those that say something.
pub(super) fn lines(texts: &[&'static str]) -> impl Iterator<Item = &'static str> {
    let all = texts.iter().flat_map(|text| text.lines()).map(str::trim);
    all.filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// The first word, and what follows it.
pub(super) fn split_word(line: &'static str) -> (&'static str, &'static str) {
    line.split_once(' ')
        .map_or((line, ""), |(word, rest)| (word, rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &'static str) -> Value {
        Type::parse(text).expect(text).schema()
    }

    #[test]
    fn types_become_schemas() {
        for (text, expected) in [
            ("text", json!({"type": "string"})),
            ("int(1..)", json!({"type": "integer", "minimum": 1})),
            ("int|null", json!({"type": ["integer", "null"]})),
            ("\"up\"|\"down\"", json!({"enum": ["up", "down"]})),
            ("5|300", json!({"enum": [5, 300]})),
            (
                "[[int]]",
                json!({"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}),
            ),
            (
                "{int}",
                json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            ),
            (
                "[text|null]",
                json!({"type": "array", "items": {"type": ["string", "null"]}}),
            ),
            (
                "like(^(a|b)$)",
                json!({"type": "string", "pattern": "^(a|b)$"}),
            ),
            (
                "Flow|null",
                json!({"anyOf": [reference("Flow"), {"type": "null"}]}),
            ),
        ] {
            assert_eq!(schema(text), expected, "{text}");
        }
        let page = schema("page(Flow)");
        assert_eq!(page["required"], json!(["count", "results"]));
        assert_eq!(page["properties"]["results"]["items"], reference("Flow"));
        assert_eq!(schema("list(Flow)")["properties"].get("next"), None);
        for wrong in ["", "flow", "[", "int(1)", "text|", "page(flow)"] {
            assert!(Type::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_shape_has_the_fields_of_another_and_those_in_their_place() {
        let text = "@A\na int\nb? text its b\n@B of both\n..?A\na text\nGET /x [B]";
        let shapes = Shapes::parse(&[text]).expect("good");
        let expected = json!({
            "type": "object", "required": ["a"], "description": "of both",
            "properties": {"a": {"type": "string"}, "b": {"type": "string", "description": "its b"}},
        });
        assert_eq!(shapes.all[1].schema(), expected);
        let answer = shapes.answers[&("GET", "/x")].as_ref().expect("an answer");
        assert_eq!(answer.words(&|name| format!("<{name}>")), "list of <B>");
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        for wrong in ["a int", "@A\nb integer", "@A\n..B", "GET /x A\nGET /x B"] {
            let why = Shapes::parse(&[wrong]).expect_err(wrong);
            assert!(why.starts_with('"'), "{why}");
        }
    }
}
