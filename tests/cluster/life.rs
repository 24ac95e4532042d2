//! Pods outlive all but their own end.

use std::thread;
use std::time::{Duration, Instant};

use hepto_tests::Node;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::PATIENCE;
use crate::cluster::{Cluster, json, k3s, parent, reaches, ready, reload, set, soon};
use crate::pods::{self, Life, PORT};
use crate::report::Report;

/// How long a reloaded node's pod is watched, seconds.
const WATCH: &str = "8";

/// Checks all of it.
pub fn check(cluster: &mut Cluster, report: &mut Report) {
    let lives = match pods::lives(cluster.master()) {
        Ok(lives) => lives,
        Err(error) => return report.check("the pods are known", || Err(error)),
    };
    for number in [1, 0] {
        let node = &cluster.nodes[number];
        let what = format!(
            "k3s of {} is killed: ready again, 0 pod restarts",
            node.name()
        );
        report.check(&what, || {
            let start = Instant::now();
            restart(node)?;
            let took = start.elapsed();
            same(cluster, &lives)?;
            Ok(format!("after {:.1} s", took.as_secs_f64()))
        });
    }
    for number in [1, 0] {
        let what = format!(
            "the supervisor of {} is killed and started: k3s is adopted, 0 pod restarts",
            cluster.nodes[number].name()
        );
        report.check(&what, || {
            let start = Instant::now();
            adopt(&mut cluster.nodes[number])?;
            let took = start.elapsed();
            same(cluster, &lives)?;
            Ok(format!("after {:.1} s", took.as_secs_f64()))
        });
    }
    reloads(cluster, &lives, report);
    changed(cluster, &lives, report);
    rebuilt(cluster, report);
    returned(cluster, report);
}

/// Every node is reloaded: the installed program takes the running one's place. All the while the pod of another asks
/// its pod.
fn reloads(cluster: &Cluster, lives: &[Life], report: &mut Report) {
    for (number, node) in cluster.nodes.iter().enumerate() {
        let what = format!(
            "{} is reloaded: k3s runs on, 0 pod restarts, its pod is silent for at most 1 s",
            node.name()
        );
        let other = &cluster.nodes[(number + 1) % cluster.nodes.len()];
        report.check(&what, || {
            let before = k3s(node)?;
            let address = pods::addresses(cluster.master(), node.name())?[1].to_string();
            let (silence, said) = thread::scope(|scope| {
                let watch =
                    || pods::run(cluster.master(), other.name(), &["watch", &address, WATCH]);
                let watched = scope.spawn(watch);
                // The watch has to have begun.
                thread::sleep(Duration::from_secs(2));
                let said = reload(node);
                (watched.join(), said)
            });
            let said = said?;
            let after = k3s(node)?;
            if before != after {
                return Err(format!("k3s was {before} and is {after}"));
            }
            same(cluster, lives)?;
            let silence = silence.map_err(|_| "the watch panicked")??;
            let seconds = silence.split(' ').next().unwrap_or_default();
            match seconds.parse::<f64>() {
                Ok(longest) if longest <= 1.0 => Ok(format!("{silence}; {said}")),
                _ => Err(silence),
            }
        });
    }
}

/// A reload with other settings of k3s starts k3s anew, and k3s alone.
fn changed(cluster: &Cluster, lives: &[Life], report: &mut Report) {
    let node = &cluster.nodes[1];
    let what = format!(
        "other settings of k3s, taken by a reload of {}, start k3s anew: 0 pod restarts",
        node.name()
    );
    report.check(&what, || {
        let before = k3s(node)?;
        set(node, "k3s", "args", "[\"--kubelet-arg=max-pods=55\"]")?;
        reload(node)?;
        reaches(node, "ready");
        if before == k3s(node)? {
            return Err(format!("k3s is {before} as before"));
        }
        let (capacity, _) = soon(PATIENCE, || {
            let node = json(cluster.master(), &["get", "node", node.name()])?;
            let pods = node["status"]["capacity"]["pods"].as_str();
            match pods {
                Some("55") => Ok("room for 55 pods, as was set"),
                other => Err(format!("it has room for {other:?} pods")),
            }
        })?;
        same(cluster, lives)?;
        Ok(capacity.to_owned())
    });
}

/// The node's init dies, and with it all that it held: everything is built anew, the pod too.
fn rebuilt(cluster: &Cluster, report: &mut Report) {
    let node = &cluster.nodes[2];
    let what = format!(
        "the init of {} is killed: all is cleaned and built anew, and its pod answers again",
        node.name()
    );
    report.check(&what, || {
        let before = k3s(node)?;
        let start = Instant::now();
        kill(Pid::from_raw(parent(before)?), Signal::SIGKILL).map_err(|error| error.to_string())?;
        soon(PATIENCE, || match k3s(node)? {
            pid if pid == before => Err("the old k3s is still there".to_owned()),
            _ => Ok(()),
        })?;
        reaches(node, "ready");
        answers(cluster, node)?;
        Ok(format!("after {:.1} s", start.elapsed().as_secs_f64()))
    });
}

/// A node that is stopped and started again, as at a reboot of its host.
fn returned(cluster: &mut Cluster, report: &mut Report) {
    let name = cluster.nodes[1].name().to_owned();
    let what = format!("{name} is stopped and started again: its pod comes back");
    report.check(&what, || {
        let node = &mut cluster.nodes[1];
        let status = node.stop(PATIENCE);
        if !status.success() {
            return Err(format!("{status}\n{}", node.log()));
        }
        let start = Instant::now();
        node.start();
        reaches(node, "ready");
        answers(cluster, &cluster.nodes[1])?;
        Ok(format!(
            "{:.1} s after the start",
            start.elapsed().as_secs_f64()
        ))
    });
}

/// The pod of the node, wherever it has its new address, answers the master's.
pub fn answers(cluster: &Cluster, node: &Node) -> Result<(), String> {
    let master = cluster.master();
    soon(PATIENCE, || {
        let addresses = pods::addresses(master, node.name())?;
        if addresses.len() != 2 {
            return Err("the pod does not run".to_owned());
        }
        for address in addresses {
            let server = std::net::SocketAddr::new(address, PORT).to_string();
            let said = pods::run(master, master.name(), &["ask", &server])?;
            if !said.starts_with(&pods::name(node.name())) {
                return Err(said);
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// Kills k3s and waits for the next one.
pub fn restart(node: &Node) -> Result<(), String> {
    let before = k3s(node)?;
    kill(Pid::from_raw(before), Signal::SIGKILL).map_err(|error| error.to_string())?;
    soon(PATIENCE, || match k3s(node)? {
        pid if pid == before => Err("the old one is still there".to_owned()),
        _ => Ok(()),
    })?;
    reaches(node, "ready");
    Ok(())
}

/// Kills the supervisor and starts another, which has to find the k3s that was.
fn adopt(node: &mut Node) -> Result<(), String> {
    let before = k3s(node)?;
    node.crash();
    node.start();
    reaches(node, "ready");
    let after = k3s(node)?;
    (before == after)
        .then_some(())
        .ok_or_else(|| format!("k3s was {before} and is {after}"))
}

/// The same containers run with the same addresses, every node's pod asks one of them, and all nodes are Ready.
pub fn same(cluster: &Cluster, lives: &[Life]) -> Result<(), String> {
    let master = cluster.master();
    soon(Duration::from_secs(60), || {
        let now = pods::lives(master)?;
        lives
            .iter()
            .all(|life| now.contains(life))
            .then_some(())
            .ok_or_else(|| format!("pods were {lives:?} and are {now:?}"))
    })?;
    for (number, node) in cluster.nodes.iter().enumerate() {
        let to = &lives[(number + 1) % lives.len()];
        for address in &to.addresses {
            let server = std::net::SocketAddr::new(*address, PORT).to_string();
            soon(Duration::from_secs(60), || {
                pods::run(master, node.name(), &["ask", &server])
            })?;
        }
    }
    all_ready(cluster)
}

/// The cluster calls all nodes Ready.
pub fn all_ready(cluster: &Cluster) -> Result<(), String> {
    soon(PATIENCE, || {
        let ready = ready(cluster.master())?;
        (ready.len() == cluster.nodes.len())
            .then_some(())
            .ok_or_else(|| format!("Ready are {ready:?}"))
    })?;
    Ok(())
}
