//! The k3s that our own binary may carry: `make static EMBED_K3S=PATH`.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::read::DeflateDecoder;

use super::{Cancel, Error};

/// A program inside our own binary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Embedded {
    /// The digest of the program, as the build read it.
    pub sha256: &'static str,
    /// The program's length, bytes.
    pub length: u64,
    /// The program, compressed (`pack`).
    pub packed: &'static [u8],
}

/// The one that this build carries, if any.
pub const EMBEDDED: Option<Embedded> = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

impl Embedded {
    /// Writes the program into a file. Never more than the build said: a damaged stream does not fill the disk.
    ///
    /// # Errors
    /// When the disk refuses, or on [`Cancel`].
    pub(super) fn unpack(&self, to: &Path, cancel: &Cancel) -> Result<(), Error> {
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = opened
            .open(to)
            .map_err(|source| Error::disk("make", to, source))?;
        let mut program = DeflateDecoder::new(self.packed).take(self.length);
        let mut chunk = vec![0; 256 * 1024];
        loop {
            let written = match program.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(length) => file.write_all(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                // What came so far has another digest, which is the better word.
                Err(_) => return Ok(()),
            };
            written.map_err(|source| Error::disk("write", to, source))?;
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
        }
    }
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Embedded({}, {} bytes)", self.sha256, self.length)
    }
}
