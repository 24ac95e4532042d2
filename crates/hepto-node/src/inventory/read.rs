//! From text to [`Inventory`], line by line as Ansible's `ini` plugin does it, with every error at once.
//!
//! One difference, because the guide's own text is what people paste: a ` # comment` behind a variable of a
//! `[group:vars]` section is left out, where Ansible would make it part of the value. It is reported.

use std::collections::BTreeMap;
use std::ops::Range;

use super::literal::{self, Literal};
use super::range::expand;
use super::words::{self, Word};
use super::{Group, Inventory, UNGROUPED, Variable};
use crate::config::Diagnostic;

/// Reads what can be read, and says what cannot.
pub fn read(text: &str) -> (Inventory, Vec<Diagnostic>) {
    let mut reader = Reader {
        inventory: Inventory::default(),
        found: Vec::new(),
        pending: BTreeMap::new(),
        comments: Vec::new(),
        group: UNGROUPED.to_owned(),
        section: Section::Hosts,
    };
    for name in [super::ALL, UNGROUPED] {
        reader
            .inventory
            .groups
            .insert(name.to_owned(), Group::default());
    }
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        let start = at + (line.len() - line.trim_start().len());
        at += line.len();
        if !trimmed.is_empty() && !trimmed.starts_with(['#', ';']) {
            reader.line(trimmed, start);
        }
    }
    reader.comments();
    for (name, (what, span)) in std::mem::take(&mut reader.pending) {
        let what = format!("{what} the group {name}, which has neither members nor subgroups");
        let found = Diagnostic::error("E-INV-GROUP", what).at(span);
        reader
            .found
            .push(found.fix(format!("add a section [{name}] with its hosts")));
    }
    (reader.inventory, reader.found)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Hosts,
    Children,
    Variables,
    /// Below a header that was refused: its lines mean nothing.
    Refused,
}

struct Reader {
    inventory: Inventory,
    found: Vec<Diagnostic>,
    /// Groups that were used and not declared yet, with what used them.
    pending: BTreeMap<String, (&'static str, Range<usize>)>,
    /// Variables whose comments were left out.
    comments: Vec<(String, Range<usize>)>,
    group: String,
    section: Section,
}

impl Reader {
    fn refuse(
        &mut self,
        code: &'static str,
        what: impl Into<String>,
        span: Range<usize>,
        fix: &str,
    ) {
        self.found
            .push(Diagnostic::error(code, what).at(span).fix(fix));
    }

    fn line(&mut self, line: &str, start: usize) {
        let whole = start..start + line.len();
        if let Some((group, kind)) = header(line) {
            return self.header(group, kind, whole);
        }
        if line.starts_with('[') && line.ends_with(']') {
            self.section = Section::Refused;
            let fix = "write it as [cluster], [cluster:vars] or [cluster:children], without spaces";
            return self.refuse("E-INV-SECTION", "this is not a section", whole, fix);
        }
        match self.section {
            Section::Hosts => self.host(line, start),
            Section::Children => self.child(line, whole),
            Section::Variables => self.variable(line, start),
            Section::Refused => {}
        }
    }

    fn header(&mut self, group: &str, kind: Option<&str>, span: Range<usize>) {
        self.section = match kind {
            None | Some("hosts") => Section::Hosts,
            Some("children") => Section::Children,
            Some("vars") => Section::Variables,
            Some(kind) => {
                self.section = Section::Refused;
                let fix = "a section is [NAME], [NAME:vars] or [NAME:children]";
                return self.refuse(
                    "E-INV-SECTION",
                    format!("there is no kind of section \"{kind}\""),
                    span,
                    fix,
                );
            }
        };
        self.group = group.to_owned();
        let known = self.inventory.groups.contains_key(group);
        if self.section != Section::Variables {
            self.pending.remove(group);
        } else if !known {
            self.pending
                .entry(group.to_owned())
                .or_insert(("there are variables for", span));
        }
        self.inventory.groups.entry(group.to_owned()).or_default();
    }

    fn host(&mut self, line: &str, start: usize) {
        let words = match words::split(line) {
            Ok(words) => words,
            Err(error) => {
                let span = start..start + line.len();
                return self.refuse(
                    "E-INV-LINE",
                    error.to_string(),
                    span,
                    "close the quote, or remove it",
                );
            }
        };
        let Some((pattern, assignments)) = words.split_first() else {
            return;
        };
        let place = shifted(&pattern.span, start);
        let names = match expand(&pattern.text) {
            Ok(names) => names,
            Err(reason) => {
                return self.refuse("E-INV-RANGE", reason, place, "write it as in node[1:3]");
            }
        };
        let assignments = assignments
            .iter()
            .filter_map(|word| self.assignment(word, start));
        let variables: Vec<(String, Variable)> = assignments.collect();
        for name in names {
            self.add_host(name, &variables, place.clone());
        }
    }

    fn add_host(&mut self, name: String, variables: &[(String, Variable)], place: Range<usize>) {
        if !self.inventory.hosts.contains_key(&name) {
            self.inventory.order.push(name.clone());
        }
        let host = self.inventory.hosts.entry(name.clone()).or_default();
        let twice = host
            .places
            .iter()
            .find(|(group, _)| *group == self.group)
            .map(|(_, first)| first.clone());
        host.places.push((self.group.clone(), place.clone()));
        host.variables.extend(variables.iter().cloned());
        if let Some(first) = twice {
            let what = format!("the host {name} stands twice in [{}]", self.group);
            let found = Diagnostic::error("E-INV-DUP", what)
                .at(place)
                .beside(first, "first here");
            self.found
                .push(found.fix("every node needs a name of its own: rename one, or remove it"));
        }
    }

    fn assignment(&mut self, word: &Word, start: usize) -> Option<(String, Variable)> {
        let span = shifted(&word.span, start);
        let Some((name, written)) = word.text.split_once('=') else {
            let what = "a host's line holds NAME=VALUE pairs, and this is none";
            self.refuse(
                "E-INV-LINE",
                what,
                span,
                "write it as in iface=ens1; values with spaces stand in quotes",
            );
            return None;
        };
        let value = literal::parse(written).unwrap_or_else(|| Literal::Text(written.to_owned()));
        Some((name.to_owned(), Variable { value, span }))
    }

    fn variable(&mut self, line: &str, start: usize) {
        let Some((name, value)) = line.split_once('=') else {
            let fix = "write it as in mtu=1400";
            let what = "a line of variables is NAME=VALUE, and this is none";
            return self.refuse("E-INV-LINE", what, start..start + line.len(), fix);
        };
        let name = name.trim().to_owned();
        let written = value.trim();
        let value_start = start + line.len() - value.trim_start().len();
        let comment = comment_start(written);
        let bare = comment.map_or(written, |at| written[..at].trim_end());
        let literal = literal::parse(written);
        if let (None, Some(at)) = (&literal, comment) {
            self.comments
                .push((name.clone(), value_start + at..start + line.len()));
        }
        let value = literal
            .or_else(|| literal::parse(bare))
            .unwrap_or_else(|| Literal::Text(bare.to_owned()));
        let variable = Variable {
            value,
            span: value_start..value_start + bare.len(),
        };
        let group = self.inventory.groups.entry(self.group.clone()).or_default();
        group.variables.insert(name, variable);
    }

    /// One notice for all comments that were left out: the guide's example has five.
    fn comments(&mut self) {
        let Some((_, first)) = self.comments.first() else {
            return;
        };
        let first = first.clone();
        let names: Vec<String> = self
            .comments
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        let (noun, pronoun, values) = match names.len() {
            1 => ("comment", "it", "value"),
            _ => ("comments", "them", "values"),
        };
        let what = format!(
            "the {noun} behind {} left out; Ansible itself would make {pronoun} part of the {values}",
            match &names[..] {
                [one] => format!("{one} is"),
                [rest @ .., last] => format!("{} and {last} are", rest.join(", ")),
                [] => return,
            }
        );
        let notice = Diagnostic::warning("W-INV-COMMENT", what).at(first);
        self.found
            .push(notice.fix("comments on lines of their own mean the same to both"));
    }

    fn child(&mut self, line: &str, span: Range<usize>) {
        let name = without_comment(line);
        if name.is_empty() || name.contains([':', ']']) || name.contains(char::is_whitespace) {
            return self.refuse(
                "E-INV-LINE",
                "this is not the name of a group",
                span,
                "write one group a line",
            );
        }
        if self.inventory.is_below(&self.group, name) {
            let what = format!("the group {name} would be below itself");
            return self.refuse("E-INV-GROUP", what, span, "remove it here");
        }
        if !self.inventory.groups.contains_key(name) {
            self.pending
                .entry(name.to_owned())
                .or_insert(("there is no section for", span));
        }
        let child = self.inventory.groups.entry(name.to_owned()).or_default();
        child.parents.insert(self.group.clone());
    }
}

fn shifted(span: &Range<usize>, start: usize) -> Range<usize> {
    span.start + start..span.end + start
}

/// `[group]` or `[group:kind]`, with a comment behind it.
fn header(line: &str) -> Option<(&str, Option<&str>)> {
    let (inner, rest) = line.strip_prefix('[')?.split_once(']')?;
    let rest = rest.trim_start();
    let (group, kind) = match inner.split_once(':') {
        Some((group, kind)) => (group, Some(kind)),
        None => (inner, None),
    };
    let word =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_');
    let sound = !group.is_empty() && !group.contains(char::is_whitespace) && kind.is_none_or(word);
    (sound && (rest.is_empty() || rest.starts_with('#'))).then_some((group, kind))
}

fn without_comment(line: &str) -> &str {
    line.split_once('#')
        .map_or(line, |(before, _)| before)
        .trim_end()
}

/// Where a comment begins: a `#` behind white space and outside quotes.
fn comment_start(written: &str) -> Option<usize> {
    let mut quote = None;
    let mut before = ' ';
    for (at, character) in written.char_indices() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '#') if at > 0 && before.is_whitespace() => return Some(at),
            (None, '\'' | '"') if at == 0 => quote = Some(character),
            (None, _) => {}
        }
        before = character;
    }
    None
}
