//! A program's output on disk: bounded, rotated, and never a reason for the program to stop.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file is rotated before it grows beyond this many bytes.
const LIMIT: u64 = 8 << 20;
/// How many old files are kept, `<path>.1` being the youngest.
const KEPT: u32 = 3;

/// The present file and its size.
pub struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    limit: u64,
}

impl LogFile {
    /// Appends to the file at `path`, mode 0600: k3s may log what others need not read.
    pub fn open(path: &Path) -> Self {
        Self::with_limit(path, LIMIT)
    }

    fn with_limit(path: &Path, limit: u64) -> Self {
        let mut log = LogFile {
            path: path.to_owned(),
            file: None,
            size: 0,
            limit,
        };
        log.reopen();
        log
    }

    /// Writes what was read from the program. What cannot be written (a full disk) is dropped, since
    /// the pipe must be emptied whatever happens, and the file is tried again at the next write.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.size > 0 && self.size + bytes.len() as u64 > self.limit {
            self.rotate();
        }
        if self.file.is_none() {
            self.reopen();
        }
        match self.file.as_mut().map(|file| file.write_all(bytes)) {
            Some(Ok(())) => self.size += bytes.len() as u64,
            _ => self.file = None,
        }
    }

    fn rotate(&mut self) {
        self.file = None;
        for age in (0..KEPT).rev() {
            // A missing older file is the common case.
            let _ = std::fs::rename(self.aged(age), self.aged(age + 1));
        }
    }

    fn aged(&self, age: u32) -> PathBuf {
        if age == 0 {
            return self.path.clone();
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{age}"));
        name.into()
    }

    fn reopen(&mut self) {
        let open = || -> io::Result<(File, u64)> {
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&self.path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        (self.file, self.size) = match open() {
            Ok((file, size)) => (Some(file), size),
            Err(_) => (None, 0),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_use_is_bounded_and_the_youngest_lines_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/k3s.log");
        let mut log = LogFile::with_limit(&path, 100);
        for number in 0..100 {
            log.write(format!("line number {number:04}\n").as_bytes());
        }
        let mut files: Vec<_> = std::fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert_eq!(files.len(), 1 + KEPT as usize);
        let text: String = files
            .iter()
            .rev()
            .map(|file| std::fs::read_to_string(file).unwrap())
            .collect();
        assert!(text.len() <= 400);
        assert!(text.ends_with("line number 0098\nline number 0099\n"));
    }

    #[test]
    fn an_existing_file_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k3s.log");
        std::fs::write(&path, "before\n").unwrap();
        LogFile::open(&path).write(b"after\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nafter\n");
    }

    #[test]
    fn a_folder_that_cannot_be_written_drops_output_and_recovers() {
        let folder = tempfile::tempdir().unwrap();
        let blocker = folder.path().join("log");
        std::fs::write(&blocker, "").unwrap();
        let path = blocker.join("k3s.log");
        let mut log = LogFile::open(&path);
        log.write(b"lost\n");
        std::fs::remove_file(&blocker).unwrap();
        log.write(b"kept\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept\n");
    }
}
