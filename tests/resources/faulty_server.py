"""A real HTTP server with the chat API on a loopback port, which fails as it is told to, row by row."""

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


def respond(status: int, message: str = "it failed", *, code: str = "some_error", **headers: str) -> Fault:
    """A status with an error's body."""

    async def fault(request: web.Request) -> web.StreamResponse:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": {"message": message, "code": code}}, status=status, headers=names)

    return fault


def send_body(text: str, *, status: int = 200) -> Fault:
    """Any text as the body."""

    async def fault(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, status=status, content_type="application/json")

    return fault


async def cut_body(request: web.Request) -> web.StreamResponse:
    """Half of the body that the header promises, then the connection closes."""
    response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"choices": [{"message": {"content": "hal')
    assert request.transport is not None
    request.transport.close()
    return response


async def drop(request: web.Request) -> web.StreamResponse:
    """Accept, read, and close without a word."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def hang(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.sleep(3600)
    return web.Response()


def echo_key(status: int) -> Fault:
    """A status whose message repeats the key, as some servers do."""

    async def fault(request: web.Request) -> web.StreamResponse:
        return await respond(status, f"wrong key: {request.headers['Authorization']} is not known")(request)

    return fault


def complete(body: dict[str, Any]) -> dict[str, Any]:
    """The message of a choice: a text that depends on the prompt and the seed."""
    return {"role": "assistant", "content": f"to {body['messages'][-1]['content']} by {body['seed']}"}


@dataclass
class FaultyServer:
    """Answers every request rightly, after the faults that are scripted for its prompt."""

    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "served"}])
    """What `GET /models` lists."""
    script: dict[str, list[Fault]] = field(default_factory=dict)
    """Faults by prompt, each served once; the prompt `*` stands for any that has none of its own."""
    always: Fault | None = None
    """Serves every completion, after the script."""
    listing: Fault | None = None
    """Serves `GET /models` in place of the list."""
    dialect: str | None = None
    """The field of a body by which this server is constrained: `structured_outputs`, `regex` or `response_format`."""
    refuses_penalties: Callable[[float], bool] | None = None
    """Which repetition penalties are refused; without it the field is ignored, as by a server that does not know it."""
    continues: bool = False
    """Whether it goes on from a turn that has begun; else it counts that turn as closed, and another one opened."""
    loras: bool = False
    """Whether adapters can be loaded."""
    answer_seconds: float = 0.0
    message: Callable[[dict[str, Any]], dict[str, Any]] = complete
    choice: dict[str, Any] = field(default_factory=dict)
    """Put over every choice."""
    usage: dict[str, Any] | None = field(default_factory=lambda: {"prompt_tokens": 7, "completion_tokens": 5})
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """What `POST /chat/completions` was sent, in order."""
    keys: set[str] = field(default_factory=set)
    """Every Authorization header."""
    paths: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When completions were asked for, in seconds of the server's loop."""
    loaded: dict[str, str] = field(default_factory=dict)
    """Paths of the adapters by name."""
    peak: int = 0
    """Most completions under way at once."""
    port: int = 0
    _under_way: int = 0

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def count_asked(self) -> Counter[str]:
        """How often each prompt was asked."""
        return Counter(body["messages"][-1]["content"] for body in self.bodies)

    def start(self) -> "FaultyServer":
        """Listen, on the same port again after `stop`."""
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(started,), name="faulty-server")
        self._thread.start()
        assert started.wait(10)
        return self

    def stop(self) -> None:
        """Close every connection and the port."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self, started: threading.Event) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        self._stopping = asyncio.Event()
        app = web.Application()
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/chat/completions", self._complete)
        if self.loras:
            app.router.add_post("/v1/load_lora_adapter", self._load)
            app.router.add_post("/v1/unload_lora_adapter", self._unload)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = runner.addresses[0][1]
        started.set()
        await self._stopping.wait()
        await runner.cleanup()

    def _note(self, request: web.Request) -> None:
        self.paths.append(request.path)
        self.keys.add(request.headers.get("Authorization", ""))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        if self.listing is not None:
            return await self.listing(request)
        loaded = [{"id": name, "parent": "served"} for name in self.loaded]
        return web.json_response({"object": "list", "data": [*self.models, *loaded]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        body = await request.json()
        self.bodies.append(body)
        self.times.append(asyncio.get_running_loop().time())
        self._under_way += 1
        self.peak = max(self.peak, self._under_way)
        try:
            prompt = body["messages"][-1]["content"]
            faults = self.script.get(prompt) or self.script.get("*")
            if faults:
                return await faults.pop(0)(request)
            if self.always is not None:
                return await self.always(request)
            penalty = body.get("repetition_penalty")
            if penalty is not None and self.refuses_penalties is not None and self.refuses_penalties(penalty):
                return await respond(400, f"repetition_penalty: {penalty} is not taken", code="BadRequestError")(
                    request
                )
            await asyncio.sleep(self.answer_seconds)
            return web.json_response(self._answer(body))
        finally:
            self._under_way -= 1

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        message = self.message(body)
        if self.dialect is not None and self.dialect in body:
            [grammar] = re.findall(r"\(quokka\|zebra\)[^\"]*", json.dumps(body[self.dialect]))
            message = message | {"content": "zebra-0042" if grammar else ""}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"} | self.choice
        usage = self.usage
        if usage is not None and body["messages"][-1]["role"] == "assistant":
            begun = len(body["messages"][-1]["content"])
            is_continued = self.continues and body.get("continue_final_message")
            usage = usage | {"prompt_tokens": usage["prompt_tokens"] + begun + (0 if is_continued else 2)}
        return {"object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage}

    async def _load(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        body = await request.json()
        if body["lora_name"] in self.loaded:
            return await respond(400, f"The lora adapter '{body['lora_name']}' has already been loaded.")(request)
        self.loaded[body["lora_name"]] = body["lora_path"]
        return web.Response(text=f"Success: LoRA adapter '{body['lora_name']}' added successfully.")

    async def _unload(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        body = await request.json()
        if self.loaded.pop(body["lora_name"], None) is None:
            return await respond(404, "cannot be found", code="NotFoundError")(request)
        return web.Response(text="Success")
