//! The master moves house as the guide says: stop, snapshot, restore, start. Nobody tells its agents.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Instant;

use hepto_tests::{Home, Node};
use serde_json::{Value, json as value};

use crate::cluster::{Cluster, folder, give_images, json, k3s, reaches, ready, reload, set, soon};
use crate::life::{all_ready, answers, restart, same};
use crate::pods::{self, DATA, Life};
use crate::report::Report;
use crate::{PATIENCE, PROGRAM};

/// Of the API server's certificates, those by which who knew the old master trusts the new one.
const AUTHORITIES: [&str; 2] = ["server-ca.crt", "client-ca.crt"];

/// What has to be the same after the move.
struct Before {
    /// The pods of agents.
    lives: Vec<Life>,
    /// The agents' k3s.
    processes: Vec<i32>,
    overlay: [std::net::IpAddr; 2],
    /// Objects, by kind, name and the identity that the API gave them.
    objects: Vec<Value>,
    authorities: Vec<Vec<u8>>,
    /// The administrator's certificate and key, as somebody may have copied them.
    administrator: [String; 2],
    /// What a pod would show to the API.
    token: String,
}

/// Moves the master to another home, which has to be empty.
pub fn check(cluster: &mut Cluster, home: &Arc<Home>, report: &mut Report) {
    let mut key = None;
    report.check(
        "the master is given the operator's key by a reload: it makes a snapshot, and its agents keep it",
        || {
            key = Some(operator(cluster)?);
            kept_by_agents(cluster)
        },
    );
    let (Some(key), Ok(before)) = (key, Before::of(cluster)) else {
        return report.check("the master can be moved", || Err("it cannot".into()));
    };
    let mut old = None;
    report.check(
        "the master moves to another home and other addresses: stop, snapshot, restore, start",
        || moves(cluster, home, &key, &mut old),
    );
    report.check(
        "its agents follow by themselves: k3s runs on, 0 pod restarts",
        || followed(cluster, &before),
    );
    report.check(
        "objects, authorities, certificates and tokens are those from before",
        || before.holds(cluster),
    );
    report.check("its own pod comes back in the new home", || {
        let start = Instant::now();
        answers(cluster, cluster.master())?;
        Ok(format!("after {:.1} s more", start.elapsed().as_secs_f64()))
    });
    report.check("pods may come to the master again", || schedulable(cluster));
    let node = &cluster.nodes[1];
    let what = format!(
        "k3s of {} is killed: it joins the moved master by its token, 0 pod restarts",
        node.name()
    );
    report.check(&what, || {
        let start = Instant::now();
        restart(node)?;
        let took = start.elapsed().as_secs_f64();
        same(cluster, &before.lives)?;
        Ok(format!("after {took:.1} s"))
    });
    report.check(
        "the old machine is powered on beside it, gives way and says so: 0 pod restarts",
        || comes_back(cluster, &mut old.ok_or("there is none")?),
    );
}

/// `hepto-node` in the node's home, with its config.
fn call(node: &Node, words: &[&str]) -> Result<(), String> {
    let mut command = node.command(words);
    command.arg("--config").arg(&node.config);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = node.home().space().spawn(&mut command);
    let output = child.map_err(|error| error.to_string())?.wait_with_output();
    done(&output.map_err(|error| error.to_string())?)
}

fn done(output: &Output) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(said)
}

/// Makes the operator's key on his own machine and tells the master its public half.
fn operator(cluster: &Cluster) -> Result<PathBuf, String> {
    let path = cluster.lab.directory.join("operator.key");
    let output = Command::new(PROGRAM)
        .args(["keys", "generate", "operator", "--out"])
        .arg(&path)
        .output();
    let output = output.map_err(|error| error.to_string())?;
    done(&output)?;
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    let (key, public) = line.trim().split_once(" = ").ok_or("it prints no line")?;
    set(cluster.master(), "snapshot", key, public)?;
    reload(cluster.master())?;
    Ok(path)
}

fn kept_by_agents(cluster: &Cluster) -> Result<String, String> {
    let (snapshot, took) = soon(PATIENCE, || {
        let snapshot = cluster.master().status()?["snapshot"].clone();
        let on = snapshot["on"].as_array().map_or(0, Vec::len);
        (on == 2)
            .then_some(snapshot.clone())
            .ok_or_else(|| format!("{snapshot}"))
    })?;
    let on = &snapshot["on"];
    Ok(format!("on {on} after {:.1} s", took.as_secs_f64()).replace('"', ""))
}

impl Before {
    fn of(cluster: &Cluster) -> Result<Before, String> {
        let master = cluster.master();
        let read = |name: &str| fs::read(tls(master, name)).map_err(|error| error.to_string());
        let text = |name: &str| read(name).map(|read| String::from_utf8_lossy(&read).into_owned());
        let mut lives = pods::lives(master)?;
        lives.retain(|life| life.node != master.name());
        let agents = cluster.nodes[1..].iter();
        Ok(Before {
            lives,
            processes: agents.map(k3s).collect::<Result<_, _>>()?,
            overlay: master.overlay_now()?,
            objects: objects(master)?,
            authorities: AUTHORITIES
                .iter()
                .map(|name| read(name))
                .collect::<Result<_, _>>()?,
            administrator: [text("client-admin.crt")?, text("client-admin.key")?],
            token: master
                .kubectl(&["create", "token", "default"])?
                .trim()
                .to_owned(),
        })
    }

    fn holds(&self, cluster: &Cluster) -> Result<String, String> {
        let master = cluster.master();
        let now = objects(master)?;
        if now != self.objects {
            return Err(format!("{now:?} were {:?}", self.objects));
        }
        for (name, before) in AUTHORITIES.iter().zip(&self.authorities) {
            if fs::read(tls(master, name)).ok().as_ref() != Some(before) {
                return Err(format!("{name} is another"));
            }
        }
        if master.overlay_now()? != self.overlay {
            return Err("it has other overlay addresses".into());
        }
        self.old_certificate(master)?;
        self.old_token(master)?;
        Ok(format!(
            "{} objects; the administrator's certificate and a pod's token, both from before, are taken",
            now.len()
        ))
    }

    fn old_certificate(&self, master: &Node) -> Result<(), String> {
        let [certificate, key] = &self.administrator;
        let certificate = pods::hand(master, "old.crt", certificate)?;
        let key = pods::hand(master, "old.key", key)?;
        let flags = [
            "--kubeconfig=/dev/null".to_owned(),
            "--server=https://127.0.0.1:6443".to_owned(),
            format!("--certificate-authority={DATA}/server/tls/server-ca.crt"),
            format!("--client-certificate={certificate}"),
            format!("--client-key={key}"),
        ];
        let mut words: Vec<&str> = flags.iter().map(String::as_str).collect();
        words.extend(["get", "nodes"]);
        let asked = master.kubectl(&words);
        for name in ["old.crt", "old.key"] {
            fs::remove_file(folder(master).join(name)).map_err(|error| error.to_string())?;
        }
        asked.map(drop)
    }

    fn old_token(&self, master: &Node) -> Result<(), String> {
        let review = value!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": { "token": self.token },
        });
        let file = pods::hand(master, "review.json", &review.to_string())?;
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let said = master.kubectl(&["create", "--raw", path, "-f", &file]);
        fs::remove_file(folder(master).join("review.json")).map_err(|error| error.to_string())?;
        let said = said?;
        let review: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        (review["status"]["authenticated"] == true)
            .then_some(())
            .ok_or(said)
    }
}

fn tls(master: &Node, name: &str) -> PathBuf {
    folder(master).join("server/tls").join(name)
}

/// Objects that nothing but an operator changes.
fn objects(master: &Node) -> Result<Vec<Value>, String> {
    let list = json(master, &["get", "configmaps,services,serviceaccounts,pods"])?;
    let items = list["items"].as_array().into_iter().flatten();
    let object = |item: &Value| {
        let of = &item["metadata"];
        value!([item["kind"], of["name"], of["uid"]])
    };
    Ok(items.map(object).collect())
}

fn moves(
    cluster: &mut Cluster,
    home: &Arc<Home>,
    key: &Path,
    old: &mut Option<Node>,
) -> Result<String, String> {
    let made = cluster.lab.directory.join("move.age");
    let (made, key) = (made.display().to_string(), key.display().to_string());
    let next = successor(cluster, home)?;
    let start = Instant::now();
    let status = cluster.nodes[0].stop(PATIENCE);
    if !status.success() {
        return Err(format!("{status}\n{}", cluster.nodes[0].log()));
    }
    call(cluster.master(), &["snapshot", "now", "--out", &made])?;
    call(&next, &["restore", "--from", &made, "--identity", &key])?;
    let restored = start.elapsed().as_secs_f64();
    give_images(&next);
    // The old one stays as it is, in its home.
    *old = Some(std::mem::replace(&mut cluster.nodes[0], next));
    cluster.nodes[0].start();
    reaches(cluster.master(), "ready");
    let took = start.elapsed().as_secs_f64();
    soon(PATIENCE, || ready(cluster.master()))?;
    Ok(format!(
        "restored {restored:.1} s after the stop began, ready after {took:.1} s"
    ))
}

/// The master in its new home, with the old one's config, in which storage and addresses are corrected.
fn successor(cluster: &Cluster, home: &Arc<Home>) -> Result<Node, String> {
    let old = cluster.master();
    let recipe = hepto_tests::Recipe {
        lines: old.recipe.lines.clone(),
        ..cluster.lab.recipe(4, old.name())
    };
    let mut text = fs::read_to_string(&old.config).map_err(|error| error.to_string())?;
    let path = |path: &Path| format!("{path:?}");
    let storages = [path(&old.recipe.storage), path(&recipe.storage)];
    let addresses =
        |recipe: &hepto_tests::Recipe| recipe.uplink.map(|address| format!("\"{address}/"));
    let pairs = addresses(&old.recipe).into_iter().zip(addresses(&recipe));
    for (from, to) in pairs.chain([storages.into()]) {
        if !text.contains(&from) {
            return Err(format!("{from} is not in {text}"));
        }
        text = text.replace(&from, &to);
    }
    let config = cluster.lab.directory.join("moved.toml");
    let node = cluster.lab.node_at(home, recipe, config);
    fs::write(&node.config, text).map_err(|error| error.to_string())?;
    Ok(node)
}

fn followed(cluster: &Cluster, before: &Before) -> Result<String, String> {
    let start = Instant::now();
    all_ready(cluster)?;
    let took = start.elapsed().as_secs_f64();
    let agents = cluster.nodes[1..].iter();
    let processes: Vec<i32> = agents.map(k3s).collect::<Result<_, _>>()?;
    if processes != before.processes {
        return Err(format!(
            "k3s was {:?} and is {processes:?}",
            before.processes
        ));
    }
    let now = pods::lives(cluster.master())?;
    if let Some(lost) = before.lives.iter().find(|life| !now.contains(life)) {
        return Err(format!("{lost:?} was, and is not in {now:?}"));
    }
    for life in &before.lives {
        let said = pods::run(cluster.master(), &life.node, &["echo", "127.0.0.1"])?;
        if said.is_empty() {
            return Err(format!("{} says nothing", life.name));
        }
    }
    Ok(format!(
        "{} Ready nodes {took:.1} s later",
        cluster.nodes.len()
    ))
}

/// The stop before the move had cordoned it.
fn schedulable(cluster: &Cluster) -> Result<String, String> {
    let nodes = json(cluster.master(), &["get", "nodes"])?;
    let items = nodes["items"].as_array().into_iter().flatten();
    let cordoned: Vec<&Value> = items
        .filter(|node| node["spec"]["unschedulable"] == true)
        .map(|node| &node["metadata"]["name"])
        .collect();
    cordoned
        .is_empty()
        .then(|| "no node is cordoned".to_owned())
        .ok_or_else(|| format!("cordoned are {cordoned:?}"))
}

/// The old machine has the same identity, keys and datastore as the new one.
fn comes_back(cluster: &Cluster, old: &mut Node) -> Result<String, String> {
    let lives = pods::lives(cluster.master())?;
    let processes = || cluster.nodes.iter().map(k3s).collect::<Result<Vec<_>, _>>();
    let before = processes()?;
    let cgroup = format!("hepto-{}.old", cluster.lab.cluster);
    let home = old.home().clone();
    cgroups(&home, ENTER, &cgroup)?;
    let start = Instant::now();
    old.start();
    let status = old.end(PATIENCE);
    let took = start.elapsed().as_secs_f64();
    cgroups(&home, LEAVE, &cgroup)?;
    if status.code() != Some(78) || !old.log().contains("E-MESH-MOVED") {
        return Err(format!("{status}\n{}", old.log()));
    }
    same(cluster, &lives)?;
    let now = processes()?;
    (now == before)
        .then(|| format!("`E-MESH-MOVED`, ended after {took:.1} s"))
        .ok_or_else(|| format!("k3s was {before:?} and is {now:?}"))
}

/// A machine of its own has cgroups of its own; on one kernel, two nodes of one name would meet in theirs. So the home
/// sees a part of each hierarchy for the whole.
const ENTER: &str = r#"for root in $roots; do
    [ -e "$root/cgroup.procs" ] && [ ! -L "$root" ] || continue
    mkdir "$root/$name" || exit 1
    for file in cpuset.cpus cpuset.mems; do
        [ ! -e "$root/$file" ] || cat "$root/$file" >"$root/$name/$file" || exit 1
    done
    mount --bind "$root/$name" "$root" || exit 1
done"#;
const LEAVE: &str = r#"for root in $roots; do
    [ -e "$root/cgroup.procs" ] && [ ! -L "$root" ] || continue
    umount "$root" || exit 1
    rmdir "$root/$name/hepto" 2>/dev/null
    rmdir "$root/$name" || exit 1
done"#;

fn cgroups(home: &Home, script: &str, name: &str) -> Result<(), String> {
    let roots = "roots=/sys/fs/cgroup; [ -e $roots/cgroup.procs ] || roots=$(echo $roots/*)";
    let mut command = Command::new("sh");
    command.args(["-c", &format!("name={name}; {roots}; {script}")]);
    command.stderr(Stdio::piped());
    let child = home.space().spawn(&mut command);
    let output = child.map_err(|error| error.to_string())?.wait_with_output();
    done(&output.map_err(|error| error.to_string())?)
}
