"""A store: any address that fsspec knows, such as a bucket, written so that a reader sees one state or the next.

Under the address lie

* `objects/<2 digits>/<sha256>`: the files of all experiments, each once, by their hash;
* `experiments/<name>/<number>.json`: the states of an experiment, of which the one with the highest number counts;
* `experiments/<name>/newest`: the number of a state that was the newest, so that a reader looks on from there;
* `lance-store.json`: the version of this layout.

A state is published by one write that is refused where its number is taken (`If-None-Match: *` of S3). It comes after
the objects that it names. So two writers cannot take each other's place unseen, and a write that was broken off leaves
objects that the next one finds. Nothing is listed, renamed or removed. A state is never overwritten, and an object only
where it is not what its hash says. `newest` is written again with each state, and a lease by its holder. S3, Google,
Azure and a file system refuse the write of a state so. Others of fsspec look before they write, so that one writer at a
time has to do.

An object above `LOOK_FIRST_BYTES` is hashed while it is sent, and takes its name only where the hash is right; where a
file system of fsspec knows no such end of a write, it is found out at the next one. One that is there already is read
before it is taken as sent.

fsspec was here already, and knows any address. obstore has the same conditional write and more (`If-Match`); it knows
the three clouds, files and memory.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

from lance_assets.keys import hide_secrets
from resources.remote.manifest import DamagedObjectError, Entry, Manifest, StoreError, decode_manifest
from resources.stores.files import (
    explain_full_disk,
    flush_to_disk,
    hash_whole,
    validate_name,
    write_file_atomically,
)

PATIENCE_SECONDS = 180.0
"""So long a call to a store that does not answer is tried again."""
LONGEST_WAIT = 10.0
"""Seconds between two tries, at most."""
LOOK_FIRST_BYTES = 2**20
"""An object above it is looked for before it is sent; a smaller one is sent, and refused where it is there."""
BLOCK_BYTES = 2**20
"""So much of a larger one is read at once."""
MARKER = "lance-store.json"
_MARKED = b'{"format": 1}\n'
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_FINAL_NAMES = {
    *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError", "InvalidRegionError"),
    *("DefaultCredentialsError", "CredentialRetrievalError"),
}
"""Errors of clouds' libraries that no second try mends, by name: the libraries may not be installed."""
Result = TypeVar("Result")


class UnreachableStoreError(StoreError):
    """A store did not answer for as long as it was tried."""


class ChangedFileError(OSError):
    """A file was changed or removed before it was sent."""


def is_address(text: str) -> bool:
    """Whether a text is an address of fsspec, and no path."""
    return "://" in text


def check_address(url: str) -> str:
    """An address that may be kept in files and shown.

    Raises:
        ValueError: it is none, or holds a key.
    """
    parts = urlsplit(url)
    if not is_address(url) or parts.query or parts.fragment:
        raise ValueError(f"a store is an address like s3://bucket/lance, got {hide_secrets(repr(url))}")
    if parts.username or parts.password:
        raise ValueError(
            "the address of a store must hold no key; give it in the environment or in the files of the store's "
            "own tools, such as AWS_ACCESS_KEY_ID or ~/.aws for S3"
        )
    return url


@dataclass(frozen=True)
class Store:
    """The experiments under an address."""

    url: str
    """The address, such as `s3://bucket/lance` or `file:///mnt/lance`."""
    patience: float = PATIENCE_SECONDS
    """Seconds for which a call is tried again, 0 or more."""

    def __post_init__(self) -> None:
        """Check the address, as `check_address`."""
        check_address(self.url)

    def __str__(self) -> str:
        """The address."""
        return self.url

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The file system of fsspec, and the path in it."""
        from fsspec.core import url_to_fs

        protocol = urlsplit(self.url).scheme
        try:
            # A file system does not make folders by itself; a bucket has none.
            file_system, path = url_to_fs(self.url, **({"auto_mkdir": True} if protocol in ("file", "local") else {}))
        except ImportError as error:
            extra = "pip install -c constraints.txt -e '.[s3]'" if protocol in ("s3", "s3a") else str(error)
            raise StoreError(f"{self.url} needs a library that is not installed: {extra}") from error
        except ValueError as error:
            raise ValueError(f"{self.url} is no address that fsspec knows ({error}); write s3://bucket/path") from error
        return file_system, str(path).rstrip("/")

    @property
    def _is_local(self) -> bool:
        return urlsplit(self.url).scheme in ("file", "local")

    def read(self, name: str) -> bytes | None:
        """What lies under a name; None where nothing does.

        Raises:
            StoreError: the store cannot be used.
        """
        file_system, root = self._place
        try:
            content: bytes = self._call(f"read {name}", lambda: file_system.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """Put something under a name, in place of what is there."""
        file_system, root = self._place
        if self._is_local:
            return write_file_atomically(Path(root, name), content)
        self._send(f"write {name}", lambda: file_system.pipe_file(f"{root}/{name}", content))
        return None

    def create(self, name: str, content: bytes) -> bool:
        """Put something under a name that holds nothing; whether this call did, or one before it that was not answered.

        Raises:
            StoreError: the store cannot be used.
        """
        file_system, root = self._place

        def send() -> bool:
            try:
                if self._is_local:
                    _link_new(Path(root, name), content)
                else:
                    file_system.pipe_file(f"{root}/{name}", content, mode="create")
            except FileNotFoundError:
                raise
            except OSError as error:
                # Not every store says in the same words that the name is taken; and an answer may have been lost.
                with contextlib.suppress(OSError):
                    return bool(file_system.cat_file(f"{root}/{name}") == content)
                if isinstance(error, FileExistsError):
                    return False
                raise
            return True

        return self._send(f"create {name}", send)

    def has_object(self, entry: Entry) -> bool:
        """Whether an object is there, in its size."""
        file_system, root = self._place
        name = name_object(entry)
        try:
            return bool(
                self._call(f"look for {name}", lambda: file_system.info(f"{root}/{name}"))["size"] == entry.size
            )
        except FileNotFoundError:
            return False

    def put_object(self, file: Path, entry: Entry) -> bool:
        """Send a file, unless its object is there; whether it was sent.

        Raises:
            StoreError: the store cannot be used.
            ChangedFileError: the file was changed or removed meanwhile.
            DiskFullError: the store is a folder, and its disk is full.
        """
        try:
            # The file that is open stays what it is where another takes its name.
            opened = file.open("rb")
        except FileNotFoundError as error:
            raise _refuse_changed(file) from error
        with opened:
            if entry.size > LOOK_FIRST_BYTES:
                if self._has_whole(entry):
                    return False
                if not self._send(f"send {file}", lambda: self._put_whole(opened, entry)):
                    raise _refuse_changed(file)
                return True
            content = opened.read()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise _refuse_changed(file)
        if not self.create(name_object(entry), content):
            # What is there under the hash is not what the hash says: damaged, or half-written by a store that does.
            self.write(name_object(entry), content)
        return True

    def _has_whole(self, entry: Entry) -> bool:
        """Whether an object is there and has its hash; it is read for it."""
        file_system, root = self._place
        name = name_object(entry)

        def read() -> str:
            with file_system.open(f"{root}/{name}", "rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest()

        try:
            return self.has_object(entry) and self._call(f"read {name}", read) == entry.sha256
        except FileNotFoundError:
            return False

    def _put_whole(self, content: BinaryIO, entry: Entry) -> bool:
        """Put what an open file holds under a hash where that is its own; whether it is."""
        file_system, root = self._place
        path = f"{root}/{name_object(entry)}"
        if self._is_local:
            return _copy_checked(content, Path(path), entry)
        target = file_system.open(path, "wb", autocommit=False)
        try:
            is_right = _copy(content, target) == entry.sha256
            target.close()
        except BaseException:
            # Its last part would be sent when Python takes it away.
            for end in (target.discard, target.close):
                with contextlib.suppress(Exception):  # the first error is told
                    end()
            raise
        (target.commit if is_right else target.discard)()
        return is_right

    def fetch_object(self, entry: Entry, to: Path) -> None:
        """Bring an object into a file, whole and with the hash of its name; a broken-off one leaves no such file.

        Raises:
            DamagedObjectError: it is not there, or not what its name says.
            StoreError: the store cannot be used.
            DiskFullError: the disk is full.
        """
        file_system, root = self._place
        name, partial = name_object(entry), to.with_name(f"{to.name}.part")
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            with explain_full_disk(to, num_bytes=entry.size):
                self._call(f"read {name}", lambda: file_system.get_file(f"{root}/{name}", str(partial)))
        except FileNotFoundError as error:
            raise DamagedObjectError(f"{self.url}/{name} is not there; {_BRING_BACK}") from error
        try:
            if (found := hash_whole(partial)) != entry.sha256:
                raise DamagedObjectError(
                    f"{self.url}/{name} is not what was written: its hash is {found[:12]}; remove it, and {_BRING_BACK}"
                )
            flush_to_disk(partial)
            partial.replace(to)
        finally:
            partial.unlink(missing_ok=True)

    def read_newest(self, experiment: str) -> Manifest | None:
        """The newest state of an experiment; None where there is none. Cost: three reads, however many there are.

        Raises:
            ManifestError: it cannot be read.
            StoreError: the store cannot be used.
        """
        validate_name(experiment, what="experiment")
        noted = (self.read(_name_newest(experiment)) or b"").decode("ascii", "replace").strip()
        number = int(noted) if noted.isdecimal() else 0
        content = self.read(name_state(experiment, number)) if number else None
        if content is None:
            number = 0
        # The note is written after the state, so a writer that was killed leaves one that is behind.
        while (following := self.read(name_state(experiment, number + 1))) is not None:
            number, content = number + 1, following
        if content is None:
            return None
        return decode_manifest(content, experiment=experiment, place=f"{self.url}/{name_state(experiment, number)}")

    def publish(self, manifest: Manifest) -> bool:
        """Make a state the newest one; whether it is: not where another writer took its number.

        Raises:
            StoreError: the store cannot be used, or would let two writers overwrite each other.
        """
        if manifest.number == 1:
            self.require_refusal()
        if not self.create(name_state(manifest.experiment, manifest.number), manifest.encode()):
            return False
        # What is published is published: a reader finds it also by a note that is behind.
        with contextlib.suppress(StoreError):
            self.write(_name_newest(manifest.experiment), str(manifest.number).encode())
        return True

    def require_refusal(self) -> None:
        """Check that a write to a name that is taken is refused: some servers write all the same.

        Raises:
            StoreError: it is not, or the store cannot be used.
        """
        self.create(MARKER, _MARKED)
        if self.create(MARKER, _MARKED + b" "):
            raise StoreError(
                f"{self.url} does not refuse a write to a name that is taken (If-None-Match), so that two machines "
                "could overwrite each other; use a server that does, such as S3 itself, or SeaweedFS from 4.48 on"
            )

    def _send(self, doing: str, call: Callable[[], Result]) -> Result:
        """As `_call`, for what writes."""
        try:
            return self._call(doing, call)
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}: cannot {doing}: {error}; make the bucket or folder first") from error

    def _call(self, doing: str, call: Callable[[], Result]) -> Result:
        """Call the store; again where it did not answer, with longer and longer pauses."""
        started, pause = time.monotonic(), 0.2
        while True:
            try:
                return call()
            except Exception as error:  # each of fsspec's file systems has errors of its own
                if isinstance(error, FileNotFoundError | FileExistsError | StoreError):
                    raise
                told = hide_secrets(f"{type(error).__name__}: {error}")
                if isinstance(error, _FINAL) or type(error).__name__ in _FINAL_NAMES:
                    raise StoreError(
                        f"{self.url}: cannot {doing}: {told}; are the credentials in the environment or in the files "
                        "of the store's own tools (for S3: AWS_ACCESS_KEY_ID, AWS_PROFILE, ~/.aws), and do they allow "
                        "it?"
                    ) from error
                if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] == "builtins":
                    raise
                if (waited := time.monotonic() - started) + pause > self.patience:
                    raise UnreachableStoreError(
                        f"{self.url} did not answer for {waited:.0f} s: cannot {doing}: {told}; everything is still in "
                        "the folder of this machine: run the command again once the store answers"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_WAIT)


_BRING_BACK = "send the experiment there again from a machine that has it: lance move EXPERIMENT --to the store"


def name_object(entry: Entry) -> str:
    """Where an object lies in a store."""
    return f"objects/{entry.sha256[:2]}/{entry.sha256}"


def name_state(experiment: str, number: int) -> str:
    """Where a state of an experiment lies in a store."""
    return f"experiments/{experiment}/{number:06d}.json"


def _name_newest(experiment: str) -> str:
    return f"experiments/{experiment}/newest"


def _refuse_changed(file: Path) -> ChangedFileError:
    return ChangedFileError(
        f"{file} was changed or removed while it was sent; end what writes it, and run the command again"
    )


def _copy(content: BinaryIO, target: IO[bytes]) -> str:
    """Copy an open file from its beginning on; the SHA-256 of what was copied."""
    content.seek(0)
    digest = hashlib.sha256()
    while block := content.read(BLOCK_BYTES):
        digest.update(block)
        target.write(block)
    return digest.hexdigest()


def _copy_checked(content: BinaryIO, path: Path, entry: Entry) -> bool:
    """Copy an open file into one that appears whole, and only with the hash that it must have; whether it did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _name_partial(path)
    with explain_full_disk(path, num_bytes=entry.size):
        try:
            with partial.open("wb") as file:
                is_right = _copy(content, file) == entry.sha256
            if is_right:
                flush_to_disk(partial)
                partial.replace(path)
                flush_to_disk(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    return is_right


def _name_partial(path: Path) -> Path:
    """Where a file is written before it appears."""
    return path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")


def _link_new(path: Path, content: bytes) -> None:
    """Write a file that appears whole, where there is none of its name: a link is refused where a rename is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _name_partial(path)
    with explain_full_disk(path, num_bytes=len(content)):
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        flush_to_disk(path.parent)
