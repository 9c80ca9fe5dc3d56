"""What `lance show EXPERIMENT --prompts` and `--chat` print: what models are asked, for the first seed.

`--prompts` has the words of every model and step; `--chat` has the tokens that a seed becomes in training.
"""

from collections.abc import Callable, Mapping, Sequence

from lance_assets.conversations import show_prompt
from lance_assets.prompts import Examples, PromptStep, Templates, show_question
from lance_assets.rounds.plan import JUDGE, Plan
from resources.models.chat_format import describe_chat
from resources.models.finding import find_model_here
from resources.readers.seed_files import read_seeds

NUM_SHOWN = 3
"""Seeds in the numbered list of a step that shows several."""


def show_prompts(plan: Plan, *, say: Callable[[str], None]) -> None:
    """Print every model's system message and steps, each filled with the first seed.

    Args:
        plan: the experiment; no round of it has to exist.
        say: takes the text.

    Raises:
        ValueError: the file of seeds cannot be used.
    """
    row = build_example(plan)
    recipe, *judge = plan.asked
    models = [
        ("the round's model", plan.templates),
        *((f"role {name}", own) for name, own in plan.role_templates.items()),
    ]
    for name, templates in models:
        say(describe_model(name, templates, plan.prompt_steps, recipe=recipe.recipe, row=row))
    for one in judge:
        say(describe_model(JUDGE, plan.judge_templates, one.steps, recipe=one.recipe, row=row))


def show_chat(plan: Plan, *, say: Callable[[str], None]) -> None:
    """Print how the model's chat template writes the first seed, and what is done because of it.

    Raises:
        ValueError: the model is not on this machine, its template cannot be used, or the file of seeds cannot.
    """
    settings, prompt, completion = plan.settings, *read_first(plan)[0]
    path = find_model_here(settings.model, base=plan.folder, revision=settings.model_revision)
    if path is None:
        raise ValueError(
            f"the model {settings.model!r} is not on this machine, and --chat reads its tokenizer: download it once, "
            f"with hf download {settings.model}"
        )
    messages = plan.templates.build_messages(prompt)
    told = describe_chat(path, str(path), messages, completion, asks_harness=settings.evaluation.asks_harness_chats)
    lines = [f"{name}: {value}" for name, value in told.items() if name != "example"]
    say("\n".join([*lines, "", "the first seed; what is between the brackets is trained on:", told["example"]]))


def read_first(plan: Plan) -> list[tuple[str, str]]:
    """Prompt and completion of the first seeds."""
    return read_seeds(plan.settings.seeds, plan.folder).head(NUM_SHOWN).select("prompt", "completion").rows()


def build_example(plan: Plan) -> dict[str, object]:
    """A value for every variable that a row can give a step, from the first seeds."""
    first = read_first(plan)
    prompts, completions = zip(*first, strict=True)
    return {
        "prompt": prompts[0],
        "completion": completions[0],
        "text": completions[0],
        "completion_a": completions[0],
        "completion_b": completions[-1],
        "examples": Examples({"prompt": show_prompt(row[0]), "completion": row[1]} for row in first),
    }


def describe_model(
    name: str, templates: Templates, steps: Sequence[PromptStep], *, recipe: str, row: Mapping[str, object]
) -> str:
    """A model's system message and steps, as text.

    Args:
        name: who is asked.
        templates: its words.
        steps: what it may be asked.
        recipe: whose steps they are, as an experiment names it.
        row: a value for every variable that a row can give.
    """
    whose = "the experiment's own" if "system.j2" in templates.own else f"the package's for {templates.recipe or 'it'}"
    system = [f"-- system message ({whose})", templates.system] if templates.system else ["-- no system message"]
    parts = [f"== {name}, profile {templates.profile}", "\n".join(system)]
    for step in steps:
        full_name = f"{recipe}/{step.name}"
        asked = f"asked for {', '.join(step.nouns)}" if step.nouns else "asked for every noun that asks a model"
        if not step.is_asked or not templates.has(full_name):
            why = "no template in this profile" if step.is_asked else "not asked with these settings"
            parts.append(f"-- {full_name}: {why}")
            continue
        words = templates.look_up(full_name)
        own = f"own words: {', '.join(words.own)}" if words.own else "the package's words"
        # What no row has, such as a student's mistake, is empty in most questions too.
        texts = {variable: row.get(variable, "") for variable in (*step.needs, *step.may)}
        shown = f"variables: {', '.join([*step.variables, *words.lists])}"
        question = show_question(templates.render(full_name, **texts, **step.given))
        parts.append(f"-- {full_name}: {asked}; {own}; {shown}\n{question}")
    return "\n\n".join(parts) + "\n"
