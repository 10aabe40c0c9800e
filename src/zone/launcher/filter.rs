//! The system call filter: what QEMU needs and nothing else.
//!
//! The filter has two programs. The first returns ENOSYS for calls that have a fallback: `clone3` (glibc then
//! uses `clone`, whose flags can be checked), `io_uring`, asynchronous I/O, `openat2`, and `fallocate` that
//! allocates disk space of the host. The second returns EPERM for every call that is not listed (QEMU handles
//! that; its own `-sandbox` kills), and allows those of the first: the stricter verdict of two filters
//! applies. After it no further filter can be loaded: filter programs use host memory that no limit counts.

use std::{collections::BTreeMap, io};

use libc::{
    AT_EMPTY_PATH, CLONE_FILES, CLONE_FS, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS,
    CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS, CLONE_PTRACE, CLONE_SIGHAND, CLONE_THREAD, CLONE_VFORK,
    CLONE_VM,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use crate::spec::limits::SCREEN_BYTES;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Memory, open files, time, threads, signals to itself, and queries about itself.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise,
    libc::SYS_mincore, libc::SYS_msync, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_munlock, libc::SYS_mlockall,
    libc::SYS_munlockall, libc::SYS_membarrier, libc::SYS_memfd_create, libc::SYS_mbind, libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy, libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_pkey_mprotect,
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64,
    libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_lseek, libc::SYS_close,
    libc::SYS_close_range, libc::SYS_dup, libc::SYS_dup3, libc::SYS_fsync, libc::SYS_fdatasync,
    libc::SYS_sync_file_range, libc::SYS_fallocate, libc::SYS_fadvise64,
    libc::SYS_copy_file_range, libc::SYS_sendfile, libc::SYS_fstat, libc::SYS_fstatfs, libc::SYS_newfstatat,
    libc::SYS_statx, libc::SYS_statfs, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat,
    libc::SYS_getdents64, libc::SYS_openat, libc::SYS_unlinkat, libc::SYS_getcwd, libc::SYS_chdir, libc::SYS_fchdir,
    libc::SYS_fcntl, libc::SYS_pipe2, libc::SYS_eventfd2, libc::SYS_epoll_create1, libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime, libc::SYS_signalfd4, libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    // Sockets that exist: the agent opened them.
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_listen, libc::SYS_getsockname, libc::SYS_getpeername,
    libc::SYS_shutdown, libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_sendmsg, libc::SYS_recvmmsg,
    libc::SYS_sendmmsg,
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
    libc::SYS_gettimeofday, libc::SYS_times, libc::SYS_timer_create, libc::SYS_timer_settime,
    libc::SYS_timer_delete, libc::SYS_timer_gettime, libc::SYS_timer_getoverrun, libc::SYS_futex,
    libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_rseq, libc::SYS_set_tid_address,
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_sched_getparam, libc::SYS_sched_getscheduler,
    libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min, libc::SYS_getcpu, libc::SYS_exit,
    libc::SYS_exit_group, libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigsuspend, libc::SYS_sigaltstack,
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getegid, libc::SYS_getresuid, libc::SYS_getresgid, libc::SYS_getgroups, libc::SYS_getpgid,
    libc::SYS_getsid, libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_getrusage, libc::SYS_getrlimit,
    libc::SYS_getrandom, libc::SYS_capget, libc::SYS_umask,
];

/// Calls that the first program answers with ENOSYS.
const REPLACED: &[libc::c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_openat2,
    // Contexts of these count against one limit of the whole host.
    libc::SYS_io_setup,
];

/// Allowed `fcntl` commands: copies, flags, a pipe's size, seals. No locks: each takes host memory that no
/// limit counts, and the agent has locked the disks. No signals and leases, which reach other processes.
const FCNTLS: &[libc::c_int] = &[
    libc::F_DUPFD,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_DUPFD_CLOEXEC,
    libc::F_SETPIPE_SZ,
    libc::F_GETPIPE_SZ,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
];

/// Older forms of the same calls, which only this architecture has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_dup2, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_open,
    libc::SYS_unlink, libc::SYS_pipe, libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_select, libc::SYS_time,
    libc::SYS_arch_prctl, libc::SYS_pause, libc::SYS_getpgrp,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// ioctls by number, besides the ranges of KVM and vhost: terminals, and queries of disks. None that changes
/// a tap: its descriptor alone could reconfigure the host's interface.
#[rustfmt::skip]
const IOCTLS: &[u64] = &[
    0x5401, 0x5413, 0x541b, 0x5421, 0x5450, 0x5451, // TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    0x8004_54cf, 0x8004_54d2, 0x4004_54d0, 0x4004_54d4, 0x8004_54d3, 0x4004_54d8, 0x8004_54d7, // TUN: features, offload, sizes
    0x4004_54dc, 0x8004_54dd, 0x4004_54de, 0x8004_54df, 0x4004_54d9, // TUN: byte order, queue
    0x125e, 0x1260, 0x1268, 0x127b, 0x1278, 0x1279, 0x127a, 0x127c, 0x127d, 0x1277, 0x8008_1272, // BLK: sizes, discard
    0x8008_6601, 0x801c_581f, 0x4004_9409, 0x4020_940d, 0xc020_660b, // FS: flags, clone, extents
];

/// Socket options that may be read.
const LOOKED_AT: &[libc::c_int] = &[
    libc::SO_TYPE,
    libc::SO_ERROR,
    libc::SO_SNDBUF,
    libc::SO_RCVBUF,
    libc::SO_ACCEPTCONN,
    libc::SO_PROTOCOL,
    libc::SO_DOMAIN,
];
/// Settable options.
const SET: &[libc::c_int] = &[libc::SO_REUSEADDR, libc::SO_KEEPALIVE, libc::SO_SNDBUF, libc::SO_RCVBUF];

/// Builds the two programs. `own_pid` is the process's own id, `program` the one descriptor that it may
/// execute.
pub(super) fn programs(own_pid: u32, program: i32, has_namespaces: bool) -> io::Result<Vec<BpfProgram>> {
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let allow = SeccompFilter::new(
        allowed(own_pid, program, has_namespaces)?,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        SeccompAction::Allow,
        arch,
    );
    let mut nosys: Rules = REPLACED.iter().map(|call| (*call, Vec::new())).collect();
    nosys.insert(libc::SYS_fallocate, vec![beyond_a_disk()?]);
    let nosys = SeccompFilter::new(
        nosys,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.unsigned_abs()),
        arch,
    );
    [nosys, allow]
        .into_iter()
        .map(|filter| filter.and_then(TryInto::try_into).map_err(io::Error::other))
        .collect()
}

/// Loads a program on this thread, which is the only one.
pub(super) fn load(program: &BpfProgram) -> io::Result<()> {
    seccompiler::apply_filter(program).map_err(io::Error::other)
}

fn allowed(own_pid: u32, program: i32, has_namespaces: bool) -> io::Result<Rules> {
    let listed = ALLOWED.iter().chain(ALLOWED_HERE).chain(REPLACED);
    let mut rules: Rules = listed.map(|call| (*call, Vec::new())).collect();
    // Threads of this process, in its namespaces.
    let thread = flags(&[CLONE_VM, CLONE_SIGHAND, CLONE_THREAD, CLONE_FS, CLONE_FILES]);
    let never = flags(&[
        CLONE_NEWNS,
        CLONE_NEWCGROUP,
        CLONE_NEWUTS,
        CLONE_NEWIPC,
        CLONE_NEWUSER,
        CLONE_NEWPID,
        CLONE_NEWNET,
        CLONE_PTRACE,
        CLONE_VFORK,
    ]);
    rules.insert(libc::SYS_clone, vec![rule([compare(0, Op::MaskedEq(thread | never), thread)?])?]);
    // Signals to itself.
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![rule([equal(0, own_pid.into())?])?]);
    }
    if !has_namespaces {
        // Nothing else hides other processes then.
        for call in [
            libc::SYS_getpgid,
            libc::SYS_getsid,
            libc::SYS_sched_getaffinity,
            libc::SYS_sched_getparam,
            libc::SYS_sched_getscheduler,
        ] {
            rules.insert(call, vec![rule([equal(0, 0)?])?, rule([equal(0, own_pid.into())?])?]);
        }
    }
    let fcntls: Vec<u64> = FCNTLS.iter().map(|command| u64::from(command.unsigned_abs())).collect();
    rules.insert(libc::SYS_fcntl, each(1, &fcntls)?);
    // Its own limits, read only.
    rules.insert(libc::SYS_prlimit64, vec![rule([equal(0, 0)?, no_pointer(2)?])?]);
    let prctls = [
        libc::PR_SET_NAME,
        libc::PR_GET_NAME,
        libc::PR_SET_TIMERSLACK,
        libc::PR_GET_DUMPABLE,
        libc::PR_SET_NO_NEW_PRIVS,
        libc::PR_GET_NO_NEW_PRIVS,
        libc::PR_GET_SECCOMP,
        libc::PR_CAPBSET_READ,
        0x5356_4d41, // PR_SET_VMA: names of anonymous memory
    ];
    rules.insert(libc::SYS_prctl, each(0, &prctls.map(|option| u64::from(option.unsigned_abs())))?);
    // Only to what a file may have in any case: a call that shortens a file can also extend it. QEMU empties a
    // screenshot's file, and since version 9.2 keeps the screen in memory that it makes like a file.
    let small = SeccompCondition::new(1, Length::Qword, Op::Le, SCREEN_BYTES).map_err(io::Error::other)?;
    rules.insert(libc::SYS_ftruncate, vec![rule([small])?]);
    // Only to the connected peer.
    rules.insert(libc::SYS_sendto, vec![rule([no_pointer(4)?])?]);
    // No option that reveals the peer's identity, now or later.
    rules.insert(libc::SYS_getsockopt, each_of(libc::SOL_SOCKET, LOOKED_AT)?);
    let mut set = each_of(libc::SOL_SOCKET, SET)?;
    set.extend(each_of(libc::IPPROTO_TCP, &[libc::TCP_NODELAY])?);
    rules.insert(libc::SYS_setsockopt, set);
    let mut ioctls = vec![
        rule([compare(1, Op::MaskedEq(0xff00), 0xae00)?])?, // KVM
        rule([compare(1, Op::MaskedEq(0xff00), 0xaf00)?])?, // vhost
    ];
    ioctls.extend(each(1, IOCTLS)?);
    rules.insert(libc::SYS_ioctl, ioctls);
    // Works once: the descriptor is closed afterwards, and its number can't be reused.
    let program = equal(0, u64::from(program.unsigned_abs()))?;
    rules.insert(
        libc::SYS_execveat,
        vec![rule([program, equal(4, u64::from(AT_EMPTY_PATH.unsigned_abs()))?])?],
    );
    Ok(rules)
}

/// Matches the `fallocate` modes that a disk does not need: it frees space (a hole, zeroes) and allocates
/// none.
fn beyond_a_disk() -> io::Result<SeccompRule> {
    let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let other_than = |mode: libc::c_int| compare(1, Op::Ne, u64::from(mode.unsigned_abs()));
    rule([other_than(hole)?, other_than(libc::FALLOC_FL_ZERO_RANGE)?])
}

/// A rule for each option at one level.
fn each_of(level: libc::c_int, options: &[libc::c_int]) -> io::Result<Vec<SeccompRule>> {
    let number = |value: libc::c_int| u64::from(value.unsigned_abs());
    options.iter().map(|option| rule([equal(1, number(level))?, equal(2, number(*option))?])).collect()
}

/// Requires that a full-width argument is 0.
fn no_pointer(argument: u8) -> io::Result<SeccompCondition> {
    SeccompCondition::new(argument, Length::Qword, Op::Eq, 0).map_err(io::Error::other)
}

fn flags(all: &[libc::c_int]) -> u64 {
    all.iter().fold(0, |sum, flag| sum | u64::from(flag.unsigned_abs()))
}

fn compare(argument: u8, op: Op, value: u64) -> io::Result<SeccompCondition> {
    SeccompCondition::new(argument, Length::Dword, op, value).map_err(io::Error::other)
}

fn equal(argument: u8, value: u64) -> io::Result<SeccompCondition> {
    compare(argument, Op::Eq, value)
}

fn rule<const N: usize>(conditions: [SeccompCondition; N]) -> io::Result<SeccompRule> {
    SeccompRule::new(conditions.into()).map_err(io::Error::other)
}

/// A rule for each value of an argument.
fn each(argument: u8, values: &[u64]) -> io::Result<Vec<SeccompRule>> {
    values.iter().map(|value| rule([equal(argument, *value)?])).collect()
}
