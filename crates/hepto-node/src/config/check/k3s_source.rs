//! `[k3s]`: which k3s, and where it comes from: one way of three.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::{Checking, Diagnostic, from_sentence};
use crate::config::file::{K3sSection, Text};
use crate::k3s::acquire::{
    Archive, Digest, Embedded, FORMS, NotADigest, PUBLIC, Release, Source, Version,
};
use crate::secret::quote;

/// The one way that was chosen; `embedded` is this build's.
pub(super) fn source(
    file: &K3sSection,
    embedded: Option<Embedded>,
    checking: &mut Checking<'_>,
) -> Option<Source> {
    let release = release(file, checking);
    if file.version.is_none() && !checking.was_wrong("k3s", "version") {
        downloads_alone(file, checking);
    }
    match (&file.binary, &file.version) {
        (Some(binary), Some(version)) => {
            let what = "`binary` and `version` each name a k3s, and one can run";
            let found = Diagnostic::error("E-K3S-SOURCE", what).at(version.span());
            checking.report(
                found
                    .beside(binary.span(), "this one is on the machine")
                    .fix("remove one of the two lines"),
            );
            None
        }
        (Some(binary), None) => binary_file(binary, checking).map(Source::Binary),
        (None, Some(_)) => release.map(Source::Release),
        (None, None) => match embedded {
            Some(embedded) => Some(Source::Embedded(embedded)),
            None => {
                missing(checking);
                None
            }
        },
    }
}

fn missing(checking: &mut Checking<'_>) {
    // What stood there and was wrong is reported.
    if ["binary", "version"]
        .iter()
        .any(|key| checking.was_wrong("k3s", key))
    {
        return;
    }
    let what = "[k3s] does not say which k3s to run, and this hepto-node has none embedded";
    let found = Diagnostic::error("E-K3S-SOURCE", what).at(checking.section("k3s"));
    checking.report(found.fix(
        "add `version = \"v1.33.4+k3s1\"` to have it downloaded, or `binary = \"/usr/local/bin/k3s\"` for one that is \
         here, or build hepto-node with one inside: make static EMBED_K3S=PATH",
    ));
}

/// What goes with a download makes no sense without one.
fn downloads_alone(file: &K3sSection, checking: &mut Checking<'_>) {
    let keys = [
        ("sha256", &file.sha256),
        ("mirror", &file.mirror),
        ("ca_file", &file.ca_file),
    ];
    for (key, text) in keys {
        if let Some(text) = text {
            let what = format!("`{key}` belongs to a download, and there is no `version`");
            let found = Diagnostic::error("E-K3S-SOURCE", what).at(text.span());
            checking.report(found.fix(format!("remove `{key}`, or name the release in `version`")));
        }
    }
}

/// All keys of a download are checked, whether there is one or not.
fn release(file: &K3sSection, checking: &mut Checking<'_>) -> Option<Release> {
    let version = file.version.as_ref();
    let version = version.and_then(|text| checking.parse::<Version>(text, |_| "E-K3S-VERSION"));
    let pin = match &file.sha256 {
        Some(text) => digest(text, checking).map(Some),
        None => Some(None),
    };
    let mirror = match &file.mirror {
        Some(text) => mirror(text, checking),
        None => Some(PUBLIC.to_owned()),
    };
    let authority = match &file.ca_file {
        Some(text) => checking
            .path(text, "ca_file")
            .and_then(|path| readable(path, text, "E-K3S-CA", checking))
            .map(Some),
        None => Some(None),
    };
    Some(Release {
        version: version?,
        pin: pin?,
        mirror: mirror?,
        authority: authority?,
    })
}

fn digest(text: &Text, checking: &mut Checking<'_>) -> Option<Digest> {
    match text.get_ref().trim().parse() {
        Ok(digest) => Some(digest),
        Err(NotADigest) => {
            let found = Diagnostic::error("E-K3S-SHA256", NotADigest.to_string()).at(text.span());
            checking.report(
                found.fix("copy it from the release's sha256sum file, for this kind of machine"),
            );
            None
        }
    }
}

fn mirror(text: &Text, checking: &mut Checking<'_>) -> Option<String> {
    let written = text.get_ref().trim_end_matches('/');
    // A password would be refused, and must not be quoted for it.
    if written.contains('@') {
        checking.secrets.push(text.span());
    }
    let (what, fix) = match written.split_once("://") {
        Some(("https", rest)) if is_place(rest) => return Some(written.to_owned()),
        Some(("http", _)) => (
            "http:// is not taken: whoever is on the way could put another k3s and another checksum in place",
            "write an https:// address; for a certificate of your own name its authority in `ca_file`",
        ),
        _ => (
            "this is no address of a mirror",
            "write it as in \"https://mirror.example.org/k3s\"; below it lies VERSION/k3s",
        ),
    };
    let found = Diagnostic::error("E-K3S-MIRROR", what).at(text.span());
    checking.report(found.fix(fix));
    None
}

/// Host, port and path, without what would ask for a password or hide the rest.
fn is_place(rest: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"@?#\"\\<>^`{|}".contains(&byte);
    !rest.is_empty() && !rest.starts_with(['/', ':']) && rest.bytes().all(plain)
}

/// `k3s.airgap_images`; `Some(None)` without it.
pub(super) fn images(
    file: &K3sSection,
    source: Option<&Source>,
    checking: &mut Checking<'_>,
) -> Option<Option<Archive>> {
    let Some(text) = &file.airgap_images else {
        return Some(None);
    };
    let refuse = |checking: &mut Checking<'_>, what: String, fix: String| {
        checking.report(
            Diagnostic::error("E-K3S-IMAGES", what)
                .at(text.span())
                .fix(fix),
        );
        None
    };
    if text.get_ref() == "release" {
        return match source {
            Some(Source::Release(_)) => Some(Some(Archive::Release)),
            // Whatever is wrong with the version is reported.
            None if file.version.is_some() => None,
            _ => refuse(
                checking,
                "\"release\" means the images of the release in `version`, and there is none".into(),
                "name the archive itself, as in `airgap_images = \"/srv/k3s-airgap-images-amd64.tar.zst\"`".into(),
            ),
        };
    }
    let path = checking.path(text, "airgap_images")?;
    if !FORMS.iter().any(|form| text.get_ref().ends_with(form)) {
        let what = format!("k3s imports no archive of the name {}", path.display());
        return refuse(
            checking,
            what,
            format!("its name has to end in {}", FORMS.join(", ")),
        );
    }
    readable(path, text, "E-K3S-IMAGES", checking).map(|path| Some(Archive::File(path)))
}

/// A file of this machine that can be read.
fn readable(
    path: PathBuf,
    text: &Text,
    code: &'static str,
    checking: &mut Checking<'_>,
) -> Option<PathBuf> {
    if checking.machine.is_none() {
        return Some(path);
    }
    let why = match fs::File::open(&path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_file() => return Some(path),
        Ok(_) => "it is not a file".to_owned(),
        Err(error) => error.to_string(),
    };
    let sentence = format!(
        "cannot read {}: {why}; correct the path, or put the file there",
        path.display()
    );
    checking.report(from_sentence(code, &sentence).at(text.span()));
    None
}

fn binary_file(text: &Text, checking: &mut Checking<'_>) -> Option<PathBuf> {
    let path = checking.path(text, "binary")?;
    match checking.machine.and_then(|_| refuse_binary(&path)) {
        None => Some(path),
        Some(found) => {
            checking.report(found.at(text.span()));
            None
        }
    }
}

fn refuse_binary(path: &Path) -> Option<Diagnostic> {
    let shown = path.display();
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let found = Diagnostic::error(
                "E-K3S-ABSENT",
                format!("the k3s binary {shown} does not exist"),
            );
            Some(found.fix("put k3s there, or set `enabled = false` for a node of the mesh alone"))
        }
        Err(error) => {
            let found = Diagnostic::error(
                "E-K3S-ACCESS",
                format!("cannot look at the k3s binary {shown}: {error}"),
            );
            Some(found.fix("correct the path, or run hepto-node as root"))
        }
        Ok(metadata) if !metadata.is_file() => {
            let found = Diagnostic::error(
                "E-K3S-KIND",
                format!("the k3s binary {shown} is not a file"),
            );
            Some(found.fix("name the program itself, as in `binary = \"/usr/local/bin/k3s\"`"))
        }
        Ok(_) => rustix::fs::access(path, Access::EXEC_OK).err().map(|_| {
            let found = Diagnostic::error(
                "E-K3S-EXECUTABLE",
                format!("the k3s binary {shown} is not executable"),
            );
            found.fix(format!("chmod 755 {}", quote(path)))
        }),
    }
}
