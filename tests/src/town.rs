//! A street of homes, the keys of a cluster, and the config files of its nodes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hepto_net::lab::{Home, LAN, Street};
use ipnet::IpNet;

use crate::{Node, isolate};

/// The homes' common network, as both families know it.
const ROUTER: [&str; 2] = ["192.168.77.254", "2001:db8:77::fe"];

/// One test's street and cluster.
#[derive(Debug)]
pub struct Lab {
    /// The network between the homes.
    pub street: Street,
    /// Where config files, keys, storage and logs lie.
    pub directory: PathBuf,
    /// The cluster's name.
    pub cluster: String,
    program: PathBuf,
}

impl Lab {
    /// An empty street; `program` is the `hepto-node` to run.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn new(program: &str) -> Lab {
        let router: Vec<IpNet> = vec![
            net(&format!("{}/24", ROUTER[0])),
            net(&format!("{}/64", ROUTER[1])),
        ];
        let lab = Lab {
            street: Street::open(&router).expect("a street"),
            directory: isolate::directory(),
            cluster: isolate::cluster(),
            program: program.into(),
        };
        lab.secret("overlay.key", "0verlayKey0verlayKey0verlayKey01");
        lab.secret("cluster.key", "ClusterKeyClusterKeyClusterKey02");
        lab
    }

    /// Writes a secret file, of mode 0600.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn secret(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.join(name);
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path);
        std::io::Write::write_all(&mut file.expect("a key file"), content.as_bytes())
            .expect("a key file");
        path
    }

    /// Builds home number `number`, whose host has the addresses that end in it.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn home(&self, number: u8) -> Arc<Home> {
        let addresses = [
            net(&format!("192.168.77.{number}/24")),
            net(&format!("2001:db8:77::{number:x}/64")),
        ];
        Arc::new(
            self.street
                .home(&format!("home{number}"), &addresses)
                .expect("a home"),
        )
    }

    /// The usual configuration of a node in home `number`: mesh only, anchored at home 1.
    #[must_use]
    pub fn recipe(&self, number: u8, name: &str) -> Recipe {
        Recipe {
            name: name.to_owned(),
            cluster: self.cluster.clone(),
            master: name.to_owned(),
            anchors: uplink(1).iter().map(IpAddr::to_string).collect(),
            storage: self.directory.join(format!("storage{number}")),
            overlay_key: self.directory.join("overlay.key"),
            uplink: uplink(number),
            lines: BTreeMap::new(),
        }
        .with("k3s", "enabled = false")
    }

    /// A node that has not been started, in a home.
    ///
    /// # Panics
    /// When the disk refuses.
    #[must_use]
    pub fn node(&self, home: &Arc<Home>, recipe: Recipe) -> Node {
        let name = format!("{}.{}.toml", recipe.cluster, recipe.name);
        self.node_at(home, recipe, self.directory.join(name))
    }

    /// The same, with its config file at `path`, and its log beside that.
    ///
    /// # Panics
    /// When the disk refuses.
    #[must_use]
    pub fn node_at(&self, home: &Arc<Home>, recipe: Recipe, path: PathBuf) -> Node {
        let kind = if home.has_ipvlan() {
            "ipvlan"
        } else {
            "macvlan"
        };
        // It may exist: the node is made a second time, with other settings.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&recipe.storage)
            .expect("a storage directory");
        fs::write(
            &path,
            recipe.text(kind, &self.directory.join("cluster.key")),
        )
        .expect("a config file");
        Node::new(self.program.clone(), home.clone(), recipe, path)
    }

    /// Homes 1, 2, … with a node in each, none of them started; the first is the master.
    #[must_use]
    pub fn nodes(&self, names: &[&str]) -> Vec<Node> {
        let node = |(number, name): (u8, &&str)| {
            let recipe = Recipe {
                master: names[0].to_owned(),
                ..self.recipe(number, name)
            };
            self.node(&self.home(number), recipe)
        };
        (1..).zip(names).map(node).collect()
    }
}

/// The addresses of the node in home `number`, of both families.
fn uplink(number: u8) -> [IpAddr; 2] {
    [
        format!("192.168.77.{}", 100 + number),
        format!("2001:db8:77::1:{number:x}"),
    ]
    .map(|text| text.parse().expect("an address"))
}

fn net(text: &str) -> IpNet {
    text.parse()
        .expect("the lab's own addresses are well-formed")
}

/// What a node's config file says.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// `node.name`.
    pub name: String,
    /// `cluster.name`.
    pub cluster: String,
    /// `cluster.master`.
    pub master: String,
    /// `cluster.anchors`.
    pub anchors: Vec<String>,
    /// `node.storage`.
    pub storage: PathBuf,
    /// `cluster.overlay_key_file`.
    pub overlay_key: PathBuf,
    /// The addresses of `network.addresses`, IPv4 first.
    pub uplink: [IpAddr; 2],
    /// More lines, by section; see [`Recipe::with`].
    pub lines: BTreeMap<&'static str, Vec<String>>,
}

impl Recipe {
    /// The same with one more line in a section.
    #[must_use]
    pub fn with(mut self, section: &'static str, line: &str) -> Recipe {
        self.lines.entry(section).or_default().push(line.to_owned());
        self
    }

    /// The same without the lines of a section that were added so far.
    #[must_use]
    pub fn without(mut self, section: &str) -> Recipe {
        self.lines.remove(section);
        self
    }

    /// The config file.
    fn text(&self, kind: &str, cluster_key: &Path) -> String {
        let [ipv4, ipv6] = self.uplink;
        let mut text = String::new();
        let mut section = |name: &str, own: &[String]| {
            let _ = writeln!(text, "[{name}]");
            for line in own.iter().chain(self.lines.get(name).into_iter().flatten()) {
                let _ = writeln!(text, "{line}");
            }
        };
        section(
            "node",
            &[
                format!("name = {:?}", self.name),
                format!("storage = {:?}", self.storage),
            ],
        );
        section(
            "network",
            &[
                format!("interface = {LAN:?}"),
                format!("mode = {kind:?}"),
                format!("addresses = [\"{ipv4}/24\", \"{ipv6}/64\"]"),
                format!("gateways = {ROUTER:?}"),
                // No home has a resolver; a node must have one.
                format!("dns = [{:?}]", ROUTER[0]),
            ],
        );
        section(
            "cluster",
            &[
                format!("name = {:?}", self.cluster),
                format!("master = {:?}", self.master),
                format!("anchors = {:?}", self.anchors),
                format!("overlay_key_file = {:?}", self.overlay_key),
                format!("cluster_key_file = {cluster_key:?}"),
            ],
        );
        section("mesh", &[]);
        section("snapshot", &[]);
        section("k3s", &[]);
        section("limits", &[]);
        section("metrics", &[]);
        text
    }
}
