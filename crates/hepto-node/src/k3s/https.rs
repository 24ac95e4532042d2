//! One question over HTTP or HTTPS with deadlines: all that a probe needs, on a blocking socket that was opened in
//! whatever network namespace the calling thread is in.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// For the connection, and for each read and write: who says nothing at all is given up then.
const PATIENCE: Duration = Duration::from_secs(3);
/// For the whole of a probe's question, since one that says a byte now and then would hold it for ever.
const WHOLE: Duration = Duration::from_secs(6);
/// More of an answer is not read: only its head and the names of failed checks matter.
const MOST: usize = 64 * 1024;

/// With which certificates to ask.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The authority that signed the server's certificate (PEM).
    pub authority: PathBuf,
    /// Our certificate and those that signed it (PEM).
    pub certificate: PathBuf,
    /// Our private key (PEM).
    pub key: PathBuf,
}

/// What was answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status code.
    pub status: u16,
    /// The beginning of the body.
    pub body: String,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// k3s has not written it yet, or it is broken.
    #[error("{} is not there or not PEM: {why}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What rustls says.
        why: String,
    },
    /// Certificates that do not fit one another.
    #[error("TLS with {address}: {source}")]
    Tls {
        /// Who was asked.
        address: SocketAddr,
        /// What rustls says.
        source: rustls::Error,
    },
    /// Nobody listens, nobody answers, or the answer breaks off.
    #[error("{address} does not answer: {source}")]
    Silent {
        /// Who was asked.
        address: SocketAddr,
        /// What the kernel or rustls says.
        source: std::io::Error,
    },
    /// Something else than HTTP.
    #[error("{address} answers, but not HTTP")]
    Foreign {
        /// Who was asked.
        address: SocketAddr,
    },
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// The type of what is sent along, and what.
    pub body: Option<(&'a str, String)>,
    /// More of an answer is not read, bytes.
    pub most: usize,
    /// How long all of it may take, from the connection to the last byte of the answer.
    pub within: Duration,
}

/// `GET path`; with credentials by TLS, proving who we are and checking who answers.
pub fn get(
    address: SocketAddr,
    path: &str,
    credentials: Option<&Credentials>,
) -> Result<Answer, Error> {
    let question = Question {
        method: "GET",
        path,
        body: None,
        most: MOST,
        within: WHOLE,
    };
    ask(address, &question, credentials)
}

/// The same for any question.
pub fn ask(
    address: SocketAddr,
    question: &Question<'_>,
    credentials: Option<&Credentials>,
) -> Result<Answer, Error> {
    let silent = |source| Error::Silent { address, source };
    let until = Instant::now() + question.within;
    let tls = credentials
        .map(|credentials| session(address, credentials))
        .transpose()?;
    let patience = PATIENCE.min(question.within);
    let socket = TcpStream::connect_timeout(&address, patience).map_err(silent)?;
    let socket = Bounded { socket, until };
    let raw = match tls {
        Some(session) => exchange(StreamOwned::new(session, socket), address, question),
        None => exchange(socket, address, question),
    }
    .map_err(silent)?;
    parse(&raw).ok_or(Error::Foreign { address })
}

/// A connection that is given up at some time, however much comes.
struct Bounded {
    socket: TcpStream,
    until: Instant,
}

impl Bounded {
    /// How long the next read or write may take.
    fn patience(&self) -> std::io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let late = "the answer does not come to its end";
            return Err(std::io::Error::new(ErrorKind::TimedOut, late));
        }
        Ok(left.min(PATIENCE))
    }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.socket.set_read_timeout(Some(self.patience()?))?;
        self.socket.read(buffer)
    }
}

impl Write for Bounded {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.socket.set_write_timeout(Some(self.patience()?))?;
        self.socket.write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.socket.flush()
    }
}

fn exchange(
    mut stream: impl Read + Write,
    address: SocketAddr,
    question: &Question<'_>,
) -> std::io::Result<Vec<u8>> {
    let Question {
        method, path, most, ..
    } = question;
    let (head, body) = match &question.body {
        Some((kind, body)) => (
            format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len()),
            body.as_str(),
        ),
        None => (String::new(), ""),
    };
    // Version 1.0: the answer comes whole, without chunks, and ends with the connection. All in one write: who answers what
    // came first, and hangs up, would break off the rest.
    let text = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json, */*\r\n{head}\r\n{body}"
    );
    stream.write_all(text.as_bytes())?;
    stream.flush()?;
    let mut raw = Vec::new();
    match stream.take(*most as u64).read_to_end(&mut raw) {
        // Go closes without TLS's own farewell; what came before it is whole enough for us.
        Err(error) if error.kind() != ErrorKind::UnexpectedEof || raw.is_empty() => Err(error),
        _ => Ok(raw),
    }
}

fn parse(raw: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(raw);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split_whitespace();
    let status = words
        .next()?
        .starts_with("HTTP/1.")
        .then(|| words.next())??
        .parse()
        .ok()?;
    Some(Answer {
        status,
        body: body.to_owned(),
    })
}

fn session(address: SocketAddr, credentials: &Credentials) -> Result<ClientConnection, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&credentials.authority)? {
        roots
            .add(certificate)
            .map_err(|source| Error::Tls { address, source })?;
    }
    let ours = certificates(&credentials.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&credentials.key)
        .map_err(|error| pem(&credentials.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_root_certificates(roots))
        .and_then(|builder| builder.with_client_auth_cert(ours, key))
        .map_err(|source| Error::Tls { address, source })?;
    ClientConnection::new(Arc::new(config), ServerName::IpAddress(address.ip().into()))
        .map_err(|source| Error::Tls { address, source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| pem(path, &error))
}

fn pem(path: &Path, error: &rustls::pki_types::pem::Error) -> Error {
    Error::Pem {
        path: path.to_owned(),
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_arrives_in_one_piece() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        const TIMES: usize = 100;
        let server = std::thread::spawn(move || {
            for socket in listener.incoming().take(TIMES) {
                let mut socket = socket.unwrap();
                let mut first = [0; 1024];
                let length = socket.read(&mut first).unwrap();
                let status = match first[..length].ends_with(b"\r\n\r\n") {
                    true => 200,
                    false => 400,
                };
                socket
                    .write_all(format!("HTTP/1.0 {status} -\r\n\r\n").as_bytes())
                    .unwrap();
            }
        });
        for _ in 0..TIMES {
            assert_eq!(get(address, "/healthz", None).unwrap().status, 200);
        }
        server.join().unwrap();
    }

    /// It would be done after ten seconds, and each of its bytes comes in time.
    #[test]
    fn who_drips_his_answer_holds_nobody() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let padding = "-".repeat(83);
            let text = format!("HTTP/1.0 200 {padding}\r\n\r\n");
            let mut bytes = text.bytes();
            // Until he is hung up on.
            bytes.all(|byte| {
                std::thread::sleep(Duration::from_millis(100));
                socket.write_all(&[byte]).is_ok()
            })
        });
        let question = Question {
            method: "GET",
            path: "/healthz",
            body: None,
            most: MOST,
            within: Duration::from_secs(1),
        };
        let answer = ask(address, &question, None);
        assert!(matches!(answer, Err(Error::Silent { .. })), "{answer:?}");
        assert!(!server.join().unwrap(), "he was heard to the end");
    }

    #[test]
    fn answers_are_read_as_far_as_they_matter() {
        let answer =
            parse(b"HTTP/1.1 500 Internal Server Error\r\nA: b\r\n\r\n[-]etcd failed").unwrap();
        assert_eq!(
            answer,
            Answer {
                status: 500,
                body: "[-]etcd failed".into()
            }
        );
        for foreign in [
            &b"SSH-2.0-x\r\n\r\n"[..],
            b"",
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 many\r\n\r\n",
        ] {
            assert_eq!(parse(foreign), None, "{}", String::from_utf8_lossy(foreign));
        }
    }
}
