use std::os::unix::fs::PermissionsExt;

use super::*;

fn why(path: &Path) -> String {
    match check_binary(path) {
        Err(Error::Binary { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_binary_that_the_node_could_not_start_is_refused_with_the_reason() {
    // Beside the test itself, not in /tmp, which is itself a reason.
    let beside = std::env::current_exe().unwrap();
    let folder = tempfile::tempdir_in(beside.parent().unwrap()).unwrap();
    let plain = folder.path().join("k3s");
    assert!(why(&plain).contains("No such file"));
    std::fs::write(&plain, "").unwrap();
    assert_eq!(why(&plain), "it is not executable");
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o755)).unwrap();
    check_binary(&plain).unwrap();
    assert_eq!(why(folder.path()), "it is not a file");
    assert_eq!(why(Path::new("k3s")), "it has to be a whole path");
    assert_eq!(
        why(Path::new("/tmp/k3s")),
        "/tmp of the host is not seen inside the node"
    );
}

fn settings(role: Role, directory: &Path) -> Settings {
    let token = zeroize::Zeroizing::new("a-token-of-the-cluster".to_owned());
    Settings {
        arguments: Arguments {
            role,
            node: "grumpy".into(),
            master: "grumpy".into(),
            addresses: vec!["10.44.7.9".parse().unwrap()],
            pods: vec!["10.42.0.0/16".parse().unwrap()],
            services: vec!["10.43.0.0/16".parse().unwrap()],
            link: "hepto0".into(),
            uplink: vec![],
            bind_overlay: false,
            founded: false,
            extra: vec![],
        },
        secret: match role {
            Role::Server => Secret::Server {
                token: token.clone(),
                agent_token: token,
            },
            Role::Agent => Secret::Agent { token },
        },
        binary: "/bin/sh".into(),
        directory: directory.to_owned(),
        resolv_conf: "nameserver 192.0.2.1\n".into(),
        unproxied: vec![],
        drain: Duration::from_secs(30),
    }
}

#[test]
fn every_file_of_k3s_is_written_for_root_alone_and_no_secret_is_in_the_config() {
    for role in [Role::Server, Role::Agent] {
        let home = tempfile::tempdir().unwrap();
        assert!(
            !prepare(&mut settings(role, home.path())).unwrap(),
            "a first config is no change"
        );
        assert!(!prepare(&mut settings(role, home.path())).unwrap());
        let etc = outside(home.path(), argument::ETC);
        let mut names: Vec<String> = Vec::new();
        for entry in std::fs::read_dir(&etc).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(
                entry.metadata().unwrap().permissions().mode() & 0o777,
                0o600,
                "{entry:?}"
            );
            names.push(entry.file_name().into_string().unwrap());
        }
        names.sort();
        let server = [
            "agent-token",
            "config.yaml",
            "founded-by-hepto",
            "resolv.conf",
            "token",
        ];
        let agent = ["config.yaml", "resolv.conf", "token"];
        assert_eq!(
            names,
            if role == Role::Server {
                &server[..]
            } else {
                &agent[..]
            }
        );
        let config = std::fs::read_to_string(etc.join("config.yaml")).unwrap();
        assert!(!config.contains("a-token-of-the-cluster"));
        assert_eq!(
            config.contains("secrets-encryption"),
            role == Role::Server,
            "a cluster that was founded just now"
        );
    }
}

#[test]
fn containerd_leaves_oom_scores_alone_where_they_cannot_be_lowered() {
    let home = tempfile::tempdir().unwrap();
    let folder = home
        .path()
        .join("rancher/agent/etc/containerd/config-v3.toml.d");
    spare_oom_scores(home.path(), true).unwrap();
    assert!(!folder.exists());
    spare_oom_scores(home.path(), false).unwrap();
    let text = std::fs::read_to_string(folder.join("hepto-oom-score.toml")).unwrap();
    assert!(text.contains("restrict_oom_score_adj = true"));
    spare_oom_scores(home.path(), true).unwrap();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_change_of_the_config_is_noticed() {
    let home = tempfile::tempdir().unwrap();
    prepare(&mut settings(Role::Agent, home.path())).unwrap();
    let mut other = settings(Role::Agent, home.path());
    other.arguments.extra = vec!["--node-label=home=a".into()];
    assert!(prepare(&mut other).unwrap());
}
