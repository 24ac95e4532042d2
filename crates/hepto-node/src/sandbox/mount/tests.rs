use std::os::unix::fs::symlink;

use super::*;

fn settings() -> Settings {
    Settings {
        cluster: "acides".into(),
        node: "grumpy".into(),
        directory: "/srv/grumpy".into(),
        storage: "/srv".into(),
        data: vec!["/srv/data".into(), "/mnt/disk".into()],
        netns: "/run/netns/hepto-acides.grumpy".into(),
        run_directory: "/run/hepto/acides.grumpy".into(),
        hosts: String::new(),
        resolv_conf: String::new(),
        hidden: vec!["/etc/hepto".into()],
        visible: vec!["/srv/.hepto/k3s".into(), "/usr/local/bin/k3s".into()],
        limits: Default::default(),
        executable: "/proc/self/exe".into(),
    }
}

fn host() -> Host {
    Host {
        resolv_conf: "/run/systemd/resolve/stub-resolv.conf".into(),
        modules: true,
        kmsg: true,
        var_run: false,
        uuid: true,
        ipc: vec!["/dev/shm".into(), "/dev/mqueue".into()],
        sysctls: vec!["vm/overcommit_memory".into()],
    }
}

fn position(steps: &[Step], wanted: impl Fn(&Step) -> bool) -> usize {
    steps.iter().position(wanted).expect("the step is planned")
}

fn binds_over(step: &Step, path: &str) -> bool {
    matches!(step, Step::Bind { target, .. } if target == Path::new(path))
}

#[test]
fn the_storage_is_covered_before_what_is_bound_back() {
    let steps = plan(&settings(), &host(), &[]).unwrap();
    let cover = position(
        &steps,
        |step| matches!(step, Step::Fresh { target, .. } if target == Path::new("/srv")),
    );
    assert!(cover < position(&steps, |step| binds_over(step, "/srv/data")));
    assert!(cover < position(&steps, |step| binds_over(step, "/srv/.hepto/k3s")));
    // What nothing covers is seen where it is.
    assert!(
        !steps
            .iter()
            .any(|step| binds_over(step, "/mnt/disk") || binds_over(step, "/usr/local/bin/k3s"))
    );
}

#[test]
fn what_keeps_state_lies_in_the_nodes_folder() {
    let steps = plan(&settings(), &host(), &[]).unwrap();
    for (folder, target) in BINDS {
        assert!(
            steps.contains(&bind(Path::new("/srv/grumpy").join(folder), target)),
            "{target}"
        );
    }
}

#[test]
fn places_are_made_on_the_host_only_where_nothing_private_covers_them() {
    let places = places(&settings(), &host());
    assert!(
        places.contains(&("/etc/cni".into(), true))
            && places.contains(&("/etc/machine-id".into(), false))
    );
    assert!(!places.iter().any(|(path, _)| path.starts_with("/run")));
    let storage = Settings {
        storage: "/var/lib".into(),
        ..settings()
    };
    assert!(
        !super::places(&storage, &host())
            .iter()
            .any(|(path, _)| path.starts_with("/var/lib"))
    );
}

#[test]
fn joined_hierarchies_have_a_link_for_each_controller() {
    let hierarchy = |name: &str, version1: Option<&str>| Hierarchy {
        name: name.into(),
        version1: version1.map(String::from),
        base: "/sys/fs/cgroup".into(),
        directory: "/sys/fs/cgroup/x".into(),
    };
    let steps = cgroups(&[
        hierarchy("cpu,cpuacct", Some("cpu,cpuacct")),
        hierarchy("unified", None),
    ]);
    assert!(steps.contains(&Step::Link {
        path: "/sys/fs/cgroup/cpuacct".into(),
        target: "cpu,cpuacct".into()
    }));
    assert!(steps.contains(&fresh("cgroup2", "/sys/fs/cgroup/unified", "")));
    let steps = cgroups(&[hierarchy("", None)]);
    assert_eq!(steps, [fresh("cgroup2", "/sys/fs/cgroup/", "")]);
}

#[test]
fn what_the_system_needs_cannot_be_hidden() {
    for storage in ["/", "/usr", "/etc", "/var", "srv"] {
        let settings = Settings {
            storage: storage.into(),
            ..settings()
        };
        assert_eq!(
            plan(&settings, &host(), &[]).unwrap_err().code(),
            "E-SANDBOX-STORAGE",
            "{storage}"
        );
    }
    for hidden in ["/etc", "/var/lib", "/srv/data"] {
        let settings = Settings {
            hidden: vec![hidden.into()],
            ..settings()
        };
        assert_eq!(
            plan(&settings, &host(), &[]).unwrap_err().code(),
            "E-SANDBOX-HIDDEN",
            "{hidden}"
        );
    }
}

#[test]
fn a_link_is_followed_to_an_end_that_does_not_exist() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    fs::create_dir(root.join("etc")).unwrap();
    symlink("../run/resolve/stub.conf", root.join("etc/resolv.conf")).unwrap();
    assert_eq!(
        end_of_links(&root.join("etc/resolv.conf")),
        root.join("run/resolve/stub.conf")
    );
    symlink("resolv.conf", root.join("etc/second")).unwrap();
    assert_eq!(
        end_of_links(&root.join("etc/second")),
        root.join("run/resolve/stub.conf")
    );
}
