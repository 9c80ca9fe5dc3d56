"""Speaks as `resources.engines.vllm.worker` does, without vLLM: `python scripted_vllm_worker.py SCRIPT FD JOB`.

Its tokens are derived from a row's prompt and sampling seed (`write_tokens`), and scores from the row's tokens
(`score_tokens`), so that tests know what every row must give. SCRIPT is a JSON object that says how it misbehaves:

    record: folder in which each process writes what it was told, a JSON line a message
    context: tokens the model can hold
    poison, refuse, garble: sampling seeds of rows with which it dies, says no, or ends with a strange reason
    stall, die_after: a sampling seed with which it stops, and rows after which it dies, both in its first process
    exit_before_ready: words with which it ends instead of being ready; `exit_later`: in all but its first process
    slow_start_seconds, seconds_per_step, rows_per_step: its pace
    deaf: whether it goes on when the socket closes
    orphan: whether a child of it holds the socket open when it dies
    trickle: whether it says each message in two pieces
"""

import contextlib
import hashlib
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

DEFAULTS = {
    "context": 512,
    "poison": [],
    "stall": None,
    "refuse": [],
    "garble": [],
    "die_after": None,
    "exit_before_ready": None,
    "exit_later": None,
    "slow_start_seconds": 0.0,
    "seconds_per_step": 0.0,
    "rows_per_step": 16,
    "deaf": False,
    "orphan": False,
    "trickle": False,
}
FIRST_TOKEN, NUM_TOKENS = 300, 200
"""Tokens that are whole words."""


def write_tokens(prompt: list[int], sampling_seed: int, max_new_tokens: int) -> list[int]:
    """A row's completion without its end: 1 to `max_new_tokens` tokens; that many when it is cut."""
    digest = hashlib.sha256(json.dumps([prompt, sampling_seed]).encode()).digest()
    length = min(digest[0] % 12 + 1, max_new_tokens)
    return [FIRST_TOKEN + digest[place + 1] % NUM_TOKENS for place in range(length)]


def score_tokens(tokens: list[int], num_context: int) -> tuple[float, bool]:
    """A row's log-likelihood, and whether its tokens are the likeliest."""
    digest = hashlib.sha256(json.dumps([tokens, num_context]).encode()).digest()
    return -digest[0] / 16 * (len(tokens) - num_context), digest[1] % 2 == 0


class ScriptedWorker:
    def __init__(self, script: dict, connection: socket.socket, job: dict) -> None:
        self.script, self.connection, self.job = DEFAULTS | script, connection, job
        self.inbox: queue.Queue[dict] = queue.Queue()
        self.sampling: dict = {}
        self.running: dict[int, list] = {}
        self.num_done = 0
        folder = Path(self.script["record"])
        self.number = len(list(folder.iterdir()))
        self.record = (folder / f"{time.time_ns()}-{os.getpid()}.jsonl").open("w", buffering=1)
        self.note({"job": job, "environment": dict(os.environ)})
        threading.Thread(target=self.listen, daemon=True).start()

    def note(self, message: dict) -> None:
        self.record.write(json.dumps(message) + "\n")

    def listen(self) -> None:
        with contextlib.suppress(ConnectionError), self.connection.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                self.inbox.put(json.loads(line))
        if not self.script["deaf"]:
            os._exit(0)

    def tell(self, message: dict) -> None:
        line = json.dumps(message).encode() + b"\n"
        pieces = [line[:7], line[7:]] if self.script["trickle"] else [line]
        for piece in pieces:
            try:
                self.connection.sendall(piece)
            except BrokenPipeError:
                time.sleep(60 if self.script["deaf"] else 5)  # the listener ends the process
            time.sleep(0.005 * (len(pieces) > 1))

    def die(self) -> None:
        print("scripted death", flush=True)
        if self.script["orphan"]:
            subprocess.Popen(["sleep", "600"], pass_fds=[self.connection.fileno()])
        os.kill(os.getpid(), signal.SIGKILL)

    def hear(self, message: dict) -> list[list]:
        self.note(message)
        failed = []
        if "begin" in message:
            self.sampling = message["begin"]
        if "abort" in message:
            self.running.clear()
        for row, prompt, sampling_seed in message.get("rows", []):
            if sampling_seed in self.script["refuse"]:
                failed.append([row, "vLLM refused the row: scripted"])
            else:
                self.running[row] = [prompt, sampling_seed]
        return failed

    def finish(self, row: int) -> list:
        prompt, sampling_seed = self.running.pop(row)
        if sampling_seed in self.script["poison"]:
            self.die()
        while sampling_seed == self.script["stall"] and self.number == 0:
            time.sleep(1)
        if "scores" in self.sampling:
            self.num_done += 1
            return [row, *score_tokens(prompt, sampling_seed), len(prompt) // 2]
        tokens = write_tokens(prompt, sampling_seed, self.sampling["max_new_tokens"])
        reason = "length" if len(tokens) == self.sampling["max_new_tokens"] else "stop"
        tail = [[token, [[token, -0.25], [token + 1, -1.5]]] for token in tokens]
        if reason == "stop":
            end = self.sampling.get("stop_ids", self.job["stop_ids"])[0]
            tokens, tail = [*tokens, end], [*tail, [end, [[end, -0.125]]]]
        tail = tail[-self.sampling["tail_tokens"] - 1 :] if self.sampling["tail_tokens"] else []
        if sampling_seed in self.script["garble"]:
            reason = "repetition"
        self.num_done += 1
        return [row, tokens, reason, len(prompt) // 2, tail]

    def serve(self) -> None:
        rng = random.Random(os.getpid())
        while True:
            failed = self.hear(self.inbox.get()) if not self.running else []
            while not self.inbox.empty():
                failed += self.hear(self.inbox.get_nowait())
            time.sleep(self.script["seconds_per_step"])
            rows = rng.sample(sorted(self.running), min(self.script["rows_per_step"], len(self.running)))
            done = [self.finish(row) for row in rows]
            self.tell({"done": done, "failed": failed, "peak": [0.5, 0.0]})
            if self.script["die_after"] and self.num_done >= self.script["die_after"] and self.number == 0:
                self.die()


def main() -> None:
    script, descriptor, job = json.loads(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    worker = ScriptedWorker(script, socket.socket(fileno=descriptor), job)
    time.sleep(worker.script["slow_start_seconds"])
    if worker.script["exit_before_ready"]:
        sys.exit(worker.script["exit_before_ready"])
    if worker.script["exit_later"] and worker.number:
        sys.exit(worker.script["exit_later"])
    worker.tell({"ready": {"context": worker.script["context"], "dtype": "float32", "peak": [0.25, 0.0]}})
    worker.serve()


if __name__ == "__main__":
    main()
