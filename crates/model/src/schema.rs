//! The registry of object types, parsed once from the field lists in `schema/` (avi-api annex).

use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

/// The annex, and the types that the contract names outside it.
const AVI: &str = concat!(
    include_str!("../schema/avi-30.2.1.txt"),
    "\n",
    include_str!("../schema/system.txt"),
    "\n",
    include_str!("../schema/access.txt"),
    "\n",
    include_str!("../schema/generic.txt"),
    "\n",
    include_str!("../schema/properties.txt"),
    "\n",
    include_str!("../schema/evenkeel.txt"),
    "\n",
    include_str!("../schema/acts.txt")
);

static REGISTRY: LazyLock<Registry> =
    LazyLock::new(|| Registry::parse(AVI).expect("the embedded schema parses: a test proves it"));

/// What the product does with a field (avi-api section 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Honoured now.
    Honoured,
    /// Accepted and validated; acts when its feature comes.
    Soon,
    /// Owned by the server: ignored on write, filled on read.
    ServerOwned,
    /// Stored and returned untouched.
    Echo,
}

/// The type of a field's value, or of one item when the field is a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Str,
    /// A whole number.
    Int,
    /// Any number.
    Num,
    /// true or false.
    Bool,
    /// A reference to an object; holds the target's model name, e.g. `VsVip`.
    Ref(String),
    /// A nested object; holds its model name. One that the registry does not know is kept as given.
    Message(String),
}

/// Which whole numbers a field takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range {
    /// From the first to the second, both included.
    Span(i64, i64),
    /// One of these.
    Set(Vec<i64>),
}

/// How a secret looks to whoever reads the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// It is seen that there is one, and a write of the mask keeps it.
    Masked,
    /// Left out.
    Hidden,
}

/// One field of an object type.
#[derive(Debug, Clone)]
pub struct Field {
    /// Name as in JSON.
    pub name: String,
    /// What the product does with it.
    pub class: Class,
    /// Type of the value or of each item.
    pub kind: Kind,
    /// The value is a list of `kind`.
    pub list: bool,
    /// Must be present after defaults are applied.
    pub required: bool,
    /// Shown on read even if never set.
    pub default: Option<Value>,
    /// Allowed whole numbers.
    pub range: Option<Range>,
    /// Numbers outside the range with a meaning of their own (0 = unlimited).
    pub special: Vec<i64>,
    /// Allowed words; empty = any.
    pub words: Vec<String>,
    /// Most items of a list.
    pub max_items: Option<usize>,
    /// Unit of a number, when the name does not say it.
    pub unit: Option<String>,
    /// Never shown, and kept by a write without it.
    pub secret: Option<Secret>,
    /// What identifies an item of a list (avi-api section 6); empty = its whole value.
    pub item_keys: Vec<String>,
    /// What it does, where its name does not say it: the comment above it in the schema.
    pub help: Option<String>,
}

impl Field {
    /// True when the server alone writes this field.
    pub fn is_server_owned(&self) -> bool {
        self.class == Class::ServerOwned
    }

    /// True when both are the same item of this list: by its keys, or by value where they have none of them.
    pub fn same_item(&self, a: &Value, b: &Value) -> bool {
        let has_key = |item: &Value| self.item_keys.iter().any(|k| item.get(k).is_some());
        if has_key(a) && has_key(b) {
            self.item_keys.iter().all(|k| a.get(k) == b.get(k))
        } else {
            a == b
        }
    }
}

/// An object type or a nested structure.
#[derive(Debug, Clone)]
pub struct ObjectType {
    /// Model name, e.g. `VirtualService`.
    pub name: String,
    /// Name in paths, e.g. `virtualservice`.
    pub path: String,
    /// Fields in the order of the schema.
    pub fields: Vec<Field>,
    /// Where in `fields` a name is: types have up to a hundred, and every object is looked through by name.
    by_name: HashMap<String, usize>,
}

impl ObjectType {
    /// The field of this name, if the schema knows it.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.by_name.get(name).map(|i| &self.fields[*i])
    }

    /// True for a resource with a URL of its own, false for a nested structure.
    pub fn is_resource(&self) -> bool {
        self.field("uuid").is_some() && self.field("url").is_some()
    }
}

/// The type with this model name (`VirtualService`), resource or nested structure.
pub fn message(name: &str) -> Option<&'static ObjectType> {
    REGISTRY.types.get(name)
}

/// All types by model name, resources and nested structures.
pub fn messages() -> impl Iterator<Item = &'static ObjectType> {
    REGISTRY.types.values()
}

/// The resource with this path name (`virtualservice`).
pub fn object_type(path: &str) -> Option<&'static ObjectType> {
    let name = REGISTRY.by_path.get(path)?;
    REGISTRY.types.get(name).filter(|t| t.is_resource())
}

/// All resources, by model name.
pub fn object_types() -> impl Iterator<Item = &'static ObjectType> {
    REGISTRY.types.values().filter(|t| t.is_resource())
}

struct Registry {
    types: BTreeMap<String, ObjectType>,
    by_path: BTreeMap<String, String>,
}

impl Registry {
    fn parse(text: &str) -> Result<Self, String> {
        let mut types: BTreeMap<String, ObjectType> = BTreeMap::new();
        let mut current = String::new();
        let mut comment: Vec<&str> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(words) = line.strip_prefix('#') {
                comment.push(words.trim());
                continue;
            }
            let help = std::mem::take(&mut comment).join(" ");
            if line.is_empty() {
                continue;
            }
            if let Some(name) = line.strip_prefix('@') {
                current = name.to_owned();
                types
                    .entry(current.clone())
                    .or_insert_with(|| new_type(name));
                continue;
            }
            let at = |e: String| format!("line {}: {e}", number + 1);
            let owner = types
                .get_mut(&current)
                .ok_or("a field stands before any @Type")?;
            if let Some((mark, name)) = line.split_once(' ').filter(|(m, _)| MARKS.contains(m)) {
                let field = set_class(owner, mark, name).map_err(at)?;
                field.help = Some(help).filter(|h| !h.is_empty()).or(field.help.take());
                continue;
            }
            let mut field = parse_field(line).map_err(at)?;
            field.help = Some(help).filter(|h| !h.is_empty());
            // A later file may allow more than an earlier one (schema/evenkeel.txt).
            owner.fields.retain(|known| known.name != field.name);
            owner.fields.push(field);
        }
        for ty in types.values_mut() {
            acknowledge_common(ty);
            let names = ty.fields.iter().enumerate();
            ty.by_name = names.map(|(i, field)| (field.name.clone(), i)).collect();
        }
        let by_path = types
            .values()
            .map(|t| (t.path.clone(), t.name.clone()))
            .collect();
        Ok(Self { types, by_path })
    }
}

fn new_type(name: &str) -> ObjectType {
    ObjectType {
        name: name.to_owned(),
        path: name.to_lowercase(),
        fields: Vec::new(),
        by_name: HashMap::new(),
    }
}

/// Every object has a name and an owner, whatever becomes of the rest of it.
fn acknowledge_common(ty: &mut ObjectType) {
    let common = ["uuid", "url", "name", "tenant_ref"];
    let is_common = |f: &Field| f.class == Class::Soon && common.contains(&f.name.as_str());
    let has = |name: &str| ty.fields.iter().any(|f| f.name == name);
    if has("uuid") && has("url") {
        let fields = ty.fields.iter_mut().filter(|f| is_common(f));
        fields.for_each(|f| f.class = Class::Honoured);
    }
}

/// What a line of schema/acts.txt begins with.
const MARKS: [&str; 3] = ["+", "-", "="];

/// Says of a field that is known that it acts already (`+`), or does not (`-`); of one that is the server's (`=`) there is
/// something to be said.
fn set_class<'a>(
    owner: &'a mut ObjectType,
    mark: &str,
    name: &str,
) -> Result<&'a mut Field, String> {
    let (from, to) = match mark {
        "+" => (Class::Soon, Class::Honoured),
        "-" => (Class::Honoured, Class::Soon),
        _ => (Class::ServerOwned, Class::ServerOwned),
    };
    let missing = format!("{}.{name} is not {from:?}", owner.name);
    let mut fields = owner.fields.iter_mut();
    let field = fields.find(|f| f.name == name && f.class == from);
    let field = field.ok_or(missing)?;
    field.class = to;
    Ok(field)
}

fn parse_field(line: &str) -> Result<Field, String> {
    let mut words = line.split_whitespace();
    let class = class_of(words.next().ok_or("empty line")?)?;
    let name = words.next().ok_or("a field without a name")?;
    let ty = words.next().ok_or("a field without a type")?;
    let (kind, list) = kind_of(ty);
    let mut field = Field {
        name: name.trim_end_matches('!').to_owned(),
        class,
        kind,
        list,
        required: name.ends_with('!'),
        default: None,
        range: None,
        special: Vec::new(),
        words: Vec::new(),
        max_items: None,
        unit: None,
        secret: None,
        item_keys: Vec::new(),
        help: None,
    };
    while let Some(word) = words.next() {
        match word {
            "in" => field.range = Some(range_of(words.next().ok_or("`in` without a range")?)?),
            _ => parse_modifier(&mut field, word)?,
        }
    }
    Ok(field)
}

fn class_of(word: &str) -> Result<Class, String> {
    match word {
        "M" => Ok(Class::Honoured),
        "S" => Ok(Class::Soon),
        "R" => Ok(Class::ServerOwned),
        "E" => Ok(Class::Echo),
        other => Err(format!("unknown class {other}")),
    }
}

fn kind_of(word: &str) -> (Kind, bool) {
    let (inner, list) = match word.strip_prefix('[').and_then(|w| w.strip_suffix(']')) {
        Some(inner) => (inner, true),
        None => (word, false),
    };
    let kind = match inner {
        "str" => Kind::Str,
        "int" => Kind::Int,
        "num" => Kind::Num,
        "bool" => Kind::Bool,
        _ => match inner.strip_prefix("ref:") {
            Some(target) => Kind::Ref(target.to_owned()),
            None => Kind::Message(inner.to_owned()),
        },
    };
    (kind, list)
}

fn parse_modifier(field: &mut Field, word: &str) -> Result<(), String> {
    if let Some(value) = word.strip_prefix('=') {
        field.default = Some(default_of(&field.kind, value)?);
    } else if let Some(inner) = word
        .strip_prefix("special(")
        .and_then(|w| w.strip_suffix(')'))
    {
        field.special = inner.split(',').filter_map(special_value).collect();
    } else if let Some(inner) = word.strip_prefix("key(").and_then(|w| w.strip_suffix(')')) {
        field.item_keys = inner.split(',').map(str::to_owned).collect();
    } else if word == "masked" {
        field.secret = Some(Secret::Masked);
    } else if word == "hidden" {
        field.secret = Some(Secret::Hidden);
    } else if let Some(inner) = word.strip_prefix('{').and_then(|w| w.strip_suffix('}')) {
        field.words = inner.split('|').map(str::to_owned).collect();
    } else if let Some(n) = word.strip_prefix("max").and_then(|n| n.parse().ok()) {
        field.max_items = Some(n);
    } else if let Some(unit) = word.strip_prefix("u:") {
        field.unit = Some(unit.to_owned());
    } else if !(word == "reboot" || word.starts_with('@') || word.starts_with("dep@")) {
        return Err(format!("unknown modifier {word}"));
    }
    Ok(())
}

/// `0-unlimited` is 0, `-1-Infinite` is -1, a word such as `MAX-Passthrough` has no number.
fn special_value(text: &str) -> Option<i64> {
    let end = text[1..].find('-').map_or(text.len(), |i| i + 1);
    text[..end].parse().ok()
}

fn range_of(text: &str) -> Result<Range, String> {
    let number = |t: &str| t.parse::<i64>().map_err(|e| format!("range {text}: {e}"));
    if text.contains(',') {
        return text
            .split(',')
            .map(number)
            .collect::<Result<_, _>>()
            .map(Range::Set);
    }
    let split = text[1..]
        .find('-')
        .ok_or(format!("range {text} has no end"))?
        + 1;
    Ok(Range::Span(
        number(&text[..split])?,
        number(&text[split + 1..])?,
    ))
}

fn default_of(kind: &Kind, text: &str) -> Result<Value, String> {
    let text = text.replace('␠', " ");
    match kind {
        Kind::Int => text
            .parse::<i64>()
            .map(Value::from)
            .map_err(|e| format!("default {text}: {e}")),
        Kind::Num => text
            .parse::<f64>()
            .map(Value::from)
            .map_err(|e| format!("default {text}: {e}")),
        Kind::Bool => text
            .parse::<bool>()
            .map(Value::from)
            .map_err(|e| format!("default {text}: {e}")),
        _ => Ok(Value::from(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_corrected_for_fields_that_are_known_and_have_the_other_one() {
        let parse = |marks: &str| Registry::parse(&format!("@A\nM x str\nS y str\n@A\n{marks}"));
        let corrected = parse("- x\n+ y").expect("known");
        let class = |name: &str| corrected.types["A"].field(name).map(|f| f.class);
        assert_eq!(
            (class("x"), class("y")),
            (Some(Class::Soon), Some(Class::Honoured))
        );
        for (marks, wrong) in [
            ("- z", "A.z"),
            ("+ x", "A.x"),
            ("- y", "A.y"),
            ("= x", "A.x"),
        ] {
            let error = parse(marks).err().expect("refused");
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn of_a_field_of_the_server_it_can_be_said_why_it_is_not_filled() {
        let text = "@A\nR x int =1\nR y str\n@A\n# Nobody knows.\n= x\n= y";
        let registry = Registry::parse(text).expect("parses");
        let field = |name: &str| registry.types["A"].field(name).expect("there");
        assert_eq!(field("x").help.as_deref(), Some("Nobody knows."));
        assert_eq!(
            (field("x").class, &field("y").help),
            (Class::ServerOwned, &None)
        );
    }
    use serde_json::json;

    #[test]
    fn the_embedded_schema_parses_and_knows_the_resources() {
        let registry = Registry::parse(AVI).expect("parses");
        assert!(registry.types.len() >= 90, "{} types", registry.types.len());
        for path in [
            "virtualservice",
            "vsvip",
            "pool",
            "vrfcontext",
            "cloud",
            "serviceenginegroup",
        ] {
            assert!(object_type(path).is_some(), "{path}");
        }
        assert!(
            object_type("bgppeer").is_none(),
            "a nested structure is no resource"
        );
    }

    #[test]
    fn a_comment_above_a_field_is_its_help_and_none_of_the_next() {
        let text =
            "# Of the file.\n\n# Of the type.\n@T\nM a int\n# What it\n# does.\nM b int\nM c int\n";
        let registry = Registry::parse(text).expect("parses");
        let help = |name: &str| registry.types["T"].field(name).and_then(|f| f.help.clone());
        assert_eq!(help("b").as_deref(), Some("What it does."));
        assert_eq!((help("a"), help("c")), (None, None));
    }

    #[test]
    fn a_field_line_becomes_its_parts() {
        let f =
            parse_field("M idle int =600 in 5-14400 special(0-infinite) u:sec @17.1").expect("ok");
        assert_eq!(f.default, Some(Value::from(600)));
        assert_eq!(f.range, Some(Range::Span(5, 14400)));
        assert_eq!(
            (f.special.as_slice(), f.unit.as_deref()),
            ([0].as_slice(), Some("sec"))
        );
        let f =
            parse_field("S d int =-1 in 1-432000 special(0-Immediate,-1-Infinite)").expect("ok");
        assert_eq!(f.special, [0, -1]);
        let f = parse_field("M peers [BgpPeer] max128").expect("ok");
        assert_eq!(
            (f.kind, f.list, f.max_items),
            (Kind::Message("BgpPeer".into()), true, Some(128))
        );
        let f = parse_field("M servers [Server] key(ip,port)").expect("ok");
        assert_eq!(f.item_keys, ["ip", "port"]);
        let f = parse_field("M key str hidden").expect("ok");
        assert_eq!(f.secret, Some(Secret::Hidden));
    }

    #[test]
    fn an_item_is_known_by_its_keys_or_by_its_whole_value() {
        let keyed = parse_field("M servers [Server] key(ip,port)").expect("ok");
        let server = |ip: &str, more: u8| json!({"ip": ip, "ratio": more});
        assert!(keyed.same_item(&server("a", 1), &server("a", 2)));
        assert!(!keyed.same_item(&server("a", 1), &server("b", 1)));
        assert!(
            !keyed.same_item(&json!({"ratio": 1}), &json!({"ratio": 2})),
            "neither has a key"
        );
        let words = parse_field("M community [str]").expect("ok");
        assert!(words.same_item(&json!("1:2"), &json!("1:2")));
        assert!(!words.same_item(&json!("1:2"), &json!("1:3")));
    }

    #[test]
    fn every_key_of_a_list_is_a_field_of_its_items() {
        for ty in object_types().chain(["BgpProfile"].iter().filter_map(|n| message(n))) {
            for field in ty.fields.iter().filter(|f| !f.item_keys.is_empty()) {
                let Kind::Message(name) = &field.kind else {
                    panic!("{}.{} has keys and no items", ty.name, field.name);
                };
                let item = message(name).expect("known");
                for key in &field.item_keys {
                    assert!(item.field(key).is_some(), "{name}.{key}");
                }
            }
        }
    }

    #[test]
    fn every_default_is_one_of_the_values_that_its_field_takes() {
        for ty in REGISTRY.types.values() {
            let one = crate::object::with_defaults(ty, &crate::object::Object::new());
            let wrong = crate::object::validate(ty, &one).err().unwrap_or_default();
            let wrong: Vec<_> = wrong
                .iter()
                .filter(|e| e.problem != "is required")
                .collect();
            assert!(wrong.is_empty(), "{}: {wrong:?}", ty.name);
        }
    }

    #[test]
    fn a_line_that_makes_no_sense_is_refused_with_its_number() {
        let error = Registry::parse("@T\nM a int\nM b int in x")
            .err()
            .expect("refused");
        assert!(error.starts_with("line 3"), "{error}");
    }
}
