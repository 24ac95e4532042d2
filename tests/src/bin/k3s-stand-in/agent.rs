//! The agent: joins the server by name with its token, keeps its own node password, registers, gives signs of life,
//! forwards 6444 to the server's API, and answers for the kubelet on 10248.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use serde_json::json;

use crate::client::{self, Trust};
use crate::config::{Config, Role};
use crate::control::Control;
use crate::pki;

/// Between two tries, and between two signs of life.
const PAUSE: Duration = Duration::from_secs(1);

/// The server's name, out of `https://NAME:6443`.
pub fn master(config: &Config) -> Option<&str> {
    config
        .text("server")?
        .strip_prefix("https://")?
        .strip_suffix(":6443")
}

/// Starts everything; returns when the node is registered.
pub fn start(config: &Config, control: &Control) -> anyhow::Result<()> {
    let server = master(config).context("server")?.to_owned();
    forward(server)?;
    kubelet(config, control)
}

/// Joins, starts the kubelet's health port, registers, and goes on giving signs of life.
pub fn kubelet(config: &Config, control: &Control) -> anyhow::Result<()> {
    let server = match config.role {
        Role::Server => "127.0.0.1".to_owned(),
        Role::Agent => master(config).context("server")?.to_owned(),
    };
    let password = node_password()?;
    let mut told = String::new();
    while let Err(error) = join(config, &server, &password) {
        // The master may be late; say each reason once.
        let error = format!("{error:#}");
        if error != told {
            eprintln!("cannot join {server}: {error}");
            told = error;
        }
        std::thread::sleep(PAUSE);
    }
    eprintln!("joined {server}");
    health(control.clone())?;
    while let Err(error) = register(config, &server) {
        eprintln!("cannot register with {server}: {error:#}");
        std::thread::sleep(PAUSE);
    }
    let (config, control) = (config.clone(), control.clone());
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(PAUSE);
            control.wait_while_hung();
            if let Err(error) = register(&config, &server) {
                eprintln!("no sign of life to {server}: {error:#}");
            }
        }
    });
    Ok(())
}

/// The node's own password, made once: a server takes a name only from who knows it.
fn node_password() -> anyhow::Result<String> {
    let path = Path::new("/etc/rancher/node/password");
    if let Ok(text) = std::fs::read_to_string(path) {
        return Ok(text.trim().to_owned());
    }
    let random =
        std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("a random password")?;
    let password = random.trim().replace('-', "");
    std::fs::create_dir_all("/etc/rancher/node")?;
    pki::write(path, &password)?;
    Ok(password)
}

/// Fetches the authority, then shows the token to a server proved by it, and keeps the certificate that it gives.
fn join(config: &Config, server: &str, password: &str) -> anyhow::Result<()> {
    let folder = config.data.join("agent");
    std::fs::create_dir_all(&folder)?;
    let authority = folder.join("server-ca.crt");
    if !authority.exists() {
        pki::write(
            &authority,
            &client::ask(server, &Trust::Nobody, "GET", "/cacerts", &[], "")?,
        )?;
    }
    let token = config.token("token-file")?;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("node:{token}"));
    let shown = format!("Basic {basic}");
    let headers = [
        ("Authorization", shown.as_str()),
        ("k3s-Node-Name", &config.node),
        ("k3s-Node-Password", password),
    ];
    let both = client::ask(
        server,
        &Trust::Server(&authority),
        "GET",
        "/v1-k3s/client-kubelet.crt",
        &headers,
        "",
    )?;
    let key = both
        .find("-----BEGIN PRIVATE KEY")
        .context("no key in the answer")?;
    pki::write(&folder.join("client-kubelet.key"), &both[key..])?;
    pki::write(&folder.join("client-kubelet.crt"), &both[..key])
}

fn register(config: &Config, server: &str) -> anyhow::Result<()> {
    let folder = config.data.join("agent");
    let (authority, certificate, key) = (
        folder.join("server-ca.crt"),
        folder.join("client-kubelet.crt"),
        folder.join("client-kubelet.key"),
    );
    let addresses: Vec<_> = config
        .addresses
        .iter()
        .map(|address| json!({ "type": "InternalIP", "address": address }))
        .collect();
    let node = json!({ "metadata": { "name": config.node }, "status": { "addresses": addresses } });
    let trust = Trust::Both(&authority, &certificate, &key);
    client::ask(
        server,
        &trust,
        "POST",
        "/api/v1/nodes",
        &[],
        &node.to_string(),
    )?;
    Ok(())
}

/// The kubelet's `/healthz`, on loopback and without TLS.
fn health(control: Control) -> anyhow::Result<()> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 10248)).context("listen on port 10248")?;
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            control.wait_while_hung();
            let mut question = [0; 1024];
            let asked = socket
                .read(&mut question)
                .map(|read| question[..read].starts_with(b"GET /healthz "));
            let answer = if asked.unwrap_or(false) {
                "200 OK\r\n\r\nok"
            } else {
                "404 Not Found\r\n\r\n"
            };
            // Who asked may be gone.
            let _ = write!(socket, "HTTP/1.0 {answer}");
        }
    });
    Ok(())
}

/// The agent's own way to the API: what comes to 127.0.0.1:6444 goes to the server's 6443.
fn forward(server: String) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 6444)).context("listen on port 6444")?;
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let server = server.clone();
            std::thread::spawn(move || {
                let Ok(far) = TcpStream::connect((server.as_str(), 6443)) else {
                    return;
                };
                if let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) {
                    std::thread::spawn(move || copy(near_too, far_too));
                    copy(far, near);
                }
            });
        }
    });
    Ok(())
}

/// Copies until either side ends; errors end it too.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}
