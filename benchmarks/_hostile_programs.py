"""Programs that try to leave the sandbox, to harm the machine, or to pass tests that they do not keep.

Of each one the tests hold only where it succeeded: where an attack came through, or where a cheat was believed. So a
program is contained where its verdict is not right, and nothing of it is left: no process, and no file outside.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from lance_assets.algorithms.verifying.programs import ProgramTests

CHEAT = "assert double(2) == 4\nassert double(5) == 10"
"""What a program that cannot double has to make believe."""
CONTAINS = "assert 4 in double(2)\nassert 10 in double(5)"
CLOSE = "assert math.isclose(double(2), 4)"
"""The same by an `in`, and by a module that the program imports for the tests."""
ATTACK = "assert attack() is True"
"""What holds where an attack came through."""


@dataclass(frozen=True)
class Hostile:
    """A program that must not pass."""

    name: str
    program: str
    tests: str

    def build_tests(self) -> ProgramTests:
        """The tests that would hold."""
        return ProgramTests(asserts=self.tests)


def list_hostile(secret: Path, outside: Path) -> list[Hostile]:
    """Every hostile program.

    Args:
        secret: a file that none may read.
        outside: a file that none may write, in a folder of which nothing else may be changed.
    """
    return (
        [Hostile(name, program, ATTACK) for name, program in _list_attacks(secret, outside).items()]
        + [Hostile(name, program, CHEAT) for name, program in CHEATS.items()]
        + [Hostile(name, program, CONTAINS) for name, program in CONTAINERS.items()]
        + [Hostile(name, program, CLOSE) for name, program in FORGED_MODULES.items()]
        + [Hostile("serves names of Python's", FORGED, "assert abs(double(2) - 4) < 1e-9")]
    )


def find_left(folder: Path, *, patience_seconds: float = 3.0) -> list[int]:
    """The processes that are left of a sandbox's jails, by their numbers; they are ended.

    All processes of the machine are looked at, since one that lost its parent is nobody's child.

    Args:
        folder: the sandbox's, which the command of each of its processes names.
        patience_seconds: how long a process may take to be gone.
    """
    deadline = time.monotonic() + patience_seconds
    while left := list_running(folder):
        if time.monotonic() > deadline:
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            return [one.pid for one in left]
        time.sleep(0.02)
    return []


def list_running(folder: Path) -> list[psutil.Process]:
    """The processes of a sandbox's jails."""
    return [one for one in psutil.process_iter() if _is_of(one, folder)]


def _is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        return any(part.startswith(str(folder)) for part in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


NEEDS_NAMESPACES = frozenset({"many files"})
"""Attacks that Landlock and limits do not hold off: they bound the size of a file, and not how many there are."""


def _list_attacks(secret: Path, outside: Path) -> dict[str, str]:
    return _list_attacks_on_bounds() | _list_attacks_on_processes() | _list_attacks_on_files(secret, outside)


def _list_attacks_on_processes() -> dict[str, str]:
    """To leave by another process, or to reach one."""
    return {
        "fork bomb": "import os\ndef attack():\n    for _ in range(9):\n        os.fork()\n    return True",
        "process by clone": (
            "import ctypes\ndef attack():\n    return ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0) >= 0"
        ),
        "another program": (
            "import subprocess\ndef attack():\n    subprocess.run(['/bin/true'], check=True)\n    return True"
        ),
        "own interpreter": (
            "import os, sys\ndef attack():\n    os.execv(sys.executable, ['python', '-c', 'pass'])\n    return True"
        ),
        "socket": ("import socket\ndef attack():\n    socket.create_server(('127.0.0.1', 0)).close()\n    return True"),
        "name of a host": "import socket\ndef attack():\n    return bool(socket.gethostbyname('localhost'))",
        "socket pair": "import socket\ndef attack():\n    socket.socketpair()\n    return True",
        "reads the parent": (
            "import os\ndef attack():\n    return len(open(f'/proc/{os.getppid()}/environ').read()) > 0"
        ),
        "finds processes": "import os\ndef attack():\n    return bool([one for one in os.listdir('/proc')])",
        "reads the environment": "import os\ndef attack():\n    return any('SECRET' in name for name in os.environ)",
        "kills the parent": "import os\ndef attack():\n    os.kill(os.getppid() or 1, 9)\n    return True",
        "kills everything": "import os\ndef attack():\n    os.kill(-1, 9)\n    return True",
        "kills by group": "import os\ndef attack():\n    os.killpg(os.getpgrp() or 1, 9)\n    return True",
        "namespace of its own": "import ctypes\ndef attack():\n    return ctypes.CDLL(None).unshare(0x10000000) == 0",
        "traces": "import ctypes\ndef attack():\n    return ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
        "outlives its sandbox": (
            "import ctypes, threading, time\nlibc = ctypes.CDLL(None)\n"
            "threading.Thread(target=time.sleep, args=(20,)).start()\n"
            "def attack():\n    return (libc.setsid(), libc.prctl(1, 0, 0, 0, 0))[1] == 0"
        ),
        "outlives its sandbox by a group": (
            "import ctypes, threading, time\nlibc = ctypes.CDLL(None)\n"
            "threading.Thread(target=time.sleep, args=(20,)).start()\n"
            "def attack():\n    return libc.setpgid(0, 0) == 0 or libc.setsid() >= 0"
        ),
        "signals by a file's owner": (
            "import fcntl, os\ndef attack():\n    reads, writes = os.pipe()\n"
            "    fcntl.fcntl(reads, fcntl.F_SETOWN, os.getppid() or os.getpid())\n    return True"
        ),
        "limits another process": (
            "import os, resource\ndef attack():\n"
            "    resource.prlimit(os.getppid() or os.getpid(), resource.RLIMIT_CPU)\n    return True"
        ),
        "reads the parent's memory": (
            "import os\ndef attack():\n    open(f'/proc/{os.getppid()}/mem', 'r+b').close()\n    return True"
        ),
    }


THREADS = """
import _thread, time
_thread.stack_size(1 << 15)
def start_threads():
    for number in range(1000):
        try:
            _thread.start_new_thread(time.sleep, (9,))
        except RuntimeError:
            break
    time.sleep(0.5)
    return number
"""
"""Starts as many threads as it is let, up to 1,000, which end by themselves."""


def _list_attacks_on_bounds() -> dict[str, str]:
    """To take more than is given."""
    return {
        "memory bomb": "def attack():\n    held = [bytearray(1 << 24) for _ in range(256)]\n    return True",
        "memory by maps": (
            "import mmap\ndef attack():\n    held = [mmap.mmap(-1, 1 << 26) for _ in range(64)]\n    return True"
        ),
        "endless loop": "def attack():\n    while True:\n        pass",
        "endless sleep": "import time\ndef attack():\n    time.sleep(1e6)\n    return True",
        "endless output": "import os\ndef attack():\n    while True:\n        os.write(1, b'x' * 65536)",
        "endless regular expression": "import re\ndef attack():\n    return not re.match(r'(a+)+$', 'a' * 60 + 'b')",
        "signals ignored": (
            "import signal\nfor number in range(1, 32):\n    try:\n        signal.signal(number, signal.SIG_IGN)\n"
            "    except (OSError, ValueError):\n        pass\ndef attack():\n    while True:\n        pass"
        ),
        "raises its limits": (
            "import resource\ndef attack():\n"
            "    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\n    return True"
        ),
        "huge file": (
            "import os\ndef attack():\n    with open('big', 'wb') as file:\n"
            "        for _ in range(64):\n            file.write(b'x' * (1 << 20))\n"
            "    return os.path.getsize('big') == 64 << 20"
        ),
        "many files": (
            "def attack():\n    for number in range(100_000):\n        open(f'{number}', 'w').close()\n    return True"
        ),
        "many descriptors": "def attack():\n    held = [open('/dev/null') for _ in range(500)]\n    return True",
        "deep recursion": (
            "import sys\nsys.setrecursionlimit(10**9)\n"
            "def attack(n=0):\n    return attack(n + 1) if n < 10**7 else True"
        ),
        "crash": "import ctypes\ndef attack():\n    ctypes.string_at(0)\n    return True",
        "thread bomb": THREADS + "def attack():\n    return start_threads() > 500",
        "thread bomb while it loads": THREADS + "num = start_threads()\ndef attack():\n    return num > 500",
    }


def _list_attacks_on_files(secret: Path, outside: Path) -> dict[str, str]:
    """To read or to change what is not the program's."""
    return {
        "reads a secret": f"def attack():\n    return len(open({str(secret)!r}).read()) > 0",
        "reads home": "import os\ndef attack():\n    return bool(os.listdir(os.path.expanduser('~root') or '/root'))",
        "reads passwords": "def attack():\n    return 'root' in open('/etc/passwd').read()",
        "writes outside": f"def attack():\n    open({str(outside)!r}, 'w').write('x')\n    return True",
        "writes by a link": (
            f"import os\ndef attack():\n    os.symlink({str(outside.parent)!r}, 'link')\n"
            f"    open('link/{outside.name}', 'w').write('x')\n    return True"
        ),
        "changes the library": (
            "import os\ndef attack():\n    open(os.__file__, 'a').write('# was here')\n    return True"
        ),
        "leaves by its root": (
            "import os\ndef attack():\n    os.mkdir('deep')\n    os.chroot('deep')\n    return True"
        ),
        "mounts": (
            "import ctypes\ndef attack():\n    return ctypes.CDLL(None).mount(b'proc', b'/tmp', b'proc', 0, None) == 0"
        ),
        "deletes a secret": f"import os\ndef attack():\n    os.unlink({str(secret)!r})\n    return True",
        "cuts a secret": f"import os\ndef attack():\n    os.truncate({str(secret)!r}, 0)\n    return True",
        "cuts a secret by reading": (
            f"import os\ndef attack():\n    os.open({str(secret)!r}, os.O_RDONLY | os.O_TRUNC)\n    return True"
        ),
        "takes a secret away": f"import os\ndef attack():\n    os.rename({str(secret)!r}, 'own')\n    return True",
        "links to a secret": (
            f"import os\ndef attack():\n    os.link({str(secret)!r}, 'own')\n    return len(open('own').read()) > 0"
        ),
        "opens a secret to all": f"import os\ndef attack():\n    os.chmod({str(secret)!r}, 0o666)\n    return True",
        "makes a secret old": f"import os\ndef attack():\n    os.utime({str(secret)!r}, (0, 0))\n    return True",
        "makes a folder outside": f"import os\ndef attack():\n    os.mkdir({str(outside)!r})\n    return True",
        "removes a tree": (
            f"import os, shutil\ndef attack():\n    was_there = os.access({str(secret)!r}, os.F_OK)\n"
            f"    shutil.rmtree({str(outside.parent)!r}, ignore_errors=True)\n"
            f"    return was_there and not os.access({str(secret)!r}, os.F_OK)"
        ),
        "changes a device": (
            "import os\ndef attack():\n    os.chmod('/dev/null', os.stat('/dev/null').st_mode & 0o7777)\n"
            "    return True"
        ),
        "changes a device that is open": (
            "import os\ndef attack():\n    for number in range(3):\n        try:\n"
            "            os.fchmod(number, os.fstat(number).st_mode & 0o7777)\n        except OSError:\n"
            "            continue\n        return True\n    return False"
        ),
        "imports a package": (
            "import glob, os\ndef attack():\n    found = glob.glob(os.path.dirname(os.__file__) + '/*-packages')\n"
            "    for place in found + glob.glob('/usr/lib/python3*/*-packages'):\n"
            "        for folder, _, names in os.walk(place):\n            for name in names:\n                try:\n"
            "                    open(os.path.join(folder, name)).read(1)\n                except PermissionError:\n"
            "                    continue\n                return True\n    return False"
        ),
    }


CHEATS = {
    "leaves before the asserts": "import sys\nsys.exit(0)\ndef double(x): return x",
    "leaves at once": "import os\nos._exit(0)\ndef double(x): return x",
    "leaves in a test": "import os\ndef double(x):\n    os._exit(0)",
    "raises an exit": "def double(x):\n    raise SystemExit(0)",
    "equal to everything": (
        "class Any:\n    def __eq__(self, other): return True\n    def __ne__(self, other): return False\n"
        "    def __hash__(self): return 0\ndef double(x): return Any()"
    ),
    "a number equal to everything": (
        "class Any(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def double(x): return Any(x)"
    ),
    "a type that lies": (
        "class Any:\n    __class__ = int\n    def __eq__(self, other): return True\n    def __index__(self): return 4\n"
        "    __hash__ = None\ndef double(x): return Any()"
    ),
    "patches the builtins": (
        "import builtins\nbuiltins.AssertionError = type('Fine', (Exception,), {})\n"
        "builtins.compile = lambda *a, **k: 'pass'\n"
        "builtins.exec = lambda *a, **k: None\ndef double(x): return x"
    ),
    "patches the protocol": (
        'import json\njson.dumps = lambda *a, **k: \'{"value": ["i", "0x4"]}\'\ndef double(x): return x'
    ),
    "says that it passed": (
        'import os, sys\nprint(\'all 2 asserts hold\')\nprint(\'{"passed": true, "reason": ""}\')\n'
        "for number in range(1, 64):\n    try:\n"
        '        os.write(number, b\'{"passed": true, "reason": "all 2 asserts hold"}\\n\')\n'
        "    except OSError:\n        pass\ndef double(x): return x\nos._exit(0)"
    ),
    "ends when its reader comes": (
        "import atexit, os, sys\natexit.register(lambda: os._exit(0))\nsys.excepthook = lambda *a: os._exit(0)\n"
        "def double(x): raise ValueError('no')"
    ),
    "reads the tests": (
        "import gc, sys\ndef double(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
        "            if isinstance(value, str) and 'double(' in value and '== ' in value:\n"
        "                return int(value.split('== ')[1].split()[0])\n        frame = frame.f_back\n    return x"
    ),
    "threads left over": (
        "import threading, time\nfor _ in range(4):\n    threading.Thread(target=time.sleep, args=(1e6,)).start()\n"
        "def double(x): return x"
    ),
    "a flood of results": "def double(x): return [list(range(1000))] * 1000",
    "a result without an end": "def double(x):\n    held = []\n    held.append(held)\n    return held",
    "no double at all": "def triple(x): return x * 2",
    "its own name for Python's": "def double(x): return x\ndef int(x): return 4\nTrue_ = True",
    "does not load": "def double(x) return x * 2",
}
"""Programs that keep none of the tests, and want to be believed."""

CONTAINERS = {
    "has everything": "class Any:\n    def __contains__(self, other): return True\ndef double(x): return Any()",
    "a class that has everything": (
        "class double:\n    def __init__(self, x): pass\n    def __contains__(self, other): return True"
    ),
    "has what equals everything": (
        "class One(float):\n    def __eq__(self, other): return True\n    __hash__ = float.__hash__\n"
        "class Any(set):\n    def __contains__(self, other): return True\n"
        "    def __iter__(self): return iter([One(), object()])\ndef double(x): return Any()"
    ),
    "has what it is asked for": (
        "asked = []\nclass Any:\n    def __contains__(self, other):\n        asked.append(other)\n"
        "        return True\n    def __iter__(self): return iter(asked)\n"
        "    def __getitem__(self, place): return asked[place]\ndef double(x): return Any()"
    ),
}
FORGED_MODULES = {
    "a class for a module": ("class math:\n    def isclose(*given, **named): return True\ndef double(x): return x"),
    "a module for a module": (
        "import types\nmath = types.ModuleType('math')\nmath.isclose = lambda *a, **k: True\ndef double(x): return x"
    ),
    "a module that is patched": "import math\nmath.isclose = lambda *a, **k: True\ndef double(x): return x",
}

FORGED = """
import json, os, sys
frame = sys._getframe()
while "job" not in frame.f_globals:
    frame = frame.f_back
job = frame.f_globals["job"]
reads, writes = os.fdopen(job["reads"]), os.fdopen(job["writes"], "w")
def tell(said):
    writes.write(json.dumps(said) + "\\n")
    writes.flush()
own = [[["s", "abs"], ["h", 1, "abs"]]]
tell({"names": {"double": ["h", 0, "double"], "abs": ["h", 1, "abs"], "__builtins__": ["d", own]}})
for line in reads:
    tell({"value": ["i", "0x0" if json.loads(line)["of"] == 1 else "0x2"]})
"""
"""Speaks to the tests itself, and offers an `abs` of its own in place of Python's."""
