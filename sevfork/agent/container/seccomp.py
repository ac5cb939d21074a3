"""Which system calls the workload has: an allow-list, as runc's and podman's usual one.

It is the list that container engines agree on for x86-64, less what is of no use without the
capabilities that the bundle leaves out, and less what programs try and do without, and CRIU cannot
carry. What is not on the list fails as if the kernel did not know it (ENOSYS), so that programs and
libraries take the way that they have for older kernels. Considered one by one: ``docs/engine.md``.
"""

from __future__ import annotations

from errno import EAFNOSUPPORT, ENOSYS, EPERM

FILES = """
access chdir chmod chown chroot close close_range copy_file_range creat dup dup2 dup3 faccessat
faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync
fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd
getdents getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl
lchown lgetxattr link linkat listxattr llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat
mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 pwrite64
pwritev pwritev2 read readahead readlink readlinkat readv removexattr rename renameat renameat2
rmdir sendfile setxattr splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee
truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev
"""
WAITING = """
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
epoll_wait_old eventfd eventfd2 futex futex_requeue futex_wait futex_waitv futex_wake
get_robust_list io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit pause pipe pipe2
poll ppoll pselect6 select set_robust_list signalfd signalfd4 timerfd_create timerfd_gettime
timerfd_settime
"""
MEMORY = """
brk cachestat madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap
msync munlock munlockall munmap remap_file_pages
"""
PROCESSES = """
alarm arch_prctl capget capset execve execveat exit exit_group fork getcpu getegid geteuid getgid
getgroups getitimer getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit
getrusage getsid gettid getuid ioprio_get ioprio_set kill modify_ldt pidfd_open pidfd_send_signal
prctl prlimit64 process_mrelease process_vm_readv process_vm_writev ptrace restart_syscall rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity
sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_thread_area set_tid_address
setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid
setreuid setrlimit setsid setuid sigaltstack tgkill tkill vfork wait4 waitid get_thread_area
"""
MESSAGES = """
accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg recvmsg
semctl semget semop semtimedop sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown
socketpair
"""
TIME_AND_SYSTEM = """
adjtimex clock_adjtime clock_getres clock_gettime clock_nanosleep getrandom gettimeofday nanosleep
sysinfo time timer_create timer_delete timer_getoverrun timer_gettime timer_settime times uname
"""
ALLOWED = (FILES, WAITING, MEMORY, PROCESSES, MESSAGES, TIME_AND_SYSTEM)
IO_URING = "io_uring_enter io_uring_register io_uring_setup"
# What a program is told without the capability, as container engines and the kernel itself say it:
# a program that has to do without them asks for EPERM.
FORBIDDEN = """
acct add_key bpf clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen
fspick init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl mount mount_setattr move_mount
open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise quotactl
quotactl_fd reboot request_key setdomainname sethostname setns settimeofday swapoff swapon syslog
umount2 unshare userfaultfd vhangup
"""

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET
_AF_NETLINK = 16  # above it: packets, kernel cryptography, vsock to the host, XDP, ...
# PER_LINUX, PER_LINUX32, both with UNAME26, and the question which one it is.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


def profile(*, io_uring: bool) -> dict[str, object]:
    """``linux.seccomp`` of the bundle's configuration. Programs of 32 bits are killed."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            _allow(" ".join(ALLOWED)),
            *([_allow(IO_URING)] if io_uring else []),
            _refuse(FORBIDDEN, EPERM),
            # clone3 hides its flags from a filter; without it the C library takes clone.
            _allow("clone", _first("SCMP_CMP_MASKED_EQ", _NEW_NAMESPACES)),
            *(_allow("personality", _first("SCMP_CMP_EQ", it)) for it in _PERSONALITIES),
            _allow("socket", _first("SCMP_CMP_LE", _AF_NETLINK)),
            _refuse("socket", EAFNOSUPPORT, _first("SCMP_CMP_GT", _AF_NETLINK)),
        ],
    }


def _first(operator: str, value: int) -> dict[str, object]:
    """A condition on the first argument; MASKED_EQ: none of the bits of ``value`` is set."""
    return {"index": 0, "value": value, "op": operator}


def _allow(names: str, *conditions: dict[str, object]) -> dict[str, object]:
    return {"names": names.split(), "action": "SCMP_ACT_ALLOW", "args": list(conditions)}


def _refuse(names: str, errno: int, *conditions: dict[str, object]) -> dict[str, object]:
    refusal = {"action": "SCMP_ACT_ERRNO", "errnoRet": errno}
    return {"names": names.split(), **refusal, "args": list(conditions)}
