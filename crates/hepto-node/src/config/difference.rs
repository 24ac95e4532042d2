//! Where two nodes differ in what their cluster shares.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use super::shared::{MTU, SETTINGS, Shared};
use super::{TUNNEL_OVERHEAD, tunnel_mtu};

/// What `config diff --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Comparison {
    /// Whether there is no difference.
    pub agree: bool,
    /// The first file's node.
    pub one: Side,
    /// The other's; absent where the file was compared with the running cluster.
    pub other: Option<Side>,
    /// The settings that were compared.
    pub compared: Vec<String>,
    /// Where they differ.
    pub differences: Vec<Difference>,
    /// What could not be compared.
    pub unknown: Vec<Unknown>,
}

/// One of the two.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Side {
    /// The file, as it was named.
    pub file: String,
    /// The node's name.
    pub node: String,
}

/// One setting in which nodes differ.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Difference {
    /// As `network.mtu`; `key.overlay` and `key.agent` for the keys, whose values are check values.
    pub setting: String,
    /// What the first file says.
    pub one: String,
    /// The other node.
    pub node: String,
    /// What that node says.
    pub other: String,
    /// What comes of it.
    pub why: String,
}

/// One setting that could not be compared.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Unknown {
    /// As above.
    pub setting: String,
    /// Who does not say it, and why.
    pub why: String,
}

impl Comparison {
    /// Compares two.
    pub fn of(
        (one_file, one): (&str, &Shared),
        (other_file, other): (&str, &Shared),
    ) -> Comparison {
        let side = |file: &str, shared: &Shared| Side {
            file: file.to_owned(),
            // A text of somebody else, for a terminal.
            node: shared.node.escape_debug().to_string(),
        };
        let mut comparison = Comparison::new(side(one_file, one), Some(side(other_file, other)));
        for (setting, why) in SETTINGS {
            match (one.settings.get(setting), other.settings.get(setting)) {
                (Some(here), Some(there)) => {
                    comparison.compare(setting, here, (&other.node, there), why);
                }
                (None, None) => {}
                (here, _) => {
                    let (file, shared) = match here {
                        None => (one_file, one),
                        Some(_) => (other_file, other),
                    };
                    let reason = shared.missing.get(setting);
                    let reason = reason.map_or_else(|| "it does not say".to_owned(), Clone::clone);
                    comparison.unknown.push(Unknown {
                        setting: setting.to_owned(),
                        why: format!("{file}: {reason}"),
                    });
                }
            }
        }
        comparison
    }

    /// Nothing compared yet.
    pub fn new(one: Side, other: Option<Side>) -> Comparison {
        Comparison {
            agree: true,
            one,
            other,
            compared: Vec::new(),
            differences: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// Notes whether a node of this name has the same.
    pub fn compare(&mut self, setting: &str, here: &str, (node, there): (&str, &str), why: &str) {
        if !self.compared.iter().any(|known| known == setting) {
            self.compared.push(setting.to_owned());
        }
        if here == there {
            return;
        }
        self.agree = false;
        self.differences.push(Difference {
            setting: setting.to_owned(),
            one: here.to_owned(),
            node: node.escape_debug().to_string(),
            other: there.escape_debug().to_string(),
            why: why.to_owned(),
        });
    }

    /// Notes whether the tunnel of a node that runs is as large as it would be with the settings of `mine`.
    pub fn compare_tunnel(&mut self, mine: &Shared, node: &str, mtu: u16) {
        let (setting, why) = MTU;
        let Some(here) = mine.settings.get(setting) else {
            return;
        };
        let own = here.parse().map_or(0, tunnel_mtu);
        match own == mtu {
            true => self.compare(setting, here, (node, here), why),
            false => {
                let there = format!("{} (a tunnel of {mtu} bytes)", mtu + TUNNEL_OVERHEAD);
                self.compare(setting, here, (node, &there), why);
            }
        }
    }

    /// For a person.
    pub fn text(&self) -> String {
        let Side { file, node } = &self.one;
        let other = match &self.other {
            Some(other) => format!("{} ({})", other.node, other.file),
            None => "the running cluster".to_owned(),
        };
        let mut differing: Vec<&str> = (self.differences.iter())
            .map(|difference| difference.setting.as_str())
            .collect();
        differing.dedup();
        let count = self.compared.len();
        let mut out = match differing.len() {
            0 => format!(
                "{node} ({file}) and {other} agree in all {count} settings that were compared\n"
            ),
            some => format!(
                "{node} ({file}) and {other} differ in {some} of {count} settings that all nodes share:\n"
            ),
        };
        for difference in &self.differences {
            let Difference {
                setting,
                one,
                node: there,
                other,
                why,
            } = difference;
            let _ = writeln!(out, "  {setting}: {one} on {node}, {other} on {there}");
            let _ = writeln!(out, "    {why}");
        }
        for Unknown { setting, why } in &self.unknown {
            let _ = writeln!(out, "  not compared: {setting} ({why})");
        }
        out
    }
}
