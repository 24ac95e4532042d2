//! One node's config file in the making: variables become keys, and errors keep the inventory's places.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::{Literal, Variable};
use crate::config::{self, Diagnostic};
use crate::k3s::acquire::EMBEDDED;

/// How a variable is written in a config file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Truth,
    /// A list, or text with commas.
    List,
}

/// Variables and the config keys that they become: the guide's, then one for every other key.
const VARIABLES: &[(&str, &str, &str, Kind)] = &[
    ("iface", "network", "interface", Kind::Text),
    ("network_mode", "network", "mode", Kind::Text),
    ("ip", "network", "addresses", Kind::List),
    ("gw", "network", "gateways", Kind::List),
    ("dns", "network", "dns", Kind::List),
    ("mtu", "network", "mtu", Kind::Whole),
    ("open", "network", "open", Kind::List),
    ("firewall", "network", "firewall", Kind::Text),
    ("host_link", "network", "host_link", Kind::Truth),
    ("storage_base", "node", "storage", Kind::Text),
    ("data", "node", "data", Kind::List),
    ("cluster_name", "cluster", "name", Kind::Text),
    ("master", "cluster", "master", Kind::Text),
    ("anchors", "cluster", "anchors", Kind::List),
    ("ula", "cluster", "ula", Kind::Text),
    ("pod_cidrs", "cluster", "pod_cidrs", Kind::List),
    ("service_cidrs", "cluster", "service_cidrs", Kind::List),
    ("mesh_port", "mesh", "port", Kind::Whole),
    ("mesh_ipv4", "mesh", "ipv4", Kind::Text),
    ("mesh_addressing", "mesh", "addressing", Kind::Text),
    ("mesh_endpoints", "mesh", "endpoints", Kind::List),
    ("k3s_enabled", "k3s", "enabled", Kind::Truth),
    ("k3s_binary", "k3s", "binary", Kind::Text),
    ("k3s_version", "k3s", "version", Kind::Text),
    ("k3s_sha256", "k3s", "sha256", Kind::Text),
    ("k3s_mirror", "k3s", "mirror", Kind::Text),
    ("k3s_ca_file", "k3s", "ca_file", Kind::Text),
    ("k3s_airgap_images", "k3s", "airgap_images", Kind::Text),
    ("k3s_args", "k3s", "args", Kind::List),
    ("k3s_drain", "k3s", "drain", Kind::Text),
    ("k3s_upgrade_timeout", "k3s", "upgrade_timeout", Kind::Text),
];

/// How a router outside every prefix is written in an inventory, in a host's line.
const ONLINK: &str = "correct it or the prefix; if the router is meant to be reached so: \
                      gw='[{\"via\": \"ADDRESS\", \"onlink\": True}]'";

/// The variables that mean something.
pub fn names() -> impl Iterator<Item = &'static str> {
    VARIABLES.iter().map(|(name, ..)| *name)
}

/// The words of a list, or of text with commas.
pub fn items(variable: &Variable) -> Vec<&str> {
    match &variable.value {
        Literal::List(items) => items.iter().filter_map(word).collect(),
        value => {
            let items = word(value).unwrap_or_default().split(',').map(str::trim);
            items.filter(|item| !item.is_empty()).collect()
        }
    }
}

fn word(value: &Literal) -> Option<&str> {
    match value {
        Literal::Text(text) | Literal::Number(text) => Some(text.trim()),
        _ => None,
    }
}

/// A config file in the making: its text, and which variable each line comes from.
pub struct Draft {
    /// The node's name.
    pub name: String,
    /// Whether it is the master.
    pub is_master: bool,
    /// The text of the file.
    pub text: String,
    origins: Vec<(Range<usize>, Range<usize>)>,
    /// The node's own place, for lines that come from no variable.
    place: Range<usize>,
    found: Vec<Diagnostic>,
}

impl Draft {
    /// The config of the node `name`, whose keys lie in `keys_at`.
    pub fn new(
        name: &str,
        place: Range<usize>,
        variables: &BTreeMap<&str, &Variable>,
        cluster: &str,
        keys_at: &Path,
    ) -> Draft {
        let mut draft = Draft {
            name: name.to_owned(),
            is_master: variables
                .get("master")
                .is_some_and(|master| master.text() == Some(name)),
            text: "# Made from an Ansible inventory by `hepto-node import-inventory`.\n".to_owned(),
            origins: Vec::new(),
            place,
            found: Vec::new(),
        };
        for section in ["node", "network", "cluster", "mesh", "k3s"] {
            draft.text.push_str(&format!("\n[{section}]\n"));
            draft.given(section, variables, cluster);
            draft.variables(section, variables);
            if section == "cluster" {
                draft.key_files(cluster, keys_at);
            }
        }
        draft
    }

    /// What a config needs and the guide's inventory does not say.
    fn given(&mut self, section: &str, variables: &BTreeMap<&str, &Variable>, cluster: &str) {
        let k3s_is_named = ["k3s_binary", "k3s_version"]
            .iter()
            .any(|name| variables.contains_key(name));
        match section {
            "node" => self.line(&format!("name = {}", quoted(&self.name)), None),
            "cluster" if !variables.contains_key("cluster_name") => {
                self.line(&format!("name = {}", quoted(cluster)), None);
            }
            // The guide's inventory knows no version, and its reader expects that k3s comes by itself: the one that this
            // program carries, else the release that the default file names.
            "k3s" if EMBEDDED.is_none() && !k3s_is_named => {
                let example = config::example("k3s.version");
                self.line(example.expect("the default file has every key"), None);
            }
            _ => {}
        }
    }

    fn variables(&mut self, section: &str, variables: &BTreeMap<&str, &Variable>) {
        for (name, _, key, kind) in VARIABLES.iter().filter(|(_, home, ..)| *home == section) {
            let Some(variable) = variables.get(name) else {
                continue;
            };
            match value(variable, *kind) {
                Ok(value) => self.line(&format!("{key} = {value}"), Some(variable.span.clone())),
                Err(fix) => {
                    let what = format!("`{name}` has the wrong kind of value");
                    let refused = Diagnostic::error("E-INV-VALUE", what).at(variable.span.clone());
                    self.found.push(refused.fix(fix));
                }
            }
        }
    }

    fn key_files(&mut self, cluster: &str, keys_at: &Path) {
        for purpose in ["overlay", if self.is_master { "cluster" } else { "agent" }] {
            let path = keys_at.join(format!("{cluster}.{purpose}.key"));
            self.line(
                &format!(
                    "{purpose}_key_file = {}",
                    quoted(&path.display().to_string())
                ),
                None,
            );
        }
    }

    fn line(&mut self, line: &str, origin: Option<Range<usize>>) {
        let start = self.text.len();
        self.text.push_str(line);
        self.text.push('\n');
        self.origins.push((
            start..self.text.len(),
            origin.unwrap_or_else(|| self.place.clone()),
        ));
    }

    /// What is wrong with it, also in the eyes of `config check`, at the inventory's own places.
    pub fn found(&self) -> Vec<Diagnostic> {
        let report = config::form(Path::new(&self.name), &self.text);
        let said = report
            .diagnostics
            .into_iter()
            .filter(|found| match found.severity {
                // What is missing was said in the inventory's own words.
                config::Severity::Error => found.code != "E-CONFIG-MISSING",
                // A warning may be about what is not there only because it was refused.
                config::Severity::Warning => self.found.is_empty(),
            });
        let moved = said.map(|mut found| {
            let at = found.span.as_ref().map_or(0, |span| span.start);
            let origin = self.origins.iter().find(|(line, _)| line.contains(&at));
            found.span =
                Some(origin.map_or_else(|| self.place.clone(), |(_, place)| place.clone()));
            found.related = None;
            if found.code == "E-NET-GW-OUTSIDE" {
                found.fix = Some(ONLINK.to_owned());
            }
            found
        });
        self.found.iter().cloned().chain(moved).collect()
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// The value as TOML, or how to write it.
fn value(variable: &Variable, kind: Kind) -> Result<String, String> {
    let word = variable.text();
    let refuse = |fix: &str| Err(fix.to_owned());
    match (kind, &variable.value) {
        (Kind::Text, _) => match word {
            Some(text) => Ok(quoted(text)),
            None => refuse("write one word, or text in quotes"),
        },
        (Kind::Whole, _) => match word.and_then(|text| text.parse::<i64>().ok()) {
            Some(number) => Ok(number.to_string()),
            None => refuse("write a whole number, as in 1400"),
        },
        (Kind::Truth, _) => match word {
            Some("True" | "true" | "yes" | "on") => Ok("true".to_owned()),
            Some("False" | "false" | "no" | "off") => Ok("false".to_owned()),
            _ => refuse("write True or False"),
        },
        (Kind::List, Literal::Text(text)) if text.starts_with('[') && text.ends_with(']') => {
            refuse(
                "in a host's line the quotes within a list vanish: write words with commas between, or put the list in single quotes",
            )
        }
        (Kind::List, Literal::Dict(_) | Literal::Nothing | Literal::Truth(_)) => {
            refuse("write a list as in [\"one\", \"two\"], or words with commas between")
        }
        (Kind::List, Literal::List(items)) => {
            match items.iter().map(item).collect::<Option<Vec<_>>>() {
                Some(items) => Ok(format!("[{}]", items.join(", "))),
                None => refuse("write a list of words, as in [\"one\", \"two\"]"),
            }
        }
        (Kind::List, _) => {
            let items: Vec<String> = items(variable).into_iter().map(quoted).collect();
            Ok(format!("[{}]", items.join(", ")))
        }
    }
}

/// One of a list as TOML: a word, or a dict of words as a gateway may be.
fn item(value: &Literal) -> Option<String> {
    let Literal::Dict(pairs) = value else {
        return word(value).map(quoted);
    };
    let pairs = pairs.iter().map(|(key, value)| {
        let key = word(key).filter(|key| key.bytes().all(|byte| byte.is_ascii_lowercase()))?;
        match value {
            Literal::Truth(truth) => Some(format!("{key} = {truth}")),
            value => Some(format!("{key} = {}", quoted(word(value)?))),
        }
    });
    let pairs: Vec<String> = pairs.collect::<Option<_>>()?;
    Some(format!("{{ {} }}", pairs.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The role collects these and no others from Ansible's variables.
    #[test]
    fn the_ansible_role_knows_the_same_variables() {
        let role = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../dist/ansible/collections/ansible_collections/acides/hepto/roles/node/vars/main.yml"
        ));
        let listed = role.lines().skip_while(|line| *line != "hepto_variables:");
        let listed: BTreeSet<&str> = listed
            .skip(1)
            .map_while(|line| line.strip_prefix("  - "))
            .collect();
        let known: BTreeSet<&str> = names().chain(["overlay_key", "cluster_key"]).collect();
        assert_eq!(listed, known);
    }
}
