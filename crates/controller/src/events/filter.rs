//! `filter=op(field,value)` of avi-api section 11, over what an event looks like in JSON. Pure.

use crate::error::ApiError;
use serde_json::Value;
use std::cmp::Ordering;

/// The most conditions of one question.
const CONDITIONS_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    Co,
    Nc,
    Sw,
}

impl Op {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "eq" => Self::Eq,
            "ne" => Self::Ne,
            "gt" => Self::Gt,
            "ge" => Self::Ge,
            "lt" => Self::Lt,
            "le" => Self::Le,
            "co" => Self::Co,
            "nc" => Self::Nc,
            "sw" => Self::Sw,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    op: Op,
    /// Parts of the path: `event_details.se_details.se_name`.
    field: Vec<String>,
    /// One of these.
    values: Vec<String>,
}

/// Conditions, all of which must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter(Vec<Condition>);

impl Filter {
    /// Of the values of every `filter` parameter.
    ///
    /// # Errors
    /// 400 with what is wrong with which.
    pub fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, ApiError> {
        let all: Vec<Condition> = texts.map(parse).collect::<Result<_, _>>()?;
        if all.len() > CONDITIONS_MAX {
            let text = format!("filter: more than {CONDITIONS_MAX} of them; ask for less at once");
            return Err(ApiError::bad_request(text));
        }
        Ok(Self(all))
    }

    /// True when what `show` gives passes all conditions; without any, it is not asked.
    pub fn matches(&self, show: impl FnOnce() -> Value) -> bool {
        let all = |shown: &Value| self.0.iter().all(|condition| condition.holds(shown));
        self.0.is_empty() || all(&show())
    }
}

/// `op(field,value)`; the value may be in quotes, or several in brackets.
fn parse(text: &str) -> Result<Condition, ApiError> {
    let wrong = || {
        ApiError::bad_request(format!(
            "filter: {text:?} is no condition; write op(field,value) with eq, ne, gt, ge, lt, le, co, nc or sw, as in eq(event_id,VS_DOWN)"
        ))
    };
    let (op, rest) = text.trim().split_once('(').ok_or_else(wrong)?;
    let inner = rest.strip_suffix(')').ok_or_else(wrong)?;
    let (field, value) = inner.split_once(',').ok_or_else(wrong)?;
    let op = Op::of(op.trim()).ok_or_else(wrong)?;
    let field: Vec<String> = field.trim().split('.').map(str::to_owned).collect();
    if field.iter().any(String::is_empty) {
        return Err(wrong());
    }
    let value = value.trim();
    let list = value.strip_prefix('[').and_then(|v| v.strip_suffix(']'));
    let values = match list {
        Some(list) => list.split(',').map(plain).collect(),
        None => vec![plain(value)],
    };
    Ok(Condition { op, field, values })
}

/// Without quotes around it.
fn plain(text: &str) -> String {
    let text = text.trim();
    let quoted = ['"', '\'']
        .iter()
        .find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q));
    quoted.unwrap_or(text).to_owned()
}

impl Condition {
    /// A field that is not there is equal to nothing.
    fn holds(&self, shown: &Value) -> bool {
        let actual = self
            .field
            .iter()
            .try_fold(shown, |value, part| value.get(part));
        let any = |test: fn(&Value, &str) -> bool| {
            let is = |actual: &Value| self.values.iter().any(|wanted| test(actual, wanted));
            match actual {
                None => false,
                Some(Value::Array(items)) => items.iter().any(is),
                Some(actual) => is(actual),
            }
        };
        match self.op {
            Op::Eq => any(|a, w| order(a, w) == Ordering::Equal),
            Op::Ne => !any(|a, w| order(a, w) == Ordering::Equal),
            Op::Gt => any(|a, w| order(a, w) == Ordering::Greater),
            Op::Ge => any(|a, w| order(a, w) != Ordering::Less),
            Op::Lt => any(|a, w| order(a, w) == Ordering::Less),
            Op::Le => any(|a, w| order(a, w) != Ordering::Greater),
            Op::Co => any(contains),
            Op::Nc => !any(contains),
            Op::Sw => any(|a, w| lower(a).starts_with(&w.to_lowercase())),
        }
    }
}

/// Numbers as numbers, all else as text.
fn order(actual: &Value, wanted: &str) -> Ordering {
    let numbers = actual.as_f64().zip(wanted.parse::<f64>().ok());
    match numbers {
        Some((actual, wanted)) => actual.total_cmp(&wanted),
        None => text(actual).as_str().cmp(wanted),
    }
}

fn contains(actual: &Value, wanted: &str) -> bool {
    lower(actual).contains(&wanted.to_lowercase())
}

fn lower(value: &Value) -> String {
    text(value).to_lowercase()
}

/// A text as it is, all else as JSON.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(conditions: &[&str]) -> bool {
        let event = json!({
            "event_id": "VS_DOWN", "obj_name": "web one", "report_timestamp": 100, "related_uuids": ["pool-1", "pool-2"],
            "event_details": {"se_details": {"se_name": "se-1"}},
        });
        Filter::new(conditions.iter().copied())
            .unwrap()
            .matches(|| event)
    }

    #[test]
    fn every_operator_does_what_its_name_says() {
        for (condition, expected) in [
            ("eq(event_id,VS_DOWN)", true),
            ("eq(event_id,\"VS_DOWN\")", true),
            ("eq(event_id,[VS_UP, VS_DOWN])", true),
            ("eq(event_id,VS)", false),
            ("ne(event_id,VS_UP)", true),
            ("ne(event_id,[VS_UP,VS_DOWN])", false),
            ("gt(report_timestamp,99)", true),
            ("gt(report_timestamp,100)", false),
            ("ge(report_timestamp,100)", true),
            ("lt(report_timestamp,1000)", true),
            ("le(report_timestamp,99)", false),
            ("co(obj_name,WEB)", true),
            ("nc(obj_name,two)", true),
            ("nc(obj_name,one)", false),
            ("sw(obj_name,web)", true),
            ("sw(obj_name,one)", false),
            ("eq(related_uuids,pool-2)", true),
            ("eq(event_details.se_details.se_name,se-1)", true),
            ("eq(nothing,x)", false),
            ("ne(nothing,x)", true),
        ] {
            assert_eq!(matches(&[condition]), expected, "{condition}");
        }
    }

    #[test]
    fn all_conditions_must_hold() {
        assert!(matches(&["eq(event_id,VS_DOWN)", "co(obj_name,one)"]));
        assert!(!matches(&["eq(event_id,VS_DOWN)", "co(obj_name,two)"]));
        assert!(matches(&[]));
    }

    #[test]
    fn what_is_no_condition_is_refused_with_an_example() {
        for wrong in [
            "",
            "eq",
            "eq(event_id)",
            "is(a,b)",
            "eq(a,b",
            "eq(,b)",
            "eq(a..b,c)",
        ] {
            let error = Filter::new([wrong].into_iter()).unwrap_err();
            assert!(
                error.text.starts_with("filter: "),
                "{wrong}: {}",
                error.text
            );
        }
    }
}
