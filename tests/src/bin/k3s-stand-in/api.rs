//! The few paths of k3s's API on port 6443 that matter to supervisor and agents, and the nodes behind them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use base64::Engine;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::datastore::Datastore;
use crate::eviction::{Evicted, Pods};
use crate::pki::Authorities;

/// Seconds without a sign after which a node is not Ready.
const GRACE: u64 = 10;

/// A question, read.
#[derive(Debug, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// The certificate (DER) that the client proved; none for an anonymous one.
    pub certificate: Option<Vec<u8>>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

fn answer(status: u16, body: impl Into<String>) -> Answer {
    Answer {
        status,
        body: body.into(),
    }
}

/// A registered node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Node {
    /// `/etc/rancher/node/password` of its first registration: it proves the same node later.
    password: String,
    /// The certificate (DER) that it was given.
    certificate: Vec<u8>,
    addresses: Vec<String>,
    registered: bool,
    /// No new pods.
    #[serde(default)]
    unschedulable: bool,
    /// When it was last heard, in seconds since 1970.
    heard: u64,
}

/// The API's state.
pub struct Api {
    authorities: Authorities,
    datastore: Datastore,
    token: String,
    agent_token: String,
    admin: Vec<u8>,
    nodes: Mutex<BTreeMap<String, Node>>,
    pods: Pods,
}

/// Who asks.
#[derive(PartialEq, Eq)]
enum Who {
    Anonymous,
    Admin,
    Node(String),
}

impl Api {
    pub fn open(
        data: &Path,
        authorities: Authorities,
        token: String,
        agent_token: String,
    ) -> anyhow::Result<Api> {
        let datastore = Datastore::open(data)?;
        let nodes = match datastore.nodes()? {
            Some(text) => serde_json::from_str(&text).context("nodes in the datastore")?,
            None => BTreeMap::new(),
        };
        let admin = crate::client::certificates(&authorities.path("client-admin.crt"))?;
        let admin = admin.first().context("client-admin.crt is empty")?.to_vec();
        Ok(Api {
            authorities,
            datastore,
            token,
            agent_token,
            admin,
            nodes: Mutex::new(nodes),
            pods: Pods::new(data.join("stand-in.pods")),
        })
    }

    pub fn answer(&self, request: &Request) -> Answer {
        let path = request.path.split('?').next().unwrap_or_default();
        let who = self.who(request);
        match (request.method.as_str(), path) {
            ("GET", "/cacerts") => {
                match std::fs::read_to_string(self.authorities.path("server-ca.crt")) {
                    Ok(text) => answer(200, text),
                    Err(error) => answer(500, error.to_string()),
                }
            }
            ("GET", "/v1-k3s/client-kubelet.crt") => self.join(request),
            _ if who == Who::Anonymous => answer(401, "Unauthorized"),
            ("GET", "/readyz") => answer(200, "[+]ping ok\nreadyz check passed\n"),
            ("GET", "/api/v1/nodes") if who == Who::Admin => self.list(),
            ("POST", "/api/v1/nodes") => self.register(&who, &request.body),
            ("GET", "/api/v1/pods") => self.pods(&who, &request.path),
            ("POST", path) if path.ends_with("/eviction") => self.evict(&who, path),
            ("PATCH", path) => match path.strip_prefix("/api/v1/nodes/") {
                Some(name) => self.cordon(&who, name, request),
                None => answer(404, "not found"),
            },
            ("GET", path) => match path.strip_prefix("/api/v1/nodes/") {
                Some(name) => self.get(&who, name),
                None => answer(404, "not found"),
            },
            _ => answer(403, "forbidden"),
        }
    }

    fn who(&self, request: &Request) -> Who {
        let Some(certificate) = &request.certificate else {
            return Who::Anonymous;
        };
        if *certificate == self.admin {
            return Who::Admin;
        }
        let nodes = self.nodes();
        let node = nodes
            .iter()
            .find(|(_, node)| node.certificate == *certificate);
        node.map_or(Who::Anonymous, |(name, _)| Who::Node(name.clone()))
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Node>> {
        self.nodes
            .lock()
            .expect("no thread panics while it holds the nodes")
    }

    /// A node shows the token and its password, and gets a certificate.
    fn join(&self, request: &Request) -> Answer {
        let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
        let shown = header("authorization");
        let basic = |token: &str| {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("node:{token}"));
            shown == format!("Basic {pair}")
        };
        if !basic(&self.token) && !basic(&self.agent_token) {
            eprintln!("a node showed a wrong token");
            return answer(401, "Unauthorized");
        }
        let (name, password) = (header("k3s-node-name"), header("k3s-node-password"));
        if name.is_empty() || password.is_empty() {
            return answer(400, "name or password is missing");
        }
        let pair = match self
            .authorities
            .client(&format!("system:node:{name}"), Some("system:nodes"))
        {
            Ok(pair) => pair,
            Err(error) => return answer(500, error.to_string()),
        };
        let Ok(certificate) = crate::client::certificate(pair.certificate.as_bytes()) else {
            return answer(500, "an unreadable certificate");
        };
        let mut nodes = self.nodes();
        let node = nodes.entry(name.clone()).or_default();
        if !node.password.is_empty() && node.password != password {
            eprintln!("{name} came with another node password");
            return answer(403, "Node password rejected, duplicate hostname");
        }
        node.password = password;
        node.certificate = certificate.to_vec();
        answer(200, pair.certificate + &pair.key)
    }

    /// A node's first and every later sign of life.
    fn register(&self, who: &Who, body: &str) -> Answer {
        let (Ok(body), Who::Node(own)) = (serde_json::from_str::<Value>(body), who) else {
            return answer(403, "forbidden");
        };
        if body["metadata"]["name"].as_str() != Some(own) {
            return answer(403, "a node may register itself alone");
        }
        let addresses = body["status"]["addresses"].as_array().into_iter().flatten();
        let addresses = addresses
            .filter_map(|address| Some(address["address"].as_str()?.to_owned()))
            .collect();
        let mut nodes = self.nodes();
        let node = nodes.entry(own.clone()).or_default();
        if !node.registered {
            eprintln!("{own} is registered");
        }
        *node = Node {
            addresses,
            registered: true,
            heard: now(),
            ..node.clone()
        };
        match serde_json::to_string(&*nodes)
            .map_err(anyhow::Error::from)
            .and_then(|text| self.datastore.set_nodes(&text))
        {
            Ok(()) => answer(201, "{}"),
            Err(error) => answer(500, error.to_string()),
        }
    }

    fn get(&self, who: &Who, name: &str) -> Answer {
        if !matches!(who, Who::Admin) && *who != Who::Node(name.to_owned()) {
            return answer(403, "forbidden");
        }
        match self.nodes().get(name).filter(|node| node.registered) {
            Some(node) => answer(200, object(name, node).to_string()),
            None => answer(404, "not found"),
        }
    }

    /// A node lists its own pods alone, as the node authorizer has it.
    fn pods(&self, who: &Who, path: &str) -> Answer {
        let asked = path.split_once("?fieldSelector=spec.nodeName%3D");
        match (asked, who) {
            (Some((_, name)), Who::Admin) => answer(200, self.pods.list(name).to_string()),
            (Some((_, name)), Who::Node(own)) if name == own => {
                answer(200, self.pods.list(name).to_string())
            }
            _ => answer(403, "can only list pods with spec.nodeName set to itself"),
        }
    }

    /// A node evicts its own pods alone, as the admission plugin NodeRestriction has it.
    fn evict(&self, who: &Who, path: &str) -> Answer {
        let own = match who {
            Who::Node(own) => Some(own.as_str()),
            _ => None,
        };
        let status = |message: &str| json!({ "kind": "Status", "message": message }).to_string();
        match self.pods.evict(path, own) {
            Evicted::Gone => answer(201, status("evicted")),
            Evicted::Blocked => answer(429, status("it would violate the pod's disruption budget")),
            Evicted::Foreign => answer(403, status("can only evict pods bound to itself")),
            Evicted::Absent => answer(404, status("not found")),
        }
    }

    /// The one thing of a node that is patched.
    fn cordon(&self, who: &Who, name: &str, request: &Request) -> Answer {
        if !matches!(who, Who::Admin) && *who != Who::Node(name.to_owned()) {
            return answer(403, "forbidden");
        }
        let kind = request.headers.get("content-type").map(String::as_str);
        let patch = serde_json::from_str::<Value>(&request.body).unwrap_or_default();
        let (Some("application/merge-patch+json"), Some(on)) =
            (kind, patch["spec"]["unschedulable"].as_bool())
        else {
            return answer(415, "no merge patch of spec.unschedulable");
        };
        let mut nodes = self.nodes();
        let Some(node) = nodes.get_mut(name) else {
            return answer(404, "not found");
        };
        node.unschedulable = on;
        let object = object(name, node).to_string();
        match serde_json::to_string(&*nodes)
            .map_err(anyhow::Error::from)
            .and_then(|text| self.datastore.set_nodes(&text))
        {
            Ok(()) => answer(200, object),
            Err(error) => answer(500, error.to_string()),
        }
    }

    fn list(&self) -> Answer {
        let nodes = self.nodes();
        let items: Vec<Value> = nodes
            .iter()
            .filter(|(_, node)| node.registered)
            .map(|(name, node)| object(name, node))
            .collect();
        answer(
            200,
            json!({ "kind": "NodeList", "apiVersion": "v1", "items": items }).to_string(),
        )
    }
}

fn object(name: &str, node: &Node) -> Value {
    let ready = if now().saturating_sub(node.heard) <= GRACE {
        "True"
    } else {
        "Unknown"
    };
    let addresses: Vec<Value> = node
        .addresses
        .iter()
        .map(|address| json!({ "type": "InternalIP", "address": address }))
        .collect();
    json!({
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": { "name": name },
        "spec": { "unschedulable": node.unschedulable },
        "status": { "addresses": addresses, "conditions": [{ "type": "Ready", "status": ready }] },
    })
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
