"""lm-evaluation-harness, confined: `python -m resources.evaluation.harness_worker JOB`.

JOB is a JSON file with `allow_task_code`, the tag with which the model's chat template `opens` a thought, and `runs`,
each with the `arguments` of the harness's command `run` and the file that what it has `taken` is written to: the
seconds of its requests and the GPU's memory. All runs are of one model, which is loaded once.

The harness (0.4.13) takes task files for code of its own: it renders their templates in a Jinja environment where
`{{ cycler.__init__.__globals__.os }}` gives a module, imports what `!function` names, and loads an unknown metric as a
script. What comes before it starts, in its process:

1. Templates are rendered in Jinja's sandbox, whatever is allowed.
2. Unless `allow_task_code` is true, a function outside the harness's package and a metric that is a script are errors.
   `lance_assets.settings.task_files` finds both when the experiment loads; here nothing depends on that.

3. Chat markup in an item, which the harness tokenizes with its own markup, is broken (`resources.models.chat_markup`).
4. What the model thinks is left out before its answer is read (`harness_thoughts`).

The harness has an option for code of models (`--trust_remote_code`), which is not given, and none for that of tasks.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from resources.evaluation.lean_harness import import_harness
from resources.evaluation.request_clock import RequestClock
from resources.machine.processes import end_with_stdin, measure_own_peak
from resources.models.chat_markup import guard_turns


class TaskCodeError(ValueError):
    """A task file would run code, and the experiment does not allow it."""


def confine(*, allows_code: bool) -> None:
    """Put the sandbox in place of the harness's templates and, unless it is allowed, take code away from tasks."""
    import_harness()
    import evaluate
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils
    from lm_eval.tasks import _yaml_loader

    sandbox = SandboxedEnvironment(
        loader=utils.env.loader, undefined=utils.env.undefined, keep_trailing_newline=utils.env.keep_trailing_newline
    )
    sandbox.filters.update(utils.env.filters)
    utils.env = sandbox
    if not allows_code:
        _yaml_loader._import_func_in_yml = _refuse_functions(_yaml_loader._import_func_in_yml)
        evaluate.load = _refuse_scripts(evaluate.load)


def _refuse(name: str) -> NoReturn:
    raise TaskCodeError(
        f"{name} would run Python, and evaluation.allow_task_code is false; read it, then set it to true in defs.yaml"
    )


def _refuse_functions(load: Callable[[str, Path], Any]) -> Callable[[str, Path], Any]:
    import lm_eval

    own = Path(str(lm_eval.__file__)).resolve().parent

    def load_own(qual: str, base_dir: Path) -> Any:
        if own not in base_dir.resolve().parents:
            _refuse(f"{base_dir}: !function {qual}")
        return load(qual, base_dir)

    return load_own


def _refuse_scripts(load: Callable[..., Any]) -> Callable[..., Any]:
    def load_known(path: str, *given: object, **options: object) -> Any:
        if "/" in path or Path(path).exists():
            _refuse(f"the metric {path}")
        return load(path, *given, **options)

    return load_known


def load_once(model: type[Any]) -> None:
    """Let a class of models give the same model for the same arguments, which are those of every run."""
    create = model.create_from_arg_obj
    loaded: dict[str, Any] = {}

    def create_once(arguments: dict[str, Any], additional: dict[str, Any] | None = None) -> Any:
        key = repr((arguments, additional))
        if key not in loaded:
            loaded[key] = create(arguments, additional)
        return loaded[key]

    model.create_from_arg_obj = create_once


def main() -> None:
    """Confine the harness, and run its own command line for each run of the job."""
    end_with_stdin()
    job = json.loads(Path(sys.argv[1]).read_text())
    confine(allows_code=job["allow_task_code"])
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.filter import FilterEnsemble
    from lm_eval.models.huggingface import HFLM

    # The harness finds both by their names.
    from resources.evaluation.engine_model import EngineModel
    from resources.evaluation.harness_model import BatchedModel
    from resources.evaluation.harness_thoughts import keep_tags, leave_thoughts_out
    from resources.evaluation.task_index import remember_tasks

    remember_tasks()
    HFLM.apply_chat_template = guard_turns(HFLM.apply_chat_template)
    HFLM.tok_decode = keep_tags(HFLM.tok_decode)
    FilterEnsemble.apply = leave_thoughts_out(FilterEnsemble.apply, job["opens"])
    clock = RequestClock()
    # The derived classes first: they would otherwise inherit methods that are changed already.
    for model in (BatchedModel, EngineModel, HFLM):
        clock.watch(model)
        load_once(model)
    for run in job["runs"]:
        clock.seconds = 0.0
        sys.argv[1:] = ["run", *run["arguments"]]
        cli_evaluate()
        taken = {"seconds": clock.seconds, "peak_gpu_gib": measure_own_peak().gpu_gib}
        Path(run["taken"]).write_text(json.dumps(taken))


if __name__ == "__main__":
    main()
