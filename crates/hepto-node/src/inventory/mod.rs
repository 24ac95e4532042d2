//! The guide's Ansible inventory, read as Ansible reads it, and turned into config files.
//!
//! `read` takes the lines apart, `words`, `literal` and `range` are Ansible's own small languages,
//! `node` checks the whole, `draft` writes a node's config. Nothing here writes a file or shows a key.

mod draft;
mod literal;
mod node;
mod range;
mod read;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

pub use literal::Literal;
pub use node::{Nodes, nodes};
pub use read::read;

/// Groups, hosts and their variables.
#[derive(Debug, Default)]
pub struct Inventory {
    groups: BTreeMap<String, Group>,
    hosts: BTreeMap<String, Host>,
    /// Hosts in the order of the file.
    order: Vec<String>,
}

#[derive(Debug, Default)]
struct Group {
    parents: BTreeSet<String>,
    variables: BTreeMap<String, Variable>,
}

#[derive(Debug, Default)]
struct Host {
    /// Where it is named, with the group.
    places: Vec<(String, Range<usize>)>,
    variables: BTreeMap<String, Variable>,
}

/// A variable's value and where it is set.
#[derive(Debug, Clone)]
pub struct Variable {
    /// As Python reads it.
    pub value: Literal,
    /// Its place in bytes of the file.
    pub span: Range<usize>,
}

impl Variable {
    /// The value as one word; `None` for lists and the like. A number is as it was written: it may be a key.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Literal::Text(text) | Literal::Number(text) => Some(text),
            Literal::Truth(true) => Some("True"),
            Literal::Truth(false) => Some("False"),
            Literal::Nothing | Literal::List(_) | Literal::Dict(_) => None,
        }
    }
}

/// The group to which every other belongs.
const ALL: &str = "all";

/// The group of hosts that stand in no other.
const UNGROUPED: &str = "ungrouped";

impl Inventory {
    /// The hosts of a group and of the groups below it, in the order of the file.
    pub fn members(&self, group: &str) -> Vec<&str> {
        let belongs = |host: &&String| self.groups_of(host).contains_key(group);
        self.order
            .iter()
            .filter(belongs)
            .map(String::as_str)
            .collect()
    }

    /// All hosts, in the order of the file.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.order.iter().map(String::as_str)
    }

    /// Whether the group has members or subgroups anywhere in the file.
    pub fn has_group(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// Where a host is first named.
    pub fn place(&self, host: &str) -> Range<usize> {
        let place = self.hosts.get(host).and_then(|host| host.places.first());
        place.map_or(0..0, |(_, span)| span.clone())
    }

    /// A host's variables: its own over its groups', of those the deeper over the shallower, then by name.
    pub fn variables(&self, host: &str) -> BTreeMap<&str, &Variable> {
        let mut groups: Vec<(usize, i64, &str)> = self
            .groups_of(host)
            .into_iter()
            .map(|(name, depth)| (depth, self.priority(name), name))
            .collect();
        groups.sort_unstable();
        let group_variables = groups
            .iter()
            .filter_map(|(_, _, name)| self.groups.get(*name));
        let own = self.hosts.get(host).map(|host| &host.variables);
        let layers = group_variables.map(|group| &group.variables).chain(own);
        layers
            .flatten()
            .map(|(name, variable)| (name.as_str(), variable))
            .collect()
    }

    fn priority(&self, group: &str) -> i64 {
        let set = self
            .groups
            .get(group)
            .and_then(|group| group.variables.get("ansible_group_priority"));
        set.and_then(|variable| variable.text()?.parse().ok())
            .unwrap_or(1)
    }

    /// Every group that a host belongs to, with its depth below `all`.
    fn groups_of(&self, host: &str) -> BTreeMap<&str, usize> {
        let places = self
            .hosts
            .get(host)
            .into_iter()
            .flat_map(|host| &host.places);
        let mut waiting: Vec<&str> = places.map(|(group, _)| group.as_str()).collect();
        let mut groups = BTreeMap::from([(ALL, 0)]);
        while let Some(name) = waiting.pop() {
            if groups.contains_key(name) {
                continue;
            }
            groups.insert(name, self.depth(name));
            let parents = self
                .groups
                .get(name)
                .into_iter()
                .flat_map(|group| &group.parents);
            waiting.extend(parents.map(String::as_str));
        }
        groups
    }

    /// The longest way up to `all`. Loops were refused when the group was read.
    fn depth(&self, group: &str) -> usize {
        let parents = self
            .groups
            .get(group)
            .into_iter()
            .flat_map(|group| &group.parents);
        parents.map(|parent| self.depth(parent)).max().unwrap_or(0) + usize::from(group != ALL)
    }

    /// Whether `ancestor` is `group` or lies above it.
    fn is_below(&self, group: &str, ancestor: &str) -> bool {
        let mut parents = self
            .groups
            .get(group)
            .into_iter()
            .flat_map(|group| &group.parents);
        group == ancestor || parents.any(|parent| self.is_below(parent, ancestor))
    }
}

#[cfg(test)]
mod tests;
