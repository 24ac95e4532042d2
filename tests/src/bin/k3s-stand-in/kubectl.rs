//! `kubectl get nodes [-o json|name]`, as an administrator on the server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::client::{self, Trust};

/// Where k3s writes the administrator's kubeconfig, and kubectl finds it.
pub const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";

pub fn run(arguments: &[&str]) -> anyhow::Result<ExitCode> {
    let format = match arguments {
        ["get", "nodes" | "node" | "no"] => "table",
        [
            "get",
            "nodes" | "node" | "no",
            "-o",
            format @ ("json" | "name"),
        ] => format,
        _ => bail!("the stand-in's kubectl knows `get nodes [-o json|name]` alone"),
    };
    let path =
        std::env::var_os("KUBECONFIG").map_or_else(|| PathBuf::from(KUBECONFIG), PathBuf::from);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let config: Value =
        serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
    let file = |value: &Value| {
        value
            .as_str()
            .map(PathBuf::from)
            .context("a kubeconfig without a certificate")
    };
    let authority = file(&config["clusters"][0]["cluster"]["certificate-authority"])?;
    let user = &config["users"][0]["user"];
    let (certificate, key) = (
        file(&user["client-certificate"])?,
        file(&user["client-key"])?,
    );
    print(format, &nodes(&authority, &certificate, &key)?);
    Ok(ExitCode::SUCCESS)
}

fn nodes(authority: &Path, certificate: &Path, key: &Path) -> anyhow::Result<Value> {
    let trust = Trust::Both(authority, certificate, key);
    Ok(serde_json::from_str(&client::ask(
        "127.0.0.1",
        &trust,
        "GET",
        "/api/v1/nodes",
        &[],
        "",
    )?)?)
}

fn print(format: &str, nodes: &Value) {
    if format == "json" {
        println!("{nodes}");
        return;
    }
    if format == "table" {
        println!("{:<16} {:<9} VERSION", "NAME", "STATUS");
    }
    for node in nodes["items"].as_array().into_iter().flatten() {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        if format == "name" {
            println!("node/{name}");
            continue;
        }
        let ready = node["status"]["conditions"][0]["status"] == "True";
        let cordoned = node["spec"]["unschedulable"] == true;
        println!(
            "{name:<16} {}{:<9} v0.0.0+stand-in",
            if ready { "Ready" } else { "NotReady" },
            if cordoned { ",SchedulingDisabled" } else { "" }
        );
    }
}
