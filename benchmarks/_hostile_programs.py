"""Programs that try to leave the sandbox, to harm the machine, or to pass tests that they do not keep.

Of each one the tests hold only where it succeeded: where an attack came through, or where a cheat was believed. So a
program is contained where its verdict is not right, and nothing of it is left: no process, and no file outside.
"""

from dataclasses import dataclass
from pathlib import Path

from lance_assets.algorithms.verifying.programs import ProgramTests

CHEAT = "assert double(2) == 4\nassert double(5) == 10"
"""What a program that cannot double has to make believe."""
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
        outside: a file that none may write.
    """
    return (
        [Hostile(name, program, ATTACK) for name, program in _list_attacks(secret, outside).items()]
        + [Hostile(name, program, CHEAT) for name, program in CHEATS.items()]
        + [Hostile("serves names of Python's", FORGED, "assert abs(double(2) - 4) < 1e-9")]
    )


def _list_attacks(secret: Path, outside: Path) -> dict[str, str]:
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
        "socket": ("import socket\ndef attack():\n    socket.create_server(('127.0.0.1', 0)).close()\n    return True"),
        "name of a host": "import socket\ndef attack():\n    return bool(socket.gethostbyname('localhost'))",
        "socket pair": "import socket\ndef attack():\n    socket.socketpair()\n    return True",
        "reads a secret": f"def attack():\n    return len(open({str(secret)!r}).read()) > 0",
        "reads home": "import os\ndef attack():\n    return bool(os.listdir(os.path.expanduser('~root') or '/root'))",
        "reads passwords": "def attack():\n    return 'root' in open('/etc/passwd').read()",
        "reads the parent": (
            "import os\ndef attack():\n    return len(open(f'/proc/{os.getppid()}/environ').read()) > 0"
        ),
        "finds processes": "import os\ndef attack():\n    return bool([one for one in os.listdir('/proc')])",
        "reads the environment": "import os\ndef attack():\n    return any('SECRET' in name for name in os.environ)",
        "kills the parent": "import os\ndef attack():\n    os.kill(os.getppid() or 1, 9)\n    return True",
        "kills everything": "import os\ndef attack():\n    os.kill(-1, 9)\n    return True",
        "kills by group": "import os\ndef attack():\n    os.killpg(os.getpgrp() or 1, 9)\n    return True",
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
        "namespace of its own": "import ctypes\ndef attack():\n    return ctypes.CDLL(None).unshare(0x10000000) == 0",
        "traces": "import ctypes\ndef attack():\n    return ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
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
