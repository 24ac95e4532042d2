//! The k3s that is supervised: a file of the host, named in `k3s.binary`.

use std::path::Path;

use super::acquire::Error;

/// Folders that are the node's own, so that a binary of the host in them is not seen inside.
const PRIVATE: [&str; 5] = ["/run", "/tmp", "/dev/shm", "/var/log", "/etc/rancher"];

/// Refuses a binary that the node could not start, with the reason.
pub fn check(path: &Path) -> Result<(), Error> {
    let refuse = |why: String| {
        Err(Error::Binary {
            path: path.to_owned(),
            why,
        })
    };
    if !path.is_absolute() {
        return refuse("it has to be a whole path".into());
    }
    if let Some(folder) = PRIVATE.iter().find(|folder| path.starts_with(folder)) {
        return refuse(format!("{folder} of the host is not seen inside the node"));
    }
    match std::fs::metadata(path) {
        Err(error) => refuse(error.to_string()),
        Ok(metadata) if !metadata.is_file() => refuse("it is not a file".into()),
        Ok(_) => match nix::unistd::access(path, nix::unistd::AccessFlags::X_OK) {
            Err(_) => refuse("it is not executable".into()),
            Ok(()) => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn why(path: &Path) -> String {
        match check(path) {
            Err(Error::Binary { why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_binary_that_the_node_could_not_start_is_refused_with_the_reason() {
        // Not in /tmp, which is itself a reason.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let plain = folder.path().join("k3s");
        assert!(why(&plain).contains("No such file"));
        std::fs::write(&plain, "").unwrap();
        assert_eq!(why(&plain), "it is not executable");
        std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o755)).unwrap();
        check(&plain).unwrap();
        assert_eq!(why(folder.path()), "it is not a file");
        assert_eq!(why(Path::new("k3s")), "it has to be a whole path");
        assert_eq!(
            why(Path::new("/tmp/k3s")),
            "/tmp of the host is not seen inside the node"
        );
    }
}
