//! A mirror of k3s's releases that misbehaves on order: HTTPS on a socket that the caller opened, wherever he did.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How an answer goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    CutAfter(usize),
    /// Nothing comes any more after so many bytes, and the connection stays.
    StallAfter(usize),
    /// A byte now and then.
    Trickle,
    /// This status instead.
    Status(u16),
    /// Somewhere else.
    Redirect(String),
    /// The length that it names is greater, by so much, than what comes.
    Longer(usize),
    /// The length that it names is smaller.
    Shorter(usize),
    /// This length is named, and little comes.
    Claims(u64),
    /// One byte is another.
    Tampered,
    /// Ranges are not known.
    NoRange,
    /// A range was asked for, and another comes.
    WrongRange,
    /// No length is named: the body ends with the connection.
    NoLength,
}

/// Who the mirror says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Itself.
    Good,
    /// Itself, long ago.
    Expired,
    /// Somebody whom nobody knows.
    Stranger,
}

/// One request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The path.
    pub path: String,
    /// The first byte that was asked for, of a range.
    pub from: Option<usize>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    faults: BTreeMap<String, Fault>,
    asked: Vec<Asked>,
    /// Part of every entity tag.
    edition: u32,
}

/// The mirror; it serves as long as the test's process lives.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// `https://ADDRESS`.
    pub url: String,
    /// Who signed its certificate, as far as a client knows (PEM).
    pub authority: String,
    state: Arc<Mutex<State>>,
}

impl Mirror {
    /// Serves on a socket.
    ///
    /// # Panics
    /// When certificates cannot be made.
    #[must_use]
    pub fn start(listener: TcpListener, identity: Identity) -> Mirror {
        let address = listener.local_addr().expect("a socket has an address");
        let (config, authority) = certificate(address, identity);
        let mirror = Mirror {
            url: format!("https://{address}"),
            authority,
            state: Arc::default(),
        };
        let (config, other) = (Arc::new(config), mirror.clone());
        let accept = move || {
            for stream in listener.incoming().flatten() {
                let (config, mirror) = (config.clone(), other.clone());
                // A client that goes away is its own affair.
                thread::spawn(move || mirror.serve(stream, config).ok());
            }
        };
        thread::spawn(accept);
        mirror
    }

    /// Serves on a free port of the loopback.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn local(identity: Identity) -> Mirror {
        Mirror::start(TcpListener::bind("127.0.0.1:0").expect("a port"), identity)
    }

    /// Puts a file there, with a new entity tag.
    pub fn put(&self, path: &str, content: &[u8]) {
        let mut state = self.state();
        state.edition += 1;
        state.files.insert(path.to_owned(), content.to_owned());
    }

    /// Takes a file away.
    pub fn remove(&self, path: &str) {
        self.state().files.remove(path);
    }

    /// Makes the answers for a path go wrong, until told otherwise.
    pub fn fault(&self, path: &str, fault: Option<Fault>) {
        match fault {
            Some(fault) => self.state().faults.insert(path.to_owned(), fault),
            None => self.state().faults.remove(path),
        };
    }

    /// What was asked for so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        let mut stream = BufReader::new(StreamOwned::new(session, stream));
        let (mut path, mut headers) = (String::new(), BTreeMap::new());
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            match line.trim_end() {
                "" => break,
                line if path.is_empty() => {
                    path = line.split(' ').nth(1).unwrap_or("/").replace("%2B", "+");
                }
                line => {
                    let (name, value) = line.split_once(':').unwrap_or((line, ""));
                    headers.insert(name.to_lowercase(), value.trim().to_owned());
                }
            }
        }
        self.answer(stream.into_inner(), &path, &headers)
    }

    fn answer(
        &self,
        mut stream: StreamOwned<ServerConnection, TcpStream>,
        path: &str,
        headers: &BTreeMap<String, String>,
    ) -> io::Result<()> {
        let from = headers.get("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        let (content, fault, tag) = {
            let mut state = self.state();
            state.asked.push(Asked {
                path: path.to_owned(),
                from,
            });
            let tag = format!("\"edition-{}\"", state.edition);
            (
                state.files.get(path).cloned(),
                state.faults.get(path).cloned(),
                tag,
            )
        };
        match (&fault, &content) {
            (Some(Fault::Status(status)), _) => {
                return head(&mut stream, &format!("{status} No"), &[], Some(0));
            }
            (Some(Fault::Redirect(to)), _) => {
                return head(
                    &mut stream,
                    "302 Found",
                    &[format!("Location: {to}")],
                    Some(0),
                );
            }
            (_, None) => return head(&mut stream, "404 Not Found", &[], Some(0)),
            _ => {}
        }
        let mut content = content.unwrap_or_default();
        if fault == Some(Fault::Tampered) {
            let middle = content.len() / 2;
            content[middle] ^= 1;
        }
        let same = headers.get("if-range").is_none_or(|known| *known == tag);
        let start = from
            .filter(|_| same && fault != Some(Fault::NoRange))
            .unwrap_or(0);
        if start > content.len() {
            return head(&mut stream, "416 Range Not Satisfiable", &[], Some(0));
        }
        let total = content.len();
        let mut more = vec![format!("ETag: {tag}"), "Accept-Ranges: bytes".into()];
        let status = match start {
            0 => "200 OK",
            _ => {
                let first = if fault == Some(Fault::WrongRange) {
                    0
                } else {
                    start
                };
                more.push(format!(
                    "Content-Range: bytes {first}-{}/{total}",
                    total - 1
                ));
                "206 Partial Content"
            }
        };
        let body = &content[start..];
        let length = match fault {
            Some(Fault::Longer(by)) => Some(body.len() + by),
            Some(Fault::Shorter(by)) => Some(body.len() - by),
            Some(Fault::Claims(length)) => usize::try_from(length).ok(),
            Some(Fault::NoLength) => None,
            _ => Some(body.len()),
        };
        head(&mut stream, status, &more, length)?;
        self.body(&mut stream, path, body, fault)
    }

    fn body(
        &self,
        stream: &mut impl Write,
        path: &str,
        body: &[u8],
        fault: Option<Fault>,
    ) -> io::Result<()> {
        match fault {
            Some(Fault::CutAfter(length)) => stream.write_all(&body[..length.min(body.len())])?,
            Some(Fault::StallAfter(length)) => {
                stream.write_all(&body[..length.min(body.len())])?;
                stream.flush()?;
                // Until the test is over, or told otherwise.
                while self.state().faults.contains_key(path) {
                    thread::sleep(Duration::from_millis(50));
                }
            }
            Some(Fault::Trickle) => {
                for byte in body.chunks(1) {
                    stream.write_all(byte)?;
                    stream.flush()?;
                    thread::sleep(Duration::from_millis(100));
                }
            }
            _ => stream.write_all(body)?,
        }
        // The connection ends without TLS's farewell, as one that is cut does.
        stream.flush()
    }
}

fn head(
    stream: &mut impl Write,
    status: &str,
    more: &[String],
    length: Option<usize>,
) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n")?;
    for line in more {
        write!(stream, "{line}\r\n")?;
    }
    if let Some(length) = length {
        write!(stream, "Content-Length: {length}\r\n")?;
    }
    write!(stream, "\r\n")?;
    stream.flush()
}

/// The server's side of TLS, and who signed for it as far as a client knows.
fn certificate(address: SocketAddr, identity: Identity) -> (ServerConfig, String) {
    let [known, stranger] = [(); 2].map(|()| KeyPair::generate().expect("a key"));
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params
    };
    let told = authority("known")
        .self_signed(&known)
        .expect("an authority")
        .pem();
    let issuer = match identity {
        Identity::Stranger => Issuer::new(authority("stranger"), &stranger),
        _ => Issuer::new(authority("known"), &known),
    };
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(address.ip())];
    if identity == Identity::Expired {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    let own = KeyPair::generate().expect("a key");
    let signed = params.signed_by(&own, &issuer).expect("a certificate");
    let chain = CertificateDer::from_pem_slice(signed.pem().as_bytes()).expect("our own PEM");
    let key = PrivateKeyDer::from_pem_slice(own.serialize_pem().as_bytes()).expect("our own PEM");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks them")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("they fit");
    (config, told)
}
