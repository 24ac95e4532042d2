//! HTTPS as an agent and kubectl speak it: one question a connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};

const PATIENCE: Duration = Duration::from_secs(3);

/// How the two sides prove themselves.
pub enum Trust<'a> {
    /// Neither: to fetch the authority in the first place.
    Nobody,
    /// The server by this authority (a PEM file).
    Server(&'a Path),
    /// The server likewise, ourselves by certificate and key (PEM files).
    Both(&'a Path, &'a Path, &'a Path),
}

/// Asks `host` on 6443; gives the body of a 2xx.
pub fn ask(
    host: &str,
    trust: &Trust<'_>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<String> {
    let address = (host, 6443u16)
        .to_socket_addrs()
        .with_context(|| format!("resolve {host}"))?;
    let mut socket = None;
    for address in address {
        socket = TcpStream::connect_timeout(&address, PATIENCE).ok();
        if socket.is_some() {
            break;
        }
    }
    let socket = socket.with_context(|| format!("{host}:6443 does not answer"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(host.to_owned())?;
    let session = ClientConnection::new(Arc::new(config(trust)?), name)?;
    let mut stream = StreamOwned::new(session, socket);
    let mut head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {host}:6443\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error.into()),
        _ => {}
    }
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !status.starts_with('2') {
        bail!("{method} {path}: {status} {}", body.trim());
    }
    Ok(body.to_owned())
}

fn config(trust: &Trust<'_>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let roots = |authority: &Path| -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authority)? {
            roots.add(certificate)?;
        }
        Ok(roots)
    };
    Ok(match trust {
        Trust::Nobody => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
            .with_no_client_auth(),
        Trust::Server(authority) => builder
            .with_root_certificates(roots(authority)?)
            .with_no_client_auth(),
        Trust::Both(authority, certificate, key) => builder
            .with_root_certificates(roots(authority)?)
            .with_client_auth_cert(
                certificates(certificate)?,
                PrivateKeyDer::from_pem_file(key)?,
            )?,
    })
}

/// The certificates of a PEM file.
pub fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("read {}", path.display()))
}

/// The first certificate of a PEM text.
pub fn certificate(pem: &[u8]) -> anyhow::Result<CertificateDer<'static>> {
    Ok(CertificateDer::from_pem_slice(pem)?)
}

/// Takes any server: k3s agents fetch the authority so, before they show their token to a server proved by it.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl Unchecked {
    fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.0.signature_verification_algorithms
    }
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, self.algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, self.algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms().supported_schemes()
    }
}
