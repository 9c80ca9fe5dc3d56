"""A regular expression that a batch's completions must match: which tokens each row may continue with.

llguidance (Rust) turns the expression and the vocabulary into masks; here is what the decode loop needs around it. Of
the kept libraries that do this, it alone needs no other package; xgrammar brings triton and apache-tvm-ffi. Its own
torch kernel, which compiles itself at first use, is replaced by numpy's `unpackbits`.
"""
# ruff: noqa: TID253 (imported once a model is loaded)

from collections.abc import Sequence
from typing import TYPE_CHECKING

import llguidance.hf
import llguidance.numpy
import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher, LLTokenizer, regex_to_lark

from resources.engines.contract import GrammarError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Vocabulary:
    """A model's tokens as grammars see them; built once a model, in about a second for 50,000 tokens."""

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", stop_ids: frozenset[int]
    ) -> None:
        """Read the tokens.

        Args:
            model: of which the logits' width is taken: it may be above the tokenizer's number of tokens.
            tokenizer: the model's, a fast one.
            stop_ids: the tokens that end a turn; a grammar allows all of them where a match is whole.

        Raises:
            GrammarError: the tokenizer has no fast form, or no token ends a turn.
        """
        from transformers import PreTrainedTokenizerFast

        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise GrammarError(
                f"{type(tokenizer).__name__} has no tokenizer.json, which a grammar needs; set structured_output: off"
            )
        if not stop_ids:
            raise GrammarError("the model has no token that ends a turn, which a grammar needs: structured_output: off")
        self.width = int(model.get_output_embeddings().weight.shape[0])
        width = max(self.width, len(tokenizer))
        try:
            self.tokens = llguidance.hf.from_tokenizer(tokenizer, n_vocab=width, eos_token=sorted(stop_ids))
        except ValueError as error:
            raise GrammarError(
                f"llguidance cannot read the model's tokenizer ({error}); set structured_output: off"
            ) from error
        self._missing = find_missing_bytes(self.tokens)
        self._compiled: dict[str, LLMatcher] = {}

    def compile(self, grammar: str) -> LLMatcher:
        """What matches the expression from its start; compiled once.

        Raises:
            GrammarError: it is no regular expression that llguidance reads, or no text of this vocabulary matches it.
        """
        if grammar not in self._compiled:
            matcher = LLMatcher(self.tokens, LLMatcher.grammar_from_regex(grammar), log_level=0)
            if matcher.is_error():
                raise GrammarError(f"the grammar {grammar!r} cannot be compiled: {matcher.get_error().strip()}")
            # A text of this vocabulary matches the grammar where one matches both it and "none of the missing letters".
            both = f"start: TEXT\nTEXT: /{regex_to_lark(grammar, '')}/ & /[^{self._missing}]*/"
            narrowed = LLMatcher(self.tokens, both, log_level=0) if self._missing else matcher
            if _matches_nothing(narrowed, self.tokens):
                raise GrammarError(
                    f"no text that the model can write matches the grammar {grammar!r}: its vocabulary lacks letters "
                    "that the grammar needs; set structured_output: off, or change the grammar"
                )
            self._compiled[grammar] = matcher
        return self._compiled[grammar]

    def constrain(self, grammar: str, num_rows: int) -> "Constraint":
        """A constraint on new rows.

        Raises:
            GrammarError: as `compile`.
        """
        return Constraint(self, self.compile(grammar), num_rows)


class Constraint:
    """How far each row of a batch has come in the expression."""

    def __init__(self, vocabulary: Vocabulary, matcher: LLMatcher, num_rows: int) -> None:
        """Begin every row at the start."""
        self._width = vocabulary.tokens.vocab_size
        self._matchers = [matcher.deep_copy() for _ in range(num_rows)]
        self._executor = LLExecutor(num_threads=torch.get_num_threads())

    def mask(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """The logits, with minus infinity for every token that no match continues with.

        A row with a whole match may end; so may one that nothing continues, where `is_whole` is then false.

        Args:
            logits: [num_rows, vocabulary], any float dtype.
            rows: which row of the batch each one is.

        Returns:
            A new tensor of the same shape and dtype.
        """
        bits = llguidance.numpy.allocate_token_bitmask(len(rows), self._width)
        asked = [(self._matchers[row], place) for place, row in enumerate(rows)]
        llguidance.numpy.fill_next_token_bitmask_par(self._executor, asked, bits)
        allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little", count=logits.shape[1])
        return logits.masked_fill(torch.from_numpy(allowed == 0).to(logits.device), float("-inf"))

    def advance(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Take note of one token for each of these rows."""
        asked = [(self._matchers[row], token) for row, token in zip(rows, tokens, strict=True)]
        llguidance.numpy.consume_token_par(self._executor, asked)

    def is_whole(self, row: int) -> bool:
        """Whether what the row has so far is a whole match."""
        return bool(self._matchers[row].is_accepting())


def _matches_nothing(matcher: LLMatcher, tokens: LLTokenizer) -> bool:
    """Whether a matcher at its start allows neither the empty text nor a token but those that end a turn."""
    if matcher.is_error() or matcher.is_accepting():
        return matcher.is_error()
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
    bits[list(tokens.eos_tokens)] = 0
    return not bits.any()


def find_missing_bytes(tokens: LLTokenizer) -> str:
    """The ASCII characters that no token holds, as the inside of a class of a regular expression."""
    held = {
        byte
        for token in range(tokens.vocab_size)
        if not tokens.is_special_token(token)
        for byte in tokens.decode_bytes([token])
    }
    return "".join(f"\\x{byte:02x}" for byte in range(1, 128) if byte not in held)
