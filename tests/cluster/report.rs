//! What was checked, and what was seen.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

/// The folder for the rows that `docs/reference/cluster-test.md` is made from; unset where nobody wants them.
const FOLDER: &str = "HEPTO_CLUSTER_RESULT";

/// The checks of one test.
#[derive(Debug)]
pub struct Report {
    title: &'static str,
    rows: Vec<(String, String)>,
    failed: Vec<String>,
}

impl Report {
    /// No checks yet.
    pub fn new(title: &'static str) -> Report {
        Report {
            title,
            rows: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Makes a check; its answer is what was seen, or what is wrong. The next check is made in either case.
    pub fn check(&mut self, what: &str, probe: impl FnOnce() -> Result<String, String>) {
        let start = Instant::now();
        match probe() {
            Ok(seen) => self.saw(what, &seen),
            Err(error) => {
                let took = start.elapsed().as_secs_f64();
                println!("FAILED {what} ({took:.1} s): {error}");
                self.failed.push(what.to_owned());
            }
        }
    }

    /// A figure, or a check that cannot go on when it fails.
    pub fn saw(&mut self, what: &str, seen: &str) {
        println!("holds: {what}: {seen}");
        self.rows.push((what.to_owned(), seen.to_owned()));
    }

    /// Writes the rows.
    ///
    /// # Panics
    /// When a check failed.
    pub fn end(self) {
        assert!(
            self.failed.is_empty(),
            "{} of {} checks failed:\n{}",
            self.failed.len(),
            self.failed.len() + self.rows.len(),
            self.failed.join("\n")
        );
        let Some(folder) = std::env::var_os(FOLDER) else {
            return;
        };
        let mut text = format!("## {}\n\n| what | seen |\n|---|---|\n", self.title);
        for (what, seen) in &self.rows {
            let _ = writeln!(text, "| {what} | {seen} |");
        }
        let file = Path::new(&folder).join(self.title.to_lowercase().replace(' ', "-") + ".md");
        fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}
