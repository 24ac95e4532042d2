//! Draining: no new pods, and those that can be elsewhere are asked to go there, by the node itself. On a server the
//! administrator's certificate asks; an agent's kubelet may cordon its own node and evict its own pods, and no others
//! (NodeRestriction, `admitPodEviction` and `admitNode` in Kubernetes' plugin/pkg/admission/noderestriction).
//!
//! Left alone are a DaemonSet's pods, which would be back at once, static ones, and those that nobody would make anew.
//! Whose wish it was lies in the node's folder: what a stop cordoned, the next start gives free; what the owner did stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::https::{self, Question};
use super::ready::Target;

/// The mark in the node's folder.
const MARK: &str = "drained";
/// Between two looks at what is left.
const PAUSE: Duration = Duration::from_secs(1);
/// More pods than a node may have, at the length of large ones, bytes.
const MOST: usize = 16 << 20;
/// For a question and its answer, which may be megabytes from another home.
const WITHIN: Duration = Duration::from_secs(30);

/// Whose wish it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The host's owner's: until he lifts it.
    Owner,
    /// A stop's: until the node is ready again.
    Stop,
}

/// Why a node cannot be drained, or given free.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server cannot be asked.
    #[error("{what}: {source}")]
    Silent {
        /// What was asked for.
        what: &'static str,
        /// Why it cannot.
        source: https::Error,
    },
    /// It says no.
    #[error("{what}: the API server answers {status}: {why}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// Its words.
        why: String,
    },
    /// The node's folder cannot be written.
    #[error("cannot note in {path} that the node is drained: {source}")]
    Mark {
        /// The file.
        path: String,
        /// What the kernel says.
        source: io::Error,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Silent { .. } | Error::Refused { .. } => "E-DRAIN-API",
            Error::Mark { .. } => "E-DRAIN-MARK",
        }
    }

    /// What mends it.
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            Error::Silent { .. } => {
                "wait until the master is reached and k3s is ready (hepto-node status)".into()
            }
            Error::Refused { .. } => {
                "ask the cluster's administrator to drain the node with kubectl".into()
            }
            Error::Mark { .. } => "make room in `node.storage` and let root write there".into(),
        })
    }
}

/// What a drain came to; pods as `namespace/name`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drained {
    /// Gone.
    pub gone: BTreeSet<String>,
    /// Still there when the time was over, each with why.
    pub left: BTreeMap<String, String>,
    /// Not asked to go: nobody would make them anew.
    pub bare: BTreeSet<String>,
}

/// Whose wish it is that no pods come to the node of this folder, if it is anybody's.
pub fn mark(directory: &Path) -> Option<By> {
    match fs::read_to_string(directory.join(MARK)) {
        Ok(text) if text.trim() == "stop" => Some(By::Stop),
        Ok(_) => Some(By::Owner),
        Err(_) => None,
    }
}

/// Cordons the node and evicts its pods, until they are gone or it is `deadline`; `tell` hears of each that is asked to
/// go. Blocks; to be called inside the node's network.
///
/// # Errors
/// When the API server cannot be asked, or refuses; the node may be cordoned by then.
pub fn drain(
    target: &Target,
    by: By,
    deadline: Instant,
    tell: &dyn Fn(&str),
) -> Result<Drained, Error> {
    // The owner's own word outlasts a stop's.
    if mark(&target.directory) != Some(By::Owner) {
        note(&target.directory, by)?;
    }
    cordon(target, true)?;
    let mut drained = Drained::default();
    let (mut seen, mut asked) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let (going, bare) = sort(pods(target)?);
        drained.bare = bare;
        let names: BTreeSet<String> = going.iter().map(Pod::name).collect();
        seen.extend(names.iter().cloned());
        drained.gone = seen.difference(&names).cloned().collect();
        drained.left = BTreeMap::new();
        for pod in &going {
            let name = pod.name();
            if pod.metadata.deletion_timestamp.is_none() && !asked.contains(&name) {
                if let Some(why) = evict(target, pod)? {
                    drained.left.insert(name, why);
                    continue;
                }
                tell(&name);
                asked.insert(name.clone());
            }
            drained.left.insert(name, "it takes longer to end".into());
        }
        if going.is_empty() || Instant::now() >= deadline {
            return Ok(drained);
        }
        sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
    }
}

/// Lets pods come again.
///
/// # Errors
/// When the API server cannot be asked, or refuses; when the mark cannot be removed.
pub fn uncordon(target: &Target) -> Result<(), Error> {
    cordon(target, false)?;
    let path = target.directory.join(MARK);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::Mark {
            path: path.display().to_string(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Gives free what a stop cordoned, and leaves alone what the owner did.
///
/// # Errors
/// As [`uncordon`].
pub fn lift(target: &Target) -> Result<(), Error> {
    match mark(&target.directory) {
        Some(By::Stop) => uncordon(target),
        Some(By::Owner) | None => Ok(()),
    }
}

fn note(directory: &Path, by: By) -> Result<(), Error> {
    let path = directory.join(MARK);
    let word = match by {
        By::Owner => "owner\n",
        By::Stop => "stop\n",
    };
    fs::write(&path, word).map_err(|source| Error::Mark {
        path: path.display().to_string(),
        source,
    })
}

fn cordon(target: &Target, on: bool) -> Result<(), Error> {
    let question = Question {
        method: "PATCH",
        path: &format!("/api/v1/nodes/{}", target.node),
        body: Some((
            "application/merge-patch+json",
            json!({ "spec": { "unschedulable": on } }).to_string(),
        )),
        most: MOST,
        within: WITHIN,
    };
    ask(target, "cordoning the node", &question).map(drop)
}

fn pods(target: &Target) -> Result<Vec<Pod>, Error> {
    let what = "listing the node's pods";
    let question = Question {
        method: "GET",
        path: &format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", target.node),
        body: None,
        most: MOST,
        within: WITHIN,
    };
    let body = ask(target, what, &question)?;
    let list: PodList = serde_json::from_str(&body).map_err(|error| Error::Refused {
        what,
        status: 200,
        why: format!("something that is no list of pods: {error}"),
    })?;
    Ok(list.items)
}

/// Asks a pod to go; why it may not, now.
fn evict(target: &Target, pod: &Pod) -> Result<Option<String>, Error> {
    let Metadata {
        name, namespace, ..
    } = &pod.metadata;
    let eviction = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": { "name": name, "namespace": namespace },
    });
    let question = Question {
        method: "POST",
        path: &format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction"),
        body: Some(("application/json", eviction.to_string())),
        most: MOST,
        within: WITHIN,
    };
    match ask(target, "evicting a pod", &question) {
        Ok(_) | Err(Error::Refused { status: 404, .. }) => Ok(None),
        // Its disruption budget; it is asked again.
        Err(Error::Refused {
            status: 429, why, ..
        }) => Ok(Some(why)),
        Err(error) => Err(error),
    }
}

fn ask(target: &Target, what: &'static str, question: &Question<'_>) -> Result<String, Error> {
    let answered = https::ask(target.api(), question, Some(&target.credentials()));
    let answer = answered.map_err(|source| Error::Silent { what, source })?;
    if (200..300).contains(&answer.status) {
        return Ok(answer.body);
    }
    let status = answer.status;
    let said = serde_json::from_str::<Said>(&answer.body).map(|said| said.message);
    let why = said.unwrap_or(answer.body);
    Err(Error::Refused { what, status, why })
}

/// The pods that are to go, and those that nobody would make anew.
fn sort(pods: Vec<Pod>) -> (Vec<Pod>, BTreeSet<String>) {
    let (mut going, mut bare) = (Vec::new(), BTreeSet::new());
    for pod in pods {
        let owner = pod
            .metadata
            .owner_references
            .iter()
            .find(|owner| owner.controller);
        let ended = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
        let fixed = pod
            .metadata
            .annotations
            .contains_key("kubernetes.io/config.mirror");
        match owner.map(|owner| owner.kind.as_str()) {
            _ if ended || fixed => {}
            Some("DaemonSet") => {}
            Some(_) => going.push(pod),
            None => drop(bare.insert(pod.name())),
        }
    }
    (going, bare)
}

/// What we read of a `PodList`.
#[derive(Debug, Deserialize)]
struct PodList {
    #[serde(default)]
    items: Vec<Pod>,
}

#[derive(Debug, Clone, Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: String,
    owner_references: Vec<Owner>,
    annotations: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Owner {
    kind: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
}

/// What we read of a `Status`.
#[derive(Debug, Deserialize)]
struct Said {
    message: String,
}

impl Pod {
    fn name(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_that_come_back_elsewhere_are_asked_to_go() {
        let pod = |name: &str, owner: Option<&str>, phase: &str, mirror: bool| {
            let owners: Vec<_> = owner
                .map(|kind| json!({ "kind": kind, "name": "x", "uid": "1", "controller": true }))
                .into_iter()
                .collect();
            let annotations = if mirror {
                json!({ "kubernetes.io/config.mirror": "x" })
            } else {
                json!({})
            };
            json!({
                "metadata": { "name": name, "namespace": "n", "ownerReferences": owners, "annotations": annotations },
                "spec": {}, "status": { "phase": phase },
            })
        };
        let list = json!({ "kind": "PodList", "items": [
            pod("web", Some("ReplicaSet"), "Running", false),
            pod("db", Some("StatefulSet"), "Pending", false),
            pod("log", Some("DaemonSet"), "Running", false),
            pod("job", Some("Job"), "Succeeded", false),
            pod("static", Some("Node"), "Running", true),
            pod("lonely", None, "Running", false),
        ]});
        let list: PodList = serde_json::from_value(list).unwrap();
        let (going, bare) = sort(list.items);
        assert_eq!(
            going.iter().map(Pod::name).collect::<Vec<_>>(),
            ["n/web", "n/db"]
        );
        assert_eq!(bare.into_iter().collect::<Vec<_>>(), ["n/lonely"]);
    }

    #[test]
    fn whose_wish_it_was_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(mark(folder.path()), None);
        for by in [By::Stop, By::Owner] {
            note(folder.path(), by).unwrap();
            assert_eq!(mark(folder.path()), Some(by));
        }
    }
}
