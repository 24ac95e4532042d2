//! The age file format, version 1, for one kind of key: X25519 (<https://age-encryption.org/v1>).
//!
//! A snapshot is encrypted to a key that the operator alone holds, in a format that `age` and `rage` open without us.
//! Keys are written as theirs are. The primitives are the crates' that the mesh uses already; why not the crate
//! `age` itself is in `docs/decisions`. A stream is cut into chunks of 64 KiB, each sealed with its number and with
//! whether it is the last: nothing of a changed chunk is given out, and a file that was cut short is noticed.

use std::fmt;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bech32::{Bech32, Hrp};
use chacha20poly1305::aead::Aead;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce};
use hmac::{Hmac, Mac};
use rand_core::CryptoRng;
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

const MAGIC: &str = "age-encryption.org/v1";
const X25519_INFO: &str = "age-encryption.org/v1/X25519";
/// Plain bytes of every chunk but the last.
const CHUNK: usize = 64 * 1024;
/// What sealing adds to a chunk.
const TAG: usize = 16;
/// Columns of a stanza's body; a shorter line ends it.
const COLUMNS: usize = 64;
/// The longest head that is read, bytes: hundreds of recipients.
const LONGEST_HEAD: u64 = 64 * 1024;

type FileKey = Zeroizing<[u8; 16]>;

/// Why a file cannot be opened, or a key not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another format, another version of it, or a head that was changed beyond recognition.
    #[error("it is not a file in the age format, version 1")]
    Format,
    /// It is for someone else.
    #[error("it is encrypted to another key")]
    OtherKey,
    /// A byte of the head or of a chunk is not what was written, or the end is missing.
    #[error("it was changed or cut short")]
    Damaged,
    /// The text is no public key.
    #[error(
        "this is not a public key of the age format, which begins with \"age1\"; print yours with `hepto-node keys generate operator --out FILE`"
    )]
    Recipient,
    /// The text is no secret key.
    #[error("this is not a secret key of the age format, which begins with \"AGE-SECRET-KEY-1\"")]
    Identity,
    /// The disk refuses.
    #[error(transparent)]
    Read(io::Error),
}

impl From<io::Error> for Error {
    /// A [`Reader`] speaks through the standard library's errors: ours come out again.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Error::Damaged,
            _ => error.downcast::<Error>().unwrap_or_else(Error::Read),
        }
    }
}

/// A public key, to which files are encrypted: `age1…`.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient([u8; 32]);

impl FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        key(text, "age").map(Recipient).ok_or(Error::Recipient)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&written("age", &self.0))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}

/// A secret key, which opens what was encrypted to its [`Recipient`]: `AGE-SECRET-KEY-1…`.
pub struct Identity(StaticSecret);

impl Identity {
    /// A new key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut bytes[..]);
        Identity(StaticSecret::from(*bytes))
    }

    /// The public half.
    pub fn recipient(&self) -> Recipient {
        Recipient(PublicKey::from(&self.0).to_bytes())
    }

    /// The secret as it is written into a file.
    pub fn expose(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new(self.0.to_bytes());
        let lower = Zeroizing::new(written("age-secret-key-", &bytes[..]));
        Zeroizing::new(lower.to_uppercase())
    }

    /// The key in the text of a key file: other lines are comments that begin with `#`.
    ///
    /// # Errors
    /// When there is not just one key.
    pub fn in_file(text: &str) -> Result<Self, Error> {
        let mut lines = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        match (lines.next(), lines.next()) {
            (Some(line), None) => key(line, "age-secret-key-")
                .map(|bytes| Identity(StaticSecret::from(bytes)))
                .ok_or(Error::Identity),
            _ => Err(Error::Identity),
        }
    }

    fn unwrap(&self, share: [u8; 32], wrapped: &[u8]) -> Option<FileKey> {
        let shared = self.0.diffie_hellman(&PublicKey::from(share));
        // A share of low order makes a secret that everyone knows (RFC 7748, §6.1).
        if !shared.was_contributory() {
            return None;
        }
        let key = wrap_key(&share, &self.recipient().0, shared.as_bytes());
        let opened = Zeroizing::new(cipher(&key).decrypt(&Nonce::default(), wrapped).ok()?);
        Some(Zeroizing::new(opened.as_slice().try_into().ok()?))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(hidden)")
    }
}

fn key(text: &str, human_readable: &str) -> Option<[u8; 32]> {
    // Bech32 alone: its successor would take what age refuses.
    let parsed = bech32::primitives::decode::CheckedHrpstring::new::<Bech32>(text).ok()?;
    if parsed.hrp() != Hrp::parse(human_readable).ok()? {
        return None;
    }
    let bytes = Zeroizing::new(parsed.byte_iter().collect::<Vec<u8>>());
    bytes.as_slice().try_into().ok()
}

fn written(human_readable: &str, bytes: &[u8]) -> String {
    let prefix = Hrp::parse(human_readable).expect("the prefixes are well-formed");
    bech32::encode::<Bech32>(prefix, bytes).expect("32 bytes fit the code")
}

fn wrap_key(share: &[u8; 32], recipient: &[u8; 32], shared: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let salt = [share.as_slice(), recipient].concat();
    derive(shared, &salt, X25519_INFO)
}

/// HKDF-SHA-256 for one block (RFC 5869).
fn derive(secret: &[u8], salt: &[u8], info: &str) -> Zeroizing<[u8; 32]> {
    let extracted = Zeroizing::new(mac(salt, &[secret]));
    Zeroizing::new(mac(&extracted[..], &[info.as_bytes(), &[1]]))
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    start_mac(key, parts).finalize().into_bytes().into()
}

fn start_mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac
}

fn cipher(key: &[u8; 32]) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(&(*key).into())
}

/// The nonce of a chunk: eleven bytes of its number, and one for whether it is the last.
fn nonce(number: u64, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[3..11].copy_from_slice(&number.to_be_bytes());
    nonce[11] = last.into();
    nonce.into()
}

/// Encrypts what is written to it; [`Writer::finish`] ends the file, without which it cannot be opened.
pub struct Writer<W: Write> {
    inner: W,
    cipher: ChaCha20Poly1305,
    number: u64,
    plain: Zeroizing<Vec<u8>>,
}

impl<W: Write> Writer<W> {
    /// Writes the head.
    ///
    /// # Errors
    /// The writer's own.
    pub fn new(recipient: &Recipient, rng: &mut impl CryptoRng, mut inner: W) -> io::Result<Self> {
        let mut file_key: FileKey = Zeroizing::new([0; 16]);
        let mut salt = [0; 16];
        rng.fill_bytes(&mut file_key[..]);
        rng.fill_bytes(&mut salt);
        // Of this file alone: forgotten, so that the master itself cannot open what it wrote.
        let ephemeral = Identity::generate(rng);
        let share = ephemeral.recipient().0;
        let shared = ephemeral.0.diffie_hellman(&PublicKey::from(recipient.0));
        let key = wrap_key(&share, &recipient.0, shared.as_bytes());
        let wrapped = cipher(&key)
            .encrypt(&Nonce::default(), &file_key[..])
            .map_err(io::Error::other)?;
        let head = format!(
            "{MAGIC}\n-> X25519 {}\n{}\n---",
            STANDARD_NO_PAD.encode(share),
            STANDARD_NO_PAD.encode(wrapped)
        );
        let proof = mac(
            &derive(&file_key[..], &[], "header")[..],
            &[head.as_bytes()],
        );
        writeln!(inner, "{head} {}", STANDARD_NO_PAD.encode(proof))?;
        inner.write_all(&salt)?;
        Ok(Writer {
            inner,
            cipher: cipher(&derive(&file_key[..], &salt, "payload")),
            number: 0,
            plain: Zeroizing::new(Vec::with_capacity(CHUNK)),
        })
    }

    fn seal(&mut self, last: bool) -> io::Result<()> {
        let sealed = self
            .cipher
            .encrypt(&nonce(self.number, last), self.plain.as_slice())
            .map_err(io::Error::other)?;
        self.number += 1;
        self.plain.clear();
        self.inner.write_all(&sealed)
    }

    /// Seals the last chunk; gives the writer back.
    ///
    /// # Errors
    /// The writer's own.
    pub fn finish(mut self) -> io::Result<W> {
        self.seal(true)?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits for more: only then is it known not to be the last.
        if self.plain.len() == CHUNK && !bytes.is_empty() {
            self.seal(false)?;
        }
        let taken = bytes.len().min(CHUNK - self.plain.len());
        self.plain.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Decrypts as it is read. What it gives was written by who knew the recipient, chunk by chunk in order; its end is the
/// file's end.
pub struct Reader<R: BufRead> {
    inner: R,
    cipher: ChaCha20Poly1305,
    number: u64,
    plain: Zeroizing<Vec<u8>>,
    given: usize,
    ended: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// When it is another format, for another key, or changed.
    pub fn new(identity: &Identity, mut inner: R) -> Result<Self, Error> {
        let file_key = open_head(identity, &mut inner)?;
        let mut salt = [0; 16];
        inner.read_exact(&mut salt)?;
        Ok(Reader {
            inner,
            cipher: cipher(&derive(&file_key[..], &salt, "payload")),
            number: 0,
            plain: Zeroizing::new(Vec::new()),
            given: 0,
            ended: false,
        })
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let mut sealed = Vec::with_capacity(CHUNK + TAG);
        (&mut self.inner)
            .take((CHUNK + TAG) as u64)
            .read_to_end(&mut sealed)?;
        let last = self.inner.fill_buf()?.is_empty();
        let opened = self
            .cipher
            .decrypt(&nonce(self.number, last), sealed.as_slice());
        let opened = opened.map_err(|_| io::Error::new(ErrorKind::InvalidData, Error::Damaged))?;
        // An empty last chunk after others would be a second form of the same file.
        if opened.is_empty() && self.number > 0 {
            return Err(io::Error::new(ErrorKind::InvalidData, Error::Damaged));
        }
        self.plain = Zeroizing::new(opened);
        (self.given, self.ended, self.number) = (0, last, self.number + 1);
        Ok(())
    }
}

impl<R: BufRead> Read for Reader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.plain.len() && !self.ended {
            self.next_chunk()?;
        }
        let rest = &self.plain[self.given..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.given += count;
        Ok(count)
    }
}

/// Reads the head of a file with any recipients, finds ours, and checks that nothing of it was changed.
fn open_head(identity: &Identity, inner: &mut impl BufRead) -> Result<FileKey, Error> {
    let mut head = inner.by_ref().take(LONGEST_HEAD);
    let mut signed = Vec::new();
    if line(&mut head, &mut signed)? != MAGIC {
        return Err(Error::Format);
    }
    let mut file_key = None;
    loop {
        let begin = signed.len();
        let first = line(&mut head, &mut signed)?;
        if let Some(proof) = first.strip_prefix("--- ") {
            let proof = STANDARD_NO_PAD.decode(proof).map_err(|_| Error::Format)?;
            let file_key: FileKey = file_key.ok_or(Error::OtherKey)?;
            let key = derive(&file_key[..], &[], "header");
            return start_mac(&key[..], &[&signed[..begin + 3]])
                .verify_slice(&proof)
                .map(|()| file_key)
                .map_err(|_| Error::Damaged);
        }
        let arguments = first.strip_prefix("-> ").ok_or(Error::Format)?;
        let mut body = Vec::new();
        loop {
            let text = line(&mut head, &mut signed)?;
            body.extend(STANDARD_NO_PAD.decode(&text).map_err(|_| Error::Format)?);
            if text.len() < COLUMNS {
                break;
            }
        }
        if let Some(share) = arguments.strip_prefix("X25519 ") {
            let share = STANDARD_NO_PAD.decode(share).map_err(|_| Error::Format)?;
            let share = share.try_into().map_err(|_| Error::Format)?;
            file_key = file_key.or_else(|| identity.unwrap(share, &body));
        }
    }
}

/// The next line without its end, noted with it.
fn line(head: &mut impl BufRead, signed: &mut Vec<u8>) -> Result<String, Error> {
    let begin = signed.len();
    head.read_until(b'\n', signed)?;
    let read = signed[begin..].strip_suffix(b"\n").ok_or(Error::Format)?;
    String::from_utf8(read.to_vec()).map_err(|_| Error::Format)
}

#[cfg(test)]
mod tests;
