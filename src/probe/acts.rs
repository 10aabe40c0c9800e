//! The acts. Numbers and names only; what they mean stands beside them.

#![allow(clippy::cast_lossless, clippy::cast_possible_wrap, reason = "flags of libc have every width")]

use super::deeds::{self, Target};
use crate::{
    spec::Restriction::{self, CreateProcess, ModifyFilesystem, Network, SeeProcesses, SignalOutside},
    sys::Arg::{self, Disk, Four, Null, Number, Own, OwnByte, Text, Victim, VictimByte, Zeroes},
    zone::linux::held,
};

/// Something that a hypervisor in a guest's hands might try.
#[derive(Clone, Copy, Debug)]
pub struct Act {
    /// The restriction it would break; `None` if it breaks all of them or none.
    pub(super) restriction: Option<Restriction>,
    /// In words.
    pub name: &'static str,
    pub(super) deed: Deed,
    /// It must work.
    pub allowed: bool,
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    /// One system call.
    Call(i64, &'static [Arg]),
    /// Several system calls; see [`super::deeds`].
    Several(fn(&Target) -> std::io::Result<()>),
}

impl Act {
    /// Returns the hypervisor's descriptor that the act uses, if any.
    pub(super) fn descriptor(&self) -> Option<i32> {
        let Deed::Call(_, [Number(first), ..]) = self.deed else { return None };
        held::ALL.into_iter().find(|number| i64::from(*number) == *first)
    }

    /// Returns whether it exhausts a limit.
    pub(super) fn is_bomb(&self) -> bool {
        self.name.ends_with("than its limit")
    }
}

const fn forbidden(
    restriction: Option<Restriction>,
    name: &'static str,
    call: i64,
    arguments: &'static [Arg],
) -> Act {
    Act { restriction, name, deed: Deed::Call(call, arguments), allowed: false }
}

const fn several(
    restriction: Option<Restriction>,
    name: &'static str,
    deed: fn(&Target) -> std::io::Result<()>,
) -> Act {
    Act { restriction, name, deed: Deed::Several(deed), allowed: false }
}

const fn allowed(name: &'static str, call: i64, arguments: &'static [Arg]) -> Act {
    Act { restriction: None, name, deed: Deed::Call(call, arguments), allowed: true }
}

/// Beyond most disks, and within what file systems take.
const FAR: i64 = 1 << 43;
const SO_PASSPIDFD: i64 = 76;
const SO_PEERPIDFD: i64 = 77;

/// Every act, by what it would break.
#[rustfmt::skip]
pub const ACTS: &[Act] = &[
    forbidden(Some(ModifyFilesystem), "create /pwned", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/pwned"), Number((libc::O_CREAT | libc::O_WRONLY) as i64), Number(0o644)]),
    forbidden(Some(ModifyFilesystem), "create /usr/pwned", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/usr/pwned"), Number((libc::O_CREAT | libc::O_WRONLY) as i64), Number(0o644)]),
    forbidden(Some(ModifyFilesystem), "create /usr/bin/pwned", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/usr/bin/pwned"), Number((libc::O_CREAT | libc::O_WRONLY) as i64), Number(0o644)]),
    forbidden(Some(ModifyFilesystem), "create /dev/pwned", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/pwned"), Number((libc::O_CREAT | libc::O_WRONLY) as i64), Number(0o644)]),
    forbidden(Some(ModifyFilesystem), "create /tmp/pwned", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/tmp/pwned"), Number((libc::O_CREAT | libc::O_WRONLY) as i64), Number(0o644)]),
    forbidden(Some(ModifyFilesystem), "create /dev/shm/pwned", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/shm/pwned"), Number((libc::O_CREAT | libc::O_WRONLY) as i64), Number(0o644)]),
    forbidden(Some(ModifyFilesystem), "create /var/tmp/pwned", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/var/tmp/pwned"), Number((libc::O_CREAT | libc::O_WRONLY) as i64), Number(0o644)]),
    forbidden(Some(ModifyFilesystem), "open the zone's own file for writing", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/image.iso"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open a program of the platform for writing", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/usr/bin/sleep"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "make a file without a name (O_TMPFILE)", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/"), Number((libc::O_TMPFILE | libc::O_WRONLY) as i64), Number(0o600)]),
    forbidden(Some(ModifyFilesystem), "truncate the zone's own file", libc::SYS_truncate, &[Text(c"/image.iso"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "chmod the zone's own file", libc::SYS_fchmodat, &[Number(libc::AT_FDCWD as i64), Text(c"/image.iso"), Number(0o777)]),
    forbidden(Some(ModifyFilesystem), "chown the zone's own file", libc::SYS_fchownat, &[Number(libc::AT_FDCWD as i64), Text(c"/image.iso"), Number(0), Number(0), Number(0)]),
    forbidden(Some(ModifyFilesystem), "unlink the zone's own file", libc::SYS_unlinkat, &[Number(libc::AT_FDCWD as i64), Text(c"/image.iso"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "rename the zone's own file", libc::SYS_renameat2, &[Number(libc::AT_FDCWD as i64), Text(c"/image.iso"), Number(libc::AT_FDCWD as i64), Text(c"/x"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "link the zone's own file", libc::SYS_linkat, &[Number(libc::AT_FDCWD as i64), Text(c"/image.iso"), Number(libc::AT_FDCWD as i64), Text(c"/x"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "make a symbolic link", libc::SYS_symlinkat, &[Text(c"/etc"), Number(libc::AT_FDCWD as i64), Text(c"/x")]),
    forbidden(Some(ModifyFilesystem), "make a folder", libc::SYS_mkdirat, &[Number(libc::AT_FDCWD as i64), Text(c"/x"), Number(0o755)]),
    forbidden(Some(ModifyFilesystem), "remove a folder", libc::SYS_unlinkat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev"), Number(libc::AT_REMOVEDIR as i64)]),
    forbidden(Some(ModifyFilesystem), "make a pipe in the file system", libc::SYS_mknodat, &[Number(libc::AT_FDCWD as i64), Text(c"/x"), Number((libc::S_IFIFO | 0o600) as i64), Number(0)]),
    forbidden(Some(ModifyFilesystem), "make a device node (memory)", libc::SYS_mknodat, &[Number(libc::AT_FDCWD as i64), Text(c"/x"), Number((libc::S_IFCHR | 0o600) as i64), Number(0x101)]),
    forbidden(Some(ModifyFilesystem), "make a device node (first disk)", libc::SYS_mknodat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/x"), Number((libc::S_IFBLK | 0o600) as i64), Number(0xfe00)]),
    forbidden(Some(ModifyFilesystem), "set an extended attribute", libc::SYS_setxattr, &[Text(c"/image.iso"), Text(c"user.x"), Zeroes, Number(1), Number(0)]),
    forbidden(Some(ModifyFilesystem), "remove an extended attribute", libc::SYS_removexattr, &[Text(c"/image.iso"), Text(c"user.x")]),
    forbidden(Some(ModifyFilesystem), "change a file's times", libc::SYS_utimensat, &[Number(libc::AT_FDCWD as i64), Text(c"/image.iso"), Null, Number(0)]),
    forbidden(Some(ModifyFilesystem), "open the host's /etc/passwd", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/etc/passwd"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "open the host's /etc/shadow", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/etc/shadow"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "open the host's /etc/hostname", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/etc/hostname"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "open the host's /root", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/root"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "open the host's /home", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/home"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "open the host's /var/lib", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/var/lib"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "open the host's /zones", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/zones"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "open the host's /run", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/run"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "open the host's /boot", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/boot"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "leave the root by ..", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"../../../../etc/hostname"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "open by handle", libc::SYS_open_by_handle_at, &[Number(libc::AT_FDCWD as i64), Zeroes, Number(0)]),
    forbidden(Some(ModifyFilesystem), "chroot", libc::SYS_chroot, &[Text(c"/usr")]),
    forbidden(Some(ModifyFilesystem), "open /dev/mem", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/mem"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/kmem", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/kmem"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/port", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/port"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/sda", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/sda"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/vda", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/vda"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/net/tun", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/net/tun"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/vhost-net", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/vhost-net"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/fuse", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/fuse"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/loop-control", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/loop-control"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/kmsg", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/kmsg"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/ptmx", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/ptmx"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/tty", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/tty"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/random", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/random"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /dev/shm", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/shm"), Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open /sys/kernel", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/sys/kernel"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "open /sys/fs/cgroup", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/sys/fs/cgroup"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "open /proc/sys/kernel/core_pattern", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/proc/sys/kernel/core_pattern"), Number(0)]),
    forbidden(Some(ModifyFilesystem), "open /proc/sysrq-trigger", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/proc/sysrq-trigger"), Number(0)]),
    forbidden(Some(Network), "make a socket: TCP over IPv4", libc::SYS_socket, &[Number(libc::AF_INET as i64), Number(libc::SOCK_STREAM as i64), Number(0)]),
    forbidden(Some(Network), "make a socket: UDP over IPv4", libc::SYS_socket, &[Number(libc::AF_INET as i64), Number(libc::SOCK_DGRAM as i64), Number(0)]),
    forbidden(Some(Network), "make a socket: raw IPv4", libc::SYS_socket, &[Number(libc::AF_INET as i64), Number(libc::SOCK_RAW as i64), Number(0)]),
    forbidden(Some(Network), "make a socket: TCP over IPv6", libc::SYS_socket, &[Number(libc::AF_INET6 as i64), Number(libc::SOCK_STREAM as i64), Number(0)]),
    forbidden(Some(Network), "make a socket: UDP over IPv6", libc::SYS_socket, &[Number(libc::AF_INET6 as i64), Number(libc::SOCK_DGRAM as i64), Number(0)]),
    forbidden(Some(Network), "make a socket: packet", libc::SYS_socket, &[Number(libc::AF_PACKET as i64), Number(libc::SOCK_RAW as i64), Number(0)]),
    forbidden(Some(Network), "make a socket: netlink", libc::SYS_socket, &[Number(libc::AF_NETLINK as i64), Number(libc::SOCK_RAW as i64), Number(0)]),
    forbidden(Some(Network), "make a socket: vsock", libc::SYS_socket, &[Number(libc::AF_VSOCK as i64), Number(libc::SOCK_STREAM as i64), Number(0)]),
    forbidden(Some(Network), "make a socket: UNIX stream", libc::SYS_socket, &[Number(libc::AF_UNIX as i64), Number(libc::SOCK_STREAM as i64), Number(0)]),
    forbidden(Some(Network), "make a socket: UNIX datagram", libc::SYS_socket, &[Number(libc::AF_UNIX as i64), Number(libc::SOCK_DGRAM as i64), Number(0)]),
    forbidden(Some(Network), "make a socket: kernel crypto", libc::SYS_socket, &[Number(libc::AF_ALG as i64), Number(libc::SOCK_SEQPACKET as i64), Number(0)]),
    forbidden(Some(Network), "make a socket: bluetooth", libc::SYS_socket, &[Number(libc::AF_BLUETOOTH as i64), Number(libc::SOCK_RAW as i64), Number(0)]),
    forbidden(Some(Network), "make a socket: CAN", libc::SYS_socket, &[Number(libc::AF_CAN as i64), Number(libc::SOCK_RAW as i64), Number(0)]),
    forbidden(Some(Network), "make a pair of internet sockets", libc::SYS_socketpair, &[Number(libc::AF_INET as i64), Number(libc::SOCK_STREAM as i64), Number(0), Zeroes]),
    forbidden(Some(Network), "bind", libc::SYS_bind, &[Number(0), Zeroes, Number(16)]),
    forbidden(Some(Network), "connect", libc::SYS_connect, &[Number(0), Zeroes, Number(16)]),
    forbidden(Some(Network), "change an interface by ioctl", libc::SYS_ioctl, &[Number(0), Number(0x8924), Zeroes]),
    forbidden(Some(Network), "change a tap by ioctl", libc::SYS_ioctl, &[Number(0), Number(0x4004_54ca), Zeroes]),
    forbidden(Some(CreateProcess), "fork", libc::SYS_fork, &[]),
    forbidden(Some(CreateProcess), "vfork", libc::SYS_vfork, &[]),
    forbidden(Some(CreateProcess), "clone a process", libc::SYS_clone, &[Number(libc::SIGCHLD as i64), Number(0), Number(0), Number(0), Number(0)]),
    forbidden(Some(CreateProcess), "clone a process that shares memory", libc::SYS_clone, &[Number((libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD) as i64), Number(0), Number(0), Number(0), Number(0)]),
    forbidden(Some(CreateProcess), "clone into a user namespace", libc::SYS_clone, &[Number((libc::CLONE_NEWUSER | libc::SIGCHLD) as i64), Number(0), Number(0), Number(0), Number(0)]),
    forbidden(Some(CreateProcess), "clone3", libc::SYS_clone3, &[Zeroes, Number(88)]),
    forbidden(Some(CreateProcess), "run a program", libc::SYS_execve, &[Text(c"/usr/bin/sleep"), Null, Null]),
    forbidden(Some(CreateProcess), "run a shell", libc::SYS_execve, &[Text(c"/bin/sh"), Null, Null]),
    forbidden(Some(CreateProcess), "run itself again", libc::SYS_execve, &[Text(c"/probe"), Null, Null]),
    forbidden(Some(CreateProcess), "run a program by descriptor", libc::SYS_execveat, &[Number(1), Text(c""), Null, Null, Number(libc::AT_EMPTY_PATH as i64)]),
    forbidden(Some(CreateProcess), "run a program below a folder", libc::SYS_execveat, &[Number(libc::AT_FDCWD as i64), Text(c"/usr/bin/sleep"), Null, Null, Number(0)]),
    forbidden(Some(CreateProcess), "replay the one exec", libc::SYS_execveat, &[Number(2024), Text(c""), Null, Null, Number(libc::AT_EMPTY_PATH as i64)]),
    forbidden(Some(SeeProcesses), "open /proc", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/proc"), Number(0)]),
    forbidden(Some(SeeProcesses), "open /proc/1/status", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/proc/1/status"), Number(0)]),
    forbidden(Some(SeeProcesses), "open /proc/self/status", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/proc/self/status"), Number(0)]),
    forbidden(Some(SeeProcesses), "open /proc/1/mem", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/proc/1/mem"), Number(0)]),
    forbidden(Some(SeeProcesses), "open /proc/1/maps", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/proc/1/maps"), Number(0)]),
    forbidden(Some(SeeProcesses), "open /proc/1/environ", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/proc/1/environ"), Number(0)]),
    forbidden(Some(SeeProcesses), "ask for another's process group", libc::SYS_getpgid, &[Victim]),
    forbidden(Some(SeeProcesses), "ask for another's session", libc::SYS_getsid, &[Victim]),
    forbidden(Some(SeeProcesses), "ask for another's priority", libc::SYS_getpriority, &[Number(0), Victim]),
    forbidden(Some(SeeProcesses), "ask for another's processors", libc::SYS_sched_getaffinity, &[Victim, Number(128), Zeroes]),
    forbidden(Some(SeeProcesses), "ask for another's scheduler", libc::SYS_sched_getscheduler, &[Victim]),
    forbidden(Some(SeeProcesses), "ask for another's limits", libc::SYS_prlimit64, &[Victim, Number(7), Null, Zeroes]),
    forbidden(Some(SeeProcesses), "compare with another", libc::SYS_kcmp, &[Victim, Victim, Number(0), Number(0), Number(0)]),
    forbidden(Some(SeeProcesses), "read another's memory", libc::SYS_process_vm_readv, &[Victim, OwnByte, Number(1), VictimByte, Number(1), Number(0)]),
    forbidden(Some(SeeProcesses), "open another by descriptor", libc::SYS_pidfd_open, &[Victim, Number(0)]),
    forbidden(Some(SeeProcesses), "watch performance of the host", libc::SYS_perf_event_open, &[Zeroes, Number(-1), Number(0), Number(-1), Number(0)]),
    forbidden(Some(SeeProcesses), "read the kernel's log", libc::SYS_syslog, &[Number(3), Zeroes, Number(4096)]),
    forbidden(Some(SignalOutside), "look whether another lives (kill 0)", libc::SYS_kill, &[Victim, Number(0)]),
    forbidden(Some(SignalOutside), "signal another", libc::SYS_kill, &[Victim, Number(libc::SIGCONT as i64)]),
    forbidden(Some(SignalOutside), "signal everybody", libc::SYS_kill, &[Number(-1), Number(libc::SIGCONT as i64)]),
    forbidden(Some(SignalOutside), "signal a group", libc::SYS_kill, &[Number(-2), Number(0)]),
    forbidden(Some(SignalOutside), "signal another's thread", libc::SYS_tgkill, &[Victim, Victim, Number(0)]),
    forbidden(Some(SignalOutside), "signal another's thread the old way", libc::SYS_tkill, &[Victim, Number(0)]),
    forbidden(Some(SignalOutside), "queue a signal for another", libc::SYS_rt_sigqueueinfo, &[Victim, Number(libc::SIGCONT as i64), Zeroes]),
    forbidden(Some(SignalOutside), "signal by descriptor", libc::SYS_pidfd_send_signal, &[Number(0), Number(0), Null, Number(0)]),
    forbidden(Some(SignalOutside), "trace another", libc::SYS_ptrace, &[Number(libc::PTRACE_ATTACH as i64), Victim, Number(0), Number(0)]),
    forbidden(Some(SignalOutside), "seize another", libc::SYS_ptrace, &[Number(0x4206), Victim, Number(0), Number(0)]),
    forbidden(Some(SignalOutside), "write another's memory", libc::SYS_process_vm_writev, &[Victim, OwnByte, Number(1), VictimByte, Number(1), Number(0)]),
    forbidden(Some(SignalOutside), "slow another down", libc::SYS_setpriority, &[Number(0), Victim, Number(19)]),
    forbidden(Some(SignalOutside), "limit another", libc::SYS_prlimit64, &[Victim, Number(7), Zeroes, Null]),
    forbidden(Some(SignalOutside), "move another to other processors", libc::SYS_sched_setaffinity, &[Victim, Number(128), Zeroes]),
    forbidden(None, "become root", libc::SYS_setuid, &[Number(0)]),
    forbidden(None, "become root's group", libc::SYS_setgid, &[Number(0)]),
    forbidden(None, "become root wholly", libc::SYS_setresuid, &[Number(0), Number(0), Number(0)]),
    forbidden(None, "join groups", libc::SYS_setgroups, &[Number(1), Zeroes]),
    forbidden(None, "take capabilities", libc::SYS_capset, &[Zeroes, Zeroes]),
    forbidden(None, "raise its own limit", libc::SYS_setrlimit, &[Number(7), Zeroes]),
    forbidden(None, "unshare the user namespace", libc::SYS_unshare, &[Number(libc::CLONE_NEWUSER as i64)]),
    forbidden(None, "unshare the mount namespace", libc::SYS_unshare, &[Number(libc::CLONE_NEWNS as i64)]),
    forbidden(None, "unshare the network namespace", libc::SYS_unshare, &[Number(libc::CLONE_NEWNET as i64)]),
    forbidden(None, "unshare the pid namespace", libc::SYS_unshare, &[Number(libc::CLONE_NEWPID as i64)]),
    forbidden(None, "enter a namespace", libc::SYS_setns, &[Number(0), Number(0)]),
    forbidden(None, "mount", libc::SYS_mount, &[Text(c"none"), Text(c"/dev"), Text(c"tmpfs"), Number(0), Null]),
    forbidden(None, "remount for writing", libc::SYS_mount, &[Text(c"none"), Text(c"/"), Null, Number((libc::MS_REMOUNT | libc::MS_BIND) as i64), Null]),
    forbidden(None, "unmount", libc::SYS_umount2, &[Text(c"/usr"), Number(libc::MNT_DETACH as i64)]),
    forbidden(None, "pivot the root", libc::SYS_pivot_root, &[Text(c"/"), Text(c"/usr")]),
    forbidden(None, "copy a mount", libc::SYS_open_tree, &[Number(libc::AT_FDCWD as i64), Text(c"/"), Number(1)]),
    forbidden(None, "open a file system", libc::SYS_fsopen, &[Text(c"tmpfs"), Number(0)]),
    forbidden(None, "change a mount", libc::SYS_mount_setattr, &[Number(libc::AT_FDCWD as i64), Text(c"/"), Number(0), Zeroes, Number(32)]),
    forbidden(None, "load a BPF program", libc::SYS_bpf, &[Number(5), Zeroes, Number(64)]),
    forbidden(None, "set up io_uring", libc::SYS_io_uring_setup, &[Number(4), Zeroes]),
    forbidden(None, "use keys", libc::SYS_keyctl, &[Number(0), Number(-3), Number(1)]),
    forbidden(None, "add a key", libc::SYS_add_key, &[Text(c"user"), Text(c"x"), Zeroes, Number(1), Number(-3)]),
    forbidden(None, "handle page faults", libc::SYS_userfaultfd, &[Number(0)]),
    forbidden(None, "load another kernel", libc::SYS_kexec_load, &[Number(0), Number(0), Null, Number(0)]),
    forbidden(None, "load a module", libc::SYS_init_module, &[Zeroes, Number(64), Text(c"")]),
    forbidden(None, "load a module by descriptor", libc::SYS_finit_module, &[Number(0), Text(c""), Number(0)]),
    forbidden(None, "remove a module", libc::SYS_delete_module, &[Text(c"x"), Number(0)]),
    forbidden(None, "reboot the host", libc::SYS_reboot, &[Number(0xfee1_dead), Number(0x2812_1969), Number(0), Null]),
    forbidden(None, "set the host name", libc::SYS_sethostname, &[Text(c"x"), Number(1)]),
    forbidden(None, "set the domain name", libc::SYS_setdomainname, &[Text(c"x"), Number(1)]),
    forbidden(None, "set the clock", libc::SYS_clock_settime, &[Number(0), Zeroes]),
    forbidden(None, "adjust the clock", libc::SYS_clock_adjtime, &[Number(0), Zeroes]),
    forbidden(None, "swap", libc::SYS_swapon, &[Text(c"/image.iso"), Number(0)]),
    forbidden(None, "account processes", libc::SYS_acct, &[Text(c"/image.iso")]),
    forbidden(None, "talk to ports", libc::SYS_iopl, &[Number(3)]),
    forbidden(None, "talk to some ports", libc::SYS_ioperm, &[Number(0), Number(1), Number(1)]),
    forbidden(None, "change segment descriptors", libc::SYS_modify_ldt, &[Number(1), Zeroes, Number(16)]),
    forbidden(None, "change its personality", libc::SYS_personality, &[Number(0x40000)]),
    forbidden(None, "make shared memory", libc::SYS_shmget, &[Number(0), Number(4096), Number(0o1600)]),
    forbidden(None, "make a semaphore", libc::SYS_semget, &[Number(0), Number(1), Number(0o1600)]),
    forbidden(None, "make a message queue", libc::SYS_msgget, &[Number(0), Number(0o1600)]),
    forbidden(None, "open a POSIX message queue", libc::SYS_mq_open, &[Text(c"x"), Number(0o102), Number(0o600), Null]),
    forbidden(None, "watch the file system", libc::SYS_fanotify_init, &[Number(0), Number(0)]),
    forbidden(None, "change quotas", libc::SYS_quotactl, &[Number(0), Null, Number(0), Zeroes]),
    forbidden(None, "make itself dumpable", libc::SYS_prctl, &[Number(libc::PR_SET_DUMPABLE as i64), Number(1)]),
    forbidden(None, "leave its system call filter", libc::SYS_prctl, &[Number(libc::PR_SET_SECCOMP as i64), Number(0)]),
    forbidden(None, "be traced", libc::SYS_ptrace, &[Number(0), Number(0), Number(0), Number(0)]),
    forbidden(None, "use another number for openat2", libc::SYS_openat2, &[Number(libc::AT_FDCWD as i64), Text(c"/"), Zeroes, Number(24)]),
    forbidden(Some(ModifyFilesystem), "open another VM's disk for writing", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Disk, Number(libc::O_RDWR as i64)]),
    forbidden(Some(ModifyFilesystem), "open another VM's disk for reading", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Disk, Number(0)]),
    forbidden(Some(ModifyFilesystem), "truncate another VM's disk", libc::SYS_truncate, &[Disk, Number(0)]),
    forbidden(Some(ModifyFilesystem), "remove another VM's disk", libc::SYS_unlinkat, &[Number(libc::AT_FDCWD as i64), Disk, Number(0)]),
    forbidden(Some(ModifyFilesystem), "look at another VM's disk", libc::SYS_newfstatat, &[Number(libc::AT_FDCWD as i64), Disk, Zeroes, Number(0)]),
    forbidden(Some(ModifyFilesystem), "take room behind its disk", libc::SYS_fallocate, &[Number(held::DISK), Number(libc::FALLOC_FL_KEEP_SIZE as i64), Number(FAR), Number(1 << 20)]),
    forbidden(Some(ModifyFilesystem), "take room behind its disk by zeroes", libc::SYS_fallocate, &[Number(held::DISK), Number((libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_ZERO_RANGE) as i64), Number(FAR), Number(1 << 20)]),
    forbidden(Some(ModifyFilesystem), "make its disk larger", libc::SYS_ftruncate, &[Number(held::DISK), Number(FAR)]),
    forbidden(Some(ModifyFilesystem), "write beyond its disk", libc::SYS_pwrite64, &[Number(held::DISK), Zeroes, Number(1), Number(FAR)]),
    forbidden(Some(ModifyFilesystem), "unlock its disk", libc::SYS_flock, &[Number(held::DISK), Number(libc::LOCK_UN as i64)]),
    forbidden(None, "lock a file", libc::SYS_fcntl, &[Number(held::DISK), Number(libc::F_SETLK as i64), Zeroes]),
    forbidden(None, "lock a file and wait", libc::SYS_fcntl, &[Number(held::DISK), Number(libc::F_SETLKW as i64), Zeroes]),
    forbidden(None, "lock an open file", libc::SYS_fcntl, &[Number(held::DISK), Number(libc::F_OFD_SETLK as i64), Zeroes]),
    forbidden(None, "take a lease of a file", libc::SYS_fcntl, &[Number(held::DISK), Number(libc::F_SETLEASE as i64), Number(libc::F_RDLCK as i64)]),
    forbidden(None, "load a filter of system calls", libc::SYS_seccomp, &[Number(libc::SECCOMP_SET_MODE_FILTER as i64), Number(0), Zeroes]),
    forbidden(Some(ModifyFilesystem), "take room behind its console's output", libc::SYS_fallocate, &[Number(held::OUTPUT), Number(libc::FALLOC_FL_KEEP_SIZE as i64), Number(FAR), Number(1 << 20)]),
    forbidden(Some(ModifyFilesystem), "make its console's output larger", libc::SYS_ftruncate, &[Number(held::OUTPUT), Number(FAR)]),
    forbidden(Some(ModifyFilesystem), "cut its console's output", libc::SYS_ftruncate, &[Number(held::OUTPUT), Number(0)]),
    forbidden(Some(ModifyFilesystem), "overwrite its console's history", libc::SYS_pwrite64, &[Number(held::OUTPUT), Zeroes, Number(1), Number(0)]),
    forbidden(Some(ModifyFilesystem), "take room behind its own messages", libc::SYS_fallocate, &[Number(held::ERRORS), Number(libc::FALLOC_FL_KEEP_SIZE as i64), Number(FAR), Number(1 << 20)]),
    forbidden(Some(ModifyFilesystem), "overwrite its own messages", libc::SYS_pwrite64, &[Number(held::ERRORS), Zeroes, Number(1), Number(0)]),
    forbidden(Some(SeeProcesses), "ask who controls it", libc::SYS_getsockopt, &[Number(held::CONTROL), Number(libc::SOL_SOCKET as i64), Number(SO_PEERPIDFD), Zeroes, Four]),
    forbidden(Some(SeeProcesses), "ask for the credentials of who controls it", libc::SYS_getsockopt, &[Number(held::CONTROL), Number(libc::SOL_SOCKET as i64), Number(libc::SO_PEERCRED as i64), Zeroes, Four]),
    forbidden(Some(SeeProcesses), "let the kernel tell who sends", libc::SYS_setsockopt, &[Number(held::CONTROL), Number(libc::SOL_SOCKET as i64), Number(SO_PASSPIDFD), Four, Number(4)]),
    forbidden(Some(Network), "send to a name", libc::SYS_sendto, &[Number(held::CONTROL), Zeroes, Number(1), Number(libc::MSG_NOSIGNAL as i64), Zeroes, Number(2)]),
    forbidden(Some(Network), "make a pair of UNIX sockets", libc::SYS_socketpair, &[Number(libc::AF_UNIX as i64), Number(libc::SOCK_STREAM as i64), Number(0), Zeroes]),
    forbidden(Some(Network), "make a pair of datagram sockets", libc::SYS_socketpair, &[Number(libc::AF_UNIX as i64), Number(libc::SOCK_DGRAM as i64), Number(0), Zeroes]),
    forbidden(None, "take the host's asynchronous I/O", libc::SYS_io_setup, &[Number(1), Zeroes]),
    several(Some(Network), "connect to the host's abstract socket", deeds::connect_to_abstract_socket),
    several(Some(CreateProcess), "run a program from memory", deeds::run_from_memory),
    several(None, "use more memory than its limit", deeds::memory_bomb),
    several(None, "make more threads than its limit", deeds::thread_bomb),
    allowed("give room of its disk back", libc::SYS_fallocate, &[Number(held::DISK), Number((libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as i64), Number(FAR), Number(4096)]),
    allowed("read the platform", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/usr/bin/sleep"), Number(0)]),
    allowed("use /dev/null", libc::SYS_openat, &[Number(libc::AT_FDCWD as i64), Text(c"/dev/null"), Number(libc::O_RDWR as i64)]),
    allowed("signal itself", libc::SYS_kill, &[Own, Number(0)]),
];
