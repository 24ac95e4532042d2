//! The config file as k3s would read it: a mapping of flags, each a scalar or a list.
//!
//! hepto-node writes every value as JSON, which is YAML; anything else in the file is refused here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// Which of k3s's two halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Server,
    Agent,
}

impl Role {
    pub fn word(self) -> &'static str {
        match self {
            Role::Server => "server",
            Role::Agent => "agent",
        }
    }
}

/// What the file says.
#[derive(Debug, Clone)]
pub struct Config {
    pub role: Role,
    pub file: PathBuf,
    pub values: BTreeMap<String, Value>,
    /// `data-dir`
    pub data: PathBuf,
    /// `node-name`
    pub node: String,
    /// `node-ip`
    pub addresses: Vec<IpAddr>,
}

impl Config {
    pub fn read(role: Role, file: &Path) -> anyhow::Result<Config> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        let mut values = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line
                .split_once(": ")
                .with_context(|| format!("{line:?} is not `flag: value`"))?;
            let value: Value =
                serde_json::from_str(value).with_context(|| format!("{line:?}: unsafe quoting"))?;
            ensure!(
                !value.is_object() && !value.is_null(),
                "{line:?}: neither scalar nor list"
            );
            if values.insert(name.to_owned(), value).is_some() {
                bail!("{name} is set twice");
            }
        }
        let word = |name: &str| -> anyhow::Result<String> {
            let value = values
                .get(name)
                .with_context(|| format!("{name} is not set"))?;
            Ok(value
                .as_str()
                .with_context(|| format!("{name} is not a string"))?
                .to_owned())
        };
        let addresses = word("node-ip")?
            .split(',')
            .map(|address| {
                address
                    .parse()
                    .with_context(|| format!("node-ip: {address:?}"))
            })
            .collect::<Result<_, _>>()?;
        let (data, node) = (PathBuf::from(word("data-dir")?), word("node-name")?);
        Ok(Config {
            role,
            file: file.to_owned(),
            data,
            node,
            addresses,
            values,
        })
    }

    /// A flag's only value.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.as_str()
    }

    /// A flag's values, given as a list or as one.
    pub fn list(&self, name: &str) -> Vec<&str> {
        match self.values.get(name) {
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(item)) => vec![item],
            _ => vec![],
        }
    }

    /// Whether a switch is on.
    pub fn on(&self, name: &str) -> bool {
        matches!(self.values.get(name), Some(Value::Bool(true)))
    }

    /// The token in the file that `flag` names, as k3s takes it: without white space around it.
    pub fn token(&self, flag: &str) -> anyhow::Result<String> {
        let path = self
            .text(flag)
            .with_context(|| format!("{flag} is not set"))?;
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{flag}: {path} cannot be read"))?;
        Ok(text.trim().to_owned())
    }
}
