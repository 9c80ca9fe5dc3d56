"""Stands where a recipe's models do: says what a test wrote for it, and keeps what it was asked."""

from collections.abc import Callable, Sequence

from lance_assets.records import Request, Sample, SamplingSettings


class ScriptedAsk:
    """A model that says what a function of (stage, asked text, sample number) gives: a text, or one with its finish."""

    def __init__(self, say: Callable[[str, str, int], str | tuple[str, str]]) -> None:
        self.say = say
        self.requests: dict[str, list[Request]] = {}
        self.sampling: dict[str, SamplingSettings | None] = {}

    def __call__(
        self, stage: str, requests: Sequence[Request], sampling: SamplingSettings | None = None
    ) -> list[Sample]:
        assert stage not in self.requests, f"stage {stage} was asked twice"
        self.requests[stage] = list(requests)
        self.sampling[stage] = sampling
        seen: dict[str, int] = {}
        samples = []
        for request in requests:
            text = request.messages[-1]["content"]
            number = seen[text] = seen.get(text, -1) + 1
            said = self.say(stage, text, number)
            words, finish = said if isinstance(said, tuple) else (said, "stop")
            samples.append(Sample(request.row_id, words, finish, len(text), len(words)))
        return samples

    @property
    def counts(self) -> dict[str, int]:
        return {stage: len(requests) for stage, requests in self.requests.items()}
