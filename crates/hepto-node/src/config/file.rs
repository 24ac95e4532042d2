//! The config file as it is written: every key optional, every value with its place in the text.
//!
//! What a value must be beyond its TOML type is decided in `check`, so that all errors come at once.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

/// A value and where it stands.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Spanned<T>(toml::Spanned<T>);

impl<T> Spanned<T> {
    /// The value.
    pub fn get_ref(&self) -> &T {
        self.0.get_ref()
    }

    /// Its place, in bytes of the file.
    pub fn span(&self) -> Range<usize> {
        self.0.span()
    }
}

/// As the value alone: the place is not written.
impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A text and where it stands.
pub type Text = Spanned<String>;

/// The whole file.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["node", "network", "cluster"]))]
pub struct File {
    /// `[node]`.
    #[serde(default)]
    pub node: NodeSection,
    /// `[network]`.
    #[serde(default)]
    pub network: NetworkSection,
    /// `[cluster]`.
    #[serde(default)]
    pub cluster: ClusterSection,
    /// `[mesh]`.
    #[serde(default)]
    pub mesh: MeshSection,
    /// `[snapshot]`.
    #[serde(default)]
    pub snapshot: SnapshotSection,
    /// `[k3s]`.
    #[serde(default)]
    pub k3s: K3sSection,
    /// `[limits]`.
    #[serde(default)]
    pub limits: LimitsSection,
    /// `[metrics]`.
    #[serde(default)]
    pub metrics: MetricsSection,
}

/// `[node]`: who this is, and where its data lies.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["name", "storage"]))]
pub struct NodeSection {
    /// The overlay's and Kubernetes' name.
    pub name: Option<Text>,
    /// The directory that holds `<storage>/<name>`.
    pub storage: Option<Text>,
    /// Directories offered to workloads.
    pub data: Option<Vec<Text>>,
}

/// `[network]`: how the node stands in its home's network.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["interface", "addresses"]))]
pub struct NetworkSection {
    /// The host's interface.
    pub interface: Option<Text>,
    /// `ipvlan` or `macvlan`.
    #[schemars(extend("enum" = ["ipvlan", "macvlan"]))]
    pub mode: Option<Text>,
    /// Addresses with their prefixes, `auto` among them; the word alone is a list of it.
    #[serde(default, deserialize_with = "list_or_auto")]
    #[schemars(with = "ListOrAuto")]
    pub addresses: Option<Vec<Text>>,
    /// Default gateways.
    pub gateways: Option<Vec<Spanned<GatewayValue>>>,
    /// Resolvers.
    pub dns: Option<Vec<Text>>,
    /// The smallest path MTU between two nodes, bytes.
    #[schemars(range(min = 1280, max = 9216))]
    pub mtu: Option<Spanned<i64>>,
    /// Ports open to the home's network.
    pub open: Option<Vec<Text>>,
    /// `on` or `none`.
    #[schemars(extend("enum" = ["on", "none"]))]
    pub firewall: Option<Text>,
    /// Whether the host's interface may be told to forward joined UDP datagrams.
    pub tune_host: Option<Spanned<bool>>,
    /// Whether there is a link between host and node, by which each reaches the other.
    pub host_link: Option<Spanned<bool>>,
}

impl NetworkSection {
    /// Whether there is a link between host and node.
    pub fn is_linked(&self) -> bool {
        self.host_link.as_ref().is_some_and(|link| *link.get_ref())
    }
}

/// `[cluster]`: what all nodes have in common.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["name", "master", "overlay_key_file"]))]
pub struct ClusterSection {
    /// The cluster's name.
    pub name: Option<Text>,
    /// The node that runs the k3s server.
    pub master: Option<Text>,
    /// Nodes with stable addresses.
    pub anchors: Option<Vec<Text>>,
    /// The file with the overlay key.
    pub overlay_key_file: Option<Text>,
    /// The file with the cluster key.
    pub cluster_key_file: Option<Text>,
    /// The file with the agents' key.
    pub agent_key_file: Option<Text>,
    /// The cluster's ULA /48.
    pub ula: Option<Text>,
    /// The pods' prefixes.
    pub pod_cidrs: Option<Vec<Text>>,
    /// The services' prefixes.
    pub service_cidrs: Option<Vec<Text>>,
}

/// `[mesh]`: the overlay network.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeshSection {
    /// The one public UDP port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<Spanned<i64>>,
    /// The overlay's IPv4 prefix.
    pub ipv4: Option<Text>,
    /// `hepto` or `wesher`.
    #[schemars(extend("enum" = ["hepto", "wesher"]))]
    pub addressing: Option<Text>,
    /// Addresses under which the others reach this node through port forwards.
    pub endpoints: Option<Vec<Text>>,
}

/// `[snapshot]`: what brings the master up elsewhere.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSection {
    /// How often, or `never`.
    pub every: Option<Text>,
    /// The operator's public key.
    pub recipient: Option<Text>,
    /// How many are kept.
    pub keep: Option<Spanned<i64>>,
    /// How many bytes are kept.
    pub space: Option<Text>,
    /// How many agents get a copy.
    pub agents: Option<Spanned<i64>>,
    /// Bytes a second.
    pub rate: Option<Text>,
}

/// `[k3s]`: what runs in the node.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct K3sSection {
    /// `false`: mesh only.
    pub enabled: Option<Spanned<bool>>,
    /// The k3s binary.
    pub binary: Option<Text>,
    /// The release to download.
    pub version: Option<Text>,
    /// The digest of its program.
    pub sha256: Option<Text>,
    /// From where.
    pub mirror: Option<Text>,
    /// Who signs the mirror's certificate.
    pub ca_file: Option<Text>,
    /// Images that are there before pods start.
    pub airgap_images: Option<Text>,
    /// More arguments for k3s.
    pub args: Option<Vec<Text>>,
    /// The longest time to drain the node at a stop.
    pub drain: Option<Text>,
    /// How long another k3s may take to be ready.
    pub upgrade_timeout: Option<Text>,
}

/// `[limits]`: what the node may use of its host.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsSection {
    /// Memory of everything that runs in the node.
    pub memory: Option<Text>,
    /// Processors, as a number.
    pub cpu: Option<Spanned<f64>>,
    /// Processes and threads.
    pub pids: Option<Spanned<i64>>,
    /// Bits a second through the uplink.
    pub bandwidth: Option<Spanned<BandwidthValue>>,
}

/// `[metrics]`: where Prometheus finds the node.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MetricsSection {
    /// Address and port in the host's namespace.
    pub listen: Option<Text>,
}

/// `limits.bandwidth`: one rate for both directions, or `{ up = "…", down = "…" }`.
#[derive(Debug)]
pub struct BandwidthValue {
    /// What the node sends.
    pub up: Option<String>,
    /// What it receives.
    pub down: Option<String>,
}

impl JsonSchema for BandwidthValue {
    fn schema_name() -> Cow<'static, str> {
        "Bandwidth".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let rate = json_schema!({ "type": "string" });
        json_schema!({ "anyOf": [
            rate,
            { "type": "object", "properties": { "up": rate, "down": rate }, "additionalProperties": false },
        ]})
    }
}

impl<'de> Deserialize<'de> for BandwidthValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = BandwidthValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate or { up = \"RATE\", down = \"RATE\" }")
            }

            fn visit_str<E: de::Error>(self, rate: &str) -> Result<Self::Value, E> {
                Ok(BandwidthValue {
                    up: Some(rate.to_owned()),
                    down: Some(rate.to_owned()),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut up, mut down) = (None, None);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "up" => up = Some(map.next_value()?),
                        "down" => down = Some(map.next_value()?),
                        _ => return Err(de::Error::invalid_type(de::Unexpected::Map, &self)),
                    }
                }
                Ok(BandwidthValue { up, down })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The word of `network.addresses` for what routers announce.
pub const AUTO: &str = "auto";

/// What [`list_or_auto`] reads.
struct ListOrAuto;

impl JsonSchema for ListOrAuto {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ListOrAuto".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": AUTO }, { "type": "array", "items": { "type": "string" } }] })
    }
}

fn list_or_auto<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Text>>, D::Error> {
    struct Either;
    impl<'de> Visitor<'de> for Either {
        type Value = Vec<Text>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence")
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
            match word {
                AUTO => Ok(vec![Spanned(toml::Spanned::new(0..0, word.to_owned()))]),
                other => Err(E::invalid_type(de::Unexpected::Str(other), &self)),
            }
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = list.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }
    deserializer.deserialize_any(Either).map(Some)
}

/// One of `network.gateways`: an address, or `{ via = "…", onlink = true }`.
#[derive(Debug)]
pub struct GatewayValue {
    /// The address.
    pub via: String,
    /// Whether it is reached directly though no prefix says so.
    pub onlink: bool,
}

impl JsonSchema for GatewayValue {
    fn schema_name() -> Cow<'static, str> {
        "Gateway".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let via = json_schema!({ "type": "string" });
        json_schema!({ "anyOf": [
            via,
            {
                "type": "object",
                "properties": { "via": via, "onlink": { "type": "boolean" } },
                "required": ["via"],
                "additionalProperties": false,
            },
        ]})
    }
}

impl<'de> Deserialize<'de> for GatewayValue {
    // `untagged` would lose both the place and the reason of an error.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = GatewayValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or { via = \"ADDRESS\", onlink = true }")
            }

            fn visit_str<E: de::Error>(self, via: &str) -> Result<Self::Value, E> {
                Ok(GatewayValue {
                    via: via.to_owned(),
                    onlink: false,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut via, mut onlink) = (None, false);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "via" => via = Some(map.next_value()?),
                        "onlink" => onlink = map.next_value()?,
                        _ => return Err(de::Error::invalid_type(de::Unexpected::Map, &self)),
                    }
                }
                let via = via.ok_or_else(|| de::Error::invalid_type(de::Unexpected::Map, &self))?;
                Ok(GatewayValue { via, onlink })
            }
        }
        deserializer.deserialize_any(Either)
    }
}
