//! What is wrong in a config file, and how it is shown: code, place, offending text, fix.

use std::fmt;
use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use schemars::JsonSchema;
use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The node runs, and this is worth a thought.
    Warning,
}

/// One error or warning about a config file or an inventory; [`Report::render`] shows it at its place.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The stable code, such as `E-NET-GW-OUTSIDE`; each has a page in the reference.
    pub code: &'static str,
    /// What is wrong: one sentence without a full stop.
    pub what: String,
    /// Where, in bytes of the file; `None` where there is no file to point into.
    pub span: Option<Range<usize>>,
    /// What stands beside the marked text.
    pub label: Option<String>,
    /// A second place that has to do with it.
    pub related: Option<(Range<usize>, String)>,
    /// The setting or command that mends it.
    pub fix: Option<String>,
}

impl Diagnostic {
    /// An error: the file is refused.
    pub fn error(code: &'static str, what: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Error,
            code,
            what: what.into(),
            span: None,
            label: None,
            related: None,
            fix: None,
        }
    }

    /// A warning: the file is accepted.
    pub fn warning(code: &'static str, what: impl Into<String>) -> Self {
        Diagnostic {
            severity: Severity::Warning,
            ..Diagnostic::error(code, what)
        }
    }

    /// The same, at a place in bytes of the file.
    #[must_use]
    pub fn at(mut self, span: Range<usize>) -> Self {
        self.span = Some(span);
        self
    }

    /// The same, with what stands beside the marked text.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// The same, with a second place that has to do with it.
    #[must_use]
    pub fn beside(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.related = Some((span, label.into()));
        self
    }

    /// The same, with what mends it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    fn render(&self, source: &Source, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.what.as_str()).id(self.code);
        let mut group = match self.snippet(source) {
            Some(snippet) => title.element(snippet),
            None => Group::with_title(title),
        };
        if let Some(fix) = &self.fix {
            group = group.element(Level::HELP.with_name("fix").message(fix.as_str()));
        }
        renderer.render(&[group])
    }

    fn snippet<'a>(&'a self, source: &'a Source) -> Option<Snippet<'a, Annotation<'a>>> {
        let span = source.clamp(self.span.clone()?);
        let mut primary = AnnotationKind::Primary.span(span);
        if let Some(label) = &self.label {
            primary = primary.label(label.as_str());
        }
        let mut snippet = Snippet::source(source.text.as_str())
            .path(source.path.as_str())
            .annotation(primary);
        if let Some((span, label)) = &self.related {
            let context = AnnotationKind::Context.span(source.clamp(span.clone()));
            snippet = snippet.annotation(context.label(label.as_str()));
        }
        Some(snippet)
    }
}

/// A config file as diagnostics quote it.
#[derive(Debug)]
pub struct Source {
    /// The path as the operator gave it.
    pub path: String,
    /// The file's text, with secrets that stand in it starred out byte for byte.
    pub text: String,
}

/// Names behind which, with an equals sign, a key stands that should not be shown.
const SECRET_NAMES: &[&str] = &["overlay_key", "cluster_key", "agent_key"];

impl Source {
    /// The file's text for quoting. Starred out are the places `secrets`, and every line from the name of
    /// a key and its equals sign on, whether the line is well-formed or not.
    pub fn new(path: String, text: &str, secrets: &[Range<usize>]) -> Source {
        let mut hidden = secrets.to_vec();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let begins = |name: &&str| {
                let value = |(found, _): (usize, &str)| {
                    let rest = &line[found + name.len()..];
                    rest.trim_start()
                        .starts_with('=')
                        .then_some(found + name.len())
                };
                line.match_indices(*name).find_map(value)
            };
            hidden.extend(
                SECRET_NAMES
                    .iter()
                    .filter_map(begins)
                    .map(|from| at + from..at + line.len()),
            );
            at += line.len();
        }
        let inside = |at: usize| hidden.iter().any(|range| range.contains(&at));
        let mut starred = String::with_capacity(text.len());
        for (at, character) in text.char_indices() {
            if inside(at) && !character.is_whitespace() && !"=\"'".contains(character) {
                starred.extend(std::iter::repeat_n('*', character.len_utf8()));
            } else {
                starred.push(character);
            }
        }
        Source {
            path,
            text: starred,
        }
    }

    /// Line and character of a byte of the text, each from 1.
    pub fn place(&self, at: usize) -> (usize, usize) {
        let before = &self.text[..self.clamp(at..at).start];
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }

    /// The span cut to the text and to whole characters: a parser's span may end past the last byte.
    fn clamp(&self, span: Range<usize>) -> Range<usize> {
        let boundary = |at: usize| {
            let mut at = at.min(self.text.len());
            while !self.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let start = boundary(span.start);
        start..boundary(span.end).max(start)
    }
}

/// Everything that was found in one config file, in the order of the file. As an error: the file was refused.
#[derive(Debug)]
pub struct Report {
    /// The file.
    pub source: Source,
    /// Errors and warnings.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// How many errors refuse the file.
    pub fn errors(&self) -> usize {
        self.diagnostics
            .iter()
            .filter(|found| found.severity == Severity::Error)
            .count()
    }

    /// Every diagnostic with its place, one below the other; `styled` for a terminal.
    pub fn render(&self, styled: bool) -> String {
        let renderer = if styled {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let texts: Vec<String> = self
            .diagnostics
            .iter()
            .map(|found| found.render(&self.source, &renderer))
            .collect();
        texts.join("\n\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |number: usize, noun: &str| match number {
            1 => format!("1 {noun}"),
            _ => format!("{number} {noun}s"),
        };
        let errors = self.errors();
        let warnings = self.diagnostics.len() - errors;
        let (errors, warnings) = (count(errors, "error"), count(warnings, "warning"));
        write!(
            f,
            "{} has {}",
            self.source.path,
            match (self.errors(), self.diagnostics.len()) {
                (0, _) => warnings,
                (known, all) if known == all => errors,
                _ => format!("{errors} and {warnings}"),
            }
        )
    }
}

impl std::error::Error for Report {}
