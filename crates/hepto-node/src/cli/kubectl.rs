//! `hepto-node kubectl`.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::Args;

use super::{Target, exec};
use crate::fault::Fault;
use crate::sandbox;
use crate::target::{self, RunDirectory};

/// Where k3s writes it on a server, inside the node.
const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";

/// What `kubectl` takes.
#[derive(Debug, Args)]
pub struct KubectlArgs {
    #[command(flatten)]
    pub target: Target,
    /// kubectl's own arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

/// Runs the node's own `k3s kubectl` in the node's namespaces.
pub fn run(args: KubectlArgs) -> anyhow::Result<ExitCode> {
    let node = target::resolve(&args.target)?;
    let binary = server(&node)?;
    let mut arguments = vec![OsString::from("kubectl")];
    arguments.extend(args.arguments);
    exec::inside(
        &node,
        OsStr::new(&binary),
        &arguments,
        &[("KUBECONFIG", KUBECONFIG)],
    )
}

/// The k3s binary that the node runs as a server.
fn server(node: &RunDirectory) -> Result<String, Fault> {
    let name = node.name();
    let contact = sandbox::programs(&node.path).map_err(|_| {
        Fault::new("E-KUBECTL-NO-K3S", format!("the node {name} runs no k3s"))
            .fix(format!("see why: hepto-node status --node {name}"))
    })?;
    let mut programs = contact.programs.into_iter().map(|program| program.argv);
    let argv =
        programs.find(|argv| matches!(argv.get(1).map(String::as_str), Some("server" | "agent")));
    let Some(mut argv) = argv else {
        return Err(Fault::new(
            "E-KUBECTL-NO-K3S",
            format!("k3s has not been started on {name} yet"),
        )
        .fix(format!(
            "see what it waits for: hepto-node status --node {name}"
        )));
    };
    if argv[1] == "agent" {
        let fault = Fault::new(
            "E-KUBECTL-AGENT",
            format!("{name} is an agent; the cluster is governed from its master"),
        );
        let master = master(contact.pid).unwrap_or_else(|| "the master".into());
        return Err(fault.fix(format!(
            "on the machine of {master}: hepto-node kubectl --node {}.{master} …",
            node.cluster
        )));
    }
    Ok(argv.swap_remove(0))
}

/// The master's name, by the agent's own k3s configuration.
fn master(init: i32) -> Option<String> {
    let text =
        std::fs::read_to_string(format!("/proc/{init}/root/etc/rancher/k3s/config.yaml")).ok()?;
    master_in(&text)
}

fn master_in(config: &str) -> Option<String> {
    let server = config
        .lines()
        .find_map(|line| line.trim().strip_prefix("server:"))?;
    let address = server.trim().trim_matches('"').strip_prefix("https://")?;
    Some(address.split(':').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::master_in;

    #[test]
    fn the_master_is_known_by_the_agents_configuration() {
        assert_eq!(
            master_in("node-name: dopey\nserver: https://grumpy:6443\n").as_deref(),
            Some("grumpy")
        );
        assert_eq!(
            master_in("server: \"https://grumpy:6443\"\n").as_deref(),
            Some("grumpy")
        );
        assert_eq!(master_in("node-name: dopey\n"), None);
    }
}
