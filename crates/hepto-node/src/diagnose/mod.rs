//! `hepto-node diagnose`: one text that says what a friend would ask for, and no secret.
//!
//! Each section is gathered by itself: a node that does not run, that hangs, or a tool that is missing costs its own
//! section and no other. `redact` goes over the whole at the end, so that nothing depends on each source being careful.

mod gather;
mod redact;

use std::fmt::Write as _;

use crate::cli::Target;
use crate::fault::Fault;
use crate::state::Record;
use crate::target::{self, RunDirectory};
use crate::uninstall::Outline;
use redact::Secrets;

/// The most of one section that is kept, bytes: its end, where the news is.
const SECTION: usize = 64 << 10;

/// A heading and what stands below it.
struct Section {
    title: String,
    text: String,
}

impl Section {
    fn new(title: impl Into<String>, text: impl Into<String>) -> Section {
        Section {
            title: title.into(),
            text: text.into(),
        }
    }
}

/// The whole report of the node that is meant, secrets hidden.
///
/// # Errors
/// When no node can be told from the arguments.
pub fn report(target: &Target) -> Result<String, Fault> {
    let node = target::running(target)?;
    let config = match &target.config {
        Some(config) => Some(config.clone()),
        None => Record::read(&node.path).map(|record| record.config),
    };
    let outline = config
        .as_deref()
        .and_then(|config| Outline::read(config).ok());
    let mut sections = vec![
        gather::program(),
        gather::control(&node),
        gather::config(config.as_deref()),
    ];
    sections.extend(gather::network(&node));
    sections.extend(gather::logs(&node, outline.as_ref()));
    let secrets = outline.as_ref().map(Secrets::of).unwrap_or_default();
    Ok(secrets.hide(&render(&node, &sections)))
}

fn render(node: &RunDirectory, sections: &[Section]) -> String {
    let mut out = format!("hepto-node diagnose: {}\n", node.name());
    for section in sections {
        let text = section.text.trim_end();
        let text = tail(text);
        let _ = write!(
            out,
            "\n== {}\n{}\n",
            section.title,
            if text.is_empty() { "(nothing)" } else { text }
        );
    }
    out
}

/// The last whole lines that fit.
fn tail(text: &str) -> &str {
    if text.len() <= SECTION {
        return text;
    }
    let mut start = text.len() - SECTION;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let kept = &text[start..];
    kept.split_once('\n').map_or(kept, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_section_is_kept_in_whole_lines() {
        let text = "é first line\n".repeat(10_000) + "the news";
        let kept = tail(&text);
        assert!(kept.len() <= SECTION && kept.ends_with("the news"));
        assert!(kept.starts_with("é first line\n"));
        assert_eq!(tail("short"), "short");
    }
}
