//! What an uninstall needs to know of a node, from its config file, whatever else is wrong there: a key or a program that is
//! gone already must not keep the rest from going.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fault::{Exit, Fault};

/// A node, as its config file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The config file, resolved.
    pub config: PathBuf,
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub node: String,
    /// `node.storage`, resolved.
    pub storage: PathBuf,
    /// `<storage>/<node>`.
    pub directory: PathBuf,
    /// The key files that it names.
    pub keys: Vec<PathBuf>,
}

impl Outline {
    /// Reads it.
    ///
    /// # Errors
    /// `E-TARGET-CONFIG` when the file does not say which node this is, or where its data lies.
    pub fn read(config: &Path) -> Result<Outline, Fault> {
        let wrong = |what: String| {
            Fault::new("E-TARGET-CONFIG", format!("{}: {what}", config.display()))
                .exit(Exit::BadConfig)
        };
        let table = table(config).map_err(wrong)?;
        let value = |section, key| {
            text(&table, section, key).ok_or_else(|| wrong(format!("there is no {section}.{key}")))
        };
        let (cluster, node) = (value("cluster", "name")?, value("node", "name")?);
        for name in [cluster, node] {
            // They become part of paths in which everything is removed.
            let label =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if name.is_empty() || !name.bytes().all(label) {
                return Err(wrong(format!("\"{name}\" is not a name")));
            }
        }
        let storage = PathBuf::from(value("node", "storage")?);
        if !storage.is_absolute() {
            return Err(wrong("node.storage is not an absolute path".to_owned()));
        }
        let storage = storage.canonicalize().unwrap_or(storage);
        Ok(Outline {
            config: config.canonicalize().unwrap_or_else(|_| config.to_owned()),
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            directory: storage.join(node),
            storage,
            keys: keys(&table),
        })
    }

    /// Whether a folder holds this very node: `run` wrote the cluster's name into it before anything else.
    pub fn owns(&self, directory: &Path) -> bool {
        fs::read_to_string(directory.join("cluster")).is_ok_and(|text| text.trim() == self.cluster)
    }

    /// Another node's folder in the same storage, if there is one.
    pub fn neighbour(&self) -> Option<PathBuf> {
        let entries = fs::read_dir(&self.storage).ok()?.flatten();
        let mut folders = entries.map(|entry| entry.path());
        folders.find(|path| *path != self.directory && path.join("cluster").is_file())
    }

    /// Another config file beside this one that names the same key.
    pub fn other_user(&self, key: &Path) -> Option<PathBuf> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let entries = fs::read_dir(self.config.parent()?).ok()?.flatten();
        let mut others = entries.map(|entry| entry.path());
        others.find(|path| {
            let is_config = path
                .extension()
                .is_some_and(|extension| extension == "toml");
            is_config
                && real(path) != self.config
                && table(path)
                    .is_ok_and(|table| keys(&table).iter().any(|other| real(other) == real(key)))
        })
    }
}

fn table(config: &Path) -> Result<toml::Table, String> {
    let text = fs::read_to_string(config).map_err(|error| error.to_string())?;
    text.parse()
        .map_err(|error: toml::de::Error| error.to_string())
}

fn text<'a>(table: &'a toml::Table, section: &str, key: &str) -> Option<&'a str> {
    table.get(section)?.get(key)?.as_str()
}

fn keys(table: &toml::Table) -> Vec<PathBuf> {
    ["overlay_key_file", "cluster_key_file", "agent_key_file"]
        .into_iter()
        .filter_map(|key| text(table, "cluster", key))
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .collect()
}
