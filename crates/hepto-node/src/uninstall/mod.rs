//! Taking a node off its host: what there is of it, what of that goes, and the going.
//!
//! [`plan`] looks and decides, without changing anything; [`Plan::carry_out`] removes. Nothing is removed that the
//! plan did not show, and nothing of another node, of the operator or of the system.

mod outline;
mod tree;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fault::{Exit, Fault};
use crate::state;
pub use outline::Outline;

/// Where the unit `hepto-node@NAME` looks for `NAME.toml`.
const CONFIGS: &str = "/etc/hepto";

/// One thing that goes, in the order of their going.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The systemd unit is stopped and not started at boot any more.
    Unit(String),
    /// The node is stopped, and all taken down that it made outside its storage.
    Run,
    /// A file.
    File(PathBuf),
    /// The node's own folder, but for what is kept.
    Directory(PathBuf),
    /// The k3s binaries that the nodes of a storage share.
    Cache(PathBuf),
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Item::Unit(unit) => write!(f, "unit       {unit}: stopped and disabled"),
            Item::Run => write!(
                f,
                "run        network namespace, tunnel, pods, cgroups, run directory"
            ),
            Item::File(path) => write!(f, "file       {}", path.display()),
            Item::Directory(path) => write!(f, "directory  {}", path.display()),
            Item::Cache(path) => write!(f, "cache      {}", path.display()),
        }
    }
}

/// What an uninstall does.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// What goes.
    pub items: Vec<Item>,
    /// What stays, with the reason.
    pub kept: Vec<(PathBuf, String)>,
    /// What `--keep-data` names, resolved.
    keep: Vec<PathBuf>,
}

/// What is asked of an uninstall.
#[derive(Debug, Default)]
pub struct Wish {
    /// Also what is inside the storage, the config and its keys.
    pub purge: bool,
    /// Files and folders that stay.
    pub keep: Vec<PathBuf>,
}

/// Looks what there is of a node and decides what of it goes.
///
/// # Errors
/// `E-UNINSTALL-KEEP` for something to keep that is not there, `E-UNINSTALL-NOT-NODE` for a folder that is not this
/// node's, `E-UNINSTALL-MOUNT` when something is mounted in it.
pub fn plan(outline: &Outline, wish: &Wish) -> Result<Plan, Fault> {
    let keep = wish
        .keep
        .iter()
        .map(|path| resolved(path))
        .collect::<Result<Vec<_>, _>>()?;
    let mut plan = Plan {
        items: unit(outline).into_iter().collect(),
        kept: Vec::new(),
        keep,
    };
    plan.items.push(Item::Run);
    plan.file(state::identity_note(&outline.config));
    if !wish.purge {
        let kept = [&outline.directory, &outline.config];
        let reason = "only --purge removes it";
        plan.kept.extend(
            kept.into_iter()
                .chain(&outline.keys)
                .filter(|path| path.exists())
                .map(|path| (path.clone(), reason.to_owned())),
        );
        return Ok(plan);
    }
    plan.directory(outline)?;
    plan.cache(outline);
    for key in &outline.keys {
        match outline.other_user(key) {
            Some(other) => plan
                .kept
                .push((key.clone(), format!("{} names it too", other.display()))),
            None => plan.file(key.clone()),
        }
    }
    plan.file(outline.config.clone());
    Ok(plan)
}

fn resolved(path: &Path) -> Result<PathBuf, Fault> {
    path.canonicalize().map_err(|error| {
        let what = format!("{} is to be kept, but: {error}", path.display());
        Fault::new("E-UNINSTALL-KEEP", what)
            .fix("correct the path; nothing was removed")
            .exit(Exit::Usage)
    })
}

/// The unit of a config file where systemd looks for it.
fn unit(outline: &Outline) -> Option<Item> {
    if !Path::new("/run/systemd/system").is_dir() || outline.config.parent()? != Path::new(CONFIGS)
    {
        return None;
    }
    let instance = outline
        .config
        .file_name()?
        .to_str()?
        .strip_suffix(".toml")?;
    let unit = format!("hepto-node@{instance}.service");
    let known = systemctl(&["cat", "--no-pager", &unit]).is_ok();
    known.then_some(Item::Unit(unit))
}

fn systemctl(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("systemctl")
        .args(arguments)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

impl Plan {
    fn file(&mut self, path: PathBuf) {
        // A link is removed as what it is.
        if fs::symlink_metadata(&path).is_err() {
            return;
        }
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        if self.keep.iter().any(|keep| real.starts_with(keep)) {
            self.kept.push((path, "--keep-data names it".to_owned()));
        } else {
            self.items.push(Item::File(path));
        }
    }

    fn directory(&mut self, outline: &Outline) -> Result<(), Fault> {
        let directory = &outline.directory;
        match fs::symlink_metadata(directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Ok(entry) if entry.is_dir() && outline.owns(directory) => {}
            _ => {
                let what = format!(
                    "{} is not the folder of {} in cluster {}",
                    directory.display(),
                    outline.node,
                    outline.cluster
                );
                return Err(Fault::new("E-UNINSTALL-NOT-NODE", what)
                    .fix("check node.storage and both names in the config; nothing was removed"));
            }
        }
        let mounted = tree::mounts_below(directory).map_err(|error| {
            Fault::new("E-UNINSTALL-MOUNT", format!("cannot list mounts: {error}"))
        })?;
        // Those of the node itself end with it, and are not seen from here.
        if let Some(first) = mounted.first() {
            let what = format!("{} is mounted in the node's folder", first.display());
            return Err(Fault::new("E-UNINSTALL-MOUNT", what)
                .fix(format!("umount {}; nothing was removed", first.display())));
        }
        if self.keep.iter().any(|keep| directory.starts_with(keep)) {
            self.kept
                .push((directory.clone(), "--keep-data names it".to_owned()));
            return Ok(());
        }
        let within = self.keep.iter().filter(|keep| keep.starts_with(directory));
        let within: Vec<_> = within.cloned().collect();
        for keep in within {
            self.kept.push((keep, "--keep-data names it".to_owned()));
        }
        self.items.push(Item::Directory(directory.clone()));
        Ok(())
    }

    fn cache(&mut self, outline: &Outline) {
        let cache = outline.storage.join(".hepto");
        if !cache.is_dir() {
            return;
        }
        match outline.neighbour() {
            Some(other) => {
                let reason = format!("{} uses it too", other.display());
                self.kept.push((cache, reason));
            }
            None if self.keep.iter().any(|keep| cache.starts_with(keep)) => {
                self.kept.push((cache, "--keep-data names it".to_owned()));
            }
            None => self.items.push(Item::Cache(cache)),
        }
    }

    /// Removes all but the run, which has to be over.
    ///
    /// # Errors
    /// The first that could not be removed; what is left is removed by another try.
    pub fn carry_out(&self) -> Result<(), Fault> {
        for item in &self.items {
            match item {
                Item::Unit(_) | Item::Run => {}
                Item::File(path) => fs::remove_file(path).map_err(|error| left(path, &error))?,
                Item::Directory(path) => {
                    // Nobody starts the node meanwhile.
                    let _lock = state::hold(path)?;
                    tree::remove(path, &self.keep).map_err(|(path, error)| left(&path, &error))?;
                }
                Item::Cache(path) => {
                    tree::remove(path, &self.keep).map_err(|(path, error)| left(&path, &error))?;
                }
            }
        }
        Ok(())
    }

    /// Stops and disables the unit, if there is one.
    ///
    /// # Errors
    /// `E-UNINSTALL-UNIT` when systemd refuses.
    pub fn disable(&self) -> Result<(), Fault> {
        for item in &self.items {
            if let Item::Unit(unit) = item {
                systemctl(&["disable", "--now", unit]).map_err(|why| {
                    Fault::new("E-UNINSTALL-UNIT", format!("cannot disable {unit}: {why}")).fix(
                        format!("systemctl disable --now {unit}; then run this again"),
                    )
                })?;
            }
        }
        Ok(())
    }
}

fn left(path: &Path, error: &std::io::Error) -> Fault {
    let what = format!("cannot remove {}: {error}", path.display());
    Fault::new("E-UNINSTALL-LEFTOVERS", what).fix("mend that, then run this command again")
}

#[cfg(test)]
mod tests;
