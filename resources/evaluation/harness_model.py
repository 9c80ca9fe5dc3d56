"""The harness's `hf` model with the platform's own loops, as the model `batched` of lm-evaluation-harness.

Templates, tokens, cuts at the context's length, stop texts and every rule of scoring are the harness's own class
`HFLM` (0.4.13). What it does otherwise gives equal scores to float rounding:

1. Rows that have ended leave the batch, and what prompts share is read once (`transformers.decoding`). In `HFLM` the
   longest answer of a batch decides how long all are computed.
2. A context is read once for all of its continuations, with logits only where they are needed
   (`transformers.continuations`).
3. A stop text ends its own row. `HFLM` goes on until every row of the batch has one, and cuts the text afterwards.

What samples, searches by beams, ends a thought by a token, or has a generation config that changes the logits in other
ways than by a repetition penalty is left to `HFLM`.
"""
# ruff: noqa: TID253 (imported in the harness's process)

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from lance_assets.records import SamplingSettings
from resources.engines.sampling import SeededTopP
from resources.engines.transformers.continuations import has_plain_head, score_continuations
from resources.engines.transformers.decoding import Rules, decode_batch
from resources.engines.transformers.engine import find_ends
from resources.engines.transformers.grouped_attention import use_grouped_attention
from resources.evaluation.harness_requests import (
    GREEDY,
    cut_pair,
    encode_context,
    group_by_wishes,
    list_ends,
    list_harmful,
    list_stops,
)


@register_model("batched")
class BatchedModel(HFLM):
    """`HFLM` on one device, with the platform's loops."""

    def __init__(self, *given: Any, **options: Any) -> None:
        """Load the model as `HFLM` does, with the same arguments."""
        super().__init__(*given, **options)
        use_grouped_attention(self.model)
        self._has_plain_head = has_plain_head(self.model)
        self._is_plain_greedy = not list_harmful(self.model.generation_config)

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, `batch_size` contexts at a time.

        Args:
            requests: each the texts (None of a part of a longer text), the context's tokens, the continuation's.
            disable_tqdm: whether no progress is shown.
            override_bs: another batch size, for `HFLM`.

        Returns:
            As `score_continuations`, one for each request, in order.
        """
        if not self._has_plain_head:
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
        by_context: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, (_, context, continuation) in enumerate(requests):
            # The last token is predicted and never read.
            kept, num_context = cut_pair(context, continuation, longest=self.max_length + 1)
            by_context[kept[:num_context]].append(place)
        # The longest come first, so that memory that does not suffice ends the reading at its start.
        contexts = sorted(by_context, key=lambda tokens: (-len(tokens), tokens))
        found: dict[int, tuple[float, bool]] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests") as shown:
            for start in range(0, len(contexts), self.batch_size):
                chunk = contexts[start : start + self.batch_size]
                places = [place for context in chunk for place in by_context[context]]
                asked = [(context, [requests[place][2] for place in by_context[context]]) for context in chunk]
                scores = score_continuations(self.model, asked, pad_id=self._pad_id)
                for place, score in zip(places, (score for row in scores for score in row), strict=True):
                    found[place] = score
                    if requests[place][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[place][0], score)
                shown.update(len(places))
        return [found[place] for place in range(len(requests))]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to a stop text or the most tokens.

        Args:
            requests: each with its context and what the task asks of generation.
            disable_tqdm: whether no progress is shown.

        Returns:
            One text for each request, in order, without the stop text.
        """
        texts: dict[int, str] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as shown:
            for places in group_by_wishes(requests):
                asked = [requests[place] for place in places]
                wanted = normalize_gen_kwargs(asked[0].args[1], self.max_gen_toks)
                is_greedy = self._is_plain_greedy and not wanted["do_sample"] and not wanted.keys() - GREEDY
                if not is_greedy or self.think_end_token is not None:
                    texts |= zip(places, super().generate_until(asked, disable_tqdm=True), strict=True)
                    shown.update(len(places))
                    continue
                contexts = [encode_context(self, one.args[0], max_gen_toks=wanted["max_gen_toks"]) for one in asked]
                order = sorted(range(len(asked)), key=lambda number: (-len(contexts[number]), contexts[number]))
                for start in range(0, len(order), self.batch_size):
                    chunk = order[start : start + self.batch_size]
                    written = self._generate([contexts[number] for number in chunk], dict(wanted))
                    for number, text in zip(chunk, written, strict=True):
                        texts[places[number]] = text
                        self.cache_hook.add_partial("generate_until", asked[number].args, text)
                    shown.update(len(chunk))
        return [texts[place] for place in range(len(requests))]

    @property
    def _pad_id(self) -> int:
        # Any token will do, since padding is masked.
        return self.tokenizer.pad_token_id or 0

    def _generate(self, contexts: Sequence[tuple[int, ...]], wanted: dict[str, Any]) -> list[str]:
        stop = list_stops(self, wanted["until"])
        penalty = self.model.generation_config.repetition_penalty or 1.0
        sampling = SamplingSettings(0.0, 1.0, wanted["max_gen_toks"], repetition_penalty=penalty)
        decoded = decode_batch(
            self.model,
            contexts,
            SeededTopP([0] * len(contexts), sampling, device=self.model.device),
            Rules(
                stop_ids=frozenset(list_ends(self, self.model.generation_config)),
                pad_id=self._pad_id,
                ends=find_ends(self.tokenizer, [text for text in stop if text]),
            ),
        )
        return [postprocess_generated_text(self.tok_decode(row.tokens), stop, None) for row in decoded]
