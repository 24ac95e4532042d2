//! Every error of meaning, section by section.

use std::fs;
use std::os::unix::fs::chown;

use super::{Home, KEY, OTHER_KEY, address, said_after, set_mode};
use crate::k3s::acquire::{Archive, Source};

#[test]
fn names() {
    insta::assert_snapshot!(said_after(&[
        ("name = \"grumpy\"", "name = \"Grumpy\""),
        ("name = \"grumpy\"", "name = \"snow-white-and-the-seven\""),
        ("name = \"grumpy\"", "name = \"\""),
        ("name = \"grumpy\"", "name = \"1234\""),
        ("name = \"acides\"", "name = \"a-cluster-of-dwarfs\""),
        ("master = \"grumpy\"", "master = \"gr_umpy\""),
    ]));
}

#[test]
fn storage() {
    let file = Home::new().edit("storage = \"DIR/srv\"", "storage = \"DIR/k3s\"");
    let below_file = Home::new().edit("storage = \"DIR/srv\"", "storage = \"DIR/k3s/srv\"");
    let rest = said_after(&[
        ("storage = \"DIR/srv\"", "storage = \"srv\""),
        ("storage = \"DIR/srv\"", "storage = \"DIR/nothing\""),
        ("storage = \"DIR/srv\"", "storage = \"/var/../tmp\""),
    ]);
    insta::assert_snapshot!([file.said(), below_file.said(), rest].join("\n\n"));
}

#[test]
fn storage_on_a_read_only_disk() {
    // A plain thread: what it mounts in a mount namespace of its own vanishes with it.
    let said = std::thread::spawn(|| {
        use nix::mount::{MsFlags, mount};
        let home = Home::new();
        let none = None::<&str>;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("the tests need root");
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .expect("private mounts");
        mount(
            Some("tmpfs"),
            &home.path("srv"),
            Some("tmpfs"),
            MsFlags::MS_RDONLY,
            none,
        )
        .expect("a mount");
        let said = home.said();
        nix::mount::umount(&home.path("srv"))
            .expect("unmounted, so that the directory can be removed");
        said
    });
    insta::assert_snapshot!(said.join().expect("no panic"));
}

#[test]
fn data() {
    let link = Home::new().edit("data = [\"DIR/data\"]", "data = [\"DIR/link\"]");
    std::os::unix::fs::symlink(link.path("keys"), link.path("link")).expect("a link");
    let rest = said_after(&[
        (
            "data = [\"DIR/data\"]",
            "data = [\"DIR/srv\", \"DIR/keys/sub\", \"DIR/srv/grumpy/x\", \"DIR\"]",
        ),
        (
            "data = [\"DIR/data\"]",
            "data = [\"data\", \"DIR/nothing\", \"/sys\", \"/var\", \"DIR/k3s\"]",
        ),
    ]);
    insta::assert_snapshot!([link.said(), rest].join("\n\n"));
}

#[test]
fn interface_and_modes() {
    insta::assert_snapshot!(said_after(&[
        ("\"ens1\"", "\"\""),
        ("\"ens1\"", "\"a-very-long-name\""),
        ("\"ens1\"", "\"a b\""),
        ("\"ens1\"", "\"lo\""),
        ("mode = \"ipvlan\"", "mode = \"vlan\""),
        ("mtu = 1400", "mtu = 1400\nfirewall = \"off\""),
        ("mtu = 1400", "mtu = 1400\nfirewall = \"none\""),
        (
            "mtu = 1400",
            "mtu = 1400\nopen = [\"tcp/0\", \"80\", \"sctp/80\", \"udp/7947\"]"
        ),
    ]));
}

#[test]
fn addresses() {
    let with = |list| format!("addresses = [{list}]\n#");
    let cases: Vec<String> = [
        "",
        r#""192.168.1.2/24""#,
        r#""2001:db8:1::1", "192.168.1.123""#,
        r#""2001:db8:1::1/64", "2001:db8:1:0::1/48", "nonsense", "192.168.1.123/33""#,
        r#""::1/128", "fe80::1/64", "ff02::1/64", "::ffff:1.2.3.4/120", "127.0.0.1/8", "0.0.0.0/0""#,
        r#""192.168.1.0/24", "192.168.1.255/24", "2001:db8:1::/64", "255.255.255.255/32", "9.9.9.9/0""#,
    ]
    .map(with)
    .to_vec();
    let edits: Vec<(&str, &str)> = cases
        .iter()
        .map(|case| ("addresses = ", case.as_str()))
        .collect();
    insta::assert_snapshot!(said_after(&edits));
}

#[test]
fn either_family_may_be_missing() {
    for (addresses, gateways) in [
        (r#"["2001:db8:1::1/64"]"#, r#"["fe80::1"]"#),
        (r#"["192.168.1.123/24"]"#, r#"["192.168.1.254"]"#),
        (
            r#"["192.168.1.123/32"]"#,
            r#"[{ via = "172.31.1.1", onlink = true }]"#,
        ),
        (r#"["192.168.1.0/31"]"#, r#"["192.168.1.1"]"#),
    ] {
        let home = Home::new()
            .edit("addresses = ", &format!("addresses = {addresses} #"))
            .edit("gateways = ", &format!("gateways = {gateways} #"));
        assert_eq!(home.said(), "", "{addresses} {gateways}");
    }
}

#[test]
fn addresses_from_routers() {
    for (addresses, gateways) in [
        (r#""auto""#, "[]"),
        (r#"["auto"]"#, "[]"),
        (r#"["auto", "192.168.1.123/24"]"#, r#"["192.168.1.254"]"#),
    ] {
        let home = Home::new()
            .edit("addresses = ", &format!("addresses = {addresses} #"))
            .edit(
                "gateways = ",
                &format!("gateways = {gateways}\ndns = [\"2001:db8::53\"] #"),
            );
        assert_eq!(home.said(), "", "{addresses} {gateways}");
        assert!(home.check().expect("good").0.network.auto);
    }
    let word = Home::new()
        .edit("addresses = ", "addresses = \"automatic\" #")
        .said();
    assert!(word.contains("E-CONFIG-TYPE"), "{word}");
}

#[test]
fn gateways() {
    let with = |list| format!("gateways = [{list}] #");
    let cases: Vec<String> = [
        "",
        r#""2001:db8:2::1", "192.168.2.254""#,
        r#""192.168.1.254", "192.168.1.253""#,
        r#""192.168.1.254/24", "router", "0.0.0.0", "ff02::1""#,
        r#""192.168.1.123""#,
        r#""192.168.1.2""#,
        r#"{ via = "10.42.0.1", onlink = true }"#,
    ]
    .map(with)
    .to_vec();
    let edits: Vec<(&str, &str)> = cases
        .iter()
        .map(|case| ("gateways = ", case.as_str()))
        .collect();
    let one_family = Home::new().edit("addresses = ", "addresses = [\"192.168.1.123/24\"] #");
    let auto = Home::new().edit(
        "addresses = ",
        "addresses = [\"auto\", \"192.168.1.123/24\"] #",
    );
    insta::assert_snapshot!([auto.said(), one_family.said(), said_after(&edits)].join("\n\n"));
}

#[test]
fn a_resolver_on_this_machine_is_reached_by_a_link_to_it() {
    let linked = || {
        Home::new().edit(
            "mtu = 1400",
            "mtu = 1400\nhost_link = true\ndns = [\"192.168.1.2\"]",
        )
    };
    let (config, _) = linked().check().expect("it is reached");
    assert!(config.network.host_link);
    assert_eq!(config.network.dns, [address("192.168.1.2")]);
    // The link leads to no other interface's.
    let mut home = linked();
    home.host[0].interface = "tun0".to_owned();
    insta::assert_snapshot!(home.said());
}

#[test]
fn resolvers() {
    let with = |list: &str| format!("mtu = 1400\ndns = [{list}]");
    let cases = [
        with(r#""127.0.0.53", "fe80::1", "169.254.1.1", "224.0.0.1""#),
        with(r#""192.168.1.2", "dns.example.org""#),
        with(r#""10.43.0.10", "1.1.1.1", "9.9.9.9", "8.8.8.8""#),
    ];
    let edits: Vec<(&str, &str)> = cases
        .iter()
        .map(|case| ("mtu = 1400", case.as_str()))
        .collect();
    let one_family = Home::new()
        .edit(
            "addresses = ",
            "addresses = [\"192.168.1.123/24\"]\ndns = [\"2001:db8:1::53\"] #",
        )
        .edit("gateways = ", "gateways = [\"192.168.1.254\"] #");
    insta::assert_snapshot!([one_family.said(), said_after(&edits)].join("\n\n"));
}

#[test]
fn mtu() {
    insta::assert_snapshot!(said_after(&[
        ("mtu = 1400", "mtu = 1279"),
        ("mtu = 1400", "mtu = -1"),
        ("mtu = 1400", "mtu = 1280"),
        ("mtu = 1400", "mtu = 1359"),
        ("mtu = 1400", "mtu = 65536"),
    ]));
    let tunnel = |mtu: u16| {
        let home = Home::new().edit("mtu = 1400", &format!("mtu = {mtu}"));
        home.check().expect("good").0.tunnel_mtu()
    };
    assert_eq!(
        [1280, 1359, 1360, 1361, 1500].map(tunnel),
        [1280, 1280, 1280, 1281, 1420]
    );
    assert_eq!(Home::new().edit("mtu = 1400", "mtu = 1360").said(), "");
}

#[test]
fn anchors() {
    let list = r#"anchors = ["2001:db8:2::1:51820", "...", "[2001:db8::1", "[2001:db8::1]x", "[2001:db8::1]:0",
  "1.2.3", "300.1.1.1", "a_b.c", "127.0.0.1", "fe80::1", "x:99999", "http://x", "10.44.0.9", "2001:db8::g", "", "a..b"]
#"#;
    insta::assert_snapshot!(said_after(&[
        ("anchors = ", list),
        ("anchors = [", "anchors = [\"[2001:db8:2::1]:51820\", ")
    ]));
    let good =
        r#"["h", "h:1", "1.2.3.4", "1.2.3.4:5", "::2", "[::2]", "[::2]:7", "x.example.org."] #"#;
    let home = Home::new().edit("anchors = ", &format!("anchors = {good}"));
    let (config, _) = home.check().expect("good");
    let shown: Vec<String> = config
        .cluster
        .anchors
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected = [
        "h:51820",
        "h:1",
        "1.2.3.4:51820",
        "1.2.3.4:5",
        "[::2]:51820",
        "[::2]:7",
        "x.example.org.:51820",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn key_files() {
    let mode = Home::new();
    set_mode(&mode.path("keys/overlay"), 0o640);
    set_mode(&mode.path("keys/cluster"), 0o400);
    let owner = Home::new();
    chown(owner.path("keys/overlay"), Some(1000), None).expect("the tests need root");
    let content = Home::new();
    fs::write(content.path("keys/overlay"), "SECRETKEY\n").expect("a file");
    fs::write(content.path("keys/cluster"), [0xff; 32]).expect("a file");
    let long = Home::new();
    fs::write(long.path("keys/overlay"), "x".repeat(5000)).expect("a file");
    fs::write(
        long.path("keys/cluster"),
        "K10defghijklmnopqrstuvwxyz012345",
    )
    .expect("a file");
    let same = Home::new();
    fs::write(same.path("keys/cluster"), KEY).expect("a file");
    let rest = said_after(&[
        ("DIR/keys/overlay", "DIR/keys/nothing"),
        ("DIR/keys/overlay", "DIR/keys"),
        ("DIR/keys/overlay", "DIR/k3s/overlay"),
        ("DIR/keys/overlay", "keys/overlay"),
        ("DIR/keys/overlay", KEY),
    ]);
    let all = [
        mode.said(),
        owner.said(),
        content.said(),
        long.said(),
        same.said(),
        rest,
    ];
    let all = all.join("\n\n--------\n\n");
    assert!(
        !all.contains(KEY) && !all.contains("SECRETKEY"),
        "a key is shown"
    );
    insta::assert_snapshot!(all);
}

#[test]
fn a_pipe_in_place_of_a_key_does_not_hang() {
    let home = Home::new().edit("DIR/keys/overlay", "DIR/keys/pipe");
    nix::unistd::mkfifo(&home.path("keys/pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    assert!(home.said().contains("E-KEY-KIND"), "{}", home.said());
}

#[test]
fn keys_by_role() {
    let agent = |key| {
        Home::new()
            .edit("master = \"grumpy\"", "master = \"sleepy\"")
            .edit("cluster_key_file", key)
    };
    let both = Home::new()
        .edit("master = \"grumpy\"", "master = \"sleepy\"")
        .edit("[mesh]", "agent_key_file = \"DIR/keys/agent\"\n[mesh]");
    let master = Home::new().edit(
        "cluster_key_file = \"DIR/keys/cluster\"",
        "agent_key_file = \"DIR/keys/agent\"",
    );
    let none = agent("#");
    let absent = agent("agent_key_file").edit("DIR/keys/cluster", "DIR/keys/nothing");
    let all = [
        agent("cluster_key_file").said(),
        both.said(),
        master.said(),
        none.said(),
        absent.said(),
    ];
    insta::assert_snapshot!(all.join("\n\n--------\n\n"));
    assert_eq!(
        agent("agent_key_file")
            .edit("DIR/keys/cluster", "DIR/keys/agent")
            .said(),
        ""
    );

    let (config, _) = agent("cluster_key_file")
        .check()
        .expect("good, with a warning");
    let key: hepto_mesh::key::ClusterKey = OTHER_KEY.parse().expect("a key");
    match config.k3s.expect("k3s").secret {
        crate::config::ClusterSecret::Agent(agent) => {
            assert_eq!(agent, key.agent(&config.cluster.name))
        }
        crate::config::ClusterSecret::Master(_) => panic!("an agent holds the cluster key"),
    }
}

#[test]
fn a_mesh_without_k3s_needs_neither_binary_nor_cluster_key() {
    let home = Home::new()
        .edit("enabled = true", "enabled = false")
        .edit("binary", "#")
        .edit("cluster_key_file", "#");
    assert_eq!(home.said(), "");
    assert!(home.check().expect("good").0.k3s.is_none());
}

#[test]
fn an_agent_without_anchors() {
    let home = Home::new()
        .edit("master = \"grumpy\"", "master = \"sleepy\"")
        .edit("anchors = ", "#")
        .edit("cluster_key_file", "agent_key_file");
    insta::assert_snapshot!(home.said());
    assert_eq!(
        Home::new().edit("anchors = ", "#").said(),
        "",
        "the first node needs none"
    );
}

#[test]
fn prefixes() {
    insta::assert_snapshot!(said_after(&[
        ("[mesh]", "[mesh]\nipv4 = \"10.44.1.0/16\""),
        ("[mesh]", "[mesh]\nipv4 = \"10.44.0.0\""),
        ("[mesh]", "[mesh]\nipv4 = \"10.44.0.0/28\""),
        ("[mesh]", "[mesh]\nipv4 = \"fd00::/64\""),
        ("[cluster]", "[cluster]\nula = \"fd00::/64\""),
        ("[cluster]", "[cluster]\nula = \"10.0.0.0/8\""),
        ("[cluster]", "[cluster]\npod_cidrs = [\"10.42.0.0/16\"]"),
        ("[cluster]", "[cluster]\npod_cidrs = []"),
        (
            "[cluster]",
            "[cluster]\npod_cidrs = [\"10.42.0.0/24\", \"fd00:1::/56\"]"
        ),
        (
            "[cluster]",
            "[cluster]\nservice_cidrs = [\"10.43.0.0/16\", \"fd00:1::/64\"]"
        ),
    ]));
}

#[test]
fn overlaps() {
    insta::assert_snapshot!(said_after(&[
        ("[mesh]", "[mesh]\nipv4 = \"192.168.0.0/16\""),
        ("[mesh]", "[mesh]\nipv4 = \"10.43.0.0/16\""),
        ("addresses = [", "addresses = [\"10.42.7.1/24\", "),
        (
            "[cluster]",
            "[cluster]\npod_cidrs = [\"10.0.0.0/9\", \"fd00:1::/56\"]"
        ),
        (
            "[cluster]",
            "[cluster]\nula = \"fd00:7::/48\"\npod_cidrs = [\"10.42.0.0/16\", \"fd00:7::/56\"]"
        ),
    ]));
}

#[test]
fn wesher() {
    let with = |more: &str| format!("[mesh]\naddressing = \"wesher\"\n{more}");
    let cases = [
        with(""),
        with("ipv4 = \"10.0.0.0/12\""),
        with("ipv4 = \"192.168.0.0/16\""),
        "[mesh]\naddressing = \"Wesher\"".to_owned(),
    ];
    let edits: Vec<(&str, &str)> = cases.iter().map(|text| ("[mesh]", text.as_str())).collect();
    // The name's hash ends in 0x00 and 0xff.
    let edge = |name: &str| {
        Home::new()
            .edit("[mesh]", &with("ipv4 = \"172.31.7.0/24\""))
            .edit("name = \"grumpy\"", &format!("name = \"{name}\""))
            .edit("master = \"grumpy\"", &format!("master = \"{name}\""))
            .said()
    };
    let all = [said_after(&edits), edge("dwarf137"), edge("dwarf464")];
    insta::assert_snapshot!(all.join("\n\n--------\n\n"));
}

#[test]
fn weshers_addresses_are_understood_and_what_is_advised_is_good() {
    let networks = "pod_cidrs = [\"172.20.0.0/16\", \"fdbe:f14d:c41:100::/56\"]\n\
        service_cidrs = [\"172.21.0.0/16\", \"fdbe:f14d:c41:200::/112\"]\n[mesh]\naddressing = \"wesher\"";
    let home = Home::new().edit("[mesh]", networks);
    let advised = Home::new().edit("[mesh]", "[mesh]\naddressing = \"wesher\"");
    for line in networks.lines().take(2) {
        let said = advised.said();
        assert!(said.contains(&format!("write `{line}`")), "{said}");
    }
    assert_eq!(home.said(), "");
    let (config, _) = home.check().expect("good");
    let own = config
        .cluster
        .prefixes
        .overlay_v4(&config.node.name, 0)
        .to_string();
    assert_eq!(own, "10.175.228.85", "FNV-1a of the name ends in afe455");
}

#[test]
fn ports_and_endpoints() {
    insta::assert_snapshot!(said_after(&[
        ("[mesh]", "[mesh]\nport = 0"),
        ("[mesh]", "[mesh]\nport = 70000"),
        ("[mesh]", "[mesh]\nport = 7947"),
        ("[mesh]", "[mesh]\nport = 30001"),
        (
            "[mesh]",
            "[mesh]\nendpoints = [\"203.0.113.7\", \"2001:db8:1::7\", \"x:1\", \"203.0.113.7:0\", \"10.44.0.1:1\"]"
        ),
    ]));
}

#[test]
fn where_k3s_comes_from() {
    let version = "version = \"v1.33.4+k3s1\"";
    let with = |more: &str| format!("{version}\n{more}");
    let edits = [
        "version = \"latest\"".to_owned(),
        "version = \"v1.33\"".to_owned(),
        "version = \"1.33.4\"".to_owned(),
        "sha256 = \"0123\"\nmirror = \"https://mirror.example\"".to_owned(),
        with("binary = \"DIR/k3s\""),
        with("sha256 = \"0123\""),
        with("mirror = \"http://mirror.example/k3s\""),
        with("mirror = \"https://user:secret@mirror.example\"\nca_file = \"DIR/nothing\""),
        with("airgap_images = \"DIR/k3s\""),
        with("airgap_images = \"DIR/nothing.tar.zst\""),
        "binary = \"DIR/k3s\"\nairgap_images = \"release\"".to_owned(),
    ];
    let edits: Vec<(&str, &str)> = edits
        .iter()
        .map(|to| ("binary = \"DIR/k3s\"", to.as_str()))
        .collect();
    insta::assert_snapshot!(said_after(&edits));
}

#[test]
fn a_release_is_understood() {
    let digest = "0123456789abcdef".repeat(4);
    let lines = format!(
        "version = \"v1.33.4+k3s1\"\nsha256 = \"{digest}\"\nmirror = \"https://mirror.example:8443/k3s/\"\nca_file = \"DIR/k3s\"\nairgap_images = \"release\""
    );
    let home = Home::new().edit("binary = \"DIR/k3s\"", &lines);
    assert_eq!(home.said(), "");
    let k3s = home.check().expect("good").0.k3s.expect("k3s");
    let Source::Release(release) = k3s.source else {
        panic!("{:?}", k3s.source);
    };
    assert_eq!(
        release.url("k3s"),
        "https://mirror.example:8443/k3s/v1.33.4%2Bk3s1/k3s"
    );
    assert_eq!(release.pin.map(|pin| pin.to_string()), Some(digest));
    assert_eq!(release.authority, Some(home.path("k3s")));
    assert_eq!(k3s.images, Some(Archive::Release));
}

#[test]
fn k3s() {
    let mode = Home::new();
    set_mode(&mode.path("k3s"), 0o644);
    let rest = said_after(&[
        ("binary = \"DIR/k3s\"", "binary = \"DIR/nothing\""),
        ("binary = \"DIR/k3s\"", "binary = \"DIR/srv\""),
        ("binary = \"DIR/k3s\"", "binary = \"DIR/k3s/k3s\""),
        ("binary = \"DIR/k3s\"", "binary = \"k3s\""),
        ("binary = \"DIR/k3s\"", ""),
        ("binary", "drain = \"1 minute\"\nbinary"),
        ("binary", "drain = \"10m\"\nbinary"),
        ("binary", "upgrade_timeout = \"3h\"\nbinary"),
        ("binary", "upgrade_timeout = \"5s\"\nbinary"),
        (
            "binary",
            "args = [\"--token=hidden-secret\", \"--agent-token\", \"other-secret\"]\nbinary",
        ),
        (
            "binary",
            "args = [\"--vpn-auth=third-secret\", \"stray\", \"--with-node-id\", \"--kubelet-arg=hostname-override=x\"]\nbinary",
        ),
    ]);
    let all = [mode.said(), rest].join("\n\n");
    assert!(!all.contains("-secret\""), "a secret is shown");
    insta::assert_snapshot!(all);
}

#[test]
fn metrics() {
    let with = |line: &str| Home::new().edit("[k3s]", &format!("[metrics]\n{line}\n[k3s]"));
    let said: Vec<String> = [
        "listen = 9586",
        "listen = \"9586\"",
        "listen = \"localhost:9586\"",
        "listen = \"127.0.0.1:0\"",
        "listne = \"127.0.0.1:9586\"",
        "listen = \"0.0.0.0:9586\"",
        "listen = \"[::1]:9586\"",
    ]
    .map(|line| with(line).said())
    .into();
    insta::assert_snapshot!(said.join("\n\n"));
    let (config, _) = with("listen = \"[::1]:9586\"").check().expect("good");
    let listen = config.metrics.listen.expect("given");
    assert_eq!(listen.to_string(), "[::1]:9586");
}

#[test]
fn limits() {
    let with = |line: &'static str| said_after(&[("[k3s]", &format!("[limits]\n{line}\n[k3s]"))]);
    let said: Vec<String> = [
        "memory = \"512M\"",
        "memory = \"4GB\"",
        "memory = 4",
        "cpu = 0.1",
        "cpu = 150000",
        "cpu = \"150%\"",
        "pids = 100",
        "pids = 9999999",
        "bandwidth = \"500K\"",
        "bandwidth = \"20Mbit\"",
        "bandwidth = { up = \"1K\", down = \"99G\" }",
        "bandwidth = { sideways = \"20M\" }",
        "bandwith = \"20M\"",
    ]
    .map(with)
    .to_vec();
    insta::assert_snapshot!(said.join("\n\n--------\n\n"));

    let good =
        "[limits]\nmemory = \"4G\"\ncpu = 2\npids = 4096\nbandwidth = { up = \"20M\" }\n[k3s]";
    let limits = Home::new()
        .edit("[k3s]", good)
        .check()
        .expect("good")
        .0
        .limits;
    let wanted = crate::config::Limits {
        memory: Some(4 << 30),
        cpu: Some(2000),
        pids: Some(4096),
        up: Some(20_000_000),
        down: None,
    };
    assert_eq!(limits, wanted);

    let mesh = Home::new()
        .edit("enabled = true", "enabled = false")
        .edit("[k3s]", "[limits]\ncpu = 1\nbandwidth = \"20M\"\n[k3s]");
    assert!(
        mesh.said().contains("W-LIMITS-MESH-ONLY"),
        "{}",
        mesh.said()
    );
    assert!(mesh.check().is_ok());
}

#[test]
fn snapshot() {
    let edits = [
        "every = \"often\"",
        "every = \"5s\"",
        "recipient = \"age1qqq\"",
        "recipient = \"AGE-SECRET-KEY-1FEZKUM7VT0H3N7P4HU904YTM92H88F3ZS5YGXLAADULHJSAWHJMQH7QDNY\"",
        "keep = -1",
        "agents = 51",
        "space = \"1T\"",
        "rate = \"12\"",
    ];
    let texts = edits.map(|line| format!("[snapshot]\n{line}\n[mesh]"));
    let edits: Vec<(&str, &str)> = texts.iter().map(|text| ("[mesh]", text.as_str())).collect();
    let said = said_after(&edits);
    assert!(!said.contains("FEZKUM7"), "a secret is not repeated");
    insta::assert_snapshot!(said);
}

#[test]
fn snapshots_are_understood() {
    let text = "[snapshot]\nevery = \"90m\"\nkeep = 0\nspace = \"20M\"\nagents = 0\nrate = \"64K\"\n[mesh]";
    let (config, _) = Home::new().edit("[mesh]", text).check().expect("good");
    let snapshot = config.snapshot;
    assert_eq!(snapshot.every, Some(std::time::Duration::from_secs(5400)));
    assert_eq!(
        (snapshot.keep, snapshot.agents, snapshot.recipient),
        (0, 0, None)
    );
    assert_eq!((snapshot.space, snapshot.rate), (20 << 20, 64 << 10));
    let never = Home::new().edit("[mesh]", "[snapshot]\nevery = \"never\"\n[mesh]");
    assert_eq!(never.check().expect("good").0.snapshot.every, None);
}
