//! What stands in k3s's place, where a node sees it.

use std::fs;
use std::path::{Path, PathBuf};

/// Where each isolated test has a tmpfs of its own for it: a node has a `/tmp` and a `/run` of its own, in which this
/// checkout may lie.
pub(crate) const PLACE: &str = "/mnt";

/// The path of the stand-in, which lies beside the program under test, copied to where a node sees it.
///
/// # Panics
/// Outside of [`isolated`](crate::isolated), and when it has not been built: it is a binary of this package, of which
/// the tests of another build the library alone.
pub fn stand_in(program: &str) -> PathBuf {
    let built = Path::new(program).with_file_name("k3s-stand-in");
    assert!(
        built.exists(),
        "{} is not there; build it with: cargo build --workspace --bins",
        built.display()
    );
    program_at(&built, "k3s-stand-in")
}

/// Another program in k3s's place, copied under this name to where a node sees it.
///
/// # Panics
/// Outside of [`isolated`](crate::isolated), and when it cannot be read.
pub fn program_at(program: &Path, name: &str) -> PathBuf {
    let copy = Path::new(PLACE).join(name);
    if !copy.exists() {
        fs::copy(program, &copy)
            .unwrap_or_else(|error| panic!("cannot copy {}: {error}", program.display()));
    }
    copy
}
