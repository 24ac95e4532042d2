//! Where the sections come from: the running node, its config, its network as the host's own tools show it, its logs.

use std::io::{self, Read, Seek};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::Section;
use crate::config::{self, Shown};
use crate::control::{Answer, Ask, Client};
use crate::status::peers_text;
use crate::target::RunDirectory;
use crate::uninstall::Outline;

/// The longest time for one tool.
const TOOL: Duration = Duration::from_secs(5);
/// The last lines of a log that are shown.
const LINES: usize = 200;
/// The most that is read of a log's end, bytes.
const LOG: u64 = 256 << 10;

/// What program, on what machine.
pub fn program() -> Section {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let system = read("/etc/os-release");
    let system = system
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let uptime = read("/proc/uptime");
    Section::new(
        "program and machine",
        format!(
            "hepto-node {}\nsystem: {}\nkernel: {}clock: {} s since 1970, up {} s\nmemory: {}\nload: {}",
            env!("CARGO_PKG_VERSION"),
            system.unwrap_or("unknown").trim_matches('"'),
            read("/proc/sys/kernel/osrelease"),
            since_1970.as_secs(),
            uptime.split('.').next().unwrap_or_default(),
            read("/proc/meminfo")
                .lines()
                .take(3)
                .collect::<Vec<_>>()
                .join(", "),
            read("/proc/loadavg"),
        ),
    )
}

/// What the node says of itself.
pub fn control(node: &RunDirectory) -> Section {
    let title = "status and peers";
    let asked = Client::connect(&node.path)
        .map_err(anyhow::Error::from)
        .and_then(|mut client| {
            let status = match client.ask(Ask::Status)? {
                Answer::Status(status) => status.text(),
                _ => String::new(),
            };
            let peers = match client.ask(Ask::Peers)? {
                Answer::Peers(peers) => peers_text(&peers),
                _ => String::new(),
            };
            Ok(format!("{status}\n{peers}"))
        });
    Section::new(
        title,
        asked.unwrap_or_else(|error| {
            format!("the node does not run, or does not answer: {error:#}")
        }),
    )
}

/// The configuration as it is understood, or what is wrong with it.
pub fn config(path: Option<&Path>) -> Section {
    let title = "config";
    let Some(path) = path else {
        return Section::new(title, "unknown: name it with --config FILE");
    };
    Section::new(
        title,
        match config::read(path) {
            Ok((config, warnings)) => {
                let shown = Shown::new(&config)
                    .to_toml()
                    .unwrap_or_else(|error| error.to_string());
                format!("{}\n{shown}\n{}", path.display(), warnings.render(false))
            }
            Err(report) => report.render(false),
        },
    )
}

/// The node's network, from inside.
pub fn network(node: &RunDirectory) -> Vec<Section> {
    let commands: [&[&str]; 7] = [
        &["ip", "-d", "address"],
        &["ip", "route"],
        &["ip", "-6", "route"],
        &["ip", "neighbour"],
        &["nft", "list", "ruleset"],
        &["ss", "-lntu"],
        &["wg", "show"],
    ];
    if !node.namespace().exists() {
        return vec![Section::new(
            "network",
            "the node has no network: it does not run",
        )];
    }
    let name = node.name();
    let inside = |words: &&[&str]| {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["exec", "--net", "--node", &name, "--"])
            .args(*words);
        Section::new(
            format!("in the node's network: {}", words.join(" ")),
            said(command),
        )
    };
    commands.iter().map(inside).collect()
}

/// The ends of the logs.
pub fn logs(node: &RunDirectory, outline: Option<&Outline>) -> Vec<Section> {
    let mut journal = Command::new("journalctl");
    let unit = format!("hepto-node@{}.service", node.node);
    journal.args(["--no-pager", "--lines", &LINES.to_string(), "--unit", &unit]);
    let mut sections = vec![Section::new(format!("journal of {unit}"), said(journal))];
    if let Some(outline) = outline {
        let path = outline.directory.join("log/k3s.log");
        let text = end(&path).unwrap_or_else(|error| error.to_string());
        sections.push(Section::new(format!("end of {}", path.display()), text));
    }
    sections
}

/// The last lines of a file.
fn end(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(LOG)))?;
    let mut bytes = Vec::new();
    file.take(LOG).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(LINES)..].join("\n"))
}

/// What a tool prints, or why it does not; one that hangs is ended.
fn said(mut command: Command) -> String {
    let started = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return format!("cannot be run: {error}"),
    };
    // Read while it runs: a full pipe would hold it up.
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(pipe) = pipe {
                let _ = pipe.take(1 << 20).read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let output = reader(
        child
            .stdout
            .take()
            .map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    );
    let errors = reader(
        child
            .stderr
            .take()
            .map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    );
    let ended = wait(&mut child);
    let text = [output, errors]
        .map(|reader| reader.join().unwrap_or_default())
        .concat();
    match ended {
        true => text,
        false => format!("{text}\n(it did not end within {} s)", TOOL.as_secs()),
    }
}

fn wait(child: &mut Child) -> bool {
    let until = Instant::now() + TOOL;
    while Instant::now() < until {
        match child.try_wait() {
            Ok(None) => thread::sleep(Duration::from_millis(20)),
            _ => return true,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}
