//! Which system calls a container may make.
//!
//! A list of what is allowed; everything else fails with "operation not permitted". What is missing on purpose: mounts and
//! new namespaces, kernel modules, BPF and performance counters, key rings, clocks, swap, quotas, `ptrace` of what is not
//! one's own by other rules, file handles, userfaultfd and io_uring, whose record of holes in the kernel is long.

use serde_json::{Value, json};

/// Bits of `clone`'s flags that make namespaces. Source: include/uapi/linux/sched.h (CLONE_NEW*).
const NEW_NAMESPACES: u64 = 0x7E02_0000;
/// "Function not implemented", upon which the C library falls back from `clone3`, whose flags a filter cannot see.
const ENOSYS: u32 = 38;
const EPERM: u32 = 1;
/// The address families that are refused: 38 is the kernel's crypto interface, 40 talks past the network to the host.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;
/// What `personality` may be set to: Linux, with or without 32-bit addresses and names, and "tell me" (all bits).
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF];

/// Allowed whatever their arguments, in groups as a reader would look for them.
#[rustfmt::skip] // a word per line would be five hundred lines
const ALLOWED: &[&[&str]] = &[
    // files: open, read, write, map
    &[
        "open", "openat", "openat2", "creat", "close", "close_range", "read", "write", "readv", "writev", "pread64",
        "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "lseek", "dup", "dup2", "dup3", "pipe", "pipe2",
        "fcntl", "flock", "ioctl", "fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "fallocate", "truncate",
        "ftruncate", "sendfile", "splice", "tee", "vmsplice", "copy_file_range", "readahead", "fadvise64",
        "memfd_create", "memfd_secret",
    ],
    // names, directories and attributes
    &[
        "stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat", "faccessat2",
        "getdents", "getdents64", "readlink", "readlinkat", "link", "linkat", "symlink", "symlinkat", "unlink",
        "unlinkat", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "mknod", "mknodat", "chdir",
        "fchdir", "getcwd", "chroot", "umask", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown",
        "lchown", "fchownat", "utime", "utimes", "utimensat", "futimesat", "getxattr", "lgetxattr", "fgetxattr",
        "setxattr", "lsetxattr", "fsetxattr", "listxattr", "llistxattr", "flistxattr", "removexattr", "lremovexattr",
        "fremovexattr", "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "fanotify_mark",
    ],
    // memory
    &[
        "brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "process_madvise", "mincore", "msync", "mlock",
        "mlock2", "mlockall", "munlock", "munlockall", "membarrier", "pkey_alloc", "pkey_free", "pkey_mprotect",
        "remap_file_pages", "mseal", "map_shadow_stack", "process_mrelease",
    ],
    // processes and threads
    &[
        "fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "getpid", "getppid", "gettid",
        "getpgid", "getpgrp", "setpgid", "getsid", "setsid", "set_tid_address", "set_robust_list", "get_robust_list",
        "set_thread_area", "get_thread_area", "arch_prctl", "modify_ldt", "prctl", "rseq", "seccomp", "pidfd_open",
        "pidfd_send_signal", "pidfd_getfd", "ptrace", "process_vm_readv", "process_vm_writev", "futex", "futex_waitv",
        "futex_wake", "futex_wait", "futex_requeue", "restart_syscall", "landlock_create_ruleset",
        "landlock_add_rule", "landlock_restrict_self", "uname", "sysinfo", "getrandom", "getcpu",
    ],
    // users, groups, capabilities, limits, scheduling
    &[
        "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "setuid", "setgid", "setreuid",
        "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "getgroups", "setgroups", "capget", "capset",
        "getrlimit", "setrlimit", "prlimit64", "getrusage", "times", "getpriority", "setpriority", "ioprio_get",
        "ioprio_set", "sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getparam", "sched_setparam",
        "sched_getscheduler", "sched_setscheduler", "sched_getattr", "sched_setattr", "sched_get_priority_max",
        "sched_get_priority_min", "sched_rr_get_interval",
    ],
    // signals
    &[
        "kill", "tkill", "tgkill", "pause", "sigaltstack", "rt_sigaction", "rt_sigprocmask", "rt_sigpending",
        "rt_sigsuspend", "rt_sigreturn", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "rt_sigtimedwait", "signalfd",
        "signalfd4",
    ],
    // time
    &[
        "time", "gettimeofday", "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "alarm", "getitimer",
        "setitimer", "timer_create", "timer_settime", "timer_gettime", "timer_getoverrun", "timer_delete",
        "timerfd_create", "timerfd_settime", "timerfd_gettime",
    ],
    // waiting for many things
    &[
        "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait",
        "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "io_setup", "io_destroy", "io_submit", "io_cancel",
        "io_getevents", "io_pgetevents",
    ],
    // network; `socket` itself is below
    &[
        "socketpair", "bind", "listen", "accept", "accept4", "connect", "shutdown", "getsockname", "getpeername",
        "getsockopt", "setsockopt", "sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg",
    ],
    // System V and POSIX messages between processes
    &[
        "shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semctl", "semtimedop", "msgget", "msgsnd", "msgrcv",
        "msgctl", "mq_open", "mq_unlink", "mq_notify", "mq_getsetattr", "mq_timedsend", "mq_timedreceive",
    ],
];

/// The filter, in the form of the OCI runtime specification.
pub(super) fn profile() -> Value {
    let names: Vec<&str> = ALLOWED.iter().flat_map(|group| group.iter().copied()).collect();
    let mut rules = vec![
        allow(&names, Value::Array(Vec::new())),
        allow(
            &["clone"],
            json!([{ "index": 0, "value": NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }]),
        ),
        json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }),
        // Three rules, because the conditions of one are joined by "and".
        allow(
            &["socket"],
            json!([{ "index": 0, "value": AF_ALG, "op": "SCMP_CMP_LT" }]),
        ),
        allow(
            &["socket"],
            json!([{ "index": 0, "value": AF_ALG + 1, "op": "SCMP_CMP_EQ" }]),
        ),
        allow(
            &["socket"],
            json!([{ "index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_GT" }]),
        ),
    ];
    for value in PERSONALITIES {
        rules.push(allow(
            &["personality"],
            json!([{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }]),
        ));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures(),
        "syscalls": rules,
    })
}

fn allow(names: &[&str], args: Value) -> Value {
    let mut rule = json!({ "names": names, "action": "SCMP_ACT_ALLOW" });
    if args.as_array().is_some_and(|args| !args.is_empty()) {
        rule["args"] = args;
    }
    rule
}

/// The machine's own calls only. 32-bit programs are ended at their first call: nobody builds images for them, they are a
/// second way into every call, and telling both sorts apart costs a fifth of a container's start.
fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64"],
        "aarch64" => &["SCMP_ARCH_AARCH64"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_call_is_named_once_and_dangerous_ones_never() {
        let names: Vec<&str> = ALLOWED.iter().flat_map(|group| group.iter().copied()).collect();
        let unique: HashSet<&str> = names.iter().copied().collect();
        assert_eq!(unique.len(), names.len());
        for call in [
            "mount",
            "umount2",
            "fsopen",
            "fsmount",
            "move_mount",
            "open_tree",
            "mount_setattr",
            "pivot_root",
            "unshare",
            "setns",
            "clone",
            "clone3",
            "socket",
            "personality",
            "keyctl",
            "add_key",
            "request_key",
            "bpf",
            "perf_event_open",
            "init_module",
            "finit_module",
            "delete_module",
            "kexec_load",
            "reboot",
            "swapon",
            "userfaultfd",
            "io_uring_setup",
            "name_to_handle_at",
            "open_by_handle_at",
            "settimeofday",
            "clock_settime",
            "acct",
            "quotactl",
            "syslog",
            "vhangup",
            "sethostname",
            "iopl",
            "ioperm",
            "lookup_dcookie",
            "fanotify_init",
        ] {
            assert!(!unique.contains(call), "{call}");
        }
    }
}
