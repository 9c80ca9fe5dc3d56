"""Where the name of a model leads: folders, GGUF files, the hub's cache, and what was taken out of a package."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resources.models.finding import UnknownModelError, find_model_here, find_obtained, resolve_model
from resources.models.gguf_files import CONVERTER, SOURCE
from resources.stores.checkpoints import NotACheckpointError


def test_resolve_a_folder(model: Path, tmp_path: Path) -> None:
    assert resolve_model("model", base=tmp_path, revision=None) == model
    assert resolve_model("./model", base=tmp_path, revision=None) == model
    assert resolve_model(str(model), base=tmp_path / "elsewhere", revision=None) == model
    with pytest.raises(NotACheckpointError, match="is not a folder"):
        resolve_model("model/config.json", base=tmp_path, revision=None)


@pytest.mark.parametrize("name", ["../none", "/none/such", "", "a/b/c", "~/none_such"])
def test_resolve_a_folder_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises((UnknownModelError, NotACheckpointError)):
        resolve_model(name, base=tmp_path, revision=None)


@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", "no_such_model", "spaces are/wrong"])
def test_unknown_model(tmp_path: Path, name: str) -> None:
    script = (
        "import sys; from pathlib import Path; from resources.models.finding import *\n"
        "try: resolve_model(sys.argv[1], base=Path(sys.argv[2]), revision=None)\n"
        "except UnknownModelError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, name, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith(f"unknown model {name!r} (revision main): not a folder ({tmp_path / name})"), done
    assert "not in the hub's cache, hub not reachable" in done.stdout


def test_resolve_from_the_hubs_cache(model: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    shutil.copytree(model, repository / "snapshots" / ("a" * 40))
    script = "from resources.models.finding import *; print(resolve_model('owner/name', base=None, revision=None))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(repository / "snapshots" / ("a" * 40)), done.stderr


def test_what_was_taken_out_of_a_package_stands_for_its_hub_id(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANCE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert find_model_here("owner/name", base=None, revision=None) is None
    folder = find_obtained("owner/name")
    shutil.copytree(model, folder)
    # Without the file that is written last, the folder may be half of a model.
    assert find_model_here("owner/name", base=None, revision=None) is None
    # By the rules of an earlier day it may be another model.
    (folder / SOURCE).write_text("{}")
    assert find_model_here("owner/name", base=None, revision=None) is None
    with pytest.raises(UnknownModelError, match=r"--name was converted by earlier rules.*`lance model owner/name`"):
        resolve_model("owner/name", base=tmp_path, revision=None)
    (folder / SOURCE).write_text(json.dumps({"converter": CONVERTER}))
    assert find_model_here("owner/name", base=None, revision=None) == folder
    assert resolve_model("owner/name", base=tmp_path, revision=None) == folder
