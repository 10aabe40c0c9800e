//! TAP devices: a link of the host whose other end is a descriptor.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

/// Creates a tap in this network namespace, down, for a user. It disappears when its last descriptor is
/// closed.
pub(crate) fn open_tap(name: &str, owner: u32) -> io::Result<OwnedFd> {
    let tap = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an `ifreq` is plain numbers and a union of such; all zeroes is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name of a link is too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // Never one that already exists: it would be another's.
    request.ifr_ifru.ifru_flags = flags(libc::IFF_TUN_EXCL);
    // SAFETY: the kernel reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOWNER, libc::c_ulong::from(owner)) })?;
    Ok(tap.into())
}

/// Opens the device of the macvtap with that name, and no other: its number may also belong to a link in
/// another network namespace.
pub(crate) fn open_macvtap(device: &Path, name: &str) -> io::Result<OwnedFd> {
    let tap: File = OpenOptions::new().read(true).write(true).open(device)?;
    // SAFETY: as above.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_flags = flags(0);
    // SAFETY: as above.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: the kernel writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    let own = request.ifr_name.iter().map(|c| c.to_ne_bytes()[0]).take_while(|byte| *byte != 0);
    if !own.eq(name.bytes()) {
        return Err(io::Error::other("it is another link's, in another network namespace"));
    }
    Ok(tap.into())
}

/// Returns flags for raw frames with the virtio header; the kernel's field has 16 bits.
fn flags(more: libc::c_int) -> libc::c_short {
    let [low, high, ..] = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more).to_le_bytes();
    libc::c_short::from_le_bytes([low, high])
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
