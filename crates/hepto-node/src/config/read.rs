//! From text to [`File`], with every error of form at once: syntax, unknown keys, wrong types.
//!
//! serde stops at its first error. So the node that it complained about is noted, cut out of the tree,
//! and what is left is tried again, until the rest is sound.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::Diagnostic;
use super::file::{
    ClusterSection, File, K3sSection, LimitsSection, MeshSection, MetricsSection, NetworkSection,
    NodeSection, SnapshotSection,
};

/// What was read, and what must not be reported as missing besides.
#[derive(Debug, Default)]
pub struct Reading {
    /// The sound part of the file.
    pub file: File,
    /// What was wrong with its form.
    pub diagnostics: Vec<Diagnostic>,
    /// Where each section begins.
    pub sections: BTreeMap<String, Range<usize>>,
    /// `section.key` of everything that was cut out because it was wrong.
    pub pruned: BTreeSet<String>,
}

/// Reads what can be read.
pub fn read(text: &str) -> Reading {
    let (mut root, errors) = DeTable::parse_recoverable(text);
    let mut reading = Reading::default();
    for error in &errors {
        let found = Diagnostic::error("E-CONFIG-SYNTAX", "this is not valid TOML")
            .at(error.span().unwrap_or(0..0))
            .label(error.message());
        let fix = match error.message() {
            "duplicate key" => "keep one of the two lines",
            _ => {
                "strings stand in double quotes, lists in square brackets; see `hepto-node config default`"
            }
        };
        reading.diagnostics.push(found.fix(fix));
        reading.pruned.extend(broken_key(text, error.span()));
    }
    prune_unknown(root.get_mut(), &mut reading);
    loop {
        match File::deserialize(toml::de::Deserializer::from(root.clone())) {
            Ok(file) => reading.file = file,
            Err(error) => {
                let span = error.span().unwrap_or(0..0);
                let Some(cut) = prune(root.get_mut(), &span, "") else {
                    // Nothing stands there: better one vague error than none.
                    reading
                        .diagnostics
                        .push(Diagnostic::error("E-CONFIG-TYPE", error.message()).at(span));
                    return reading;
                };
                reading.diagnostics.push(wrong_type(&cut, error.message()));
                reading.pruned.insert(cut.path);
                continue;
            }
        }
        return reading;
    }
}

/// The key at the start of a line that does not parse, so that it is not called missing as well.
fn broken_key(text: &str, span: Option<Range<usize>>) -> Option<String> {
    let at = span?.start.min(text.len());
    let before = text.get(..at)?;
    let line = &text[before.rfind('\n').map_or(0, |newline| newline + 1)..];
    let key = line.split(['=', '\n']).next()?.trim();
    let section = before
        .lines()
        .rev()
        .find_map(|line| line.trim().strip_prefix('[')?.split(']').next());
    Some(format!("{}.{key}", section.unwrap_or_default()))
}

/// A value of the wrong type, after it was cut out.
struct Cut {
    path: String,
    span: Range<usize>,
    kind: &'static str,
    /// One of a list, not the list.
    item: bool,
}

/// Cuts the innermost value that covers `span` out of the tree.
fn prune(table: &mut DeTable<'_>, span: &Range<usize>, path: &str) -> Option<Cut> {
    let covers = |value: &Spanned<DeValue<'_>>| {
        value.span().start <= span.start && span.end <= value.span().end
    };
    let key = table
        .iter()
        .find(|(_, value)| covers(value) || inside(value, span))?
        .0
        .clone();
    let name = key.get_ref().as_ref();
    let path = if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    };
    let value = table.get_mut(name)?;
    let whole = Cut {
        path: path.clone(),
        span: value.span(),
        kind: value.get_ref().type_str(),
        item: false,
    };
    let inner = match value.get_mut() {
        // Only sections are entered: half a gateway is no gateway.
        DeValue::Table(inner) if !path.contains('.') => prune(inner, span, &path),
        DeValue::Array(items) => items.iter().position(covers).map(|index| {
            let cut = Cut {
                path: path.clone(),
                span: items[index].span(),
                kind: items[index].get_ref().type_str(),
                item: true,
            };
            let rest = items
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index);
            *items = rest.map(|(_, item)| item.clone()).collect();
            cut
        }),
        _ => None,
    };
    if inner.is_none() {
        table.remove(name);
    }
    Some(inner.unwrap_or(whole))
}

/// Whether any value below covers the span: a `[section]`'s own span is its header alone.
fn inside(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    let covers = value.span().start <= span.start && span.end <= value.span().end;
    covers
        || value
            .get_ref()
            .as_table()
            .is_some_and(|table| table.values().any(|value| inside(value, span)))
}

fn wrong_type(cut: &Cut, message: &str) -> Diagnostic {
    // serde says "invalid type: integer `3`, expected a string"; the first half is said better here.
    let expected = message
        .rsplit_once(", expected ")
        .map_or(message, |(_, expected)| expected);
    let expected = match expected {
        "i64" => "a whole number without quotes",
        "f64" => "a number without quotes",
        "a boolean" => "true or false without quotes",
        "a sequence" => "a list in square brackets",
        "a string" => "a string in double quotes",
        other => other,
    };
    let each = if cut.item { "each of " } else { "" };
    let found = Diagnostic::error(
        "E-CONFIG-TYPE",
        format!("{each}`{}` must be {expected}", cut.path),
    )
    .at(cut.span.clone())
    .label(format!("this is {}", in_words(cut.kind)));
    match super::example(&cut.path) {
        Some(example) => found.fix(format!("write it as `{example}`")),
        None => found,
    }
}

/// TOML's own words for its types, for people who do not know TOML.
fn in_words(kind: &str) -> &str {
    match kind {
        "string" => "a string",
        "integer" => "a number",
        "float" => "a number with a fraction",
        "boolean" => "true or false",
        "datetime" => "a date",
        "array" => "a list",
        "table" => "a group of keys",
        other => other,
    }
}

/// Takes every unknown section and key out of the tree, each with its own error.
fn prune_unknown(root: &mut DeTable<'_>, reading: &mut Reading) {
    let sections = fields::<File>();
    let mut unknown = Vec::new();
    for (key, value) in root.iter_mut() {
        let section = key.get_ref().as_ref();
        let Some(known) = known_keys(section) else {
            reading.diagnostics.push(unknown_section(
                section,
                key.span(),
                value.get_ref(),
                sections,
            ));
            reading
                .pruned
                .extend(nearest(section, sections).map(str::to_owned));
            unknown.push(section.to_owned());
            continue;
        };
        reading.sections.insert(section.to_owned(), key.span());
        let kind = value.get_ref().type_str();
        let DeValue::Table(table) = value.get_mut() else {
            reading
                .diagnostics
                .push(not_a_section(section, kind, value.span()));
            reading.pruned.insert(section.to_owned());
            unknown.push(section.to_owned());
            continue;
        };
        for (name, found) in unknown_keys(section, known, table) {
            table.remove(name.as_str());
            reading.pruned.insert(format!("{section}.{name}"));
            // What was probably meant is not missing as well.
            reading
                .pruned
                .extend(nearest(&name, known).map(|near| format!("{section}.{near}")));
            reading.diagnostics.push(found);
        }
    }
    for section in unknown {
        root.remove(section.as_str());
    }
}

fn not_a_section(name: &str, kind: &str, span: Range<usize>) -> Diagnostic {
    Diagnostic::error("E-CONFIG-TYPE", format!("`{name}` must be a section"))
        .at(span)
        .label(format!("this is {}", in_words(kind)))
        .fix(format!(
            "write [{name}] once, in single brackets, and its keys below"
        ))
}

fn unknown_keys(section: &str, known: &[&str], table: &DeTable<'_>) -> Vec<(String, Diagnostic)> {
    let refused = table.iter().filter_map(|(key, _)| {
        let found = refuse_key(section, known, key.get_ref(), key.span())?;
        Some((key.get_ref().to_string(), found))
    });
    refused.collect()
}

fn known_keys(section: &str) -> Option<&'static [&'static str]> {
    match section {
        "node" => Some(fields::<NodeSection>()),
        "network" => Some(fields::<NetworkSection>()),
        "cluster" => Some(fields::<ClusterSection>()),
        "mesh" => Some(fields::<MeshSection>()),
        "snapshot" => Some(fields::<SnapshotSection>()),
        "k3s" => Some(fields::<K3sSection>()),
        "limits" => Some(fields::<LimitsSection>()),
        "metrics" => Some(fields::<MetricsSection>()),
        _ => None,
    }
}

fn unknown_section(
    name: &str,
    span: Range<usize>,
    value: &DeValue<'_>,
    sections: &[&str],
) -> Diagnostic {
    if let Some(sentence) = later(name, None) {
        return Diagnostic::error("E-CONFIG-LATER", sentence)
            .at(span)
            .fix(format!("remove [{name}]"));
    }
    if !value.is_table() {
        let found = Diagnostic::error(
            "E-CONFIG-KEY",
            format!("`{name}` stands outside every section"),
        )
        .at(span);
        return match home_of(name) {
            Some(section) => found.fix(format!("put it below [{section}]")),
            None => found.fix(format!("sections are {}", list(sections))),
        };
    }
    let found = Diagnostic::error("E-CONFIG-KEY", format!("there is no section [{name}]")).at(span);
    match nearest(name, sections) {
        Some(near) => found.fix(format!("did you mean [{near}]?")),
        None => found.fix(format!("sections are {}", list(sections))),
    }
}

fn refuse_key(section: &str, known: &[&str], name: &str, span: Range<usize>) -> Option<Diagnostic> {
    if let Some(sentence) = later(section, Some(name)) {
        let found = Diagnostic::error("E-CONFIG-LATER", sentence).at(span);
        return Some(found.fix(format!("remove `{name}`")));
    }
    if known.contains(&name) {
        return None;
    }
    if ["overlay_key", "cluster_key", "agent_key"].contains(&name) {
        let what = format!("`{name}` would put a secret into this file");
        let path = format!("/etc/hepto/{}.key", name.trim_end_matches("_key"));
        let fix = format!(
            "put the key alone into a file of mode 0600 and name it: `{name}_file = \"{path}\"`"
        );
        return Some(Diagnostic::error("E-KEY-INLINE", what).at(span).fix(fix));
    }
    let found =
        Diagnostic::error("E-CONFIG-KEY", format!("[{section}] has no key `{name}`")).at(span);
    Some(match (home_of(name), nearest(name, known)) {
        (Some(home), _) => found.fix(format!("`{name}` belongs below [{home}]")),
        (None, Some(near)) => found.fix(format!("did you mean `{near}`?")),
        (None, None) => found.fix(format!("its keys are {}", list(known))),
    })
}

/// Sections, keys and values that the design names and this version does not have: never silently accepted.
fn later(section: &str, key: Option<&str>) -> Option<&'static str> {
    Some(match (section, key) {
        ("cluster", Some("operator")) => "this version knows no operator's key yet",
        _ => return None,
    })
}

/// The section that has a key of this name.
fn home_of(name: &str) -> Option<&'static str> {
    fields::<File>().iter().copied().find(|section| {
        known_keys(section).is_some_and(|keys| keys.contains(&name)) && name != "name"
    })
}

/// The known word that was most probably meant: a slip or two away, or with the same beginning.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    let scored = known.iter().map(|known| {
        let slips = strsim::damerau_levenshtein(&word, known);
        let likeness = strsim::jaro_winkler(&word, known);
        (slips, likeness, *known)
    });
    let near = scored.filter(|(slips, likeness, known)| {
        let bearable = (known.len() / 3).max(1);
        *slips <= bearable || *likeness > 0.8
    });
    near.min_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)))
        .map(|(.., known)| known)
}

fn list(words: &[&str]) -> String {
    words.join(", ")
}

/// The keys of a section, as its type declares them to serde.
fn fields<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    /// A deserialiser that only notes what it is asked for.
    struct Declared<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Declared<'_> {
        type Error = de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("not a struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            *self.0 = fields;
            Err(de::Error::custom("noted"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut declared: &'static [&'static str] = &[];
    // The result is the error "noted": the fields are what is wanted.
    let _ = T::deserialize(Declared(&mut declared));
    declared
}
