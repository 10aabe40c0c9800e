//! Packet sockets: frames at a link, seen before the packet rules on their way in.

#![allow(
    clippy::cast_possible_truncation,
    reason = "small constants of the kernel's, and sizes of its structures"
)]

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use tokio::io::unix::AsyncFd;

/// A socket at one link, for the few kinds of frames that the agent answers.
#[derive(Debug)]
pub(crate) struct PacketSocket(AsyncFd<OwnedFd>);

/// The direction of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It came in by the link.
    In,
    /// It went out by it.
    Out,
}

/// Bytes that wait to be read.
const BUFFER: libc::c_int = 64 << 10;

impl PacketSocket {
    /// Opens a socket; `outgoing` is whether it receives outgoing frames, too.
    pub(crate) fn open(link: u32, outgoing: bool) -> io::Result<Self> {
        // Without a protocol, so that it receives nothing until the filter exists. SAFETY: numbers alone.
        let socket = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
        };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is new and ours.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // SAFETY: an owned descriptor stays open and the same for as long as it is owned.
        let socket = Self(unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?);
        let mut filter = FILTER.map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k });
        let program = libc::sock_fprog { len: FILTER.len() as u16, filter: filter.as_mut_ptr() };
        socket.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        socket.set(libc::SOL_SOCKET, libc::SO_RCVBUF, &BUFFER)?;
        // The agent's own frames bypass all rules.
        socket.set(libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1)?;
        socket.set(libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &libc::c_int::from(!outgoing))?;
        // SAFETY: plain numbers; all zeroes is one.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = i32::try_from(link).map_err(io::Error::other)?;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the kernel reads one `sockaddr_ll`, which outlives the call.
        let bound = unsafe { libc::bind(socket.0.as_raw_fd(), (&raw const address).cast(), length) };
        if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
    }

    fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        let length = size_of::<T>() as libc::socklen_t;
        // SAFETY: the kernel reads as many bytes as the value has.
        let set = unsafe {
            libc::setsockopt(self.0.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
        };
        if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for the next frame.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Way)> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(received) = ready.try_io(|socket| take(socket.get_ref(), buffer)) {
                return received;
            }
        }
    }

    /// Sends a frame out by the link.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::net::send(self.0.get_ref(), frame, rustix::net::SendFlags::empty())?;
        Ok(())
    }
}

/// Takes a frame, if there is one.
fn take(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Way)> {
    // SAFETY: plain numbers; all zeroes is one.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel writes into the buffer and the address, no more than they have room for.
    let count = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut from).cast(),
            &raw mut length,
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let way = if from.sll_pkttype == libc::PACKET_OUTGOING { Way::Out } else { Way::In };
    Ok((count, way))
}

/// Of `linux/if_packet.h`; the crate does not have it.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

// Classic BPF: load half-words and bytes, compare, give as many bytes as there are.
const LDH: u16 = 0x28;
const LDB: u16 = 0x30;
const LDX_IP: u16 = 0xb1;
const LDH_X: u16 = 0x48;
const EQUAL: u16 = 0x15;
const ANY_BIT: u16 = 0x45;
const GIVE: u16 = 0x06;

/// Outgoing: IPv4 with UDP to port 68. Incoming: ARP; IPv4 with UDP to port 67; IPv6 with UDP to port 547,
/// and solicitations of routers and neighbours. No later fragments.
#[rustfmt::skip]
const FILTER: [(u16, u8, u8, u32); 32] = [
    /*  0 */ (LDB, 0, 0, WHICH_WAY),
    /*  1 */ (EQUAL, 0, 9, libc::PACKET_OUTGOING as u32),
    /*  2 */ (LDH, 0, 0, 12),
    /*  3 */ (EQUAL, 0, 27, 0x0800),
    /*  4 */ (LDB, 0, 0, 23),
    /*  5 */ (EQUAL, 0, 25, 17),
    /*  6 */ (LDH, 0, 0, 20),
    /*  7 */ (ANY_BIT, 23, 0, 0x1fff),
    /*  8 */ (LDX_IP, 0, 0, 14),
    /*  9 */ (LDH_X, 0, 0, 16),
    /* 10 */ (EQUAL, 19, 20, 68),
    /* 11 */ (LDH, 0, 0, 12),
    /* 12 */ (EQUAL, 17, 0, 0x0806),
    /* 13 */ (EQUAL, 0, 7, 0x0800),
    /* 14 */ (LDB, 0, 0, 23),
    /* 15 */ (EQUAL, 0, 15, 17),
    /* 16 */ (LDH, 0, 0, 20),
    /* 17 */ (ANY_BIT, 13, 0, 0x1fff),
    /* 18 */ (LDX_IP, 0, 0, 14),
    /* 19 */ (LDH_X, 0, 0, 16),
    /* 20 */ (EQUAL, 9, 10, 67),
    /* 21 */ (EQUAL, 0, 9, 0x86dd),
    /* 22 */ (LDB, 0, 0, 20),
    /* 23 */ (EQUAL, 0, 2, 17),
    /* 24 */ (LDH, 0, 0, 56),
    /* 25 */ (EQUAL, 4, 5, 547),
    /* 26 */ (EQUAL, 0, 4, 58),
    /* 27 */ (LDB, 0, 0, 54),
    /* 28 */ (EQUAL, 1, 0, 133),
    /* 29 */ (EQUAL, 0, 1, 135),
    /* 30 */ (GIVE, 0, 0, 0xffff_ffff),
    /* 31 */ (GIVE, 0, 0, 0),
];
/// Where the filter reads the direction: a kernel extension.
const WHICH_WAY: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE).cast_unsigned();
