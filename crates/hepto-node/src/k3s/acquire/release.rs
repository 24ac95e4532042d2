//! A release of k3s: its exact version, the names of its files, and the checksums that it publishes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Digest;

/// Where the project publishes its releases.
pub const PUBLIC: &str = "https://github.com/k3s-io/k3s/releases/download";

/// An exact version, such as `v1.33.4+k3s1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Version(String);

/// The text is no exact version: what it is, and after a semicolon what to write.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write an exact version, as in \"v1.33.4+k3s1\"")]
pub struct NotAVersion(String);

/// Names of channels, which stand for another version every few weeks.
const CHANNELS: [&str; 4] = ["latest", "stable", "testing", "lts"];

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let refuse = |what: String| Err(NotAVersion(what));
        let line = text.strip_prefix('v').unwrap_or(text);
        let is_line =
            line.split('.').count() == 2 && line.bytes().all(|b| b == b'.' || b.is_ascii_digit());
        if CHANNELS.contains(&text.to_lowercase().as_str()) || is_line {
            return refuse(format!(
                "\"{text}\" is another k3s from one day to the next, so nodes would differ and no digest could be held to"
            ));
        }
        match is_exact(text) {
            true => Ok(Version(text.to_owned())),
            false => refuse(format!("\"{text}\" is no version of k3s")),
        }
    }
}

/// `vMAJOR.MINOR.PATCH[-PRE]+k3sN`, with nothing that would mean something in a URL or a path.
fn is_exact(text: &str) -> bool {
    let number = |text: &str| {
        (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let parts = || {
        let (kubernetes, build) = text.strip_prefix('v')?.split_once("+k3s")?;
        let (base, pre) = match kubernetes.split_once('-') {
            Some((base, pre)) => (base, Some(pre)),
            None => (kubernetes, None),
        };
        let pre_is_good = pre.is_none_or(|pre| {
            (1..=20).contains(&pre.len()) && pre.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        Some(
            base.split('.').count() == 3
                && base.split('.').all(number)
                && number(build)
                && pre_is_good,
        )
    };
    parts().unwrap_or(false)
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.0
    }
}

impl TryFrom<String> for Version {
    type Error = NotAVersion;

    fn try_from(text: String) -> Result<Self, NotAVersion> {
        text.parse()
    }
}

/// What a release publishes for one kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// The program.
    pub program: &'static str,
    /// The archive of the images that k3s itself runs.
    pub images: &'static str,
    /// The checksums of both, as sha256sum(1) prints them.
    pub checksums: &'static str,
}

impl Machine {
    /// This one; `None` where the project publishes no 64-bit k3s that we know.
    pub fn this() -> Option<Machine> {
        Machine::of(std::env::consts::ARCH)
    }

    fn of(architecture: &str) -> Option<Machine> {
        match architecture {
            "x86_64" => Some(Machine {
                program: "k3s",
                images: "k3s-airgap-images-amd64.tar.zst",
                checksums: "sha256sum-amd64.txt",
            }),
            "aarch64" => Some(Machine {
                program: "k3s-arm64",
                images: "k3s-airgap-images-arm64.tar.zst",
                checksums: "sha256sum-arm64.txt",
            }),
            _ => None,
        }
    }
}

/// An exact release, and what a download of it is held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Which.
    pub version: Version,
    /// The digest that the program has to have; without it the release's own checksums decide, and are held to.
    pub pin: Option<Digest>,
    /// Where releases lie: `https://…`, without a slash at its end.
    pub mirror: String,
    /// Who signs the mirror's certificate (PEM); without it the system's authorities.
    pub authority: Option<PathBuf>,
}

impl Release {
    /// The address of one of its files. The plus is escaped: some servers read it as a blank.
    pub fn url(&self, file: &str) -> String {
        let version = self.version.0.replace('+', "%2B");
        format!("{}/{version}/{file}", self.mirror)
    }
}

/// The digest of a file in the output of sha256sum(1).
pub fn checksum(text: &str, file: &str) -> Option<Digest> {
    text.lines().find_map(|line| {
        let (digest, name) = line.trim().split_once(char::is_whitespace)?;
        // A star marks a file that was read as binary.
        let name = name.trim_start().trim_start_matches('*');
        (name == file).then(|| digest.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_versions_alone_are_taken() {
        for good in ["v1.33.4+k3s1", "v1.30.14+k3s12", "v1.34.0-rc1+k3s1"] {
            assert_eq!(good.parse::<Version>().unwrap().to_string(), good);
        }
        for channel in ["latest", "Stable", "v1.33", "1.33"] {
            let said = channel.parse::<Version>().unwrap_err().to_string();
            assert!(said.contains("from one day to the next"), "{said}");
        }
        for bad in [
            "",
            "v1.33.4",
            "1.33.4+k3s1",
            "v1.33.4+k3s",
            "v1.33.4+rke2r1",
            "v1..4+k3s1",
            "v1.33.4+k3s1/..",
            "v1.33.4-../x+k3s1",
            "v1.33.4-+k3s1",
            "v1.33.4 +k3s1",
            "v1.33.4.5+k3s1",
        ] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_those_of_the_releases() {
        let release = Release {
            version: "v1.33.4+k3s1".parse().unwrap(),
            pin: None,
            mirror: PUBLIC.into(),
            authority: None,
        };
        assert_eq!(
            release.url(Machine::of("aarch64").unwrap().program),
            "https://github.com/k3s-io/k3s/releases/download/v1.33.4%2Bk3s1/k3s-arm64"
        );
        assert_eq!(
            Machine::of("x86_64").unwrap().checksums,
            "sha256sum-amd64.txt"
        );
        assert_eq!(Machine::of("riscv64"), None);
    }

    #[test]
    fn checksums_are_found_by_the_whole_name() {
        let digest = |byte: &str| byte.repeat(32);
        let text = format!(
            "{}  k3s-airgap-images-amd64.tar\n{} *k3s\nnonsense\n{}  other\nxyz  broken\n",
            digest("aa"),
            digest("bb"),
            digest("cc")
        );
        assert_eq!(checksum(&text, "k3s").unwrap().to_string(), digest("bb"));
        assert_eq!(
            checksum(&text, "k3s-airgap-images-amd64.tar")
                .unwrap()
                .to_string(),
            digest("aa")
        );
        assert_eq!(checksum(&text, "k3s-arm64"), None);
        assert_eq!(checksum(&text, "broken"), None);
    }
}
