//! One file over HTTPS into a partial file, gone on with where it was cut (RFC 9110, §13.1.5 and §14).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ureq::Agent;
use ureq::http::{HeaderMap, Response, StatusCode};

use super::client::{self, Patience};
use super::{Cancel, Error};

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The file's name.
    pub file: String,
    /// Bytes that are there.
    pub done: u64,
    /// Bytes in all, if the server says so.
    pub total: Option<u64>,
}

impl Progress {
    /// How much of it is there, if the server says how long it is.
    pub fn percent(&self) -> Option<u64> {
        let total = self.total.filter(|total| *total > 0)?;
        Some((self.done.min(total)).saturating_mul(100) / total)
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let Progress { file, done, total } = self;
        match (self.percent(), total) {
            (Some(percent), Some(total)) => {
                write!(f, "{file}: {percent} % of {:.1} MB", megabytes(*total))
            }
            _ => write!(f, "{file}: {:.1} MB", megabytes(*done)),
        }
    }
}

/// A download: what, and how.
pub struct Download<'a> {
    /// Who asks.
    pub agent: &'a Agent,
    /// How long it waits.
    pub patience: &'a Patience,
    /// Whose word ends it.
    pub cancel: &'a Cancel,
    /// Who hears how far it is.
    pub tell: &'a dyn Fn(Progress),
}

/// What a partial file was begun from, beside it: by this the server tells whether it is still the same.
fn note(partial: &Path) -> PathBuf {
    partial.with_extension("etag")
}

/// Removes a partial file with its note.
pub fn discard(partial: &Path) -> Result<(), Error> {
    for path in [note(partial), partial.to_owned()] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::disk("remove", &path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

impl Download<'_> {
    /// Brings a small text file.
    ///
    /// # Errors
    /// Whatever goes wrong; `None` where the server has no such file.
    pub fn text(&self, url: &str, most: u64) -> Result<Option<String>, Error> {
        let mut response = self.ask(url, None)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
            status => return Err(refused(url, status)),
        }
        let mut bytes = Vec::new();
        let read = response
            .body_mut()
            .as_reader()
            .take(most + 1)
            .read_to_end(&mut bytes);
        read.map_err(|error| self.cut(url, error, 0))?;
        if bytes.len() as u64 > most {
            return Err(long(url, most));
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Brings a file of at most `most` bytes, from where an earlier try ended; whether it did go on with one. What it is
    /// has to be looked at afterwards: a digest is not this module's business.
    ///
    /// # Errors
    /// Whatever goes wrong. What came stays for the next try, unless the disk is full.
    pub fn file(&self, url: &str, partial: &Path, most: u64) -> Result<bool, Error> {
        let begun = fs::metadata(partial).map_or(0, |partial| partial.len());
        let validator = fs::read_to_string(note(partial)).ok();
        let resume = validator.filter(|_| begun > 0).map(|same| (begun, same));
        let mut response = self.ask(url, resume.as_ref())?;
        let resumed = match (response.status(), &resume) {
            (StatusCode::OK, _) => false,
            (StatusCode::PARTIAL_CONTENT, Some(_)) if starts_at(response.headers(), begun) => true,
            (StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT, Some(_)) => {
                // Ours is longer than theirs, or they answer something else: begin anew.
                discard(partial)?;
                return self.file(url, partial, most);
            }
            (StatusCode::NOT_FOUND | StatusCode::GONE, _) => {
                return Err(Error::Absent {
                    url: url.to_owned(),
                });
            }
            (status, _) => return Err(refused(url, status)),
        };
        let start = if resumed { begun } else { 0 };
        let left = length(response.headers());
        let total = left.map(|left| start.saturating_add(left));
        if total.is_some_and(|total| total > most) {
            return Err(long(url, most));
        }
        let mut file = open(partial, resumed, response.headers())?;
        let written = self
            .room(partial, left.unwrap_or(0))
            .and_then(|()| self.receive(url, &mut response, &mut file, start, total, most));
        if let Err(Error::Disk { .. } | Error::Long { .. }) = written {
            // Nobody is helped by a disk that stays full.
            discard(partial)?;
        }
        written.map(|()| resumed)
    }

    fn ask(
        &self,
        url: &str,
        resume: Option<&(u64, String)>,
    ) -> Result<Response<ureq::Body>, Error> {
        let mut request = self.agent.get(url);
        if let Some((start, same)) = resume {
            request = request
                .header("Range", format!("bytes={start}-"))
                .header("If-Range", same.trim());
        }
        request
            .call()
            .map_err(|error| match self.cancel.is_cancelled() {
                true => Error::Cancelled,
                false => client::failed(url, error, self.patience),
            })
    }

    /// Refuses what the disk cannot take, before it is full.
    fn room(&self, partial: &Path, wanted: u64) -> Result<(), Error> {
        let free = rustix::fs::statvfs(partial)
            .map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
            .map_err(|error| Error::disk("look at the disk of", partial, error.into()))?;
        match free < wanted {
            true => Err(Error::disk(
                "write",
                partial,
                io::ErrorKind::StorageFull.into(),
            )),
            false => Ok(()),
        }
    }

    fn receive(
        &self,
        url: &str,
        response: &mut Response<ureq::Body>,
        file: &mut File,
        start: u64,
        total: Option<u64>,
        most: u64,
    ) -> Result<(), Error> {
        let name = url.rsplit('/').next().unwrap_or(url).to_owned();
        let path = PathBuf::from(&name);
        let mut body = response.body_mut().as_reader();
        let mut chunk = vec![0; 128 * 1024];
        let (mut done, mut window) = (start, (Instant::now(), start));
        loop {
            (self.tell)(Progress {
                file: name.clone(),
                done,
                total,
            });
            let length = match body.read(&mut chunk) {
                Ok(0) if total.is_none_or(|total| done >= total) => return Ok(()),
                Ok(0) => {
                    return Err(self.cut(url, io::ErrorKind::UnexpectedEof.into(), done - start));
                }
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.cut(url, error, done - start)),
            };
            done += length as u64;
            if done > most {
                return Err(long(url, most));
            }
            file.write_all(&chunk[..length])
                .map_err(|error| Error::disk("write", &path, error))?;
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let (since, before) = window;
            if since.elapsed() >= self.patience.silence {
                if (done - before) / self.patience.silence.as_secs().max(1) < self.patience.least {
                    return Err(Error::Stall {
                        url: url.to_owned(),
                        seconds: self.patience.silence.as_secs(),
                        came: done - start,
                    });
                }
                window = (Instant::now(), done);
            }
        }
    }

    /// The end of a body before its end.
    fn cut(&self, url: &str, error: io::Error, came: u64) -> Error {
        if self.cancel.is_cancelled() {
            return Error::Cancelled;
        }
        let why = error.to_string();
        match client::failed(url, error.into(), self.patience) {
            Error::Stall { url, seconds, .. } => Error::Stall { url, seconds, came },
            _ => Error::Cut {
                url: url.to_owned(),
                why,
                came,
            },
        }
    }
}

fn refused(url: &str, status: StatusCode) -> Error {
    Error::Status {
        url: url.to_owned(),
        status: status.as_u16(),
    }
}

fn long(url: &str, most: u64) -> Error {
    Error::Long {
        url: url.to_owned(),
        most,
    }
}

/// Opens the partial file, to be gone on with or empty; with a new one goes the note by what it can be gone on with.
fn open(partial: &Path, resumed: bool, headers: &HeaderMap) -> Result<File, Error> {
    if !resumed {
        discard(partial)?;
        if let Some(same) = validator(headers) {
            let path = note(partial);
            fs::write(&path, same).map_err(|error| Error::disk("write", &path, error))?;
        }
    }
    let mut options = OpenOptions::new();
    options
        .create(true)
        .append(true)
        .mode(0o600)
        .open(partial)
        .map_err(|error| Error::disk("open", partial, error))
}

/// What names this very content: a strong entity tag, else the time of its last change. A weak tag does not (RFC 9110,
/// §8.8.3.2).
fn validator(headers: &HeaderMap) -> Option<&str> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    value("etag")
        .filter(|tag| tag.starts_with('"'))
        .or_else(|| value("last-modified"))
}

/// The bytes of this answer's body, if it says so.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get("content-length")?.to_str().ok()?.parse().ok()
}

/// Whether a partial answer begins where ours ends: `Content-Range: bytes 5-9/10`.
fn starts_at(headers: &HeaderMap, start: u64) -> bool {
    let range = headers
        .get("content-range")
        .and_then(|value| value.to_str().ok());
    let first = range.and_then(|range| {
        range
            .strip_prefix("bytes ")?
            .split('-')
            .next()?
            .parse()
            .ok()
    });
    first == Some(start)
}
