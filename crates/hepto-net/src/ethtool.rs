//! One offload of a link, by its name, as `ethtool -k` and `-K` see it (SIOCETHTOOL, linux/ethtool.h).
#![allow(unsafe_code)] // The ioctl has no safe wrapper.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Joined UDP datagrams pass a link on their way to another namespace's socket (Linux 5.12).
pub const UDP_GRO_FORWARDING: &str = "rx-udp-gro-forwarding";

const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
/// ETH_GSTRING_LEN: bytes of a name.
const NAME: usize = 32;
/// What the kernel answers when a feature cannot change, or could not at once: ETHTOOL_F_UNSUPPORTED and _WISH.
const NOT_DONE: i32 = 0b11;

/// How a link stands with a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// The kernel does not know it, or the link cannot change it.
    Absent,
    /// Off.
    Off,
    /// On.
    On,
}

/// A socket for asking about the links of the namespace that it was opened in.
#[derive(Debug)]
pub struct Ethtool(OwnedFd);

impl Ethtool {
    /// For the calling thread's namespace.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn here() -> io::Result<Ethtool> {
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Ethtool(socket))
    }

    /// How `link` stands with the feature `name`.
    ///
    /// # Errors
    /// There is no such link.
    pub fn feature(&self, link: &str, name: &str) -> io::Result<Feature> {
        let names = self.names(link)?;
        let Some(place) = names.iter().position(|found| found == name) else {
            return Ok(Feature::Absent);
        };
        // Four words a block: available, requested, active, never changed.
        let blocks = names.len().div_ceil(32);
        let mut request = vec![0; 2 + 4 * blocks];
        request[..2].copy_from_slice(&[ETHTOOL_GFEATURES, blocks as u32]);
        self.ask(link, &mut request)?;
        let block = &request[2 + 4 * (place / 32)..][..4];
        let bit = 1 << (place % 32);
        Ok(match (block[0] & bit != 0, block[2] & bit != 0) {
            (false, false) => Feature::Absent,
            (_, true) => Feature::On,
            (true, false) => Feature::Off,
        })
    }

    /// Turns the feature `name` of `link` on or off.
    ///
    /// # Errors
    /// There is no such link or feature, it cannot be changed, or there is no CAP_NET_ADMIN.
    pub fn set(&self, link: &str, name: &str, on: bool) -> io::Result<()> {
        let names = self.names(link)?;
        let unsupported = || io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        let place = names
            .iter()
            .position(|found| found == name)
            .ok_or_else(unsupported)?;
        // Two words a block: which bits are meant, what they shall be.
        let blocks = names.len().div_ceil(32);
        let mut request = vec![0; 2 + 2 * blocks];
        request[..2].copy_from_slice(&[ETHTOOL_SFEATURES, blocks as u32]);
        let block = 2 + 2 * (place / 32);
        request[block] = 1 << (place % 32);
        request[block + 1] = u32::from(on) << (place % 32);
        match self.ask(link, &mut request)? & NOT_DONE {
            0 => Ok(()),
            _ => Err(unsupported()),
        }
    }

    /// The names of all features that this kernel knows, by their bits.
    fn names(&self, link: &str) -> io::Result<Vec<String>> {
        // Command, nothing, a mask of 64 bits (which the kernel answers), the number.
        let mut request = [0; 5];
        request[0] = ETHTOOL_GSSET_INFO;
        request[2..4].copy_from_slice(&words(1 << ETH_SS_FEATURES));
        self.ask(link, &mut request)?;
        let count = if request[2..4] == [0, 0] {
            0
        } else {
            request[4]
        };
        // Command, set, number, names of 32 bytes.
        let mut request = vec![0; 3 + count as usize * NAME / 4];
        request[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count]);
        self.ask(link, &mut request)?;
        let name = |chunk: &[u32]| {
            let bytes = chunk.iter().flat_map(|word| word.to_ne_bytes());
            let text: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
            String::from_utf8_lossy(&text).into_owned()
        };
        Ok(request[3..].chunks(NAME / 4).map(name).collect())
    }

    /// Hands a request to the kernel, which answers into it.
    fn ask(&self, link: &str, request: &mut [u32]) -> io::Result<i32> {
        // SAFETY: `ifreq` is plain old data, for which all zeroes is a value.
        let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
        if link.len() >= interface.ifr_name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in interface.ifr_name.iter_mut().zip(link.bytes()) {
            *to = from as libc::c_char;
        }
        interface.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
        // SAFETY: the kernel reads and writes the name and as many bytes of `request` as its own head announces (each
        // caller makes it that long); both outlive the call.
        let answer = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SIOCETHTOOL as _,
                &raw mut interface,
            )
        };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(answer)
    }
}

/// A number of 64 bits as two words, as it lies in memory.
fn words(number: u64) -> [u32; 2] {
    let bytes = number.to_ne_bytes();
    [[0, 1, 2, 3], [4, 5, 6, 7]].map(|at| u32::from_ne_bytes(at.map(|at| bytes[at])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_found_by_name_on_any_link() {
        let ethtool = Ethtool::here().unwrap();
        assert!(ethtool.names("lo").unwrap().contains(&"rx-gro".to_owned()));
        assert_eq!(ethtool.feature("lo", "no-such").unwrap(), Feature::Absent);
        assert_eq!(ethtool.feature("lo", "rx-gro").unwrap(), Feature::On);
        for link in ["nowhere", "a-name-longer-than-any"] {
            let error = ethtool.feature(link, "rx-gro").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        }
        let error = ethtool.set("lo", "no-such", true).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn a_number_lies_in_memory_as_its_words_do() {
        let number = 0x0102_0304_0506_0708u64;
        let expected = if cfg!(target_endian = "little") {
            [0x0506_0708, 0x0102_0304]
        } else {
            [0x0102_0304, 0x0506_0708]
        };
        assert_eq!(words(number), expected);
    }
}
