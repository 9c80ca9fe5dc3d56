"""The prompts of lm-evaluation-harness tasks: `python -m resources.evaluation.task_prompts_worker JOB`.

JOB is a JSON file with `tasks`, `include_path` (or null), `allow_task_code` and `out`, the file that is written: a JSON
list of prompts.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resources.evaluation.harness_worker import confine
from resources.machine.processes import end_with_stdin


def list_tasks(found: dict[Any, Any]) -> Iterator[Any]:
    """The tasks of what the harness gives for names: groups hold tasks and groups."""
    for task in found.values():
        if isinstance(task, dict):
            yield from list_tasks(task)
        else:
            yield task


def main() -> None:
    """Read the job and write the prompts of every item that is evaluated."""
    end_with_stdin()
    job = json.loads(Path(sys.argv[1]).read_text())
    confine(allows_code=job["allow_task_code"])
    from lm_eval.tasks import TaskManager, get_task_dict

    from resources.evaluation.task_index import remember_tasks

    remember_tasks()
    manager = TaskManager(include_path=job["include_path"])
    tasks = list_tasks(get_task_dict(job["tasks"], manager))
    prompts = {str(task.doc_to_text(document)) for task in tasks for document in task.eval_docs}
    Path(job["out"]).write_text(json.dumps(sorted(prompts)))


if __name__ == "__main__":
    main()
