"""The harness's process asks the round's own engine, which the step's process holds: JSON lines over a socket.

The step holds the engine, since it is the step that notes which processes hold a model, waits for memory and counts
what they take; and since vLLM lives in an environment of its own, in which there is no harness. The harness's process
has the tasks, the tokenizer and what is kept of finished requests (`engine_model`). When either ends, the other learns
it from the socket.

    asks:    {"start": true}
             {"score": [[[token, ...], num_context_tokens], ...]}
             {"complete": [[[token, ...], sampling_seed], ...], "sampling": {...}, "stop_ids": [token, ...]}
    answers: {"context": tokens}
             {"done": [[place, [log_likelihood, is_greedy] | [token, ...]], ...], "failed": [[place, why], ...]},
             as rows finish, until each was answered
"""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lance_assets.records import SamplingSettings
from resources.engines.contract import EngineError
from resources.engines.vllm.token_rows import Score, TokenRow, complete_tokens, score_tokens

if TYPE_CHECKING:
    from resources.engines.vllm.engine import VllmEngine


class EngineLink:
    """The step's end: a thread in which the engine answers, from the start of the harness's process to its end."""

    def __init__(self, engine: "VllmEngine") -> None:
        """Begin to start the engine's processes, which takes as long as the harness's imports."""
        self.engine = engine
        self.error: BaseException | None = None
        """Why the engine cannot go on."""
        self._ours, self._harness = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def descriptor(self) -> int:
        """The harness's end, which its process inherits."""
        return self._harness.fileno()

    def close(self) -> None:
        """End the conversation, and wait until the engine has nothing under way."""
        for end in (self._ours, self._harness):
            # The thread may be reading from it, and closing alone would not wake it.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for end in (self._ours, self._harness):
            end.close()

    def _serve(self) -> None:
        try:
            context = self.engine.start(1)
            with self._ours.makefile("r", encoding="utf-8") as lines:
                for line in lines:
                    message = json.loads(line)
                    if "start" in message:
                        self._tell({"context": context})
                        continue
                    for group in self._answer(message):
                        self._tell(group)
        except ConnectionError:
            # The harness has ended, and its exit code says how.
            pass
        except BaseException as error:
            self.error = error
        finally:
            # The harness waits for an answer, and has to learn that there is none.
            with contextlib.suppress(OSError):
                self._ours.shutdown(socket.SHUT_RDWR)

    def _answer(self, message: Mapping[str, Any]) -> Iterator[dict[str, list]]:
        if "score" in message:
            found: Iterator = score_tokens(self.engine, message["score"])
        else:
            sampling = message["sampling"] | {"stop": tuple(message["sampling"]["stop"])}
            found = complete_tokens(
                self.engine, message["complete"], SamplingSettings(**sampling), stop_ids=message["stop_ids"]
            )
        for group in found:
            yield {
                "done": [[place, one] for place, one in group if not isinstance(one, str)],
                "failed": [[place, one] for place, one in group if isinstance(one, str)],
            }

    def _tell(self, message: Mapping[str, object]) -> None:
        self._ours.sendall(json.dumps(message).encode() + b"\n")


class LinkedEngine:
    """The harness's end."""

    def __init__(self, descriptor: int) -> None:
        """Take the inherited socket, and wait until the engine is ready."""
        self._socket = socket.socket(fileno=descriptor)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._tell({"start": True})
        self.context = int(self._hear()["context"])
        """Tokens of prompt and completion that the engine can hold."""

    def score(self, rows: Sequence[TokenRow]) -> Iterator[list[tuple[int, Score]]]:
        """As `score_tokens`.

        Raises:
            EngineError: a row failed, once all others were given; or the engine has ended.
        """
        for group in self._ask({"score": rows}, len(rows)):
            yield [(place, (value, is_greedy)) for place, (value, is_greedy) in group]

    def generate(
        self, rows: Sequence[TokenRow], sampling: Mapping[str, object], *, stop_ids: Sequence[int]
    ) -> Iterator[list[tuple[int, list[int]]]]:
        """As `complete_tokens`, with the fields of `SamplingSettings` by name.

        Raises:
            EngineError: as `score`.
        """
        yield from self._ask({"complete": rows, "sampling": sampling, "stop_ids": list(stop_ids)}, len(rows))

    def close(self) -> None:
        """Leave the engine, which then gives up what it was asked."""
        self._lines.close()
        self._socket.close()

    def _ask(self, message: Mapping[str, object], num_rows: int) -> Iterator[list]:
        if not num_rows:
            return
        self._tell(message)
        num_left, failed = num_rows, []
        while num_left:
            heard = self._hear()
            num_left -= len(heard["done"]) + len(heard["failed"])
            failed += heard["failed"]
            yield heard["done"]
        if failed:
            raise EngineError(f"{len(failed)} of {num_rows} requests failed; the first: {failed[0][1]}")

    def _tell(self, message: Mapping[str, object]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _hear(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line.endswith("\n"):
            raise EngineError("the round's engine has ended; the step says why")
        found: dict[str, Any] = json.loads(line)
        return found
