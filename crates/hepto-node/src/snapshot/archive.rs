//! What a snapshot holds, and its form: a tar in gzip in age, which `age -d -i KEY FILE | tar tzv` shows without us.
//!
//! The first entry says of which node and format it is. The last is a proof under the cluster key: anyone may encrypt to a
//! public key, so without it an agent could hand back a cluster of its own making. Entries between them are the
//! cluster's keys, the node's config file for reference, and below `node/` what `<storage>/<node>` needs to go on.
//! The layout is written down in `docs/reference/snapshot.md`.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tar::{Archive, Builder, EntryType, Header};
use zeroize::Zeroizing;

use super::age;
use super::shelf::hex;
use super::stamp::Stamp;
use crate::secret::SystemRandom;

/// The version of the layout that this program writes, and the highest that it reads.
pub const FORMAT: u32 = 1;

const HEAD: &str = "hepto-snapshot.json";
const OVERLAY_KEY: &str = "keys/overlay.key";
const CLUSTER_KEY: &str = "keys/cluster.key";
const CONFIG: &str = "node.toml";
const PROOF: &str = "proof";
/// Below it lies what belongs into `<storage>/<node>`.
const NODE: &str = "node";
/// The datastore, below `<storage>/<node>`.
const DATASTORE: &str = "rancher/server/db/state.db";
/// What is taken of `<storage>/<node>`, beside the datastore. k3s makes all else anew from these: its API server's and
/// kubelets' certificates come from the authorities in `tls`, the keys of encrypted Secrets lie in `cred`, and
/// `etc-rancher` has the node's own password, the tokens and what founded the cluster.
const PARTS: [&str; 11] = [
    "cluster",
    // Whose wish it was that no pods come, or the stop before a move would keep them away for good.
    "drained",
    "identity",
    "mesh/book",
    "etc-rancher",
    "rancher/server/token",
    "rancher/server/agent-token",
    "rancher/server/node-token",
    "rancher/server/tls",
    "rancher/server/cred",
    // What the operator put there for k3s to deploy.
    "rancher/server/manifests",
];
/// The longest file but the datastore: keys, certificates, manifests.
const LONGEST: u64 = 16 << 20;
/// The longest name of an entry, bytes.
const LONGEST_NAME: usize = 1024;

/// What the first entry says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of the layout.
    pub format: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The master's name.
    pub node: String,
    /// When it was made, by the master's clock.
    pub made: Stamp,
    /// The program that made it.
    pub version: String,
    /// The fingerprint of the master's identity, by which the other nodes know it.
    pub identity: String,
}

/// What a snapshot is made from.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The first entry.
    pub head: Head,
    /// `<storage>/<node>`.
    pub directory: &'a Path,
    /// A consistent copy of the datastore.
    pub datastore: &'a Path,
    /// The node's config file.
    pub config: &'a Path,
    /// The overlay key's file.
    pub overlay_key: &'a Path,
    /// The cluster key, as k3s reads it.
    pub cluster_key: &'a str,
}

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be decrypted, or not to its end.
    #[error(transparent)]
    Age(#[from] age::Error),
    /// It is encrypted to us and still nothing that a master makes.
    #[error("it is not a snapshot of hepto-node: {0}")]
    Form(String),
    /// Made by a later version.
    #[error("it has the format {0}, and this version of hepto-node reads formats up to {FORMAT}")]
    Newer(u32),
    /// Its proof is not of the cluster key.
    #[error("it was not made with this cluster key")]
    Unproved,
    /// The disk refuses.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Age(error.into())
    }
}

fn form(why: impl Into<String>) -> Error {
    Error::Form(why.into())
}

/// What a snapshot said, read to its end.
#[derive(Debug)]
pub struct Contents {
    /// Its first entry.
    pub head: Head,
    /// The overlay key.
    pub overlay_key: Zeroizing<String>,
    /// The cluster key.
    pub cluster_key: Zeroizing<String>,
}

/// The proof under the cluster key: over name, kind, mode, length and bytes of every entry, in order.
struct Proof(Hmac<Sha256>);

impl Proof {
    fn new(cluster_key: &str) -> Proof {
        let mac = Hmac::new_from_slice(cluster_key.as_bytes());
        let mut mac = mac.expect("HMAC takes a key of any length");
        mac.update(b"hepto snapshot v1\0");
        Proof(mac)
    }

    fn entry(&mut self, name: &str, kind: EntryType, mode: u32, length: u64) {
        self.0.update(&(name.len() as u64).to_be_bytes());
        self.0.update(name.as_bytes());
        self.0.update(&[kind.as_byte()]);
        self.0.update(&mode.to_be_bytes());
        self.0.update(&length.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn end(self) -> String {
        hex(&self.0.finalize().into_bytes())
    }

    /// Whether this is the proof. In a time that tells nothing of it.
    fn is(self, shown: &str) -> bool {
        let bytes: Option<Vec<u8>> = (0..shown.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(shown.get(at..at + 2)?, 16).ok())
            .collect();
        bytes.is_some_and(|bytes| self.0.verify_slice(&bytes).is_ok())
    }
}

/// A reader whose bytes are proved as they pass.
struct Proved<'a, R>(R, &'a mut Proof);

impl<R: Read> Read for Proved<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(into)?;
        self.1.bytes(&into[..count]);
        Ok(count)
    }
}

/// Writes the snapshot of `plan`, encrypted to `recipient`; gives the writer back.
///
/// # Errors
/// What cannot be read or written.
pub fn write<W: Write>(plan: &Plan<'_>, recipient: &age::Recipient, out: W) -> io::Result<W> {
    let sealed = age::Writer::new(recipient, &mut SystemRandom, out)?;
    let tar = Builder::new(GzEncoder::new(sealed, Compression::default()));
    let mut packer = Packer {
        tar,
        proof: Proof::new(plan.cluster_key),
    };
    let head = serde_json::to_vec_pretty(&plan.head)?;
    packer.small(HEAD, 0o600, &head)?;
    let key = crate::secret::read(plan.overlay_key).map_err(io::Error::other)?;
    packer.small(OVERLAY_KEY, 0o600, key.as_bytes())?;
    packer.small(CLUSTER_KEY, 0o600, plan.cluster_key.as_bytes())?;
    packer.small(CONFIG, 0o600, &fs::read(plan.config)?)?;
    packer.folder(NODE, 0o700)?;
    for part in PARTS {
        packer.parents(part)?;
        packer.tree(&plan.directory.join(part), &format!("{NODE}/{part}"))?;
    }
    packer.parents(DATASTORE)?;
    let file = File::open(plan.datastore)?;
    let length = file.metadata()?.len();
    packer.file(&format!("{NODE}/{DATASTORE}"), 0o600, length, file)?;
    let Packer { mut tar, proof } = packer;
    let proof = proof.end();
    let mut header = header(EntryType::Regular, 0o600, proof.len() as u64);
    tar.append_data(&mut header, PROOF, proof.as_bytes())?;
    tar.into_inner()?.finish()?.finish()
}

struct Packer<W: Write> {
    tar: Builder<W>,
    proof: Proof,
}

impl<W: Write> Packer<W> {
    /// A whole tree, or one file; nothing where there is nothing.
    fn tree(&mut self, path: &Path, name: &str) -> io::Result<()> {
        let found = match fs::symlink_metadata(path) {
            // k3s replaces files while it runs; what is gone is not part of the moment.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        let mode = found.mode() & 0o777;
        if found.is_dir() {
            self.folder(name, mode)?;
            let mut names = Vec::new();
            for entry in fs::read_dir(path)? {
                names.push(entry?.file_name());
            }
            names.sort();
            for inner in names {
                let inner_name = format!("{name}/{}", inner.to_string_lossy());
                self.tree(&path.join(&inner), &inner_name)?;
            }
        } else if found.is_symlink() {
            self.link(name, &fs::read_link(path)?)?;
        } else if found.is_file() && found.len() <= LONGEST {
            let mut bytes = Zeroizing::new(Vec::new());
            match File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes)) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                read => read?,
            };
            self.small(name, mode, &bytes)?;
        }
        // Sockets and pipes are made anew by who needs them.
        Ok(())
    }

    /// The folders above an entry, each once.
    fn parents(&mut self, part: &str) -> io::Result<()> {
        let folders: &[&str] = match part {
            "mesh/book" => &["mesh"],
            "rancher/server/token" => &["rancher", "rancher/server"],
            DATASTORE => &["rancher/server/db"],
            _ => &[],
        };
        for folder in folders {
            self.folder(&format!("{NODE}/{folder}"), 0o700)?;
        }
        Ok(())
    }

    fn folder(&mut self, name: &str, mode: u32) -> io::Result<()> {
        self.proof.entry(name, EntryType::Directory, mode, 0);
        let mut header = header(EntryType::Directory, mode, 0);
        self.tar.append_data(&mut header, name, io::empty())
    }

    fn link(&mut self, name: &str, target: &Path) -> io::Result<()> {
        let text = target.to_string_lossy();
        self.proof
            .entry(name, EntryType::Symlink, 0, text.len() as u64);
        self.proof.bytes(text.as_bytes());
        let mut header = header(EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, name, target)
    }

    fn small(&mut self, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.file(name, mode, bytes.len() as u64, bytes)
    }

    fn file(&mut self, name: &str, mode: u32, length: u64, bytes: impl Read) -> io::Result<()> {
        self.proof.entry(name, EntryType::Regular, mode, length);
        let mut header = header(EntryType::Regular, mode, length);
        let proved = Proved(bytes.take(length), &mut self.proof);
        self.tar.append_data(&mut header, name, proved)
    }
}

fn header(kind: EntryType, mode: u32, length: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(length);
    header.set_mtime(Stamp::now().0);
    header
}

/// Reads a snapshot to its end, and with `into` puts what belongs into `<storage>/<node>` there: an empty folder that
/// the caller removes after an error. With `cluster_key` it must prove to be made with that.
///
/// # Errors
/// Whatever is wrong with it: then nothing of it may be used.
pub fn read(
    file: impl Read,
    identity: &age::Identity,
    cluster_key: Option<&str>,
    into: Option<&Path>,
) -> Result<Contents, Error> {
    let opened = age::Reader::new(identity, BufReader::new(file))?;
    let mut archive = Archive::new(GzDecoder::new(opened));
    let contents = unpack(&mut archive, cluster_key, into)?;
    // Up to here, all could still be a file that was cut between two entries.
    let mut zipped = archive.into_inner();
    io::copy(&mut zipped, &mut io::sink())?;
    io::copy(&mut zipped.into_inner(), &mut io::sink())?;
    Ok(contents)
}

fn unpack(
    archive: &mut Archive<impl Read>,
    cluster_key: Option<&str>,
    into: Option<&Path>,
) -> Result<Contents, Error> {
    let mut proof = Proof::new(cluster_key.unwrap_or_default());
    let mut placer = into.map(Placer::new);
    let (mut head, mut overlay, mut cluster) = (None, None, None);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let (kind, name) = (entry.header().entry_type(), entry_name(&entry)?);
        let mode = entry.header().mode()? & 0o777;
        if head.is_none() && name != HEAD {
            return Err(form("its first entry is another"));
        }
        if name == PROOF {
            let shown = text(&mut entry)?;
            if cluster_key.is_some() && !proof.is(&shown) {
                return Err(Error::Unproved);
            }
            let lacks = |name: &str| form(format!("it lacks {name}"));
            return Ok(Contents {
                head: head.ok_or_else(|| lacks(HEAD))?,
                overlay_key: overlay.ok_or_else(|| lacks(OVERLAY_KEY))?,
                cluster_key: cluster.ok_or_else(|| lacks(CLUSTER_KEY))?,
            });
        }
        let inner = name.strip_prefix("node/");
        match kind {
            EntryType::Directory => {
                proof.entry(&name, kind, mode, 0);
                if let (Some(inner), Some(placer)) = (inner, &mut placer) {
                    placer.folder(inner, mode)?;
                }
            }
            EntryType::Symlink => {
                let target = link_target(&entry)?;
                proof.entry(&name, kind, 0, target.len() as u64);
                proof.bytes(target.as_bytes());
                if let (Some(inner), Some(placer)) = (inner, &mut placer) {
                    placer.link(inner, &target)?;
                }
            }
            EntryType::Regular => {
                proof.entry(&name, kind, mode, entry.size());
                let mut bytes = Proved(&mut entry, &mut proof);
                match (name.as_str(), inner, &mut placer) {
                    (HEAD, ..) => head = Some(read_head(&text(&mut bytes)?)?),
                    (OVERLAY_KEY, ..) => overlay = Some(text(&mut bytes)?),
                    (CLUSTER_KEY, ..) => cluster = Some(text(&mut bytes)?),
                    (_, Some(inner), Some(placer)) => placer.file(inner, mode, &mut bytes)?,
                    (CONFIG, ..) | (_, Some(_), None) => {
                        io::copy(&mut bytes, &mut io::sink())?;
                    }
                    _ => return Err(form(format!("it has an entry {name}"))),
                }
            }
            other => return Err(form(format!("{name} is of the kind {other:?}"))),
        }
    }
    Err(form("its proof is missing"))
}

fn read_head(text: &str) -> Result<Head, Error> {
    /// Alone, since all else may change with it.
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let unreadable = |error: serde_json::Error| form(format!("{HEAD} cannot be read: {error}"));
    let version: Version = serde_json::from_str(text).map_err(unreadable)?;
    match version.format {
        FORMAT => serde_json::from_str(text).map_err(unreadable),
        newer => Err(Error::Newer(newer)),
    }
}

fn text(reader: &mut impl Read) -> Result<Zeroizing<String>, Error> {
    let mut text = Zeroizing::new(String::with_capacity(4096));
    reader.take(4096).read_to_string(&mut text)?;
    Ok(text)
}

/// An entry's name: relative, without any step upwards.
fn entry_name<R: Read>(entry: &tar::Entry<'_, R>) -> Result<String, Error> {
    let bytes = entry.path_bytes().into_owned();
    let name = String::from_utf8(bytes).map_err(|_| form("a name is not text"))?;
    let name = name.strip_suffix('/').unwrap_or(&name).to_owned();
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if name.is_empty() || name.len() > LONGEST_NAME || !Path::new(&name).components().all(plain) {
        return Err(form(format!("it has an entry {name:?}")));
    }
    Ok(name)
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>) -> Result<String, Error> {
    let target = entry.link_name_bytes().unwrap_or_default().into_owned();
    String::from_utf8(target).map_err(|_| form("a link's target is not text"))
}

/// Puts entries below a folder, and never elsewhere: only into folders that it made itself, and over nothing.
struct Placer<'a> {
    root: &'a Path,
    made: BTreeSet<PathBuf>,
}

impl<'a> Placer<'a> {
    fn new(root: &'a Path) -> Self {
        Placer {
            root,
            made: BTreeSet::from([PathBuf::new()]),
        }
    }

    fn place(
        &mut self,
        inner: &str,
        make: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), Error> {
        let parent = Path::new(inner).parent().unwrap_or(Path::new(""));
        if !self.made.contains(parent) {
            return Err(form(format!("{inner} comes before its folder")));
        }
        let path = self.root.join(inner);
        make(&path).map_err(|source| match source.kind() {
            // What the snapshot gives, not what the disk says.
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => source.into(),
            _ => Error::Write { path, source },
        })
    }

    fn folder(&mut self, inner: &str, mode: u32) -> Result<(), Error> {
        self.place(inner, |path| {
            DirBuilder::new().mode(0o700).create(path)?;
            fs::set_permissions(path, Permissions::from_mode(mode))
        })?;
        self.made.insert(inner.into());
        Ok(())
    }

    fn link(&mut self, inner: &str, target: &str) -> Result<(), Error> {
        self.place(inner, |path| symlink(target, path))
    }

    fn file(&mut self, inner: &str, mode: u32, bytes: &mut impl Read) -> Result<(), Error> {
        self.place(inner, |path| {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            let mut file = options.open(path)?;
            io::copy(bytes, &mut file)?;
            // A umask can take bits away from what open() was given.
            file.set_permissions(Permissions::from_mode(mode))
        })
    }
}

#[cfg(test)]
mod tests;
