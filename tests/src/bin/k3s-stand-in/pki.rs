//! The cluster's certificates, where k3s keeps them: made at the first start, the same ever after.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// A certificate with its key, both PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// The two authorities of a cluster, and the folder in which they lie.
pub struct Authorities {
    folder: PathBuf,
    server: KeyPair,
    client: KeyPair,
}

impl Authorities {
    /// Opens or makes them in `<data>/server/tls`, with the administrator's certificate beside them.
    pub fn open(data: &Path) -> anyhow::Result<Authorities> {
        let folder = data.join("server/tls");
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let (server, client) = (
            authority(&folder, "server-ca")?,
            authority(&folder, "client-ca")?,
        );
        let authorities = Authorities {
            folder,
            server,
            client,
        };
        if !authorities.path("client-admin.crt").exists() {
            let admin = authorities.client("system:admin", Some("system:masters"))?;
            write(&authorities.path("client-admin.key"), &admin.key)?;
            write(&authorities.path("client-admin.crt"), &admin.certificate)?;
        }
        Ok(authorities)
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A client's certificate.
    pub fn client(&self, name: &str, group: Option<&str>) -> anyhow::Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        sign(params, "client-ca", &self.client)
    }

    /// The API server's certificate.
    pub fn serving(&self, names: &[String]) -> anyhow::Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "k3s");
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        sign(params, "server-ca", &self.server)
    }
}

fn sign(mut params: CertificateParams, authority: &str, key: &KeyPair) -> anyhow::Result<Pair> {
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    let own = KeyPair::generate()?;
    let signed = params.signed_by(&own, &Issuer::new(authority_params(authority), key))?;
    Ok(Pair {
        certificate: signed.pem(),
        key: own.serialize_pem(),
    })
}

fn authority(folder: &Path, name: &str) -> anyhow::Result<KeyPair> {
    let path = folder.join(format!("{name}.key"));
    if let Ok(text) = fs::read_to_string(&path) {
        return KeyPair::from_pem(&text).with_context(|| format!("read {}", path.display()));
    }
    let key = KeyPair::generate()?;
    write(&path, &key.serialize_pem())?;
    write(
        &folder.join(format!("{name}.crt")),
        &authority_params(name).self_signed(&key)?.pem(),
    )?;
    Ok(key)
}

/// An authority's certificate is a function of its name, so that only its key has to be kept.
fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("k3s-{name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

/// Writes a file for root alone.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}
