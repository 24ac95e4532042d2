//! A k3s that is not on the machine: downloaded, kept, shared.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hepto_tests::{Fault, Home, Identity, Lab, Mirror, Node, Recipe, isolated, stand_in, within};

use crate::{PROGRAM, SOON, end, k3s_log, reaches, starts};

const VERSION: &str = "v1.33.4+k3s1";
const ASSETS: [&str; 2] = match cfg!(target_arch = "aarch64") {
    true => ["k3s-arm64", "sha256sum-arm64.txt"],
    false => ["k3s", "sha256sum-amd64.txt"],
};

/// A home whose host has a mirror with the stand-in as its k3s.
struct Scene {
    lab: Lab,
    home: Arc<Home>,
    mirror: Mirror,
}

impl Scene {
    fn new() -> Scene {
        let lab = Lab::new(PROGRAM);
        let home = lab.home(1);
        let listen = || TcpListener::bind("192.168.77.1:0").expect("a port of the host");
        let listener = home.space().run(listen).expect("the home can be entered");
        let mirror = Mirror::start(listener, Identity::Good);
        fs::write(lab.directory.join("mirror.pem"), &mirror.authority).expect("a file");
        let scene = Scene { lab, home, mirror };
        let program = fs::read(stand_in(PROGRAM)).expect("the stand-in");
        scene.publish(VERSION, &program);
        scene
    }

    fn publish(&self, version: &str, program: &[u8]) {
        let file = self.lab.directory.join("program");
        fs::write(&file, program).expect("a file");
        let sum = std::process::Command::new("sha256sum").arg(&file).output();
        let sum = String::from_utf8(sum.expect("coreutils has sha256sum").stdout).expect("text");
        let digest = sum.split(' ').next().expect("a digest");
        self.mirror
            .put(&format!("/{version}/{}", ASSETS[0]), program);
        let sums = format!("{digest}  {}\n", ASSETS[0]);
        self.mirror
            .put(&format!("/{version}/{}", ASSETS[1]), sums.as_bytes());
    }

    /// A node whose k3s is a release of the mirror.
    fn node(&self, name: &str, version: &str) -> Node {
        let recipe = self.recipe(name, version);
        self.lab.node(&self.home, recipe)
    }

    fn recipe(&self, name: &str, version: &str) -> Recipe {
        let lines = format!(
            "version = {version:?}\nmirror = {:?}\nca_file = {:?}",
            self.mirror.url,
            self.lab.directory.join("mirror.pem")
        );
        self.lab.recipe(1, name).without("k3s").with("k3s", &lines)
    }

    /// How often the program itself was asked for.
    fn downloads(&self) -> usize {
        let asked = self.mirror.asked();
        asked
            .iter()
            .filter(|asked| asked.path.ends_with(ASSETS[0]))
            .count()
    }
}

/// The programs in the store of a node's storage.
fn stored(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.recipe.storage.join(".hepto/k3s")).expect("the store");
    let programs = entries.flatten().map(|entry| entry.path().join("k3s"));
    programs.filter(|path| path.exists()).collect()
}

/// The problem of this code, once the node has it.
fn problem(node: &Node, code: &str) -> serde_json::Value {
    let ask = || {
        let status = node.status()?;
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let found = problems.into_iter().find(|problem| problem["code"] == code);
        found.ok_or_else(|| status.to_string())
    };
    within::<_, String>(SOON, &format!("{code} is told"), ask).0
}

#[test]
fn a_release_is_downloaded_runs_and_starts_again_without_the_mirror() {
    isolated(|| {
        let scene = Scene::new();
        let mut node = scene.node("mars", VERSION);
        node.start();
        reaches(&node, "ready");
        assert_eq!(scene.downloads(), 1);
        let [program] = stored(&node).try_into().expect("one program");
        let mode = fs::metadata(&program).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert!(node.stop(SOON).success(), "{}", node.log());
        scene.mirror.remove(&format!("/{VERSION}/{}", ASSETS[0]));
        scene.mirror.remove(&format!("/{VERSION}/{}", ASSETS[1]));
        let asked = scene.mirror.asked().len();
        node.start();
        reaches(&node, "ready");
        assert_eq!(scene.mirror.asked().len(), asked, "nothing is asked for");
        end(node);
    });
}

#[test]
fn a_node_without_its_k3s_is_in_the_mesh_says_why_and_goes_on_when_it_can() {
    isolated(|| {
        let scene = Scene::new();
        let path = format!("/{VERSION}/{}", ASSETS[0]);
        scene.mirror.fault(&path, Some(Fault::StallAfter(100_000)));
        let mut node = scene.node("mars", VERSION);
        node.start();
        // The mesh does not wait for a server.
        node.overlay();
        let shown = within::<_, String>(SOON, "the download is shown", || {
            let k3s = node.status()?["k3s"].clone();
            let started = k3s["download"]["done_bytes"]
                .as_u64()
                .is_some_and(|done| done >= 100_000);
            if started {
                Ok(k3s)
            } else {
                Err(k3s.to_string())
            }
        });
        assert_eq!(shown.0["state"], "acquiring");
        assert_eq!(shown.0["ready"], false);
        assert_eq!(shown.0["download"]["file"], ASSETS[0]);
        // Cut now: after a pause it is gone on with.
        scene.mirror.fault(&path, None);
        assert!(problem(&node, "E-K3S-CUT")["fix"].is_string());
        reaches(&node, "ready");
        let status = node.status().expect("a status");
        let problems = status["problems"].to_string();
        assert!(!problems.contains("E-K3S"), "{status}");
        let from: Vec<_> = scene
            .mirror
            .asked()
            .into_iter()
            .filter(|asked| asked.path == path)
            .collect();
        assert!(from[1].from.is_some_and(|from| from >= 100_000), "{from:?}");
        end(node);
    });
}

#[test]
fn a_stop_does_not_wait_for_a_server_that_stands_still() {
    isolated(|| {
        let scene = Scene::new();
        let path = format!("/{VERSION}/{}", ASSETS[0]);
        scene.mirror.fault(&path, Some(Fault::StallAfter(1_000)));
        let mut node = scene.node("mars", VERSION);
        node.start();
        within::<_, String>(SOON, "the download begins", || {
            let k3s = node.status()?["k3s"].clone();
            if k3s["download"].is_object() {
                Ok(())
            } else {
                Err(k3s.to_string())
            }
        });
        assert!(
            node.stop(Duration::from_secs(20)).success(),
            "{}",
            node.log()
        );
        assert_eq!(stored(&node).len(), 0);
    });
}

#[test]
fn what_a_wrong_digest_or_a_missing_version_does_to_a_k3s_that_runs_is_nothing() {
    isolated(|| {
        let scene = Scene::new();
        let mut node = scene.node("mars", VERSION);
        node.start();
        let before = reaches(&node, "ready")["pid"].clone();
        // Another version is wanted by the next supervisor, and the mirror gives a wrong one.
        let wanted = "v1.34.0+k3s1";
        scene.publish(wanted, b"another program");
        scene
            .mirror
            .fault(&format!("/{wanted}/{}", ASSETS[0]), Some(Fault::Tampered));
        node.crash();
        let mut node = scene.node("mars", wanted);
        node.start();
        problem(&node, "E-K3S-DIGEST");
        let k3s = reaches(&node, "ready");
        assert_eq!(k3s["restarts"], 0);
        assert_eq!(
            (&k3s["pid"], starts(&node)),
            (&before, 1),
            "{}",
            k3s_log(&node)
        );
        // Stopped and started, the node has the k3s of before rather than none.
        assert!(node.stop(SOON).success(), "{}", node.log());
        node.start();
        reaches(&node, "ready");
        assert_eq!(starts(&node), 2);
        problem(&node, "E-K3S-DIGEST");
        end(node);
    });
}

#[test]
fn a_program_that_was_changed_on_the_disk_is_not_started() {
    isolated(|| {
        let scene = Scene::new();
        let mut node = scene.node("mars", VERSION);
        node.start();
        reaches(&node, "ready");
        assert!(node.stop(SOON).success(), "{}", node.log());
        let [program] = stored(&node).try_into().expect("one program");
        let good = fs::read(&program).expect("a program");
        let mut changed = good.clone();
        changed[good.len() / 2] ^= 1;
        fs::write(&program, changed).expect("a program");
        node.start();
        reaches(&node, "ready");
        assert_eq!(scene.downloads(), 2, "{}", node.log());
        assert_eq!(fs::read(&program).expect("a program"), good);
        end(node);
    });
}

#[test]
fn fetched_beforehand_it_is_there_when_the_node_starts() {
    isolated(|| {
        let scene = Scene::new();
        let mut node = scene.node("mars", VERSION);
        let fetch = || {
            let mut command = node.command(&["k3s", "fetch", "--config"]);
            command
                .arg(&node.config)
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped());
            let child = scene
                .home
                .space()
                .spawn(&mut command)
                .expect("hepto-node starts");
            child.wait_with_output().expect("the process is ours")
        };
        let first = fetch();
        let said = String::from_utf8_lossy(&first.stderr).into_owned();
        assert!(first.status.success(), "{said}");
        let path = String::from_utf8_lossy(&first.stdout).trim().to_owned();
        assert_eq!(stored(&node), [PathBuf::from(path)]);
        assert!(
            said.contains("100 %"),
            "plain lines show how far it is: {said}"
        );
        assert!(fetch().status.success());
        assert_eq!(scene.downloads(), 1);
        scene.mirror.remove(&format!("/{VERSION}/{}", ASSETS[0]));
        node.start();
        reaches(&node, "ready");
        end(node);
    });
}

/// A proxy that lets everybody through (RFC 9110, §9.3.6), and counts.
fn proxy(listener: TcpListener) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let tunnel = move |stream: TcpStream| -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut lines = (&mut reader).lines();
        let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        while lines
            .next()
            .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
        {}
        let target = first
            .strip_prefix("CONNECT ")
            .and_then(|rest| rest.split(' ').next());
        let server = TcpStream::connect(target.unwrap_or_default())?;
        seen.fetch_add(1, Ordering::Relaxed);
        let (mut up, mut down) = (server.try_clone()?, stream.try_clone()?);
        down.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
        thread::spawn(move || io::copy(&mut reader, &mut up).ok());
        io::copy(&mut &server, &mut down)?;
        stream.shutdown(Shutdown::Both)
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tunnel = tunnel.clone();
            // Who goes away is not waited for.
            thread::spawn(move || tunnel(stream).ok());
        }
    });
    count
}

#[test]
fn the_proxy_of_the_environment_is_used() {
    isolated(|| {
        let scene = Scene::new();
        // The mirror's socket is the host's, and so is the proxy with all that it opens.
        let open = || {
            let listener = TcpListener::bind("192.168.77.1:0").expect("a port of the host");
            let address = listener.local_addr().expect("an address");
            (proxy(listener), address)
        };
        let (count, address) = scene
            .home
            .space()
            .run(open)
            .expect("the home can be entered");
        let mut node = scene.node("mars", VERSION);
        node.environment = vec![
            ("HTTPS_PROXY".into(), format!("http://{address}")),
            ("NO_PROXY".into(), "example.org".into()),
        ];
        node.start();
        reaches(&node, "ready");
        assert_eq!(
            count.load(Ordering::Relaxed),
            2,
            "the checksums and the program"
        );
        end(node);
    });
}
