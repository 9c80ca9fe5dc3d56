"""The round's own engine as the model `engine` of lm-evaluation-harness: vLLM, on all of its copies.

Templates, tokens, cuts, stop texts and every rule of scoring are the harness's own class `HFLM` (0.4.13), which here
loads the tokenizer and no weights. Requests go to the engine that generates in the round (`engine_link`), so that its
copies share them, a process that dies is started again, and a request that kills one is found.

The harness's own model `vllm` was weighed and left:
1. It runs in the process of the harness, so that the harness would have to be in vLLM's environment. Here vLLM has an
   environment of its own (LANCE_VLLM_PYTHON), with other versions of the libraries that both use.
2. Its copies are Ray tasks that load the model again for each kind of request of each task, and give nothing back
   before the last request is done. So a kill loses all of it, and it needs Ray on one machine too.
3. A choice is scored by `prompt_logprobs`, for which vLLM takes nothing from its prefix cache: a context is read again
   for each of its continuations.
4. It ends completions and encodes texts in other ways than `hf`, by which rounds were compared before.

What differs from `HFLM`: the model's context counts as two tokens shorter, since vLLM wants room for a token behind a
text that it scores. That changes rows which are too long, and windows of a text that is read as a whole. What samples
draws from a stream of its own, keyed by the run's seed, the context and how often it was asked. What is neither greedy
nor top-p is an error.
"""
# ruff: noqa: TID253 (imported in the harness's process)

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text, resolve_max_length
from tqdm import tqdm
from transformers import GenerationConfig

from lance_assets.records import SamplingSettings
from resources.evaluation.engine_link import LinkedEngine
from resources.evaluation.harness_requests import (
    GREEDY,
    cut_pair,
    encode_context,
    group_by_wishes,
    list_ends,
    list_harmful,
    list_stops,
)

SPARE = 2
"""Tokens of the engine's context that no row has: one behind a text that is scored, and one more, since of `HFLM`'s
rows the last token is predicted and never read."""
ALL_TOGETHER = 1 << 30
"""A batch size that divides nothing: the engine batches."""


def derive_seed(rng_seed: int, context: str, number: int) -> int:
    """The seed of a sampled request's own stream, uint63.

    Args:
        rng_seed: of the run.
        context: the text that is gone on from.
        number: how often it was asked before.
    """
    named = json.dumps([rng_seed, context, number]).encode()
    return int.from_bytes(hashlib.sha256(named).digest()[:8], "big") >> 1


@register_model("engine")
class EngineModel(HFLM):
    """`HFLM` without weights, whose requests the round's engine answers."""

    def __init__(self, *given: Any, link: int, rng_seed: int = 0, **options: Any) -> None:
        """Load the tokenizer as `HFLM` does, with the same arguments, and wait for the engine.

        Args:
            given: as for `HFLM`.
            link: descriptor of the inherited socket.
            rng_seed: of what samples.
            options: as for `HFLM`.
        """
        super().__init__(*given, **options)
        self.rng_seed, self.link = rng_seed, LinkedEngine(link)
        folder = Path(self.pretrained)
        has_own = (folder / "generation_config.json").is_file()
        self.generation_config = (
            GenerationConfig.from_pretrained(folder) if has_own else GenerationConfig.from_model_config(self.config)
        )

    def _create_model(self, *given: Any, **options: Any) -> None:
        self._model = None

    @property
    def max_length(self) -> int:
        """Tokens of a row: what the configuration says, and the engine has room for."""
        known = self._max_length or resolve_max_length(self.config, self.tokenizer, default=self._DEFAULT_MAX_LENGTH)
        return min(int(known), self.link.context - SPARE)

    @property
    def batch_size(self) -> int:
        """All."""
        return ALL_TOGETHER

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, in the order of the requests.

        Args:
            requests: each the texts (None of a part of a longer text), the context's tokens, the continuation's.
            disable_tqdm: whether no progress is shown.
            override_bs: of no effect.
        """
        rows = [cut_pair(context, end, longest=self.max_length + 1) for _, context, end in requests]
        found: dict[int, tuple[float, bool]] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running loglikelihood requests") as shown:
            for group in self.link.score(rows):
                for place, score in group:
                    found[place] = score
                    if requests[place][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[place][0], score)
                shown.update(len(group))
        return [found[place] for place in range(len(requests))]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to a stop text or the most tokens, without the stop text.

        Args:
            requests: each with its context and what the task asks of generation.
            disable_tqdm: whether no progress is shown.
        """
        texts: dict[int, str] = {}
        asked_before: Counter[str] = Counter()
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as shown:
            for places in group_by_wishes(requests):
                wanted = normalize_gen_kwargs(requests[places[0]].args[1], self.max_gen_toks)
                stops = list_stops(self, wanted["until"])
                sampling = self.read_sampling(wanted, stops)
                rows = []
                for place in places:
                    context = requests[place].args[0]
                    seed = derive_seed(self.rng_seed, context, asked_before[context])
                    asked_before[context] += 1
                    rows.append((encode_context(self, context, max_gen_toks=sampling.max_new_tokens), seed))
                ends = sorted(list_ends(self, self.generation_config))
                for group in self.link.generate(rows, asdict(sampling), stop_ids=ends):
                    for number, tokens in group:
                        place = places[number]
                        texts[place] = postprocess_generated_text(self.tok_decode(tokens), stops, None)
                        self.cache_hook.add_partial("generate_until", requests[place].args, texts[place])
                    shown.update(len(group))
        return [texts[place] for place in range(len(requests))]

    def read_sampling(self, wanted: Mapping[str, Any], stops: list[str]) -> SamplingSettings:
        """How the engine is to sample what a task asks of generation.

        Raises:
            ValueError: the task, or the model's generation config, asks for something else.
        """
        samples = bool(wanted["do_sample"]) and wanted["temperature"] > 0
        unknown = sorted(wanted.keys() - GREEDY - {"top_p"}) + list_harmful(self.generation_config)
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: asked for by the task's generation_kwargs or the model's generation config; "
                "the round's engine takes temperature and top_p; set evaluation.lm_eval.backend: hf"
            )
        return SamplingSettings(
            temperature=float(wanted["temperature"]) if samples else 0.0,
            top_p=float(wanted["top_p"]) if samples and "top_p" in wanted else 1.0,
            max_new_tokens=int(wanted["max_gen_toks"]),
            repetition_penalty=self.generation_config.repetition_penalty or 1.0,
            stop=tuple(text for text in stops if text),
        )
