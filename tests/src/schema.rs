//! The published schemas (`docs/reference/schema/`), against which what nodes say is held.
//!
//! The few keywords of JSON Schema 2020-12 that our schemas have, and a panic at any other: nothing passes because it was
//! not understood. A library for all of it would cost each build of the tests thirty crates.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

/// Keywords that explain and allow everything.
const ANNOTATIONS: [&str; 6] = [
    "$schema",
    "$defs",
    "title",
    "description",
    "default",
    "format",
];

/// Holds `value` to the published schema of this name.
///
/// # Errors
/// Each place where it departs from it.
///
/// # Panics
/// When there is no such schema, or it has a keyword that is not known here.
pub fn fits(name: &str, value: &Value) -> Result<(), String> {
    fits_schema(&schema(name), value)
}

/// Holds `value` to another schema.
///
/// # Errors
/// Each place where it departs from it.
///
/// # Panics
/// When the schema has a keyword that is not known here.
pub fn fits_schema(schema: &Value, value: &Value) -> Result<(), String> {
    let mut wrong = Vec::new();
    Check { root: schema }.value(schema, value, "", &mut wrong);
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n")),
    }
}

/// The published schema of this name.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn schema(name: &str) -> Value {
    let path = format!("../docs/reference/schema/{name}.json");
    let text =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a published schema");
    serde_json::from_slice(&text).expect("JSON")
}

struct Check<'a> {
    root: &'a Value,
}

impl Check<'_> {
    fn value(&self, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
        let schema = match schema {
            Value::Bool(true) => return,
            Value::Bool(false) => return wrong.push(format!("{at}: nothing may stand here")),
            Value::Object(schema) => schema,
            other => panic!("{other} is no schema"),
        };
        for (keyword, rule) in schema {
            if !self.keyword(schema, keyword, rule, value, at, wrong) {
                wrong.push(format!("{at}: {value} against {keyword} {rule}"));
            }
        }
    }

    /// Whether the keyword's own rule holds; what is wrong further inside is noted by itself.
    fn keyword(
        &self,
        schema: &Map<String, Value>,
        keyword: &str,
        rule: &Value,
        value: &Value,
        at: &str,
        wrong: &mut Vec<String>,
    ) -> bool {
        let object = value.as_object();
        match keyword {
            "type" => match rule {
                Value::Array(kinds) => kinds.iter().any(|kind| is_a(kind, value)),
                kind => is_a(kind, value),
            },
            "enum" => rule.as_array().expect("a list").contains(value),
            "const" => rule == value,
            // Of what is no number they say nothing.
            "minimum" => value.as_f64().is_none_or(|number| number >= bound(rule)),
            "maximum" => value.as_f64().is_none_or(|number| number <= bound(rule)),
            "anyOf" | "oneOf" => {
                let choices = rule.as_array().expect("a list").iter();
                let fitting = choices.filter(|choice| {
                    let mut inner = Vec::new();
                    self.value(choice, value, at, &mut inner);
                    inner.is_empty()
                });
                match (keyword, fitting.count()) {
                    ("anyOf", count) => count > 0,
                    (_, count) => count == 1,
                }
            }
            "$ref" => {
                let pointer = rule.as_str().and_then(|rule| rule.strip_prefix('#'));
                let target = pointer.and_then(|pointer| self.root.pointer(pointer));
                self.value(target.expect("a definition"), value, at, wrong);
                true
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    self.value(rule, item, &format!("{at}/{index}"), wrong);
                }
                true
            }
            "properties" => {
                for (key, rule) in rule.as_object().expect("an object") {
                    if let Some(inner) = object.and_then(|object| object.get(key)) {
                        self.value(rule, inner, &format!("{at}/{key}"), wrong);
                    }
                }
                true
            }
            "required" => {
                let mut keys = rule
                    .as_array()
                    .expect("a list")
                    .iter()
                    .filter_map(Value::as_str);
                keys.all(|key| object.is_none_or(|object| object.contains_key(key)))
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (key, inner) in object.into_iter().flatten() {
                    if !known.is_some_and(|known| known.contains_key(key)) {
                        self.value(rule, inner, &format!("{at}/{key}"), wrong);
                    }
                }
                true
            }
            "minItems" => value
                .as_array()
                .is_none_or(|items| items.len() as u64 >= count(rule)),
            "maxItems" => value
                .as_array()
                .is_none_or(|items| items.len() as u64 <= count(rule)),
            keyword if ANNOTATIONS.contains(&keyword) => true,
            keyword => panic!("the keyword {keyword} is not known here"),
        }
    }
}

fn bound(rule: &Value) -> f64 {
    rule.as_f64().expect("a number")
}

fn count(rule: &Value) -> u64 {
    rule.as_u64().expect("a number")
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str().expect("a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}
