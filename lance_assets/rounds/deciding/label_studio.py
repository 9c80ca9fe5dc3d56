"""Rows that wait as tasks of Label Studio, and its annotations as decisions.

Source: labelstud.io/guide/task_format (tasks and annotations), /tags/choices, /tags/textarea and /tags/number (the
values of results). The export to take is "JSON"; "JSON-MIN" leaves out who annotated.

Written here: `label-studio-sdk` 2.1.2 needs 23 more packages, OpenCV and pandas among them, and reads an export into
classes that do not say what an annotation means for a row.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from xml.sax.saxutils import quoteattr

from lance_assets.conversations import show_prompt
from lance_assets.rounds.deciding.decisions import ACTIONS, Scale
from lance_assets.rounds.deciding.exchange import Answer, describe_row

_VALUES = {"choices": "choices", "textarea": "text", "number": "number", "rating": "rating"}
"""By the type of a result the field of its value."""
_CONTROLS = {"decision": "choices", "edited": "textarea", "score": "number", "note": "textarea"}
"""The controls of the labeling configuration, with the types of their results."""


def write_tasks(rows: Iterable[Mapping[str, Any]], round_key: str) -> bytes:
    """Rows of a round as the JSON list that Label Studio imports: one task a row, its texts as `data`."""
    tasks = []
    for row in rows:
        data = describe_row(row, round_key)
        data["prompt"] = show_prompt(row["prompt"])
        data["reviews"] = "\n\n".join(row["reviews"] or ["none"])
        data["review_score"] = "none" if row["review_score"] is None else f"{row['review_score']:g}"
        tasks.append({"data": data})
    return (json.dumps(tasks, ensure_ascii=False, indent=1) + "\n").encode()


def write_labeling_config(scale: Scale | None) -> str:
    """The labeling configuration that goes with the tasks: Settings, Labeling Interface, Code.

    Args:
        scale: the reviewer's; None: there is no score to give.
    """
    actions = [action for action in ACTIONS if scale is not None or action != "score"]
    # Letters as on the page; Label Studio names them per choice.
    choices = "\n".join(f'    <Choice value={quoteattr(action)} hotkey="{action[0]}"/>' for action in actions)
    given = (
        f'  <Number name="score" toName="completion" min="{scale[0]:g}" max="{scale[1]:g}" step="0.5"/>\n'
        if scale is not None
        else ""
    )
    return f"""<View>
  <Style>.htx-text {{ white-space: pre-wrap; }}</Style>
  <Header value="Prompt"/>
  <Text name="prompt" value="$prompt"/>
  <Header value="Completion"/>
  <Text name="completion" value="$completion"/>
  <Header value="The model's reviews"/>
  <Text name="reviews" value="$reviews"/>
  <Header value="Decision"/>
  <Choices name="decision" toName="completion" choice="single" required="true">
{choices}
  </Choices>
  <Header value="Another completion, for edit"/>
  <TextArea name="edited" toName="completion" value="$completion" rows="6" maxSubmissions="1" editable="true"/>
{'  <Header value="Your score, for score or edit"/>' + chr(10) if given else ""}{given}  <Header value="Why"/>
  <TextArea name="note" toName="completion" rows="2" maxSubmissions="1" editable="true"/>
</View>
"""


def read_annotations(content: str) -> Iterator[Answer]:
    """The annotations of an export as answers, each with its person and time; skipped tasks are left out.

    Raises:
        ValueError: it is no JSON export; the message names the task.
    """
    try:
        tasks = json.loads(content)
    except ValueError as error:
        raise ValueError(f"is no JSON ({error}); export the project as JSON") from error
    if not isinstance(tasks, list):
        raise ValueError(f"holds {type(tasks).__name__} in place of a list of tasks; export the project as JSON")
    for number, task in enumerate(tasks, 1):
        place = f"task {number}"
        if not isinstance(task, dict) or not isinstance(task.get("annotations"), list):
            raise ValueError(f"{place} has no list 'annotations'; export the project as JSON, not as JSON-MIN")
        data = task.get("data")
        if not isinstance(data, dict) or not isinstance(data.get("key"), str):
            raise ValueError(f"{place} has no data.key, by which its row is known; import the tasks as written")
        for annotation in task["annotations"]:
            if annotation.get("was_cancelled") or not annotation.get("result"):
                continue
            values = _read_results(annotation["result"], f"{place} (id {task.get('id')})")
            # The text box begins with the completion, and is sent along untouched.
            if values.get("decision") != "edit":
                values.pop("edited", None)
            if values.get("decision") in ("accept", "reject"):
                values.pop("score", None)
            at = annotation.get("updated_at") or annotation.get("created_at")
            values |= {"who": _name_person(annotation.get("completed_by")), "at": at}
            # The prompt was written as a transcript, so that the completion alone is compared.
            texts = {"prompt": None, "completion": data.get("completion")}
            yield Answer(f"{place} (id {task.get('id')})", data["key"], values, texts)


def _read_results(results: list[Mapping[str, Any]], place: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for result in results:
        name, kind = result.get("from_name"), result.get("type")
        if name not in _CONTROLS:
            continue
        if kind not in _VALUES or not isinstance(result.get("value"), dict) or _VALUES[kind] not in result["value"]:
            raise ValueError(f"{place}: {name} has type {kind!r} without its value; use the configuration as written")
        value = result["value"][_VALUES[kind]]
        if kind == "textarea" and isinstance(value, list):
            value = "\n".join(map(str, value))
        if kind == "choices":
            if not isinstance(value, list) or len(value) != 1:
                raise ValueError(f"{place}: decision must be one choice, got {value!r}")
            value = value[0]
        found[name] = value
    if "decision" not in found:
        raise ValueError(f"{place}: an annotation has no decision; choose one of {', '.join(ACTIONS)}")
    return found


def _name_person(completed_by: object) -> str | None:
    """Who annotated: an export has the user's number, or with "expand users" what is known of them."""
    if isinstance(completed_by, dict):
        return str(completed_by.get("email") or completed_by.get("first_name") or completed_by.get("id"))
    return None if completed_by is None else f"Label Studio user {completed_by}"
