"""A model's tokenizer, loaded as every engine needs it, or refused with words."""

from pathlib import Path
from typing import TYPE_CHECKING

from resources.engines.contract import ModelLoadError, ModelWithoutChatTemplateError
from resources.models.foreign_code import WITHOUT_CODE, ForeignCodeError, is_of_the_folder, refuse_foreign_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_folder(model_path: Path) -> None:
    """Check that a folder has a configuration and names no code.

    Raises:
        ModelLoadError: it has none, or names some.
    """
    if not (model_path / "config.json").is_file():
        raise ModelLoadError(f"{model_path} is not a model folder: it has no config.json; name a folder that has one")
    try:
        refuse_foreign_code(model_path)
    except ForeignCodeError as error:
        raise ModelLoadError(str(error)) from error


def load_tokenizer(model_path: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model that is to be asked messages.

    Raises:
        ModelLoadError: no model folder, or a broken tokenizer.
        ModelWithoutChatTemplateError: no chat template.
    """
    check_folder(model_path)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path, local_files_only=True, **WITHOUT_CODE)
    except Exception as error:
        if not is_of_the_folder(error):
            raise
        raise ModelLoadError(
            f"the tokenizer at {model_path} cannot be loaded: {_describe(error)}; copy it again"
        ) from error
    if tokenizer.chat_template is None:
        raise ModelWithoutChatTemplateError(
            f"the model at {model_path} has no chat template, so it cannot be asked messages; "
            "use its instruction-tuned variant, or put a chat_template.jinja into the folder"
        )
    return tokenizer


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"
