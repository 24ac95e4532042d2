//! Another k3s takes the place of the one that runs; pods live on, and there is a way back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hepto_tests::{
    Lab, Node, Recipe, isolated, isolated_for, replace_file, stand_in, until, within,
};
use rusqlite::Connection;
use serde_json::Value;

use crate::{PROGRAM, SOON, control, end, folder, k3s, pid_in, reaches, starts};

/// What a new k3s may take, in the tests that have to wait for it.
const TIMEOUT: &str = "upgrade_timeout = \"10s\"";

/// A server alone whose k3s is a file of its own; ready, with a pod.
struct Server {
    node: Node,
    program: PathBuf,
    pod: u32,
    _lab: Lab,
}

impl Server {
    fn new() -> Server {
        let lab = Lab::new(PROGRAM);
        let built = stand_in(PROGRAM);
        // Where the node sees it, in a folder of its own.
        let program = built.with_file_name("own").join("k3s-stand-in");
        fs::create_dir(program.parent().expect("a folder")).expect("a folder");
        fs::copy(&built, &program).expect("a copy of the stand-in");
        let binary = format!("binary = {program:?}");
        let recipe: Recipe = lab.recipe(1, "mars").without("k3s");
        let recipe = recipe.with("k3s", &binary).with("k3s", TIMEOUT);
        let mut node = lab.node(&lab.home(1), recipe);
        node.start();
        reaches(&node, "ready");
        control(&node, "leave-children\n");
        let pod = pid_in(&node, "pod");
        let server = Server {
            node,
            program,
            pod,
            _lab: lab,
        };
        // Only then is there a way back.
        until(SOON, "the k3s that was ready is kept", || {
            // It is noted before it is there.
            let noted = server.history();
            noted
                .split('"')
                .any(|word| is_stored(Path::new(word)) && Path::new(word).is_file())
        });
        server
    }

    fn history(&self) -> String {
        let path = folder(&self.node, "k3s.toml");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split("[good]").nth(1).unwrap_or_default().to_owned()
    }

    /// Another version in the program's place, which behaves by these words.
    fn replace(&self, version: &str, words: &str) {
        // What follows an ELF file's sections is nobody's.
        let mut content = fs::read(stand_in(PROGRAM)).expect("the stand-in");
        content.extend_from_slice(version.as_bytes());
        fs::write(self.program.with_extension("control"), words).expect("a control file");
        replace_file(&self.program, &content);
    }

    /// `reload --wait`: whether it went well, and what was said.
    fn reload(&self) -> (bool, String) {
        let output = self.node.ask(&["reload", "--wait"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    }

    /// The program that k3s runs from.
    fn runs(&self, k3s: &Value) -> PathBuf {
        let link = format!("/proc/{}/exe", k3s["pid"]);
        fs::read_link(link).expect("k3s runs")
    }

    fn pod_lives(&self) {
        assert_eq!(pid_in(&self.node, "pod"), self.pod, "the pod lives on");
    }

    /// Whether status names a failed upgrade.
    fn failed(&self) -> bool {
        let status = self.node.status().expect("it runs");
        let problems = status["problems"].as_array().expect("a list");
        problems
            .iter()
            .any(|problem| problem["code"] == "E-K3S-UPGRADE")
    }

    fn gives_up(&self) -> Value {
        let ask = || match (k3s(&self.node)?, self.failed()) {
            (k3s, true) if k3s["ready"] == true => Ok(k3s),
            (k3s, _) => Err(format!("{k3s}\n{}", self.node.log())),
        };
        let patience = 2 * SOON;
        within::<_, String>(patience, "the earlier k3s is ready again", ask).0
    }
}

fn is_stored(program: &Path) -> bool {
    program.display().to_string().contains("/.hepto/k3s/")
}

#[test]
fn a_new_k3s_takes_over_and_pods_live_on() {
    isolated_for(2 * SOON, || {
        let server = Server::new();
        let before = reaches(&server.node, "ready");
        server.replace("second", "");
        let (well, said) = server.reload();
        assert!(well, "{said}\n{}", server.node.log());
        let after = k3s(&server.node).expect("it runs");
        assert_ne!(after["pid"], before["pid"]);
        assert_eq!(
            (&after["ready"], &after["upgrade"]),
            (&true.into(), &Value::Null)
        );
        assert_eq!(
            (starts(&server.node), server.runs(&after)),
            (2, server.program.clone())
        );
        server.pod_lives();
        assert!(!server.failed());
        assert!(server.reload().0);
        assert_eq!(starts(&server.node), 2, "once");
        end(server.node);
    });
}

#[test]
fn one_that_is_not_ready_in_time_gives_its_place_back_with_the_data() {
    isolated_for(4 * SOON, || {
        let server = Server::new();
        let data = Data::of(&server.node);
        data.write("before");
        server.replace("hangs", "hang\n");
        let node = &server.node;
        std::thread::scope(|scope| {
            let reload = scope.spawn(|| server.reload());
            until(SOON, "the new k3s is started", || starts(node) == 2);
            data.write("by the new one");
            let (well, said) = reload.join().expect("the reload ends");
            assert!(!well && said.contains("[E-K3S-UPGRADE]"), "{said}");
            assert!(said.contains("not ready within 10 s"), "{said}");
        });
        let back = server.gives_up();
        assert!(is_stored(&server.runs(&back)), "{:?}", server.runs(&back));
        assert_eq!((starts(node), data.read()), (3, vec!["before".to_owned()]));
        server.pod_lives();
        // Never a loop: neither by a reload nor by a crash of the supervisor.
        assert!(server.reload().0, "what failed before is no news");
        assert_eq!((starts(node), server.failed()), (3, true));
        // Another setting may be what it lacked.
        fs::remove_file(server.program.with_extension("control")).expect("the control file");
        let text = fs::read_to_string(&node.config).expect("the config file");
        let text = text.replace(
            TIMEOUT,
            &format!("{TIMEOUT}\nargs = [\"--node-label=a=b\"]"),
        );
        fs::write(&node.config, text).expect("the config file");
        let (well, said) = server.reload();
        assert!(well, "{said}\n{}", node.log());
        let after = k3s(node).expect("it runs");
        assert_eq!(server.runs(&after), server.program);
        assert!(!server.failed());
        server.pod_lives();
        end(server.node);
    });
}

#[test]
fn one_that_ends_again_and_again_gives_its_place_back_at_once() {
    isolated_for(4 * SOON, || {
        let mut server = Server::new();
        // Longer than the ends take.
        let text = fs::read_to_string(&server.node.config).expect("the config file");
        fs::write(&server.node.config, text.replace(TIMEOUT, "")).expect("the config file");
        server.replace("crashes", "crash-loop\n");
        let node = &server.node;
        let asked = node.ask(&["reload"]);
        assert!(
            asked.status.success(),
            "{}",
            String::from_utf8_lossy(&asked.stderr)
        );
        until(SOON, "the new k3s is started", || starts(node) == 2);
        // Before that, the program from before the reload would take over.
        until(SOON, "the reload is over", || {
            node.status()
                .is_ok_and(|status| status["on_trial"] == false)
        });
        // A supervisor that dies in the middle is none the wiser, and neither is its next one.
        server.node.crash();
        server.node.start();
        let back = server.gives_up();
        assert!(is_stored(&server.runs(&back)));
        assert!(
            server.node.log().contains("ended 5 times"),
            "{}",
            server.node.log()
        );
        server.pod_lives();
        end(server.node);
    });
}

#[test]
fn a_program_that_was_replaced_while_the_node_was_stopped_is_tried_too() {
    isolated_for(4 * SOON, || {
        let mut server = Server::new();
        assert!(server.node.stop(SOON).success(), "{}", server.node.log());
        server.replace("hangs", "hang\n");
        server.node.start();
        let back = server.gives_up();
        assert!(is_stored(&server.runs(&back)));
        end(server.node);
    });
}

/// A table of ours in k3s's datastore.
struct Data(PathBuf);

impl Data {
    fn of(node: &Node) -> Data {
        let folder = folder(node, "rancher").join("server/db");
        fs::create_dir_all(&folder).expect("the datastore's folder");
        let data = Data(folder.join("state.db"));
        let made = data
            .open()
            .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE mark (word TEXT NOT NULL);");
        made.expect("a table");
        data
    }

    fn open(&self) -> Connection {
        let connection = Connection::open(&self.0).expect("the datastore");
        let patient = connection.busy_timeout(Duration::from_secs(10));
        patient.expect("a time limit");
        connection
    }

    fn write(&self, word: &str) {
        let written = self.open().execute("INSERT INTO mark VALUES (?1)", [word]);
        written.expect("a row");
    }

    fn read(&self) -> Vec<String> {
        let connection = self.open();
        let mut rows = connection
            .prepare("SELECT word FROM mark")
            .expect("the table is there");
        let words = rows.query_map([], |row| row.get(0)).expect("rows");
        words.collect::<Result<_, _>>().expect("words")
    }
}

#[test]
fn a_k3s_that_is_the_same_is_left_alone() {
    isolated(|| {
        let server = Server::new();
        let before = k3s(&server.node).expect("it runs");
        // The same content in a file of its own.
        let content = fs::read(&server.program).expect("the program");
        replace_file(&server.program, &content);
        assert!(server.reload().0);
        assert_eq!(k3s(&server.node).expect("it runs")["pid"], before["pid"]);
        end(server.node);
    });
}
