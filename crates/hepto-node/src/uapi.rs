//! The socket by which wg(8) and its exporters see the tunnel: WireGuard's cross-platform configuration protocol
//! (<https://www.wireguard.com/xplatform/>), of which this is the half that reads.
//!
//! What it shows is what `peers` shows. Private and preshared keys are not among it, and nothing can be set: the mesh
//! alone decides who is a peer. The socket is root's, conversations are few and short, and none of them waits for the
//! node's main loop, nor the loop for them.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hepto_tunnel::Observer;
use nix::errno::Errno;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::sandbox::uapi::{self, Hold};

/// The socket's name: wg(8) takes it, without its ending, for the interface's.
const SOCKET: &str = "hepto0.sock";
/// Conversations at a time; more wait until one ends.
const CONVERSATIONS: usize = 8;
/// A conversation's longest life: wg(8) and exporters ask one thing and go.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest request, bytes: what wg(8) would set on some thousand peers.
const REQUEST_LIMIT: u64 = 1 << 20;

/// The socket, served on the current runtime.
pub struct Uapi {
    server: Option<tokio::task::JoinHandle<()>>,
    hold: Option<Hold>,
}

impl Uapi {
    /// Serves the socket in `run_directory`, and keeps the place where `exec --net` shows it. A node whose tunnel
    /// nobody can look at works all the same, so a failure is logged.
    pub fn serve(run_directory: &Path, observer: Observer) -> Uapi {
        let server = listen(&run_directory.join(uapi::FOLDER))
            .inspect_err(|error| {
                warn(&format!(
                    "cannot listen in {}: {error}",
                    run_directory.display()
                ))
            })
            .ok()
            .map(|listener| tokio::spawn(accept(listener, observer)));
        let hold = uapi::hold()
            .inspect_err(|error| warn(&error.to_string()))
            .ok();
        Uapi { server, hold }
    }

    /// Ends all conversations and gives the place back; gives every failure. The socket goes with the run directory.
    pub fn close(self) -> Vec<String> {
        if let Some(server) = self.server {
            server.abort();
        }
        let failures = uapi::release(self.hold);
        failures.iter().map(ToString::to_string).collect()
    }
}

fn warn(what: &str) {
    tracing::warn!(
        code = "W-UAPI",
        fix = "check that /run is writable and not full, then restart the node",
        "`wg show` will not see the tunnel: {what}"
    );
}

fn listen(folder: &Path) -> io::Result<UnixListener> {
    let path: PathBuf = folder.join(SOCKET);
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => fs::set_permissions(folder, Permissions::from_mode(0o700))?,
    }
    // The node's lock is ours, so a socket that lies here is a dead run's.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Runs until it is aborted, its conversations with it.
async fn accept(listener: UnixListener, observer: Observer) {
    let places = Arc::new(Semaphore::new(CONVERSATIONS));
    let mut conversations = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        // Those that have ended.
        while conversations.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let observer = observer.clone();
                conversations.spawn(async move {
                    // Who is cut off, or goes away, has nobody to be told.
                    let _ = timeout(PATIENCE, converse(stream, &observer)).await;
                    drop(place);
                });
            }
            // Out of descriptors: a pause lets others close theirs.
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(mut stream: UnixStream, observer: &Observer) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    while let Some(request) = request(&mut reader).await? {
        let answer = match (request.as_str(), observer.look()) {
            ("get=1", Some(view)) => view.uapi(SystemTime::now()),
            ("get=1", None) => errno(Errno::ENODEV),
            ("set=1", _) => errno(Errno::EOPNOTSUPP),
            _ => errno(Errno::EINVAL),
        };
        writer.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

/// The first line of the next request, which an empty line ends; None when there is none any more. The rest is read, so
/// that who wrote it hears the answer, and ignored.
async fn request(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut reader = reader.take(REQUEST_LIMIT);
    let (mut first, mut line) = (None, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line).await? == 0 || !line.ends_with('\n') {
            return Ok(None);
        }
        let text = line.trim_end_matches('\n');
        if text.is_empty() {
            return Ok(Some(first.unwrap_or_default()));
        }
        first.get_or_insert_with(|| text.to_owned());
    }
}

/// A refusal, as wireguard-go writes one: the number is negative.
fn errno(number: Errno) -> String {
    format!("errno={}\n\n", -(number as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(mut text: &[u8]) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut found = Vec::new();
            while let Some(request) = request(&mut text).await.unwrap() {
                found.push(request);
            }
            found
        })
    }

    #[test]
    fn a_request_ends_at_an_empty_line_and_is_known_by_its_first() {
        assert_eq!(requests(b"get=1\n\n"), ["get=1"]);
        assert_eq!(
            requests(b"set=1\nprivate_key=00\n\nget=1\n\n"),
            ["set=1", "get=1"]
        );
        assert_eq!(requests(b"\n"), [""], "answered as what nobody knows");
        for cut in ["", "get=1", "get=1\n", "set=1\nfwmark=0"] {
            assert!(
                requests(cut.as_bytes()).is_empty(),
                "{cut:?} is not all of it"
            );
        }
    }

    #[test]
    fn a_request_without_an_end_is_given_up() {
        let mut endless = b"set=1\n".to_vec();
        endless.resize(REQUEST_LIMIT as usize + 100, b'a');
        assert!(requests(&endless).is_empty());
    }
}
