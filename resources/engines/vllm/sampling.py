"""Our sampling inside vLLM: every row draws from its own random stream, as in `resources.engines.sampling`.

vLLM's own seeds make a generator a row, which it draws from in a Python loop; on CPUs (0.32.0) they fail where a
prompt is read in parts ("CPU Generator does not use offset"). Here one vectorised pass picks every row's token, and
vLLM, asked to be greedy, takes it. So the same seed gives the same text with both engines, to float rounding of the
logits.
"""
# ruff: noqa: TID253 (imported by vLLM in its own process)

import torch
from vllm.config import VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from resources.engines.sampling import draw_uniforms, penalise_repetition, pick_tokens

ROW_ARGUMENTS = ("sampling_seed", "temperature", "top_p")
"""What a row's `SamplingParams.extra_args` hold; without them the row is greedy."""
PENALTY = "repetition_penalty"
"""What they hold beside where repetition is penalised: vLLM's own penalty comes after a token was picked here."""
FORCED = "forced_tokens"
"""What they hold instead where a row's tokens are given, and only their probabilities are asked for."""


class _Row:
    """A row in the batch."""

    def __init__(self, params: SamplingParams, prompt: list[int] | None, output: list[int]) -> None:
        arguments = params.extra_args
        assert arguments is not None, "a sampled row has its arguments"
        seed, self.temperature, self.top_p = (arguments[name] for name in ROW_ARGUMENTS)
        # All draws of a row are made at once: a call for each token would take longer than the token.
        self.uniforms = draw_uniforms([seed], params.max_tokens or 1)[0]
        # vLLM appends the accepted tokens to this very list, so its length is the number of the next draw.
        self.output = output
        self.penalty = float(arguments.get(PENALTY, 1.0))
        self.prompt = prompt or []
        self.seen: torch.Tensor | None = None
        self.num_noted = 0

    def note_seen(self, logits: torch.Tensor) -> torch.Tensor:
        """Which tokens prompt and completion have so far, bool [vocabulary] where the logits are."""
        if self.seen is None:
            self.seen = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
            self.seen[torch.tensor(self.prompt, dtype=torch.int64, device=logits.device)] = True
        new = self.output[self.num_noted :]
        self.seen[torch.tensor(new, dtype=torch.int64, device=logits.device)] = True
        self.num_noted = len(self.output)
        return self.seen


class _ForcedRow:
    """A row in the batch whose tokens are given."""

    def __init__(self, tokens: list[int], output: list[int]) -> None:
        self.tokens = tokens
        # As of a sampled row: its length is the number of the next token.
        self.output = output

    @property
    def next_token(self) -> int:
        return self.tokens[len(self.output)]


class SeededSampling(LogitsProcessor):
    """Leaves each sampled row the one token that its stream picks, and a forced row the one that it was given.

    vLLM reads the log-probabilities that it reports before this, so that they are the model's own.
    """

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        """As vLLM calls it."""
        self.rows: dict[int, _Row | _ForcedRow] = {}

    def is_argmax_invariant(self) -> bool:
        """No: it decides the token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow rows that join, leave or change their place."""
        if batch_update is None:
            return
        # vLLM asks for this order: removed, added, moved.
        for place in batch_update.removed:
            self.rows.pop(place, None)
        for place, params, prompt, output in batch_update.added:
            # A greedy row may take the place of a sampled one.
            self.rows.pop(place, None)
            if params.extra_args and ROW_ARGUMENTS[0] in params.extra_args:
                self.rows[place] = _Row(params, prompt, output)
            elif params.extra_args and FORCED in params.extra_args:
                self.rows[place] = _ForcedRow(params.extra_args[FORCED], output)
        for one, other, direction in batch_update.moved:
            moved, replaced = self.rows.pop(one, None), self.rows.pop(other, None)
            if moved is not None:
                self.rows[other] = moved
            if replaced is not None and direction == MoveDirectionality.SWAP:
                self.rows[one] = replaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [num_rows, vocabulary] in which a sampled row has one finite entry."""
        forced = {place: row.next_token for place, row in self.rows.items() if isinstance(row, _ForcedRow)}
        if forced:
            where = torch.tensor(list(forced), device=logits.device)
            logits[where] = float("-inf")
            logits[where, torch.tensor(list(forced.values()), device=logits.device)] = 0.0
        sampled = {place: row for place, row in self.rows.items() if isinstance(row, _Row)}
        # Tokens are picked in one pass for all rows with the same settings; the rows of one call share them.
        groups: dict[tuple[float, float, float], list[int]] = {}
        for place, row in sampled.items():
            groups.setdefault((row.temperature, row.top_p, row.penalty), []).append(place)
        for (temperature, top_p, penalty), places in groups.items():
            rows = [sampled[place] for place in places]
            uniforms = torch.tensor([row.uniforms[len(row.output)] for row in rows], dtype=torch.float64)
            where = torch.tensor(places, device=logits.device)
            # all rows as they lie, the usual case, without a copy
            mine = logits if len(places) == len(logits) and places == list(range(len(places))) else logits[where]
            if penalty != 1.0:
                mine = penalise_repetition(mine, torch.stack([row.note_seen(logits) for row in rows]), penalty)
            tokens = pick_tokens(mine, uniforms.to(logits.device), temperature=temperature, top_p=top_p)
            logits[where] = float("-inf")
            logits[where, tokens] = 0.0
        return logits
