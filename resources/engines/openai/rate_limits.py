"""A provider's limits on requests and tokens a minute, kept before sending rather than learnt from refusals.

Source: the leaky bucket of aiolimiter. Differences from its use as it comes:
1. A bucket holds one second's worth and not a minute's, so that a minute never sees more than its limit and a second.
2. A request larger than the token bucket fills it several times, where aiolimiter refuses it; such requests queue up
   in the order they came, since aiolimiter would let the smaller ones pass them by for ever.
"""

import asyncio

PERIOD_SECONDS = 60.0


class RateLimits:
    """Waits until one more request is allowed; made inside the event loop that uses it."""

    def __init__(self, *, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        """Set the limits, each 1 or more, or None for none."""
        from aiolimiter import AsyncLimiter

        def build_limiter(per_minute: int | None) -> AsyncLimiter | None:
            if per_minute is None:
                return None
            held = max(1.0, per_minute / PERIOD_SECONDS)
            return AsyncLimiter(held, time_period=PERIOD_SECONDS * held / per_minute)

        self._requests = build_limiter(requests_per_minute)
        self._tokens = build_limiter(tokens_per_minute)
        self._turn = asyncio.Lock()

    async def wait(self, num_tokens: int) -> None:
        """Wait until a request of `num_tokens` tokens (prompt and completion, estimated; 0 or more) may be sent."""
        if self._requests is not None:
            await self._requests.acquire()
        if self._tokens is not None:
            async with self._turn:
                left = float(num_tokens)
                while left > 0:
                    piece = min(left, self._tokens.max_rate)
                    await self._tokens.acquire(piece)
                    left -= piece


def estimate_tokens(messages: tuple[dict[str, str], ...], max_new_tokens: int) -> int:
    """Tokens a request may cost: a quarter of its characters and all it may sample.

    Not corrected by what it cost in the end, since hosted providers count requests the same way before they answer.

    >>> estimate_tokens(({"role": "user", "content": "x" * 40},), 100)
    110
    """
    return sum(len(message["content"]) for message in messages) // 4 + max_new_tokens
