//! Every message, as an operator reads it: after a change, read the snapshots as a tired volunteer would.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::{Config, HostAddress, Report};

mod values;

const KEY: &str = "abcdefghijklmnopqrstuvwxyz012345";
const OTHER_KEY: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";

/// What stands for the temporary directory in snapshots: as long as it, so that marks stay below their text.
const SHOWN: &str = "/tmp/hepto-000000";

/// A machine's files in a temporary directory, and a good config that names them.
struct Home {
    directory: TempDir,
    text: String,
    host: Vec<HostAddress>,
}

impl Home {
    fn new() -> Home {
        let directory = tempfile::Builder::new()
            .prefix("hepto-")
            .rand_bytes(6)
            .tempdir_in("/tmp")
            .expect("a directory");
        let root = directory.path();
        for folder in ["srv", "data", "keys"] {
            fs::create_dir(root.join(folder)).expect("a folder");
        }
        fs::write(root.join("k3s"), "#!/bin/true\n").expect("a file");
        set_mode(&root.join("k3s"), 0o755);
        for (name, key) in [
            ("overlay", KEY),
            ("cluster", OTHER_KEY),
            ("agent", OTHER_KEY),
        ] {
            let path = root.join("keys").join(name);
            fs::write(&path, format!("{key}\n")).expect("a key file");
            set_mode(&path, 0o600);
        }
        let text = include_str!("tests/good.toml").replace("DIR", &root.display().to_string());
        let host = vec![HostAddress {
            interface: "ens1".to_owned(),
            address: address("192.168.1.2"),
        }];
        Home {
            directory,
            text,
            host,
        }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// Replaces a part of the config, which must be there.
    fn edit(mut self, from: &str, to: &str) -> Home {
        let dir = self.directory.path().display().to_string();
        let (from, to) = (from.replace("DIR", &dir), to.replace("DIR", &dir));
        assert!(self.text.contains(&from), "no {from:?} in the config");
        self.text = self.text.replacen(&from, &to, 1);
        self
    }

    fn check(&self) -> Result<(Config, Report), Report> {
        super::check(Path::new("/etc/hepto/grumpy.toml"), &self.text, &self.host)
    }

    /// All that is said about the config.
    fn said(&self) -> String {
        let report = match self.check() {
            Ok((_, report)) | Err(report) => report,
        };
        report
            .render(false)
            .replace(&self.directory.path().display().to_string(), SHOWN)
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What is said about the good config after each of the edits alone.
/// A public key of the age format, made by age-keygen.
const PUBLIC: &str = "age17sxl87p0mhn8ckv5nay6pwgczpu9385zjjuravwmpeat29j5wyfq06m4dd";

fn said_after(edits: &[(&str, &str)]) -> String {
    let texts: Vec<String> = edits
        .iter()
        .map(|(from, to)| Home::new().edit(from, to).said())
        .collect();
    texts.join("\n\n--------\n\n")
}

#[test]
fn a_good_config_is_understood() {
    let home = Home::new();
    let (config, report) = home.check().expect("good");
    assert_eq!(report.diagnostics.len(), 0, "{}", report.render(false));
    assert!(config.is_master());
    assert_eq!(config.tunnel_mtu(), 1320);
    assert_eq!(config.namespace(), "hepto-acides.grumpy");
    assert_eq!(config.node_directory(), home.path("srv/grumpy"));
    insta::assert_debug_snapshot!(config.network);
    insta::assert_debug_snapshot!(config.cluster.anchors);
}

#[test]
fn form() {
    insta::assert_snapshot!(said_after(&[
        ("name = \"grumpy\"", "name = \"grumpy"),
        ("name = \"grumpy\"", "name = grumpy"),
        ("interface", "name = \"a\"\nname = \"b\"\ninterface"),
        (
            "[node]",
            "typo = 1\nmtu = 1400\n[nod]\n[limit]\n[zzz]\n[node]"
        ),
        (
            "[node]",
            "[node]\nnam = \"x\"\nzzz = 1\nport = 1\nStorage = \"/srv\""
        ),
        (
            "[cluster]",
            "[cluster]\noverlay_key = \"abcdefghijklmnopqrstuvwxyz012345\"\nagent_key = 'x"
        ),
    ]));
}

#[test]
fn types() {
    insta::assert_snapshot!(said_after(&[
        ("name = \"grumpy\"", "name = 5"),
        ("data = [\"DIR/data\"]", "data = \"DIR/data\""),
        (
            "data = [\"DIR/data\"]",
            "data = [\"DIR/data\", 5, 1979-05-27]"
        ),
        ("mtu = 1400", "mtu = \"1400\""),
        ("mtu = 1400", "mtu = 1400.5"),
        ("gateways = [", "gateways = [{ vai = \"192.168.1.1\" }, 4, "),
        ("enabled = true", "enabled = \"yes\""),
        ("[mesh]\n", "mesh = 4\n[mes]\n"),
        ("[mesh]\n", "[[mesh]]\n"),
    ]));
}

#[test]
fn keys_of_later_versions_are_refused_and_never_ignored() {
    let home = Home::new().edit("[cluster]", "[cluster]\noperator = \"x\"");
    insta::assert_snapshot!(home.said());
}

#[test]
fn everything_missing() {
    let mut home = Home::new();
    home.text = "[node]\n".to_owned();
    insta::assert_snapshot!("only_a_header", home.said());
    home.text.clear();
    assert_eq!(home.check().expect_err("empty").errors(), 7);
}

#[test]
fn a_wrong_value_or_name_is_not_called_missing_too() {
    for (from, to) in [
        ("interface =", "interfce ="),
        ("[cluster]", "[clster]"),
        ("[network]", "[networks]"),
    ] {
        let home = Home::new().edit(from, to);
        assert_eq!(
            home.check().expect_err("wrong").errors(),
            1,
            "{}",
            home.said()
        );
    }

    let home = Home::new()
        .edit("interface = \"ens1\"", "interface = 1")
        .edit("master = \"grumpy\"", "master = grumpy");
    assert_eq!(
        home.check().expect_err("wrong").errors(),
        2,
        "{}",
        home.said()
    );
}

#[test]
fn every_code_has_a_snapshot() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/check");
    let folders = [folder.join("snapshots"), folder.join("tests/snapshots")];
    let entries = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).expect("snapshots"));
    let snapshots = entries.map(|entry| entry.expect("an entry").path());
    let said: String = snapshots
        .map(|path| fs::read_to_string(path).expect("a snapshot"))
        .collect();
    let sources = [
        include_str!("mod.rs"),
        include_str!("addressing.rs"),
        include_str!("cluster.rs"),
        include_str!("k3s.rs"),
        include_str!("mesh.rs"),
        include_str!("network.rs"),
        include_str!("node.rs"),
        include_str!("snapshot.rs"),
        include_str!("../read.rs"),
    ];
    let quoted = sources.iter().flat_map(|source| source.split('"'));
    let codes: BTreeSet<&str> = quoted
        .filter(|text| text.starts_with("E-") || text.starts_with("W-"))
        .collect();
    // Root, which the tests need, may write everywhere.
    let silent: Vec<_> = codes
        .iter()
        .filter(|code| !said.contains(**code) && **code != "E-STORAGE-ACCESS")
        .collect();
    assert!(codes.len() > 40, "the sources are not read: {codes:?}");
    assert!(silent.is_empty(), "never shown: {silent:?}");
}

/// The file of `config default`, with what stands in it for this machine's things put in.
#[test]
fn the_default_file_is_good_once_its_placeholders_are_replaced() {
    let mut home = Home::new();
    let dir = home.directory.path().display().to_string();
    home.text = crate::config::DEFAULT
        .replace("/srv", &format!("{dir}/srv"))
        .replace(
            "/etc/hepto/acides.overlay.key",
            &format!("{dir}/keys/overlay"),
        )
        .replace(
            "/etc/hepto/acides.cluster.key",
            &format!("{dir}/keys/cluster"),
        )
        .replace("age1...", PUBLIC)
        .replace("/usr/local/bin/k3s", &format!("{dir}/k3s"));
    assert_eq!(home.said(), "");

    // And with every line that begins with a key: as good, the data directory and the two keys of an agent apart.
    let is_key = |line: &str| {
        line.starts_with('#')
            && line
                .split_once(" = ")
                .is_some_and(|(key, _)| !key[1..].contains(' '))
    };
    let lines = home
        .text
        .lines()
        .map(|line| if is_key(line) { &line[1..] } else { line });
    home.text = lines.collect::<Vec<_>>().join("\n");
    home = home
        .edit("agent_key_file = ", "#")
        .edit("data = ", "data = [] #")
        .edit("\nbinary = ", "\n#")
        .edit("ca_file = ", "#");
    assert_eq!(home.said(), "");
    let (config, _) = home.check().expect("good");
    assert_eq!(
        config.mesh.endpoints.len(),
        1,
        "the commented keys are read"
    );
}

#[test]
fn what_is_shown_is_a_config_that_means_the_same() {
    let mut home = Home::new()
        .edit(
            "gateways = [",
            "gateways = [\"fe80::1\", { via = \"172.31.1.1\", onlink = true }]\n#",
        )
        .edit("binary", "args = [\"--node-label=a=b\"]\nbinary")
        .edit(
            "[mesh]",
            "[mesh]\nport = 7\nendpoints = [\"203.0.113.7:51821\"]",
        );
    let (config, _) = home.check().expect("good");
    let shown = super::super::Shown::new(&config).to_toml().expect("TOML");
    let dir = home.directory.path().display().to_string();
    insta::assert_snapshot!(shown.replace(&dir, SHOWN));
    assert!(
        !shown.contains(KEY) && !shown.contains(OTHER_KEY),
        "a key is shown"
    );
    home.text = shown.clone();
    let (again, report) = home.check().expect("what is shown is good");
    assert_eq!(report.diagnostics.len(), 0, "{}", report.render(false));
    assert_eq!(
        super::super::Shown::new(&again).to_toml().expect("TOML"),
        shown
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn garbage_never_panics(text in "\\PC{0,200}") {
        let refused = super::check(Path::new("x.toml"), &text, &[]).expect_err("garbage");
        prop_assert!(refused.errors() > 0);
        refused.render(true);
    }

    /// A good file with one stretch replaced: errors point into the file and are rendered.
    #[test]
    fn a_damaged_file_never_panics(at in 0usize..900, cut in 0usize..40, insert in "[\\[\\]{}=\"'#,.\n a-z0-9:/é]{0,12}") {
        let mut home = Home::new();
        let boundary = |text: &str, at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let start = boundary(&home.text, at);
        let end = boundary(&home.text, at + cut);
        home.text.replace_range(start..end, &insert);
        match home.check() {
            Ok((_, report)) => prop_assert_eq!(report.errors(), 0),
            Err(report) => prop_assert!(report.errors() > 0 && !report.render(false).is_empty()),
        }
    }
}
