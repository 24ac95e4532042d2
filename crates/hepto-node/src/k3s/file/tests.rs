use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::k3s::Arguments;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn secrets_are_for_root_alone_whatever_lay_there() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("etc/k3s");
    let folder = Folder::open(path.clone()).unwrap();
    for leftover in ["token", ".token.new"] {
        fs::write(path.join(leftover), "old").unwrap();
        fs::set_permissions(path.join(leftover), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let (token, agent_token) = (
        Zeroizing::new("master".to_owned()),
        Zeroizing::new("agent".to_owned()),
    );
    folder
        .secrets(&Secret::Server {
            token,
            agent_token: agent_token.clone(),
        })
        .unwrap();
    assert_eq!(mode(&path), 0o700);
    for (name, text) in [("token", "master"), ("agent-token", "agent")] {
        assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        assert_eq!(fs::read_to_string(path.join(name)).unwrap(), text);
    }
    assert!(!path.join(".token.new").exists());

    folder
        .secrets(&Secret::Agent { token: agent_token })
        .unwrap();
    assert!(
        !path.join("agent-token").exists(),
        "a master that became an agent forgets the other token"
    );
    assert_eq!(fs::read_to_string(path.join("token")).unwrap(), "agent");
}

#[test]
fn a_cluster_that_was_founded_stays_so_and_an_older_one_never_becomes_it() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let new = Folder::open(home.path().join("new")).unwrap();
    assert!(new.founded(&data).unwrap());
    fs::create_dir_all(data.join("server/db")).unwrap();
    assert!(
        new.founded(&data).unwrap(),
        "its own datastore is no reason to think it older"
    );
    let old = Folder::open(home.path().join("old")).unwrap();
    assert!(!old.founded(&data).unwrap());
    assert!(!old.founded(&data).unwrap());
}

#[test]
fn secrets_do_not_print() {
    let secret = Secret::Agent {
        token: Zeroizing::new("hunter2".to_owned()),
    };
    assert!(!format!("{secret:?}").contains("hunter2"));
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
            reserved: None,
            extra: vec![],
        },
        secret: match role {
            Role::Server => Secret::Server {
                token: token.clone(),
                agent_token: token,
            },
            Role::Agent => Secret::Agent { token },
        },
        programs: Default::default(),
        upgrade_timeout: std::time::Duration::from_secs(600),
        directory: directory.to_owned(),
        resolv_conf: "nameserver 192.0.2.1\n".into(),
        unproxied: vec![],
        drain: std::time::Duration::from_secs(30),
    }
}

#[test]
fn every_file_of_k3s_is_written_for_root_alone_and_no_secret_is_in_the_config() {
    for role in [Role::Server, Role::Agent] {
        let home = tempfile::tempdir().unwrap();
        prepare(&mut settings(role, home.path())).unwrap();
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
    let agent = || settings(Role::Agent, home.path());
    assert!(prepare(&mut agent()).unwrap(), "none was started yet");
    note_start(&agent()).unwrap();
    assert!(!prepare(&mut agent()).unwrap());
    let mut other = agent();
    other.arguments.extra = vec!["--node-label=home=a".into()];
    assert!(prepare(&mut other).unwrap());
    assert!(
        prepare(&mut other).unwrap(),
        "until it was started with that"
    );
    let mut other = agent();
    other.secret = Secret::Agent {
        token: Zeroizing::new("another-token".to_owned()),
    };
    assert!(
        prepare(&mut other).unwrap(),
        "a token is no line of the config"
    );
    let text = outside(home.path(), argument::ETC).join(STARTED);
    let text = std::fs::read_to_string(text).unwrap();
    assert!(!text.contains("token"), "{text}");
}
