use super::*;

/// A host's folders: a storage with `mars`, a config with keys.
struct Host {
    root: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let host = Host {
            root: tempfile::tempdir().unwrap(),
        };
        for folder in [
            "srv/mars/identity",
            "srv/mars/rancher/storage",
            "srv/.hepto/k3s/0123",
            "etc",
        ] {
            fs::create_dir_all(host.path(folder)).unwrap();
        }
        fs::write(host.path("srv/mars/cluster"), "acides\n").unwrap();
        for file in [
            "etc/overlay.key",
            "etc/cluster.key",
            "etc/mars.toml.identity",
            "srv/.hepto/k3s/0123/k3s",
        ] {
            fs::write(host.path(file), "x\n").unwrap();
        }
        host.config("mars");
        host
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().canonicalize().unwrap().join(below)
    }

    fn config(&self, node: &str) {
        let text = format!(
            "[node]\nname = \"{node}\"\nstorage = {:?}\nnonsense = 1\n[cluster]\nname = \"acides\"\n\
             overlay_key_file = {:?}\ncluster_key_file = {:?}\n",
            self.path("srv"),
            self.path("etc/overlay.key"),
            self.path(&format!("etc/{node}.key")),
        );
        fs::write(self.path(&format!("etc/{node}.toml")), text).unwrap();
    }

    fn outline(&self) -> Outline {
        Outline::read(&self.path("etc/mars.toml")).unwrap()
    }

    fn plan(&self, purge: bool, keep: &[&str]) -> Result<Plan, Fault> {
        let keep = keep.iter().map(|path| self.path(path)).collect();
        plan(&self.outline(), &Wish { purge, keep })
    }

    fn shown(&self, plan: &Plan) -> Vec<String> {
        let root = self.path("").display().to_string();
        let items = plan.items.iter().map(ToString::to_string);
        let kept = plan.kept.iter();
        let kept = kept.map(|(path, reason)| format!("keeps {}: {reason}", path.display()));
        items
            .chain(kept)
            .map(|line| line.replace(&root, "/"))
            .collect()
    }
}

const RUN: &str = "run        network namespace, tunnel, pods, cgroups, run directory";

#[test]
fn without_purge_the_storage_the_config_and_its_keys_stay() {
    let host = Host::new();
    let plan = host.plan(false, &[]).unwrap();
    assert_eq!(
        host.shown(&plan),
        [
            RUN,
            "file       /etc/mars.toml.identity",
            "keeps /srv/mars: only --purge removes it",
            "keeps /etc/mars.toml: only --purge removes it",
            "keeps /etc/overlay.key: only --purge removes it",
        ]
    );
    plan.carry_out().unwrap();
    assert!(
        host.path("srv/mars/identity").exists() && !host.path("etc/mars.toml.identity").exists()
    );
}

#[test]
fn purge_leaves_nothing_of_the_node() {
    let host = Host::new();
    let plan = host.plan(true, &[]).unwrap();
    assert_eq!(
        host.shown(&plan),
        [
            RUN,
            "file       /etc/mars.toml.identity",
            "directory  /srv/mars",
            "cache      /srv/.hepto",
            "file       /etc/overlay.key",
            "file       /etc/mars.toml",
        ]
    );
    plan.carry_out().unwrap();
    assert_eq!(fs::read_dir(host.path("srv")).unwrap().count(), 0);
    let left: Vec<_> = fs::read_dir(host.path("etc")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "the key that no config names: {left:?}");
    // Once more there is nothing to do, but the run that may be left.
    fs::write(host.path("etc/mars.toml"), "").unwrap();
    assert!(Outline::read(&host.path("etc/mars.toml")).is_err());
}

#[test]
fn what_another_node_uses_stays() {
    let host = Host::new();
    host.config("venus");
    // What is no node's folder has no use for a k3s.
    fs::create_dir(host.path("srv/lost+found")).unwrap();
    let plan = host.plan(true, &[]).unwrap();
    assert!(plan.items.contains(&Item::Cache(host.path("srv/.hepto"))));
    fs::create_dir(host.path("srv/venus")).unwrap();
    fs::write(host.path("srv/venus/cluster"), "acides\n").unwrap();
    let plan = host.plan(true, &[]).unwrap();
    let shown = host.shown(&plan);
    assert!(
        shown.contains(&"keeps /srv/.hepto: /srv/venus uses it too".to_owned()),
        "{shown:?}"
    );
    assert!(
        shown.contains(&"keeps /etc/overlay.key: /etc/venus.toml names it too".to_owned()),
        "{shown:?}"
    );
    plan.carry_out().unwrap();
    for kept in [
        "srv/venus/cluster",
        "srv/.hepto/k3s/0123/k3s",
        "etc/overlay.key",
    ] {
        assert!(host.path(kept).exists(), "{kept}");
    }
    assert!(!host.path("srv/mars").exists());
}

#[test]
fn what_is_to_be_kept_is_kept_and_has_to_be_there() {
    let host = Host::new();
    fs::write(host.path("srv/mars/rancher/storage/data"), "precious").unwrap();
    fs::write(host.path("srv/mars/rancher/other"), "").unwrap();
    let plan = host.plan(true, &["srv/mars/rancher/storage"]).unwrap();
    plan.carry_out().unwrap();
    assert_eq!(
        fs::read_to_string(host.path("srv/mars/rancher/storage/data")).unwrap(),
        "precious"
    );
    assert!(
        !host.path("srv/mars/rancher/other").exists() && !host.path("srv/mars/identity").exists()
    );
    let host = Host::new();
    let fault = host.plan(true, &["srv/mars/rancher/storge"]).unwrap_err();
    assert_eq!((fault.code, fault.exit), ("E-UNINSTALL-KEEP", Exit::Usage));
}

#[test]
fn a_folder_that_is_not_this_nodes_is_refused() {
    let host = Host::new();
    fs::write(host.path("srv/mars/cluster"), "bases\n").unwrap();
    assert_eq!(
        host.plan(true, &[]).unwrap_err().code,
        "E-UNINSTALL-NOT-NODE"
    );
    fs::remove_file(host.path("srv/mars/cluster")).unwrap();
    assert_eq!(
        host.plan(true, &[]).unwrap_err().code,
        "E-UNINSTALL-NOT-NODE"
    );
    fs::remove_dir_all(host.path("srv/mars")).unwrap();
    std::os::unix::fs::symlink("/etc", host.path("srv/mars")).unwrap();
    assert_eq!(
        host.plan(true, &[]).unwrap_err().code,
        "E-UNINSTALL-NOT-NODE"
    );
}

#[test]
fn a_name_that_leads_elsewhere_is_no_name() {
    let host = Host::new();
    let text = "[node]\nname = \"../etc\"\nstorage = \"/srv\"\n[cluster]\nname = \"acides\"\n";
    fs::write(host.path("etc/mars.toml"), text).unwrap();
    let fault = Outline::read(&host.path("etc/mars.toml")).unwrap_err();
    assert_eq!(fault.code, "E-TARGET-CONFIG");
}
