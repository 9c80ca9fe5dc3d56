"""One machine at a time works on an experiment of a store, and one that is gone is taken over."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resources.machine.claims import ClaimedError
from resources.remote import lease
from resources.remote.lease import LeasedError, hold_lease, read_home
from resources.remote.manifest import StoreError
from resources.remote.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a folder."""
    return Store(f"file://{tmp_path}/bucket", patience=0)


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """The data of a machine."""
    return tmp_path / "one"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The data of another one."""
    return tmp_path / "other"


def read_lease(store: Store, number: int) -> dict:
    content = store.read(f"experiments/tiny/leases/{number:06d}.json")
    assert content is not None
    return json.loads(content)


def test_a_second_machine_is_refused_while_the_first_one_works(store: Store, one: Path, other: Path) -> None:
    with hold_lease(store, one, "tiny", what="lance run tiny"):
        told = r"tiny in file://.* is worked on by another machine: process \d+ on .* \(lance run tiny\), last heard of"
        with pytest.raises(LeasedError, match=told) as caught, hold_lease(store, other, "tiny", what="again"):
            pytest.fail("it has the lease too")
        assert "it is taken over 600 s from now" in str(caught.value) or "599 s" in str(caught.value)
        assert isinstance(caught.value, ClaimedError)
        with hold_lease(store, other, "another", what="another experiment"):
            """Each experiment has a lease of its own."""
    with hold_lease(store, other, "tiny", what="then"):
        assert read_lease(store, 2)["home"] == read_home(other)
    assert read_lease(store, 1)["is_ended"]
    assert read_lease(store, 2)["is_ended"]


def test_without_a_store_nothing_is_held(one: Path) -> None:
    with hold_lease(None, one, "tiny", what="a"):
        assert not one.exists()


def test_processes_of_one_home_share_it(store: Store, one: Path, other: Path) -> None:
    """A run is inside of its command; and what another process of the home goes on with stays its own."""
    with hold_lease(store, one, "tiny", what="command"):
        with hold_lease(store, one, "tiny", what="run"):
            """The same process."""
        assert not read_lease(store, 1)["is_ended"]
    ask = "import sys; from pathlib import Path; from resources.remote.lease import hold_lease\n"
    ask += "from resources.remote.store import Store\n"
    ask += "with hold_lease(Store(sys.argv[1]), Path(sys.argv[2]), 'tiny', what='b', is_shared=lambda: True): pass"
    with hold_lease(store, one, "tiny", what="first"):
        subprocess.run([sys.executable, "-c", ask, str(store), str(one)], check=True)
        with pytest.raises(LeasedError), hold_lease(store, other, "tiny", what="again"):
            pytest.fail("it has the lease too")


def test_a_machine_that_was_not_heard_of_is_taken_over(
    store: Store, one: Path, other: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lease, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(lease, "TOUCH_SECONDS", 3600.0)
    with hold_lease(store, one, "tiny", what="a"):
        with pytest.raises(LeasedError), hold_lease(store, other, "tiny", what="b"):
            pytest.fail("it has the lease too")
        time.sleep(0.4)
        with hold_lease(store, other, "tiny", what="b"):
            """It is its own now."""
        assert read_lease(store, 2)["what"] == "b"
    assert not read_lease(store, 1)["is_ended"]
    monkeypatch.setattr(lease, "TOUCH_SECONDS", 0.05)
    with hold_lease(store, one, "tiny", what="c"):
        store.create("experiments/tiny/leases/000004.json", b"{}")
        until = time.monotonic() + 10
        said = ""
        while "was taken over by another machine" not in said and time.monotonic() < until:
            said += capfd.readouterr().out
            time.sleep(0.02)
    assert "what this one makes will be refused there: end it" in said


def test_who_works_is_heard_of(store: Store, one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TOUCH_SECONDS", 0.02)
    with hold_lease(store, one, "tiny", what="a"):
        before = read_lease(store, 1)["touched"]
        until = time.monotonic() + 10
        while read_lease(store, 1)["touched"] == before and time.monotonic() < until:
            time.sleep(0.02)
        assert read_lease(store, 1)["touched"] > before


def test_a_killed_home_goes_on_at_once(store: Store, one: Path) -> None:
    left = {"home": read_home(one), "host": "h", "pid": 1, "what": "a", "since": time.time(), "touched": time.time()}
    store.create("experiments/tiny/leases/000001.json", json.dumps(left).encode())
    with hold_lease(store, one, "tiny", what="again"):
        assert store.read("experiments/tiny/leases/000002.json") is None
    assert read_lease(store, 1)["is_ended"]


TAKE = """
import sys, time
from pathlib import Path
from resources.remote.lease import LeasedError, hold_lease
from resources.remote.store import Store
time.sleep(max(0.0, float(sys.argv[3]) - time.time()))
try:
    with hold_lease(Store(sys.argv[1]), Path(sys.argv[2]), "tiny", what="b"):
        print("held")
        time.sleep(2)
except LeasedError:
    print("refused")
"""


@pytest.mark.slow
def test_of_many_that_take_it_at_once_one_has_it(store: Store, tmp_path: Path) -> None:
    start = str(time.time() + 4)
    asked = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE, str(store), str(tmp_path / str(number)), start],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in asked)
    assert said == ["held", "refused", "refused", "refused"]


def test_what_is_no_lease_is_told(store: Store, one: Path) -> None:
    store.create("experiments/tiny/leases/000001.json", b"{")
    with pytest.raises(StoreError, match=r"000001.json is no lease .* remove it where no machine works"):
        hold_lease(store, one, "tiny", what="a").__enter__()
