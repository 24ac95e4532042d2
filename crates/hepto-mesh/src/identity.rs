//! A node's own key pairs: WireGuard's and the ed25519 identity that signs its record.
//!
//! Made once, kept in `<directory>/node.key` (mode 0600), never sent anywhere.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::{Blake2s256, Digest};
use ed25519_dalek::{Signer, SigningKey};
use rand_core::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::key::base32;

const FILE: &str = "node.key";

/// Why the identity could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The kernel refused.
    #[error("cannot {action} {}: {error}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The file is not what this program writes.
    #[error(
        "{} is not an identity file; restore it from a backup, or remove it and give the node a \
         new name: the others refuse another identity under this one", path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Others can read the private keys.
    #[error("{} has mode {mode:04o} or another owner; run `chmod 600` and `chown` on it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl IdentityError {
    /// The stable code of the error, as printed and documented.
    pub fn code(&self) -> &'static str {
        match self {
            IdentityError::File { .. } => "E-IDENTITY-FILE",
            IdentityError::Malformed { .. } => "E-IDENTITY-MALFORMED",
            IdentityError::Exposed { .. } => "E-IDENTITY-MODE",
        }
    }
}

/// Both key pairs of this node.
#[derive(Clone)]
pub struct Identity {
    wireguard: StaticSecret,
    signing: SigningKey,
}

impl Identity {
    /// New key pairs, kept nowhere yet.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut wireguard = Zeroizing::new([0; 32]);
        let mut signing = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut wireguard[..]);
        rng.fill_bytes(&mut signing[..]);
        Self {
            wireguard: StaticSecret::from(*wireguard),
            signing: SigningKey::from_bytes(&signing),
        }
    }

    /// Reads `<directory>/node.key`; where there is none, makes it (and the directory, 0700), synced to disk.
    pub fn load_or_create(
        directory: &Path,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, IdentityError> {
        match Self::load(directory)? {
            Some(identity) => Ok(identity),
            None => {
                let identity = Self::generate(rng);
                identity.create(directory)?;
                // What lies on the disk is the truth: two first runs at once end with one identity.
                Ok(Self::load(directory)?.unwrap_or(identity))
            }
        }
    }

    /// Reads `<directory>/node.key`; `None` where there is none.
    pub fn load(directory: &Path) -> Result<Option<Self>, IdentityError> {
        let path = directory.join(FILE);
        let failed = |action| {
            let path = path.clone();
            move |error| IdentityError::File {
                action,
                path,
                error,
            }
        };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed("open"))?,
        };
        let metadata = file.metadata().map_err(failed("inspect"))?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(IdentityError::Exposed { path, mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(256));
        file.take(256)
            .read_to_string(&mut text)
            .map_err(failed("read"))?;
        Self::parse(&text)
            .map(Some)
            .ok_or(IdentityError::Malformed { path })
    }

    fn create(&self, directory: &Path) -> Result<(), IdentityError> {
        let path = directory.join(FILE);
        let failed = |action| {
            let path = path.clone();
            move |error| IdentityError::File {
                action,
                path,
                error,
            }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed("make the folder of"))?;
        let draft = directory.join(".node.key.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)
            .map_err(failed("create"))?;
        file.write_all(self.text().as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed("write"))?;
        fs::rename(&draft, &path).map_err(failed("create"))?;
        File::open(directory)
            .and_then(|folder| folder.sync_all())
            .map_err(failed("sync the folder of"))
    }

    fn text(&self) -> Zeroizing<String> {
        let wireguard = Zeroizing::new(STANDARD.encode(self.wireguard.as_bytes()));
        let signing = Zeroizing::new(STANDARD.encode(self.signing.as_bytes()));
        Zeroizing::new(format!("wireguard {}\nidentity {}\n", *wireguard, *signing))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let wireguard = secret(lines.next()?.strip_prefix("wireguard ")?)?;
        let signing = secret(lines.next()?.strip_prefix("identity ")?)?;
        if lines.next().is_some() {
            return None;
        }
        Some(Self {
            wireguard: StaticSecret::from(*wireguard),
            signing: SigningKey::from_bytes(&signing),
        })
    }

    /// WireGuard's private key.
    pub fn wireguard_private(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.wireguard.to_bytes())
    }

    /// WireGuard's public key.
    pub fn wireguard_public(&self) -> [u8; 32] {
        PublicKey::from(&self.wireguard).to_bytes()
    }

    /// The ed25519 public key that others pin this node's name to.
    pub fn public(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    /// Signs `message` with the identity (RFC 8032).
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }

    /// What a person compares: see [`fingerprint`].
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.public())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.fingerprint())
    }
}

/// The fingerprint of an ed25519 public key: 32 base32 characters of its BLAKE2s-256 (160 bits).
pub fn fingerprint(public: &[u8; 32]) -> String {
    base32(&Blake2s256::digest(public)[..20])
}

fn secret(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
    Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    #[test]
    fn an_identity_is_made_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("a/identity");
        let first =
            Identity::load_or_create(&directory, &mut ChaCha20Rng::seed_from_u64(1)).expect("made");
        let again =
            Identity::load_or_create(&directory, &mut ChaCha20Rng::seed_from_u64(2)).expect("read");
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.wireguard_public(), again.wireguard_public());
        let mode = fs::metadata(directory.join(FILE))
            .expect("the file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&directory).expect("the folder").count(), 1);
    }

    #[test]
    fn an_exposed_or_broken_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        Identity::load_or_create(folder.path(), rng).expect("made");
        let path = folder.path().join(FILE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("chmod");
        assert_eq!(
            Identity::load(folder.path()).expect_err("exposed").code(),
            "E-IDENTITY-MODE"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::write(&path, "wireguard AAAA\n").expect("written");
        assert_eq!(
            Identity::load_or_create(folder.path(), rng)
                .expect_err("broken")
                .code(),
            "E-IDENTITY-MALFORMED"
        );
    }

    #[test]
    fn debug_shows_the_fingerprint_alone() {
        let identity = Identity::generate(&mut ChaCha20Rng::seed_from_u64(1));
        assert_eq!(
            format!("{identity:?}"),
            format!("Identity({})", identity.fingerprint())
        );
        assert_eq!(identity.fingerprint().len(), 32);
    }
}
