//! The first thing that a newcomer runs.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use hepto_tests::{Home, Inventory, Lab, isolated, isolated_for, stand_in, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{PROGRAM, SOON, new_lab, seconds};

#[test]
fn the_demo_shows_three_nodes_and_a_cut_and_leaves_nothing() {
    isolated_for(seconds(120), || {
        let (lab, home) = place();
        let before = Inventory::of(&home);
        let output = start(&lab, &home, &["--break"])
            .wait_with_output()
            .expect("it ends");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{shown}{said}");
        for words in [
            "grumpy",
            "sleepy",
            "happy",
            "from \\ to",
            "bit/s",
            "100 % loss",
            "again after",
        ] {
            assert!(shown.contains(words), "{words} in:\n{shown}");
        }
        leaves_nothing(&lab, &home, &before);
    });
}

#[test]
fn the_demo_supervises_a_k3s_in_every_home_and_leaves_nothing() {
    isolated_for(seconds(120), || {
        let (lab, home) = place();
        let before = Inventory::of(&home);
        let k3s = stand_in(PROGRAM);
        let k3s = k3s.to_str().expect("a path in UTF-8");
        let output = start(&lab, &home, &["--k3s", k3s])
            .wait_with_output()
            .expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        for name in ["grumpy", "sleepy", "happy"] {
            assert!(said.contains(&format!("k3s of {name} is ready")), "{said}");
        }
        assert!(!said.contains("warning"), "{said}");
        leaves_nothing(&lab, &home, &before);
    });
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing() {
    isolated_for(seconds(90), || {
        let (lab, home) = place();
        let before = Inventory::of(&home);
        for (signal, moment) in [
            (Signal::SIGINT, "building"),
            (Signal::SIGTERM, "waiting"),
            (Signal::SIGINT, "grumpy reaches"),
        ] {
            let mut demo = start(&lab, &home, &["--nodes", "2"]);
            // Read on, so that the demo's last lines find a reader.
            let mut lines = BufReader::new(demo.stderr.take().expect("it was piped")).lines();
            let met = lines
                .by_ref()
                .map_while(Result::ok)
                .any(|line| line.contains(moment));
            assert!(met, "the demo came to {moment}");
            kill(
                Pid::from_raw(demo.id().try_into().expect("a process id")),
                signal,
            )
            .expect("it is ours");
            let ended = within(SOON, "the demo ends", || {
                demo.try_wait().expect("it is ours").ok_or("it runs")
            })
            .0;
            assert_eq!(ended.code(), Some(130), "{signal} at {moment}");
            leaves_nothing(&lab, &home, &before);
        }
    });
}

#[test]
fn a_demo_that_fails_half_way_says_why_and_leaves_nothing() {
    isolated(|| {
        let (lab, home) = place();
        let before = Inventory::of(&home);
        let fails = |k3s: &str| {
            let output = start(&lab, &home, &["--nodes", "2", "--k3s", k3s])
                .wait_with_output()
                .expect("it ends");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}");
            leaves_nothing(&lab, &home, &before);
            said
        };
        for (program, reason) in [
            ("/bin/false", "/bin/false is not a k3s"),
            ("/bin/cat", "it says \"cat"),
            ("/bin/nothing", "cannot find /bin/nothing"),
        ] {
            let said = fails(program);
            assert!(
                said.contains("[E-DEMO-K3S]") && said.contains(reason),
                "{said}"
            );
            assert!(
                !said.contains("building"),
                "before anything is made: {said}"
            );
        }
        // It calls itself k3s, can be started, and never serves.
        let script = lab.directory.join("refuses");
        let text = "#!/bin/sh\n[ \"$1\" = --version ] && exec echo k3s version v0.0.0\n\
                    echo \"no k3s for you: $1\"; exit 64\n";
        hepto_tests::replace_file(&script, text.as_bytes());
        let refuses = hepto_tests::program_at(&script, "refuses");
        let said = fails(refuses.to_str().expect("a path in UTF-8"));
        assert!(said.contains("no k3s for you: server"), "{said}");
    });
}

#[test]
fn a_demo_that_is_kept_lives_on_and_goes_by_the_command_that_it_shows() {
    isolated(|| {
        let (lab, home) = place();
        let before = Inventory::of(&home);
        let output = start(&lab, &home, &["--nodes", "2", "--keep"])
            .wait_with_output()
            .expect("it ends");
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{shown}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let look = shown
            .lines()
            .find(|line| line.contains("nsenter"))
            .expect("directions");
        shell(look).expect("the nodes answer to who follows the directions");
        let end = shown
            .lines()
            .find_map(|line| line.strip_prefix("To end it all: "))
            .expect("a command");
        shell(end).expect("the command works");
        within(SOON, "nothing is left", || {
            let left = Inventory::of(&home).more_than(&before);
            left.is_empty().then_some(()).ok_or(format!("{left:?}"))
        });
        leaves_nothing(&lab, &home, &before);
    });
}

fn place() -> (Lab, Arc<Home>) {
    let lab = new_lab();
    let home = lab.home(1);
    (lab, home)
}

fn start(lab: &Lab, home: &Home, arguments: &[&str]) -> Child {
    let mut command = Command::new(PROGRAM);
    command
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", &lab.directory);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    home.space().spawn(&mut command).expect("hepto-node starts")
}

fn shell(line: &str) -> Result<String, String> {
    let output = Command::new("sh")
        .args(["-c", line])
        .output()
        .expect("a shell");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if output.status.success() {
        Ok(text)
    } else {
        Err(format!("{line}: {text}"))
    }
}

fn leaves_nothing(lab: &Lab, home: &Home, before: &Inventory) {
    assert_eq!(Inventory::of(home).more_than(before), Vec::<String>::new());
    let files = std::fs::read_dir(&lab.directory)
        .expect("the test's directory")
        .flatten();
    let left: Vec<_> = files
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("hepto-demo")
        })
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
