"""raw_generations: everything the round's model was asked while proposing, as it wrote it."""

from lance_assets.rounds.report import Made, Report, Rows, count_values
from lance_assets.rounds.round import Round


def make(this_round: Round) -> Made:
    """Ask the round's model what the recipe proposes; nothing in r0000."""
    plan = this_round.plan
    if this_round.is_start:
        return Made(this_round.empty("raw_generations"))
    with this_round.asking("raw_generations", this_round.start_path()) as ask:
        table = plan.recipe.generate(
            this_round.read("seed_set"),
            settings=plan.settings.parameters,
            identity=this_round.identity,
            ask=ask,
            trained=this_round.read("sft_set", this_round.earlier_keys[-1]),
            texts=this_round.texts,
            read_states=this_round.read_states,
        )
    return Made(table)


def report(this_round: Round) -> Report:
    """How many samples there are of each kind, how they ended, one of each kind, and what the recipe adds."""
    table = this_round.read("raw_generations")
    one_each = table.unique("kind", maintain_order=True)
    facts: Report = {
        "dagster/row_count": len(table),
        "kinds": count_values(table["kind"], of="kind"),
        "finish_reasons": count_values(table["finish_reason"], of="finish reason"),
        "preview": Rows(one_each, ("kind", "prompt", "raw_text", "finish_reason")),
    }
    describe = getattr(this_round.plan.recipe, "describe_generations", None)
    return facts | (describe(table) if describe else {})
