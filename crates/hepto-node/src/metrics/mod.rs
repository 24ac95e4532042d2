//! Metrics for Prometheus and its kin: what `status` and `peers` say, as OpenMetrics text over HTTP.
//!
//! `family` is the table of names, `text` writes the format. The socket in the run directory is always there and root's;
//! `metrics.listen` adds a TCP port in the host's namespace. Conversations are few and short, and none of them holds up
//! the node's main loop.

mod family;
mod text;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::control::{Answer, Ask, Requests};
use crate::status::Problem;

/// The socket's name in the run directory.
const SOCKET: &str = "metrics.sock";
/// Conversations at a time, each of socket and port; more wait until one ends.
const CONVERSATIONS: usize = 8;
/// A conversation's longest life.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest head of a request, bytes.
const HEAD_LIMIT: usize = 8192;
/// How long until a place that was taken is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// The format that is served (OpenMetrics 1.0).
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The servers, which end when this is dropped.
pub struct Metrics {
    servers: Vec<JoinHandle<()>>,
    troubles: Troubles,
}

/// What cannot be listened at now, by its place.
type Troubles = Arc<Mutex<BTreeMap<String, Problem>>>;

impl Metrics {
    /// Serves the socket in `run_directory`, and TCP at `listen`. A node that nobody measures works all the same, so
    /// what cannot be listened at is logged, and tried again.
    pub fn serve(run_directory: &Path, listen: Option<SocketAddr>, node: &Requests) -> Metrics {
        let path = run_directory.join(SOCKET);
        let troubles = Troubles::default();
        let unix = serve_unix(path, node.clone(), troubles.clone());
        let mut servers = vec![tokio::spawn(unix)];
        servers.extend(listen.map(|address| {
            let tcp = serve_tcp(address, node.clone(), troubles.clone());
            tokio::spawn(tcp)
        }));
        Metrics { servers, troubles }
    }

    /// What is wrong with them now.
    pub fn problems(&self) -> Vec<Problem> {
        let troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.values().cloned().collect()
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

/// A socket or a port.
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A connection of either.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Listener {
    async fn next(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
            Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

async fn serve_unix(path: PathBuf, node: Requests, troubles: Troubles) {
    let bind = || {
        // The node's lock is ours, so a socket that lies here is a dead run's.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Listener::Unix(listener))
    };
    let fix = "check that /run is writable and not full";
    let listener = listening(&path.display().to_string(), fix, &troubles, bind).await;
    accept(listener, node).await;
}

async fn serve_tcp(address: SocketAddr, node: Requests, troubles: Troubles) {
    let fix = "give this node a port of its own in metrics.listen (ss -ltnp shows who has which), then reload; until then \
               it is tried again every ten seconds";
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Listener::Tcp(TcpListener::from_std(listener)?))
    };
    let listener = listening(&address.to_string(), fix, &troubles, bind).await;
    accept(listener, node).await;
}

/// The listener, as soon as there is one; the first failure is logged, and stands among the problems until then.
async fn listening(
    place: &str,
    fix: &str,
    troubles: &Troubles,
    bind: impl Fn() -> io::Result<Listener>,
) -> Listener {
    const CODE: &str = "W-METRICS-LISTEN";
    let troubles = || troubles.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        match bind() {
            Ok(listener) => {
                troubles().remove(place);
                return listener;
            }
            Err(error) => {
                let what = format!("cannot offer metrics at {place}: {error}");
                let problem = Problem {
                    code: CODE.into(),
                    what: what.clone(),
                    fix: Some(fix.into()),
                };
                if troubles().insert(place.to_owned(), problem).is_none() {
                    tracing::warn!(code = CODE, fix, "{what}");
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// Runs until it is aborted, its conversations with it.
async fn accept(listener: Listener, node: Requests) {
    let places = Arc::new(Semaphore::new(CONVERSATIONS));
    let mut conversations = JoinSet::new();
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        // Those that have ended.
        while conversations.try_join_next().is_some() {}
        match listener.next().await {
            Ok(stream) => {
                let node = node.clone();
                conversations.spawn(async move {
                    // Who is cut off, or goes away, has nobody to be told.
                    let _ = timeout(PATIENCE, converse(stream, &node)).await;
                    drop(place);
                });
            }
            // Out of descriptors: a pause lets others close theirs.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// One request, one answer.
async fn converse(mut stream: Box<dyn Stream>, node: &Requests) -> io::Result<()> {
    let Some(head) = head(&mut stream).await? else {
        return respond(&mut stream, "431 Request Header Fields Too Large", "").await;
    };
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let path = target.map(|target| target.split('?').next().unwrap_or_default());
    match (method, path, version) {
        (Some("GET"), Some("/metrics"), Some("HTTP/1.1" | "HTTP/1.0")) => match look(node).await {
            Some(text) => respond(&mut stream, "200 OK", &text).await,
            None => respond(&mut stream, "503 Service Unavailable", "").await,
        },
        (Some("GET"), Some(_), Some("HTTP/1.1" | "HTTP/1.0")) => {
            respond(&mut stream, "404 Not Found", "").await
        }
        (Some(_), Some(_), Some("HTTP/1.1" | "HTTP/1.0")) => {
            respond(&mut stream, "405 Method Not Allowed\r\nAllow: GET", "").await
        }
        _ => respond(&mut stream, "400 Bad Request", "").await,
    }
}

/// The request's head, up to its empty line; `None` when it is too long or ends before.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        let room = HEAD_LIMIT.saturating_sub(bytes.len()) as u64;
        let mut part = [0; 1024];
        let read = (&mut *stream).take(room).read(&mut part).await?;
        if read == 0 {
            return Ok(None);
        }
        bytes.extend_from_slice(&part[..read]);
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

async fn respond(
    stream: &mut (impl AsyncWrite + Unpin),
    status: &str,
    body: &str,
) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {OPENMETRICS}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// All metrics as they are now; `None` when the node is about to end.
async fn look(node: &Requests) -> Option<String> {
    let Answer::Status(status) = node.ask(Ask::Status).await? else {
        return None;
    };
    let Answer::Peers(peers) = node.ask(Ask::Peers).await? else {
        return None;
    };
    Some(family::text(&status, &peers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_of(mut text: &[u8]) -> Option<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(head(&mut text)).unwrap()
    }

    #[test]
    fn a_head_ends_at_its_empty_line_or_is_refused() {
        let whole = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(head_of(whole.as_bytes()).as_deref(), Some(whole));
        assert_eq!(head_of(b"GET /metrics HTTP/1.1\r\n"), None, "cut off");
        assert_eq!(head_of(&vec![b'a'; HEAD_LIMIT + 10]), None, "without end");
    }
}
