//! What the supervisor was handed by whoever started it, and the node must not be: a shell's or service's
//! descriptors and the signals that it ignores (`nohup`, a job in the background) would reach k3s and every pod.
#![allow(unsafe_code)]

use std::fs;

use nix::libc;

/// Has every descriptor but the standard ones closed in our children, and every signal treated as it is by default.
pub(super) fn shed() {
    for descriptor in descriptors()
        .into_iter()
        .filter(|descriptor| *descriptor > 2)
    {
        // SAFETY: fcntl(2) with F_SETFD changes a flag of the descriptor and takes no pointer. One that was
        // closed since it was listed gives EBADF, which is as good.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // 32 and above are the C library's own and real-time ones, which no program counts on. SIGPIPE stays as Rust
    // wants it: `std::process` gives it back to children.
    for signal in
        (1..32).filter(|signal| ![libc::SIGPIPE, libc::SIGKILL, libc::SIGSTOP].contains(signal))
    {
        // SAFETY: signal(2) with SIG_DFL installs no handler, so no code of ours can run in a signal's context.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn descriptors() -> Vec<i32> {
    let entries = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn an_inherited_descriptor_is_closed_in_children() {
        let (reader, _writer) = std::io::pipe().unwrap();
        rustix::io::fcntl_setfd(&reader, rustix::io::FdFlags::empty()).unwrap();
        assert!(descriptors().contains(&reader.as_raw_fd()));
        shed();
        assert!(
            rustix::io::fcntl_getfd(&reader)
                .unwrap()
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
    }
}
