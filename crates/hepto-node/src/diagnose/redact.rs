//! Takes every secret of a node out of a text, in whatever form it may stand there.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use hepto_mesh::key::{ClusterKey, OverlayKey};
use hepto_mesh::name::ClusterName;
use zeroize::Zeroizing;

use crate::uninstall::Outline;

/// What stands in a secret's place.
const HIDDEN: &str = "[hidden]";
/// What is shorter is no secret of ours, and would black out ordinary words.
const SHORTEST: usize = 16;

/// The secrets of one node, in all forms in which they could be written.
#[derive(Default)]
pub struct Secrets(Vec<Zeroizing<String>>);

impl Secrets {
    /// What the files of a node hold: its keys, those that follow from them, its identity, and k3s's tokens.
    pub fn of(outline: &Outline) -> Secrets {
        let mut secrets = Secrets::default();
        for path in &outline.keys {
            secrets.file(path);
        }
        let rancher = ["rancher", "k3s"].map(|name| outline.directory.join(name));
        for folder in rancher.iter().chain([
            &outline.directory.join("identity"),
            &outline.directory.join("etc"),
        ]) {
            secrets.folder(folder, 4);
        }
        secrets.derived(outline);
        // Longer ones first: a key within a token must not leave the token's ends.
        secrets.0.sort_by_key(|form| std::cmp::Reverse(form.len()));
        secrets.0.dedup();
        secrets
    }

    /// The text without them.
    pub fn hide(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, form| {
            match text.contains(form.as_str()) {
                true => text.replace(form.as_str(), HIDDEN),
                false => text,
            }
        })
    }

    /// Small files alone, whose names say that they hold a secret.
    fn folder(&mut self, folder: &Path, depth: usize) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (
                entry.path(),
                entry.file_name().to_string_lossy().into_owned(),
            );
            let is_secret = ["key", "token", "password", "passwd"]
                .iter()
                .any(|word| name.contains(word));
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth > 0 => self.folder(&path, depth - 1),
                Ok(kind) if kind.is_file() && is_secret => self.file(&path),
                _ => {}
            }
        }
    }

    /// Every long word of a file.
    fn file(&mut self, path: &Path) {
        if fs::metadata(path).is_ok_and(|found| found.len() > 1 << 16) {
            return;
        }
        let Ok(bytes) = fs::read(path).map(Zeroizing::new) else {
            return;
        };
        match std::str::from_utf8(&bytes) {
            Ok(text) => {
                for word in text.split(|c: char| c.is_whitespace() || "\"',:=[]".contains(c)) {
                    self.word(word);
                }
                // Base64 ends in signs at which the words above were split.
                for word in text.split_whitespace() {
                    self.word(word.trim_matches(['"', ',']));
                }
            }
            Err(_) => self.bytes(&bytes),
        }
    }

    fn derived(&mut self, outline: &Outline) {
        let Ok(cluster) = outline.cluster.parse::<ClusterName>() else {
            return;
        };
        for path in &outline.keys {
            let Ok(text) = fs::read_to_string(path).map(Zeroizing::new) else {
                continue;
            };
            if let Ok(key) = text.trim().parse::<ClusterKey>() {
                self.word(key.agent(&cluster).expose());
            }
            if let Ok(key) = text.trim().parse::<OverlayKey>() {
                let derived = key.derive(&cluster);
                self.bytes(&derived.rendezvous);
                self.bytes(&derived.gossip);
            }
        }
    }

    /// A secret in writing, and what it says if it is the writing of bytes.
    fn word(&mut self, word: &str) {
        if word.len() < SHORTEST {
            return;
        }
        self.0.push(Zeroizing::new(word.to_owned()));
        self.forms(word.as_bytes());
        if let Ok(bytes) = STANDARD.decode(word).map(Zeroizing::new) {
            self.forms(&bytes);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        if bytes.len() >= SHORTEST {
            self.forms(bytes);
        }
    }

    fn forms(&mut self, bytes: &[u8]) {
        for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
            self.0.push(Zeroizing::new(engine.encode(bytes)));
        }
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.push(Zeroizing::new(hex.to_uppercase()));
        self.0.push(Zeroizing::new(hex));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_in_every_form() {
        let folder = tempfile::tempdir().expect("a directory");
        let key = folder.path().join("overlay.key");
        let secret = "0verlayKey0verlayKey0verlayKey01";
        fs::write(&key, format!("{secret}\n")).expect("a file");
        let identity = folder.path().join("mars/identity");
        fs::create_dir_all(&identity).expect("a directory");
        let raw = [0xabu8; 32];
        fs::write(
            identity.join("node.key"),
            format!("wireguard = \"{}\"\n", STANDARD.encode(raw)),
        )
        .expect("a file");
        let secrets = Secrets::of(&Outline {
            config: folder.path().join("mars.toml"),
            cluster: "acides".to_owned(),
            node: "mars".to_owned(),
            storage: folder.path().to_owned(),
            directory: folder.path().join("mars"),
            keys: vec![key],
        });
        let hex = |bytes: &[u8]| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let overlay: OverlayKey = secret.parse().expect("a key");
        let gossip = overlay.derive(&"acides".parse().expect("a name")).gossip;
        for form in [
            secret.to_owned(),
            format!("token={secret},"),
            STANDARD.encode(secret),
            hex(secret.as_bytes()),
            STANDARD.encode(raw),
            hex(&raw).to_uppercase(),
            STANDARD.encode(gossip),
        ] {
            let shown = secrets.hide(&format!("before {form} after"));
            assert!(
                shown.contains(HIDDEN) && shown.starts_with("before ") && shown.ends_with(" after"),
                "{shown}"
            );
        }
        assert_eq!(secrets.hide("mars is ready"), "mars is ready");
    }
}
