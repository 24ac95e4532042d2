//! What all nodes of a cluster must have alike, out of one node's config; in place of each key a check value, so that two
//! owners can compare without showing each other a key.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::read_text;
use crate::fault::{Exit, Fault};

/// A setting, and what comes of it when two nodes differ in it.
pub const SETTINGS: [(&str, &str); 11] = [
    (
        "cluster.name",
        "every address and key follows from it: nodes of two names never meet",
    ),
    (
        "cluster.master",
        "agents look for the Kubernetes server under this name",
    ),
    (
        "cluster.ula",
        "the nodes' IPv6 addresses follow from it: each drops the packets of the other",
    ),
    (
        "cluster.pod_cidrs",
        "a node carries packets of pods within these networks alone",
    ),
    (
        "cluster.service_cidrs",
        "a node keeps these networks apart from its home's",
    ),
    (
        "mesh.ipv4",
        "the nodes' IPv4 addresses follow from it: each drops the packets of the other",
    ),
    (
        "mesh.addressing",
        "the nodes' IPv4 addresses follow from it: each drops the packets of the other",
    ),
    MTU,
    (
        "k3s.version",
        "an agent may be older than the master while a cluster is upgraded, and never newer",
    ),
    (
        "key.overlay",
        "the mesh takes a node with another overlay key for a stranger",
    ),
    (
        "key.agent",
        "k3s on the master refuses an agent with another key",
    ),
];

/// The one of them that nodes tell one another while they run.
pub const MTU: (&str, &str) = (
    "network.mtu",
    "large packets are lost on the way, and small ones arrive: connections that open and then hang",
);

/// The form of the text that [`Shared::fingerprint`] writes.
const FORM: u32 = 1;

/// What one node says of the settings that a cluster shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Its name.
    pub node: String,
    /// By the names of [`SETTINGS`], as far as they are known.
    pub settings: BTreeMap<String, String>,
    /// Why a setting is not known, where there is something to say.
    pub missing: BTreeMap<String, String>,
}

/// The text.
#[derive(Serialize, Deserialize)]
struct Text {
    fingerprint: u32,
    node: String,
    shared: BTreeMap<String, String>,
}

impl Shared {
    /// Takes up a setting that is there, or why it is not known.
    pub fn note(&mut self, setting: &str, value: Option<Result<String, String>>) {
        match value {
            Some(Ok(value)) => drop(self.settings.insert(setting.to_owned(), value)),
            Some(Err(why)) => drop(self.missing.insert(setting.to_owned(), why)),
            None => {}
        }
    }

    /// A text for the other owner, to be sent by any way: there is no secret in it.
    ///
    /// # Errors
    /// A value that TOML cannot hold, which none is.
    pub fn fingerprint(&self) -> Result<String, toml::ser::Error> {
        let text = Text {
            fingerprint: FORM,
            node: self.node.clone(),
            shared: self.settings.clone(),
        };
        Ok(format!(
            "# What all nodes of a cluster share, from one node's config. There is\n\
             # no key in it: check values are equal when the keys are. To compare:\n\
             # hepto-node config diff YOUR.toml THIS.txt\n{}",
            toml::to_string(&text)?
        ))
    }

    /// Reads such a text; `None` for a file that is something else, as a config is.
    ///
    /// # Errors
    /// `E-CONFIG-FINGERPRINT`, for one of a later version or one that was cut.
    pub fn read(path: &Path) -> Result<Option<Shared>, Fault> {
        let refuse = |what: String| {
            let what = format!(
                "{} is no fingerprint that can be read: {what}",
                path.display()
            );
            Fault::new("E-CONFIG-FINGERPRINT", what)
                .fix("have it made anew there: hepto-node config fingerprint FILE")
                .exit(Exit::BadConfig)
        };
        let Ok(text) = read_text(path) else {
            // Said with all that is to be said of config files.
            return Ok(None);
        };
        // Mail programs put this before each line of a mail that is answered.
        let lines = text.lines().map(|line| line.trim_start_matches(['>', ' ']));
        let text = lines.collect::<Vec<_>>().join("\n");
        if !text.lines().any(|line| line.starts_with("fingerprint = ")) {
            return Ok(None);
        }
        let read: Text = toml::from_str(&text).map_err(|error| refuse(error.message().into()))?;
        if read.fingerprint != FORM {
            return Err(refuse(format!(
                "its form is {}, and {FORM} is known here",
                read.fingerprint
            )));
        }
        Ok(Some(Shared {
            node: read.node,
            settings: read.shared,
            missing: BTreeMap::new(),
        }))
    }
}
