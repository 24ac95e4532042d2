//! The kernel's module br_netfilter, by which packets that a bridge carries meet the firewall, as kube-proxy needs it for
//! pods of one node. Where it is missing it is loaded, and that turns the setting on in every namespace
//! (br_netfilter_hooks.c: `brnf_init_net`), also for the bridges of the host, whose virtual machines may not count with a
//! firewall: there it is turned off again at once. Since Linux 5.3 each namespace has its own.

use std::io;
use std::path::Path;
use std::process::Command;

/// The module's settings, in the namespace of who looks.
const SETTINGS: &str = "/proc/sys/net/bridge";
/// Those that lead packets of a bridge through a firewall.
const CALLS: [&str; 3] = ["iptables", "ip6tables", "arptables"];

/// Loads the module, if it is missing, and leaves the bridges of the calling thread's namespace as they were.
///
/// Never fails the node: what it costs is said, here and where the node's own settings are made.
pub(crate) fn load() {
    if let Err(error) = load_with(Path::new(SETTINGS), modprobe) {
        tracing::warn!(
            code = "W-NET-BRIDGE-MODULE",
            fix = "load it at boot (a file in /etc/modules-load.d), and set net.bridge.bridge-nf-call-* as you want it",
            %error,
            "cannot load the kernel's module br_netfilter and keep the host's own bridges as they were"
        );
    }
}

fn load_with(settings: &Path, load: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if settings.exists() {
        // Loaded, or built in: the host's owner has it as he wants it.
        return Ok(());
    }
    load()?;
    for call in CALLS {
        std::fs::write(settings.join(format!("bridge-nf-call-{call}")), "0")?;
    }
    Ok(())
}

fn modprobe() -> io::Result<()> {
    let output = Command::new("modprobe")
        .arg("br_netfilter")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("modprobe: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(said.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What the kernel does when the module comes.
    fn turn_on(settings: &Path) -> io::Result<()> {
        fs::create_dir(settings)?;
        for call in CALLS {
            fs::write(settings.join(format!("bridge-nf-call-{call}")), "1")?;
        }
        Ok(())
    }

    fn values(settings: &Path) -> Vec<String> {
        let file = |call| settings.join(format!("bridge-nf-call-{call}"));
        CALLS
            .map(|call| fs::read_to_string(file(call)).unwrap())
            .to_vec()
    }

    #[test]
    fn the_hosts_own_bridges_stay_unfiltered() {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("bridge");
        load_with(&settings, || turn_on(&settings)).unwrap();
        assert_eq!(values(&settings), ["0"; 3]);
    }

    #[test]
    fn what_the_owner_has_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("bridge");
        turn_on(&settings).unwrap();
        load_with(&settings, || panic!("it is there")).unwrap();
        assert_eq!(values(&settings), ["1"; 3]);
    }

    #[test]
    fn a_module_that_cannot_be_loaded_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("bridge");
        let refuse = || Err(io::Error::other("no such module"));
        assert!(load_with(&settings, refuse).is_err());
    }
}
