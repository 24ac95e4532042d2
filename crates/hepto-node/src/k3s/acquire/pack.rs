//! How a k3s is put into our own binary: DEFLATE (RFC 1951), beside its length and digest. The build script includes this
//! file too, so that tests unpack what builds pack.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;
use sha2::{Digest as _, Sha256};

/// A packed program.
pub struct Packed {
    /// The program, compressed.
    pub bytes: Vec<u8>,
    /// The SHA-256 digest of the program, in hexadecimal digits.
    pub sha256: String,
    /// The program's length, bytes.
    pub length: usize,
}

/// Packs a program.
///
/// # Errors
/// Never for a program that is in memory.
pub fn pack(program: &[u8]) -> io::Result<Packed> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(program)?;
    let digest = Sha256::digest(program);
    Ok(Packed {
        bytes: encoder.finish()?,
        sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        length: program.len(),
    })
}
