//! The server: certificates, the API on 6443, an administrator's kubeconfig, and a kubelet of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::api::{Api, Request};
use crate::config::Config;
use crate::control::Control;
use crate::pki::{self, Authorities};

/// Starts everything; returns when the API answers.
pub fn start(config: &Config, control: &Control) -> anyhow::Result<()> {
    let authorities = Authorities::open(&config.data)?;
    let tls = Arc::new(tls(config, &authorities)?);
    let (token, agent_token) = (
        config.token("token-file")?,
        config.token("agent-token-file")?,
    );
    let api = Arc::new(Api::open(&config.data, authorities, token, agent_token)?);

    // For both families, or for IPv4 alone where the kernel has no IPv6, as Go's listener does.
    let listener = match config.text("bind-address") {
        Some(address) => TcpListener::bind((address, 6443u16)),
        None => {
            TcpListener::bind(("::", 6443u16)).or_else(|_| TcpListener::bind(("0.0.0.0", 6443u16)))
        }
    };
    let listener = listener.context("listen on port 6443")?;
    kubeconfig(config)?;
    let serving = control.clone();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (api, tls, control) = (api.clone(), tls.clone(), serving.clone());
            std::thread::spawn(move || {
                control.wait_while_hung();
                if let Err(error) = serve(&api, tls, socket) {
                    eprintln!("API: {error:#}");
                }
            });
        }
    });
    // The server's kubelet joins its own API a little later, as the real one does: READY does not wait for it.
    let (config, control) = (config.clone(), control.clone());
    std::thread::spawn(move || {
        if let Err(error) = crate::agent::kubelet(&config, &control) {
            eprintln!("fatal: {error:#}");
            std::process::exit(1);
        }
    });
    Ok(())
}

fn tls(config: &Config, authorities: &Authorities) -> anyhow::Result<ServerConfig> {
    let mut names: Vec<String> = ["127.0.0.1", "::1", "localhost", "kubernetes"]
        .map(str::to_owned)
        .to_vec();
    names.extend(config.list("tls-san").into_iter().map(str::to_owned));
    let pair = authorities.serving(&names)?;
    let mut clients = RootCertStore::empty();
    for certificate in crate::client::certificates(&authorities.path("client-ca.crt"))? {
        clients.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let chain = vec![crate::client::certificate(pair.certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
    Ok(ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?)
}

/// One connection, one question.
fn serve(api: &Api, tls: Arc<ServerConfig>, socket: TcpStream) -> anyhow::Result<()> {
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(tls)?, socket));
    let mut request = Request::default();
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    request.method = words.next().unwrap_or_default().to_owned();
    request.path = words.next().unwrap_or_default().to_owned();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        request
            .headers
            .insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = request
        .headers
        .get("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    stream
        .by_ref()
        .take(length)
        .read_to_string(&mut request.body)?;
    let mut stream = stream.into_inner();
    request.certificate = stream
        .conn
        .peer_certificates()
        .and_then(|chain| Some(chain.first()?.to_vec()));
    let answer = api.answer(&request);
    write!(
        stream,
        "HTTP/1.0 {} -\r\nContent-Length: {}\r\n\r\n{}",
        answer.status,
        answer.body.len(),
        answer.body
    )?;
    stream.conn.send_close_notify();
    stream.flush()?;
    Ok(())
}

/// What `kubectl` reads, with the mode that was asked for.
fn kubeconfig(config: &Config) -> anyhow::Result<()> {
    let tls = config.data.join("server/tls");
    let text = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "default", "cluster": {
            "server": "https://127.0.0.1:6443", "certificate-authority": tls.join("server-ca.crt") } }],
        "users": [{ "name": "default", "user": {
            "client-certificate": tls.join("client-admin.crt"), "client-key": tls.join("client-admin.key") } }],
        "contexts": [{ "name": "default", "context": { "cluster": "default", "user": "default" } }],
        "current-context": "default",
    });
    pki::write(
        std::path::Path::new(crate::kubectl::KUBECONFIG),
        &text.to_string(),
    )
}
