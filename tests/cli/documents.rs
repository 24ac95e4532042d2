//! The documents keep to what is there: every code of the source, no dead link, no command or option that does not exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{hepto, said};

pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the repository")
}

/// The files below `folder` that end in `.extension`, but for what was built and what git keeps.
pub fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("text")
}

/// Whether this is a stable code: a letter for its weight, then words of capitals and digits.
fn is_code(word: &str) -> bool {
    let mut parts = word.split('-');
    let is_word = |part: &str| {
        let inner = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
        !part.is_empty() && part.chars().all(inner)
    };
    matches!(parts.next(), Some("E" | "W" | "I")) && word.len() > 2 && parts.all(is_word)
}

fn codes_of_the_source() -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for krate in fs::read_dir(root().join("crates")).expect("the crates") {
        for file in files(&krate.expect("a crate").path().join("src"), "rs") {
            let text = read(&file);
            let words = text.split('"').filter(|word| is_code(word));
            codes.extend(words.map(str::to_owned));
        }
    }
    codes
}

#[test]
fn every_code_of_the_source_has_its_entry_and_no_entry_is_without_source() {
    let text = read(&root().join("docs/reference/messages.md"));
    let headings = text.lines().filter_map(|line| line.strip_prefix("### "));
    let listed: Vec<String> = headings.map(str::to_owned).collect();
    let documented: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(
        listed.len(),
        documented.len(),
        "an entry stands there twice"
    );
    let source = codes_of_the_source();
    assert!(source.len() > 100, "the source was not found");
    let missing: Vec<_> = source.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&source).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/reference/messages.md lacks {missing:?} and has {stale:?}, which no source has"
    );
}

#[test]
fn every_code_of_preflight_has_its_row() {
    let text = read(&root().join("docs/reference/preflight.md"));
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let listed: BTreeSet<String> = rows
        .filter_map(|row| row.split('`').nth(1))
        .map(str::to_owned)
        .collect();
    let source = codes_of_the_source();
    let own = source.iter().filter(|code| code.contains("-PREFLIGHT-"));
    let missing: Vec<_> = own.filter(|code| !listed.contains(*code)).collect();
    let stale: Vec<_> = listed.difference(&source).collect();
    assert!(
        missing.is_empty() && stale.is_empty() && listed.len() > 20,
        "docs/reference/preflight.md lacks {missing:?} and has {stale:?}, which no source has"
    );
}

/// A call of a macro from its parenthesis to the end of it.
fn call(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    panic!("no end: {text}")
}

#[test]
fn every_line_logged_at_warn_or_above_has_a_code_and_says_what_to_do() {
    let (mut seen, mut bare) = (0, Vec::new());
    for krate in fs::read_dir(root().join("crates")).expect("the crates") {
        for file in files(&krate.expect("a crate").path().join("src"), "rs") {
            let text = read(&file);
            for (at, name) in text
                .match_indices("warn!(")
                .chain(text.match_indices("error!("))
            {
                if text[..at].ends_with("compile_") {
                    continue;
                }
                let call = call(&text[at + name.len() - 1..]);
                let fields = call.split('"').step_by(2).collect::<String>();
                let has = |field: &str| {
                    let words = fields.split(|c: char| !(c.is_alphanumeric() || "_.".contains(c)));
                    words.into_iter().any(|word| word == field)
                };
                seen += 1;
                if !(has("code") && has("fix")) {
                    let line = text[..at].lines().count();
                    bare.push(format!("{}:{line}: {name}{call})", file.display()));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} were found");
    assert!(bare.is_empty(), "{}", bare.join("\n"));
}

/// What stands between `](` and `)`, outside code.
fn links(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|part| part.split("](").skip(1))
        .filter_map(|rest| rest.split(')').next())
        .collect()
}

/// The anchors of a document's headings, as the forges make them: small letters, hyphens for blanks, no punctuation.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|heading| {
        let heading = heading.trim_start_matches('#').trim();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    })
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut dead = Vec::new();
    for file in files(&root(), "md") {
        let text = read(&file);
        for link in links(&text)
            .into_iter()
            .filter(|link| !link.contains("://"))
        {
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => file.clone(),
                path => file.parent().expect("a folder").join(path),
            };
            let is_there = target.exists()
                && (fragment.is_empty() || anchors(&read(&target)).any(|there| there == fragment));
            if !is_there {
                dead.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

/// The calls of hepto-node in a document, in blocks of code and within sentences, from its name on and without comments.
fn calls(text: &str) -> Vec<&str> {
    let blocks = text.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(str::lines);
    let prose = text.split("```").step_by(2);
    let inline = prose.flat_map(|part| part.split('`').skip(1).step_by(2));
    lines
        .chain(inline)
        .map(|line| line.split(" #").next().unwrap_or(line))
        .filter_map(|line| line.trim().strip_prefix("hepto-node "))
        .collect()
}

#[test]
fn every_command_that_the_documents_show_exists_with_its_options() {
    let mut shown = 0;
    for file in files(&root(), "md") {
        let text = read(&file);
        for call in calls(&text) {
            let words: Vec<&str> = call
                .split_whitespace()
                .take_while(|word| *word != "--")
                .collect();
            let depth = match words.first() {
                Some(&"config" | &"k3s" | &"keys" | &"snapshot") => 2,
                _ => 1,
            };
            let is_name = |word: &&&str| !word.starts_with('-');
            let command: Vec<&str> = words
                .iter()
                .take(depth)
                .take_while(is_name)
                .copied()
                .collect();
            let (code, help, errors) = said(&hepto(&[&["help"], &command[..]].concat()));
            assert_eq!(code, Some(0), "{}: `{call}`: {errors}", file.display());
            // What follows kubectl is kubectl's own.
            let options = words
                .iter()
                .filter(|word| word.starts_with("--") && command != ["kubectl"]);
            for option in options {
                let name = option.split('=').next().unwrap_or(option);
                let known = help.split([' ', '\n', ',', '=']).any(|word| word == name);
                assert!(known, "{}: `{call}`: no option {name}", file.display());
            }
            shown += 1;
        }
    }
    assert!(shown > 20, "only {shown} commands were found");
}

/// The lines of a page's code blocks, without comments.
fn commands(page: &Path) -> Vec<String> {
    let text = read(page);
    let mut code = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if code {
            let line = line.split(" # ").next().unwrap_or_default();
            lines.push(line.trim_end().to_owned());
        }
    }
    lines
}

#[test]
fn a_guide_shows_the_same_code_in_both_languages() {
    let folder = root().join("docs/guide");
    let french: Vec<PathBuf> = files(&folder, "md")
        .into_iter()
        .filter(|page| page.to_string_lossy().ends_with(".fr.md"))
        .collect();
    assert!(french.len() >= 9, "the guides were not found");
    for page in french {
        let text = read(&page);
        let other = links(&text).first().map(|link| folder.join(link));
        let other = other.expect("a link to the page in English, first of all");
        assert_eq!(commands(&page), commands(&other), "{}", page.display());
    }
}

#[test]
fn the_guide_says_of_each_alert_what_it_means() {
    let rules = read(&root().join("dist/prometheus/hepto.rules.yaml"));
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() > 5, "{alerts:?}");
    for guide in ["monitoring.md", "surveiller.fr.md"] {
        let text = read(&root().join("docs/guide").join(guide));
        let rows = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `Hepto")?.split('`').next());
        let explained: Vec<String> = rows.map(|name| format!("Hepto{name}")).collect();
        assert_eq!(explained, alerts, "{guide}");
    }
}
