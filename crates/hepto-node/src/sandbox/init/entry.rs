//! The programs of a node, as its init keeps them.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use super::super::log::LogFile;
use super::super::{Event, Program, Status};
use super::NOTIFY;

/// A program that was started, running or not.
pub struct Entry {
    pub program: Program,
    /// Its pid inside.
    pub pid: i32,
    /// How it ended, once it was reaped.
    pub ended: Option<Status>,
    /// Where it notifies, while it runs.
    pub notify: Option<UnixDatagram>,
    /// The last value of each key that it notified.
    pub said: BTreeMap<String, String>,
}

/// The reading end of a program's output; it stays open as long as any child of the program writes.
pub struct Output {
    pub pipe: io::PipeReader,
    /// Where it goes.
    pub log: PathBuf,
}

impl Entry {
    /// Whether it was not reaped yet.
    pub fn runs(&self) -> bool {
        self.ended.is_none()
    }

    /// The events that led to the present state.
    pub fn past(&self) -> Vec<Event> {
        let id = || self.program.id.clone();
        let mut past = vec![Event::Spawned {
            id: id(),
            pid: self.pid,
        }];
        if !self.said.is_empty() {
            let lines: Vec<_> = self
                .said
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            past.push(Event::Notify {
                id: id(),
                text: lines.join("\n"),
            });
        }
        past.extend(self.ended.map(|status| Event::Exited {
            id: id(),
            pid: self.pid,
            status,
        }));
        past
    }
}

impl Output {
    /// Reads what there is, a piece at a time, into its log. False when nobody can write any more.
    pub fn drain(&mut self, logs: &mut BTreeMap<PathBuf, LogFile>) -> bool {
        let mut buffer = [0; 64 * 1024];
        match self.pipe.read(&mut buffer) {
            Ok(0) => false,
            Ok(length) => {
                let log = logs
                    .entry(self.log.clone())
                    .or_insert_with(|| LogFile::open(&self.log));
                log.write(&buffer[..length]);
                true
            }
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }
}

/// Where inside a program notifies.
pub fn notify_path(id: &str) -> PathBuf {
    Path::new(NOTIFY).join(id)
}

/// The socket at that path; one of an earlier start is replaced.
pub fn notify_socket(id: &str) -> io::Result<UnixDatagram> {
    let path = notify_path(id);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(&path)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
