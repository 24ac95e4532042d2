//! Commands that need no network, run as an operator runs them: exit codes, files and their modes, what is shown.

mod diff;
mod documents;
mod schema;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const OVERLAY: &str = "abcdefghijklmnopqrstuvwxyz012345";
const CLUSTER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";

/// A directory with storage, a k3s and the guide's inventory of two nodes.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place {
            directory: tempfile::tempdir().expect("a directory"),
        };
        fs::create_dir(place.path("srv")).expect("a directory");
        fs::write(place.path("k3s"), "#!/bin/true\n").expect("a file");
        fs::set_permissions(place.path("k3s"), fs::Permissions::from_mode(0o755)).expect("a mode");
        let inventory = format!(
            "[cluster]\n\
             grumpy ansible_host=1.2.3.4 iface=ens1 ip=2001:db8:1::1/64,192.0.2.123/24 gw=2001:db8:1::ffff,192.0.2.254\n\
             sleepy ansible_host=1.2.3.5 iface=ens1 ip=2001:db8:1::2/64,192.0.2.124/24 gw=2001:db8:1::ffff,192.0.2.254\n\
             [cluster:vars]\n\
             ansible_user=root # utilisateur pour la connexion SSH aux machines\n\
             storage_base={srv} # emplacement de stockage\n\
             k3s_binary={k3s}\n\
             anchors=[\"2001:db8:2::1\",\"sleepy.example.org\"] # liste des ancres du cluster\n\
             master=grumpy # nom du noeud master du cluster\n\
             mtu=1400 # MTU convenu pour le cluster\n\
             overlay_key={OVERLAY} # clé d'overlay de 32 caractères aléatoires\n\
             cluster_key={CLUSTER} # clé du cluster de 32 caractères aléatoires\n",
            srv = place.path("srv").display(),
            k3s = place.path("k3s").display(),
        );
        fs::write(place.path("inventory.ini"), inventory).expect("a file");
        place
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    /// Imports the inventory into the directory `out`.
    fn import(&self, more: &[&str]) -> Output {
        let (inventory, out) = (self.path("inventory.ini"), self.path("out"));
        let mut arguments = vec!["import-inventory", text(&inventory), "--out", text(&out)];
        arguments.extend(more);
        hepto(&arguments)
    }

    /// The names of the files in `out`.
    fn imported(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("out")) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        names.sort();
        names
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain text")
}

fn hepto(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hepto-node"))
        .args(arguments)
        .output()
        .expect("hepto-node runs")
}

/// The command's exit code, output and errors.
fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o7777
}

#[test]
fn the_guides_inventory_becomes_configs_that_check_finds_good() {
    let place = Place::new();
    let (code, output, errors) = said(&place.import(&[]));
    assert_eq!(code, Some(0), "{errors}");
    assert!(
        errors.contains("W-INV-COMMENT") && !errors.contains("error["),
        "{errors}"
    );
    let files = place.imported();
    let cluster = files[0].split('.').next().expect("a name").to_owned();
    assert!(output.contains(&cluster), "the made name is told: {output}");
    let expected =
        ["agent.key", "cluster.key", "overlay.key"].map(|key| format!("{cluster}.{key}"));
    assert_eq!(
        files,
        [&expected[..], &["grumpy.toml".into(), "sleepy.toml".into()]].concat()
    );
    for file in &files {
        let wanted = if file.ends_with(".key") { 0o600 } else { 0o644 };
        assert_eq!(
            mode(&place.path("out").join(file)) & !0o022,
            wanted,
            "{file}"
        );
    }
    for node in ["grumpy", "sleepy"] {
        let (code, output, errors) = said(&hepto(&[
            "config",
            "check",
            text(&place.path(&format!("out/{node}.toml"))),
        ]));
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{node}: {output}");
    }

    let (code, output, _) = said(&place.import(&[]));
    assert_eq!(code, Some(0));
    assert_eq!(
        output.matches("unchanged ").count(),
        5,
        "a second run changes nothing: {output}"
    );
}

#[test]
fn one_node_gets_its_own_keys_alone() {
    let place = Place::new();
    let (code, ..) = said(&place.import(&["-l", "sleepy"]));
    assert_eq!(code, Some(0));
    let files = place.imported();
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(
        !files.iter().any(|file| file.ends_with("cluster.key")),
        "an agent needs no cluster key: {files:?}"
    );
    let (code, _, errors) = said(&place.import(&["-l", "sleppy"]));
    assert_eq!(code, Some(2));
    assert!(errors.contains("did you mean sleepy?"), "{errors}");
}

#[test]
fn an_import_that_would_overwrite_writes_nothing() {
    let place = Place::new();
    fs::create_dir(place.path("out")).expect("a directory");
    fs::write(place.path("out/sleepy.toml"), "# mine\n").expect("a file");
    let (code, _, errors) = said(&place.import(&[]));
    assert_eq!(code, Some(1));
    assert!(errors.contains("E-INV-EXISTS"), "{errors}");
    assert_eq!(place.imported(), ["sleepy.toml"]);
}

#[test]
fn a_bad_inventory_writes_nothing_and_shows_no_key() {
    let place = Place::new();
    let inventory = fs::read_to_string(place.path("inventory.ini")).expect("text");
    fs::write(
        place.path("inventory.ini"),
        inventory.replace("master=grumpy", "master=dopey\noops"),
    )
    .expect("a file");
    let (code, output, errors) = said(&place.import(&[]));
    assert_eq!((code, output.as_str()), (Some(78), ""));
    assert!(
        errors.contains("E-INV-MASTER") && errors.contains("E-INV-LINE"),
        "{errors}"
    );
    assert!(
        !errors.contains(OVERLAY) && !errors.contains(CLUSTER),
        "{errors}"
    );
    assert!(place.imported().is_empty());
}

#[test]
fn a_bad_config_ends_with_78_and_makes_nothing() {
    let place = Place::new();
    place.import(&[]);
    let path = place.path("out/grumpy.toml");
    let config = fs::read_to_string(&path).expect("text");
    fs::write(&path, config.replace("mtu = 1400", "mtu = 100\nmut = 1")).expect("a file");
    for command in [
        vec!["config", "check"],
        vec!["config", "check", "--config"],
        vec!["config", "show"],
        vec!["run", "--config"],
    ] {
        let (code, output, errors) = said(&hepto(&[&command[..], &[text(&path)]].concat()));
        assert_eq!(
            (code, output.as_str()),
            (Some(78), ""),
            "{command:?}: {errors}"
        );
        assert!(
            errors.contains("E-NET-MTU") && errors.contains("grumpy.toml:11:"),
            "all at once, placed: {errors}"
        );
        assert!(errors.contains("did you mean `mtu`?"), "{errors}");
    }
    assert_eq!(
        fs::read_dir(place.path("srv"))
            .expect("a directory")
            .count(),
        0,
        "nothing was made"
    );
}

#[test]
fn what_is_shown_holds_no_secret() {
    let place = Place::new();
    place.import(&[]);
    let path = place.path("out/grumpy.toml");
    let (code, output, _) = said(&hepto(&["config", "show", text(&path)]));
    assert_eq!(code, Some(0));
    assert!(
        output.contains("port = 51820"),
        "defaults are filled in: {output}"
    );
    let (code, json, _) = said(&hepto(&["config", "show", "--json", text(&path)]));
    assert_eq!(code, Some(0));
    assert!(
        json.contains("\"role\": \"master\"") && json.contains("\"tunnel_mtu\": 1320"),
        "{json}"
    );
    for shown in [output, json] {
        assert!(
            !shown.contains(OVERLAY) && !shown.contains(CLUSTER),
            "{shown}"
        );
    }
}

#[test]
fn the_default_config_has_only_its_placeholders_wrong() {
    let (code, output, _) = said(&hepto(&["config", "default"]));
    assert_eq!(code, Some(0));
    let place = Place::new();
    let path = place.path("default.toml");
    fs::write(&path, output).expect("a file");
    let (code, _, errors) = said(&hepto(&["config", "check", text(&path)]));
    assert_eq!(code, Some(78));
    let files = ["E-KEY-ABSENT", "E-K3S-ABSENT", "E-STORAGE-ABSENT"];
    let others = errors
        .lines()
        .filter(|line| line.starts_with("error[") && !files.iter().any(|code| line.contains(code)));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn keys_are_made_once_and_kept() {
    let place = Place::new();
    let path = place.path("overlay.key");
    let generate = ["keys", "generate", "overlay", "--out", text(&path)];
    let (code, output, errors) = said(&hepto(&generate));
    assert_eq!(
        (code, output.as_str(), errors.as_str()),
        (Some(0), "", ""),
        "the key is not printed as well"
    );
    assert_eq!(mode(&path), 0o600);
    let key = fs::read_to_string(&path).expect("text");
    assert!(
        key.trim_end().len() == 32
            && key
                .trim_end()
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric())
    );
    let (code, _, errors) = said(&hepto(&generate));
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("E-KEY-EXISTS") && !errors.contains(key.trim_end()),
        "{errors}"
    );
    assert_eq!(fs::read_to_string(&path).expect("text"), key);
    let (code, printed, _) = said(&hepto(&["keys", "generate", "cluster"]));
    assert_eq!((code, printed.len()), (Some(0), 33));
}

#[test]
fn the_agents_key_is_the_same_by_import_and_by_hand() {
    let place = Place::new();
    place.import(&[]);
    let files = place.imported();
    let cluster = files[0].split('.').next().expect("a name");
    let key = place.path(&format!("out/{cluster}.cluster.key"));
    let (code, derived, errors) = said(&hepto(&[
        "keys",
        "derive-agent",
        "--cluster",
        cluster,
        "--from",
        text(&key),
    ]));
    assert_eq!(code, Some(0), "{errors}");
    let imported =
        fs::read_to_string(place.path(&format!("out/{cluster}.agent.key"))).expect("text");
    assert_eq!(derived, imported);
    let (code, _, errors) = said(&hepto(&[
        "keys",
        "derive-agent",
        "--cluster",
        "Bad Name",
        "--from",
        text(&key),
    ]));
    assert_eq!(code, Some(2), "{errors}");
}
