"""A model of ours behind the protocol that others speak: POST /v1/chat/completions, GET /v1/models.

Decided here: requests that wait are answered together, by one thread that has the model; a conversation that goes on
finds the key-values of its earlier turns, and the n samples of one prompt share its. What the policy cannot do is
refused, never left out silently. Not `transformers serve` (5.23): with a model whose generation config is greedy it
leaves out temperature and seed, it leaves out n, and its list of models fails where nothing came from the hub.
Left out: streaming, tools, other ways to sample than temperature. A stop text cuts the answer after it was written.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import socket
import threading
import time
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from ipr.policies.hf import TransformersPolicy
from ipr.types import Completion, IprError, Message, Sampling, Turn, derive_seed

log = logging.getLogger("ipr")

_GATHER = 0.005
"""Seconds in which requests that come together are gathered."""
_NEUTRAL = {
    "top_p": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "stream": False,
    "logprobs": False,
    "tools": [],
    "user": None,
}
"""Fields that clients send, and the values that ask for nothing."""


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _ChatMessage(BaseModel):
    role: Literal["user", "assistant"]
    content: str | list[_Part]

    def message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(self.role, text)


class ChatRequest(BaseModel):
    """What is understood of a request; anything else is in `model_extra`."""

    model_config = ConfigDict(extra="allow")
    model: str
    messages: list[_ChatMessage] = Field(min_length=1)
    temperature: float | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None
    n: int | None = Field(default=None, ge=1, le=128)
    stop: str | list[str] | None = None


class _Refused(Exception):
    """A request that cannot be answered, in the protocol's terms."""

    def __init__(self, message: str, code: str, param: str | None = None, status: int = 400):
        super().__init__(message)
        self.code, self.param, self.status = code, param, status


@dataclass(slots=True)
class _Asked:
    conversation: tuple[Message, ...]
    seeds: list[int]
    sampling: Sampling
    answer: Future[tuple[int, list[Completion]]]
    """Tokens of the conversation, and an answer for each seed."""


class Answerer:
    """The thread that has model and tokenizer: takes what waits, answers requests of the same sampling together."""

    def __init__(self, policy: TransformersPolicy):
        self._policy = policy
        self._waiting: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._names = count()
        self._sessions: OrderedDict[tuple[Message, ...], Hashable] = OrderedDict()
        """Conversations that were answered -> the session that holds their key-values, the oldest first."""
        threading.Thread(target=self._work, daemon=True, name="ipr-answers").start()

    def ask(
        self, conversation: tuple[Message, ...], seeds: list[int], sampling: Sampling
    ) -> Future[tuple[int, list[Completion]]]:
        """See `_Asked.answer`; the future raises _Refused for a conversation that cannot be answered."""
        asked = _Asked(conversation, seeds, sampling, Future())
        self._waiting.put(asked)
        return asked.answer

    def _work(self) -> None:
        while True:
            taken = [self._waiting.get()]
            time.sleep(_GATHER)
            while not self._waiting.empty():
                taken.append(self._waiting.get())
            together: dict[Sampling, list[_Asked]] = defaultdict(list)
            for asked in taken:
                if asked.answer.set_running_or_notify_cancel():  # False: the client has gone
                    together[asked.sampling].append(asked)
            for sampling, group in together.items():
                try:
                    self._answer([(asked, n) for asked in group if (n := self._length(asked))], sampling)
                except Exception as error:
                    log.exception("requests failed")
                    for asked in group:
                        if not asked.answer.done():
                            asked.answer.set_exception(error)

    def _length(self, asked: _Asked) -> int:
        """Tokens of the conversation; 0 where it is refused."""
        try:
            length = len(self._policy.chat.prompt(asked.conversation))
        except ValueError as error:
            asked.answer.set_exception(_Refused(f"messages: {error}", "invalid_value", "messages"))
            return 0
        if (limit := self._policy.max_length) <= length:
            text = f"the messages have {length} tokens, this model's context length is {limit}"
            asked.answer.set_exception(_Refused(text, "context_length_exceeded", "messages"))
            return 0
        return length

    def _answer(self, group: list[tuple[_Asked, int]], sampling: Sampling) -> None:
        turns = [Turn(a.conversation, seed, self._session(a.conversation)) for a, _ in group for seed in a.seeds]
        found = iter(self._policy.generate(turns, sampling))
        for asked, length in group:
            asked.answer.set_result((length, [next(found) for _ in asked.seeds]))
        # Afterwards, so that no two turns of a call go on with one session.
        for turn in turns:
            self._sessions[turn.conversation] = turn.session
            self._sessions.move_to_end(turn.conversation)
        while len(self._sessions) > self._policy.slots:
            self._sessions.popitem(last=False)

    def _session(self, conversation: tuple[Message, ...]) -> Hashable:
        """That of the conversation two messages ago, which only one can go on with; else a new one."""
        known = self._sessions.pop(conversation[:-2], None)
        return next(self._names) if known is None else known


def app(policy: TransformersPolicy, name: str) -> FastAPI:
    """The two routes, for the model called `name`."""
    answers, made = Answerer(policy), int(time.time())
    served = FastAPI(openapi_url=None)

    @served.get("/v1/models")
    async def models() -> dict[str, Any]:
        model = {"id": name, "object": "model", "created": made, "owned_by": "ipr", "max_model_len": policy.max_length}
        return {"object": "list", "data": [model]}

    @served.post("/v1/chat/completions")
    async def chat(request: ChatRequest) -> dict[str, Any]:
        if request.model != name:
            raise _Refused(f"no model '{request.model}'; there is '{name}'", "model_not_found", "model", 404)
        for key, value in (request.model_extra or {}).items():
            if value is not None and (key not in _NEUTRAL or _NEUTRAL[key] not in (value, None)):
                raise _Refused(f"{key}={value!r} is not supported", "unsupported_parameter", key)
        conversation = tuple(message.message() for message in request.messages)
        limit = request.max_completion_tokens or request.max_tokens or policy.max_length
        sampling = Sampling(1.0 if request.temperature is None else request.temperature, limit)
        seed = uuid.uuid4().int if request.seed is None else request.seed
        # A negative seed is a seed too; sample 0 is what a policy at hand writes with this seed.
        seeds = [seed % 2**64, *(derive_seed(seed, i) for i in range(1, request.n or 1))]
        prompt, completions = await asyncio.wrap_future(answers.ask(conversation, seeds, sampling))
        written = sum(len(completion.token_ids) for completion in completions)
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": name,
            "choices": [_choice(i, completion, stops) for i, completion in enumerate(completions)],
            "usage": {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written},
        }

    @served.exception_handler(_Refused)
    async def refused(_: Request, error: _Refused) -> JSONResponse:
        return _error(str(error), error.status, error.code, error.param)

    @served.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        return _error(f"{param}: {first['msg']}", 400, "invalid_value", param)

    @served.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return _error(f"{type(error).__name__}; see the server's output", 500, "server_error", None)

    return served


def listen(host: str, port: int) -> socket.socket:
    """A socket at the address; port 0 takes a free one. Raises IprError where it is in use or none."""
    try:
        return socket.create_server((host, port), backlog=512)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise IprError(f"cannot listen at {host}:{port} ({why}); choose another --port") from None


def server(policy: TransformersPolicy, name: str) -> uvicorn.Server:
    """To be run with `run(sockets=[listen(...)])`."""
    return uvicorn.Server(uvicorn.Config(app(policy, name), log_level="warning", access_log=False))


def _choice(index: int, completion: Completion, stops: list[str]) -> dict[str, Any]:
    found = [place for stop in stops if stop and (place := completion.text.find(stop)) >= 0]
    text = completion.text[: min(found)] if found else completion.text
    finish = "stop" if found or completion.finish == "stop" else "length"
    return {
        "index": index,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
        "logprobs": None,
    }


def _error(message: str, status: int, code: str, param: str | None) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    content = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(content, status)
