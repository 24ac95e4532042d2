use std::os::unix::fs::PermissionsExt;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_remount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;

fn book() -> (tempfile::TempDir, BookFile) {
    let directory = tempfile::tempdir().unwrap();
    let book = BookFile::open(&directory.path().join("mesh")).unwrap();
    (directory, book)
}

/// What the next start reads.
fn read_again(book: &BookFile) -> Option<Vec<u8>> {
    BookFile::open(&book.folder).unwrap().read().unwrap()
}

#[test]
fn what_was_written_is_read_again() {
    let (_directory, mut book) = book();
    assert_eq!(book.read().unwrap(), None);
    book.write(b"one".into()).unwrap();
    book.write(b"two".into()).unwrap();
    assert_eq!(read_again(&book).unwrap(), b"two");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&book.folder), 0o700);
    assert_eq!(mode(&book.path()), 0o600);
}

#[test]
fn a_crash_in_the_middle_of_a_write_leaves_the_older_book() {
    let (_directory, mut book) = book();
    book.write(b"whole".into()).unwrap();
    fs::write(book.folder.join("book.new"), b"ha").unwrap();
    assert_eq!(read_again(&book).unwrap(), b"whole");
    book.write(b"next".into()).unwrap();
    assert_eq!(read_again(&book).unwrap(), b"next");
    assert!(!book.folder.join("book.new").exists());
}

#[test]
fn a_damaged_book_is_kept_aside() {
    let (_directory, mut book) = book();
    book.write(b"strange".into()).unwrap();
    let aside = book.set_aside().unwrap();
    assert_eq!(book.read().unwrap(), None);
    assert_eq!(fs::read(aside).unwrap(), b"strange");
    book.write(b"strange".into()).unwrap();
    assert_eq!(read_again(&book).unwrap(), b"strange");
}

#[test]
fn nothing_is_written_twice() {
    let (_directory, mut book) = book();
    book.write(b"same".into()).unwrap();
    fs::write(book.path(), b"marker").unwrap();
    book.write(b"same".into()).unwrap();
    assert_eq!(read_again(&book).unwrap(), b"marker");
}

/// Runs `test` with a tmpfs of `size` bytes over a folder, in a mount namespace that ends with its thread.
fn on_tmpfs(size: u32, test: impl FnOnce(&Path) + Send) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::thread::scope(|scope| {
        let run = scope.spawn(move || {
            // SAFETY: a mount namespace of its own changes what paths mean to this thread, which opens none before.
            #[allow(unsafe_code)]
            let made = unsafe { unshare_unsafe(UnshareFlags::NEWNS) };
            made.expect("this test makes a mount namespace and needs root");
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let options = std::ffi::CString::new(format!("size={size}")).unwrap();
            mount(
                "tmpfs",
                path,
                "tmpfs",
                MountFlags::empty(),
                options.as_c_str(),
            )
            .unwrap();
            test(path);
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn a_full_disk_keeps_the_older_book_and_says_so() {
    on_tmpfs(64 * 1024, |path| {
        let mut book = BookFile::open(path).unwrap();
        book.write(b"older".into()).unwrap();
        let error = book.write(vec![7; 128 * 1024]).unwrap_err();
        assert_eq!(error.code(), "E-MESH-FILE-FULL");
        assert!(error.fix().contains("free some space"));
        assert!(
            !path.join("book.new").exists(),
            "the draft gives its space back"
        );
        assert_eq!(read_again(&book).unwrap(), b"older");
        // Once there is room it is written as before.
        book.write(b"newer".into()).unwrap();
        assert_eq!(read_again(&book).unwrap(), b"newer");
    });
}

#[test]
fn a_read_only_disk_is_read_and_says_so_when_written() {
    on_tmpfs(64 * 1024, |path| {
        let mut book = BookFile::open(path).unwrap();
        book.write(b"older".into()).unwrap();
        mount_remount(path, MountFlags::RDONLY, c"").unwrap();
        assert_eq!(book.read().unwrap().unwrap(), b"older");
        assert_eq!(
            book.write(b"newer".into()).unwrap_err().code(),
            "E-MESH-FILE-READONLY"
        );
        let new = BookFile::open(&path.join("new")).unwrap_err();
        assert_eq!(new.code(), "E-MESH-FILE-READONLY");
    });
}
