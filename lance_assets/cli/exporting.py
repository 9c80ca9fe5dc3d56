"""What `lance export` does: a round's training sets or its checkpoint as a folder, and that folder on a hub."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from lance_assets.rounds.finished.card import write_model_card
from lance_assets.rounds.finished.export import SOURCES, export_data
from lance_assets.rounds.plan import Plan
from lance_assets.rounds.platform import Platform
from lance_assets.rounds.round import Round
from resources.stores.checkpoints import list_hashed_files
from resources.stores.files import write_file_atomically

CARD = "README.md"
"""The file of a card."""


def write_data(
    plan: Plan,
    platform: Platform,
    round_key: str,
    folder: Path,
    *,
    sources: Sequence[str],
    licence: str | None,
    say: Callable[[str], None],
) -> None:
    """Write a round's training sets into an empty folder, the card last.

    Raises:
        ValueError: there is nothing to export, or the folder holds something else.
        OSError: the round has not made its sets, or the disk is full.
    """
    files = export_data(plan, platform, round_key, sources=sources or SOURCES, licence=licence)
    _prepare(folder, set(files))
    for name, content in sorted(files.items(), key=lambda file: file[0] == CARD):
        write_file_atomically(folder / name, content)
        say(f"{folder / name}: {len(content):,} bytes")


def write_checkpoint(
    plan: Plan, platform: Platform, round_key: str, folder: Path, *, licence: str | None, say: Callable[[str], None]
) -> None:
    """Copy a round's checkpoint into an empty folder, the card last.

    Raises:
        ValueError: the folder holds something else.
        OSError: the round has published no checkpoint, or the disk is full.
    """
    this_round = Round(plan, platform, round_key, lambda _: None)
    card = write_model_card(this_round, licence=licence)
    files = list_hashed_files(platform.checkpoints.find(plan.name, round_key))
    _prepare(folder, {CARD, *(file.name for file in files)})
    for file in files:
        shutil.copyfile(file, folder / file.name)
        say(f"{folder / file.name}: {file.stat().st_size:,} bytes")
    write_file_atomically(folder / CARD, card.encode())
    say(f"{folder / CARD}: {len(card.encode()):,} bytes")


def push(folder: Path, repository: str, *, repo_type: str, is_private: bool, say: Callable[[str], None]) -> None:
    """Put a folder on the hub as one commit; the repository is created where it is missing.

    Args:
        folder: what was exported.
        repository: "owner/name".
        repo_type: "dataset" or "model".
        is_private: whether a new repository is private.
        say: takes the address.

    Raises:
        ValueError: the name is none, or the hub refuses; the message says which command signs in.
        OSError: the hub cannot be reached.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    api = HfApi()
    try:
        api.create_repo(repository, repo_type=repo_type, private=is_private, exist_ok=True)
        done = api.upload_folder(folder_path=folder, repo_id=repository, repo_type=repo_type)
    except HFValidationError as error:
        raise ValueError(f"--push takes owner/name, got {repository!r}: {error}") from error
    except OfflineModeIsEnabled as error:
        raise OSError("--push needs the hub, and HF_HUB_OFFLINE forbids it; unset the variable") from error
    except httpx2.TransportError as error:
        raise OSError(f"the hub cannot be reached ({error}); {folder} is complete, so push it later") from error
    except HfHubHTTPError as error:
        raise ValueError(
            f"the hub refused {repository!r}: {error}. The folder {folder} is complete. Sign in by `hf auth login` or "
            "set HF_TOKEN, then repeat the command"
        ) from error
    say(f"pushed to {done.commit_url}")


def _prepare(folder: Path, names: set[str]) -> None:
    """Make the folder; one that holds other files than those of an earlier export is refused."""
    if folder.is_dir():
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        if others := sorted(found - names):
            raise ValueError(
                f"{folder} holds {', '.join(others[:3])}{' and more' if len(others) > 3 else ''}, which this export "
                "does not write; name an empty folder, so that the export is whole and holds nothing else"
            )
    folder.mkdir(parents=True, exist_ok=True)
