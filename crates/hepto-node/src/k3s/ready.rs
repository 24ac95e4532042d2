//! Whether the node is ready, asked of the node itself.
//!
//! k3s's own READY means that the API server is up (on a server, where it says nothing of the kubelet) or that the
//! pod network is (on an agent). Three more signs are asked for: the kubelet's health, on a server the API server's
//! `/readyz` (with the administrator's certificate: anonymous gets 401), and that this node is registered. Whether the
//! API calls a node Ready is not one of them: it goes on saying so for the whole grace period after a node's death.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::argument::{self, API_PORT, Role};
use super::https::{self, Credentials};
use super::{drain, file};

/// The kubelet's health port, on the node's loopback alone.
const KUBELET_PORT: u16 = 10248;
/// Where an agent's k3s forwards to the server's API.
const AGENT_API_PORT: u16 = 6444;

/// Moves the calling thread into the node's network namespace, for good.
pub type Enter = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// What to ask, and with whose certificates.
#[derive(Debug, Clone)]
pub struct Target {
    /// Server or agent.
    pub role: Role,
    /// The node's name in Kubernetes.
    pub node: String,
    /// The node's own folder, `<storage>/<node>`.
    pub directory: PathBuf,
    /// k3s's data folder, as the host sees it.
    pub data: PathBuf,
    /// Where the kubelet and the server listen: loopback, unless they are bound to the overlay.
    pub address: std::net::IpAddr,
}

impl Target {
    /// Whom to ask about the node of this folder.
    pub fn new(role: Role, node: String, directory: &Path, address: std::net::IpAddr) -> Self {
        Target {
            role,
            node,
            directory: directory.to_owned(),
            data: file::outside(directory, argument::DATA),
            address,
        }
    }

    /// The API as this node reaches it.
    pub fn api(&self) -> SocketAddr {
        match self.role {
            Role::Server => SocketAddr::new(self.address, API_PORT),
            Role::Agent => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), AGENT_API_PORT),
        }
    }

    /// The administrator's certificate on a server, the kubelet's own on an agent: each may see this node.
    pub fn credentials(&self) -> Credentials {
        let (folder, name) = match self.role {
            Role::Server => (self.data.join("server/tls"), "client-admin"),
            Role::Agent => (self.data.join("agent"), "client-kubelet"),
        };
        Credentials {
            authority: folder.join("server-ca.crt"),
            certificate: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
        }
    }
}

/// What is missing for the node to be ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// In words.
    pub what: String,
    /// Whether k3s itself gives no sign of life: its own API server or kubelet is silent, or calls itself dead. A master
    /// that cannot be reached is none of an agent's k3s's fault.
    pub mute: bool,
}

impl Lack {
    fn mute(what: String) -> Self {
        Lack { what, mute: true }
    }

    fn waits(what: String) -> Self {
        Lack { what, mute: false }
    }
}

/// Asks everything, on a thread of its own inside the namespace: at most a minute. The answer is what is
/// missing, first things first.
pub fn probe(target: Target, enter: Enter) -> oneshot::Receiver<Result<(), Lack>> {
    let (answer, answered) = oneshot::channel();
    let started = std::thread::Builder::new()
        .name("hepto-probe".into())
        .spawn(move || {
            let result = match enter() {
                Ok(()) => ask(&target),
                Err(error) => {
                    let what = format!("cannot enter the node's network: {error}");
                    Err(Lack::waits(what))
                }
            };
            // Nobody listens any more when the supervisor was dropped meanwhile.
            let _ = answer.send(result);
        });
    // A thread that did not start drops the sender, and the receiver says so.
    drop(started);
    answered
}

/// The questions, in the order in which a node comes up.
pub fn ask(target: &Target) -> Result<(), Lack> {
    let credentials = target.credentials();
    if target.role == Role::Server {
        let get = |path: &str| https::get(target.api(), path, Some(&credentials));
        let unready = expect("the API server", get("/readyz?verbose"));
        // One that is not ready may still live: a check that takes long is no reason to end it.
        unready.map_err(|what| Lack {
            what,
            mute: expect("the API server", get("/livez")).is_err(),
        })?;
    }
    let kubelet = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), KUBELET_PORT);
    expect("the kubelet", https::get(kubelet, "/healthz", None)).map_err(Lack::mute)?;
    let path = format!("/api/v1/nodes/{}", target.node);
    let registered = match https::get(target.api(), &path, Some(&credentials)) {
        Ok(answer) if answer.status == 404 => Err("the node is not registered yet".into()),
        other => expect("the node's registration", other),
    };
    registered.map_err(Lack::waits)?;
    // What a stop had cordoned is given free before anybody counts on the node.
    drain::lift(target).map_err(|error| Lack::waits(format!("no pods come yet: {error}")))
}

fn expect(what: &str, answer: Result<https::Answer, https::Error>) -> Result<(), String> {
    match answer {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => {
            // `/readyz` names each check on a line; `[-]` are those that failed.
            let failed: Vec<&str> = answer
                .body
                .lines()
                .filter_map(|line| line.strip_prefix("[-]"))
                .collect();
            let detail = if failed.is_empty() {
                String::new()
            } else {
                format!(" ({})", failed.join(", "))
            };
            Err(format!("{what} answers {}{detail}", answer.status))
        }
        Err(error) => Err(format!("{what}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<https::Answer, https::Error> {
        Ok(https::Answer {
            status,
            body: body.into(),
        })
    }

    #[test]
    fn a_failed_check_is_named() {
        let body = "[+]ping ok\n[-]etcd failed: reason withheld\n[+]log ok\nreadyz check failed";
        assert_eq!(
            expect("the API server", answer(500, body)),
            Err("the API server answers 500 (etcd failed: reason withheld)".into())
        );
        assert_eq!(expect("x", answer(401, "")), Err("x answers 401".into()));
        assert_eq!(expect("x", answer(200, "ok")), Ok(()));
    }

    #[test]
    fn certificates_that_k3s_has_not_made_yet_are_named() {
        let target = Target {
            role: Role::Server,
            node: "grumpy".into(),
            directory: "/nonexistent".into(),
            data: "/nonexistent".into(),
            address: Ipv4Addr::LOCALHOST.into(),
        };
        let missing = ask(&target).unwrap_err().what;
        assert!(
            missing.contains("/nonexistent/server/tls/server-ca.crt"),
            "{missing}"
        );
    }
}
