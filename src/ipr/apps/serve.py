"""A model of ours behind the protocol that others speak: POST /v1/chat/completions, /v1/completions, GET /v1/models.

Decided here: requests that wait are answered together, by one thread that has the model; a conversation that goes on
finds the key-values of its earlier turns, and the n samples of one prompt share its. What the policy cannot do is
refused, never left out silently; who may ask, and how much, is said in `ipr.apps.guard`. Completions are of token ids,
as vLLM's server takes and returns them; so are the routes that load and unload adapters (`--adapters`), each of which
is a whole model of its own here. What is wrong with a request is answered as vLLM answers it: status, type, parameter
and code (`tests/vllm/answers.json`). Not `transformers serve` (5.23): with a model whose generation config is greedy it
leaves out temperature and seed, it leaves out n, and its list of models fails where nothing came from the hub.
Left out: streaming, tools, completions of text, other ways to sample than temperature. A stop text cuts the answer
after it was written.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import socket
import threading
import time
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Response
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ipr import store
from ipr.apps.guard import Guard, Limits, error
from ipr.engine import Generated, Request, generate
from ipr.policies.chat import ChatPolicy
from ipr.types import IprError, Message, derive_seed

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
    "top_k": -1,
    "min_p": 0,
    "repetition_penalty": 1,
    "echo": False,
    "ignore_eos": False,
    "min_tokens": 0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "tool_choice": "none",
}
"""Fields that clients send, and the values that ask for nothing."""


def _whole(text: str) -> str:
    if half := store.HALF.search(text):
        raise ValueError(f"half a character (a lone surrogate) at place {half.start()}")
    return text


_Text = Annotated[str, AfterValidator(_whole)]


class _Part(BaseModel):
    type: Literal["text"]
    text: _Text


class _ChatMessage(BaseModel):
    role: Literal["user", "assistant"]
    content: _Text | list[_Part]

    def message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(self.role, text)


_Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Id = Annotated[int, Field(ge=0)]


class _Asking(BaseModel):
    """What is understood of both kinds of request; anything else is in `model_extra`."""

    model_config = ConfigDict(extra="allow")
    model: str | None = None
    """None: the model that is served."""
    temperature: float | None = None
    max_tokens: int | None = None
    seed: _Seed | None = None
    n: int | None = None
    stop: str | list[str] | None = None


class ChatRequest(_Asking):
    messages: list[_ChatMessage]
    max_completion_tokens: int | None = None


class CompletionRequest(_Asking):
    """Prompts of token ids; sample i of every prompt is drawn with the seed + i, as by vLLM."""

    prompt: list[_Id] | list[list[_Id]] | None = None
    stop_token_ids: list[int] = []
    """Those that end a turn anyway; others are refused."""
    return_token_ids: bool | None = None


class UnloadRequest(BaseModel):
    lora_name: str


class LoadRequest(UnloadRequest):
    lora_path: str


class NoAdapter(IprError):
    """There is none in the folder that is named."""


class _Refused(Exception):
    """A request that cannot be answered, in vLLM's terms."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, kind: str = "BadRequestError"):
        super().__init__(message)
        self.param, self.status, self.kind = param, status, kind


_MOST_SAMPLES = 128
"""That a request may ask for of a prompt."""


@dataclass(frozen=True, slots=True)
class Sample(Generated):
    """An answer, and its words."""

    text: str


@dataclass(slots=True)
class _Asked:
    model: str
    prompt: tuple[Message, ...] | list[int]
    seeds: list[int]
    temperature: float
    limit: int
    """Most tokens of an answer."""
    answer: Future[tuple[int, list[Sample]]]
    """Tokens of the prompt, and a sample for each seed."""


class Answerer:
    """The thread with the models: takes what waits, answers what wants the same model and temperature together."""

    def __init__(self):
        self.models: dict[str, ChatPolicy] = {}
        self.busy = threading.Lock()
        """Held while a model computes; loading another one meanwhile would disturb it."""
        self._waiting: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._names = count()
        self._sessions: dict[str, OrderedDict[tuple[int, ...], Hashable]] = defaultdict(OrderedDict)
        """By model: prompts that were answered -> the session that holds their key-values, the oldest first."""
        threading.Thread(target=self._work, daemon=True, name="ipr-answers").start()

    def ask(
        self, model: str, prompt: tuple[Message, ...] | list[int], seeds: list[int], temperature: float, limit: int
    ) -> Future[tuple[int, list[Sample]]]:
        """See `_Asked`; the future raises _Refused for a prompt that cannot be answered."""
        asked = _Asked(model, prompt, seeds, temperature, limit, Future())
        self._waiting.put(asked)
        return asked.answer

    def remove(self, model: str) -> None:
        with self.busy:
            del self.models[model]
            self._sessions.pop(model, None)

    def _work(self) -> None:
        while True:
            taken = [self._waiting.get()]
            time.sleep(_GATHER)
            while not self._waiting.empty():
                taken.append(self._waiting.get())
            groups: dict[tuple[str, float], list[_Asked]] = defaultdict(list)
            for asked in taken:
                if asked.answer.set_running_or_notify_cancel():  # False: the client has gone
                    groups[asked.model, asked.temperature].append(asked)
            for (model, temperature), group in groups.items():
                try:
                    with self.busy:
                        self._answer(self.models[model], self._sessions[model], group, temperature)
                except Exception as error:
                    log.exception("requests failed")
                    for asked in group:
                        if not asked.answer.done():
                            asked.answer.set_exception(error)

    def _answer(
        self,
        policy: ChatPolicy,
        sessions: OrderedDict[tuple[int, ...], Hashable],
        group: list[_Asked],
        temperature: float,
    ) -> None:
        answered: list[tuple[_Asked, int]] = []
        requests: list[Request] = []
        for asked in group:
            try:
                ids = _ids(policy, asked.prompt)
            except _Refused as error:
                asked.answer.set_exception(error)
                continue
            answered.append((asked, len(ids)))
            room = min(asked.limit, policy.engine.max_length - len(ids))
            requests += [Request(ids, room, seed, self._session(sessions, ids)) for seed in asked.seeds]
        found = iter(generate(policy.engine, requests, temperature))
        for asked, length in answered:
            each = [next(found) for _ in asked.seeds]
            asked.answer.set_result((length, [Sample(one.ids, one.finish, policy.chat.text(one.ids)) for one in each]))
        # Afterwards, so that no two requests of a call go on with one session.
        for request in requests:
            sessions[tuple(request.prompt)] = request.session
            sessions.move_to_end(tuple(request.prompt))
        while len(sessions) > policy.engine.slots:
            sessions.popitem(last=False)

    def _session(self, sessions: OrderedDict[tuple[int, ...], Hashable], ids: list[int]) -> Hashable:
        """That of the longest prompt that this one goes on from, which only one can go on with; else a new one."""
        known = [prompt for prompt in sessions if prompt == tuple(ids[: len(prompt)])]
        return sessions.pop(max(known, key=len)) if known else next(self._names)


def _ids(policy: ChatPolicy, prompt: tuple[Message, ...] | list[int]) -> list[int]:
    """The prompt's tokens. Raises _Refused where it is none, or too long."""
    if isinstance(prompt, list):
        ids = prompt
        if not ids:
            raise _Refused("You must pass at least one prompt")
        if (last := max(ids)) >= len(policy.chat.tokenizer):
            raise _Refused(f"Token id {last} is out of vocabulary")
    else:
        try:
            ids = policy.chat.prompt(prompt)
        except ValueError as error:
            raise _Refused(f"messages: {error}", "messages") from None
    limit = policy.engine.max_length
    if len(ids) > limit:
        text = f"This model's maximum context length is {limit} tokens. However, your prompt has {len(ids)}"
        raise _Refused(text, "input_tokens")
    if len(ids) == limit:
        raise _Refused(f"max_tokens must be at least 1, got 0: the prompt has all of {limit} tokens", "max_tokens")
    return ids


Load = Callable[[str], ChatPolicy]
"""The folder of an adapter -> the model with it. Raises NoAdapter, or IprError for one that cannot be taken."""
_INPUT, _FAILED = "InvalidUserInput", "InternalServerError"


def app(
    policy: ChatPolicy, name: str, root: str | None = None, load: Load | None = None, limits: Limits | None = None
) -> FastAPI:
    """The routes, for the model called `name`, which came from `root`; with `load` clients may load adapters."""
    limits = limits or Limits()
    answers, made = Answerer(), int(time.time())
    answers.models[name] = policy
    cards: dict[str, dict[str, Any]] = {}
    """What is served, by name."""
    served = FastAPI(openapi_url=None)
    served.add_middleware(Guard, limits=limits)

    def card(model: str, **more: Any) -> None:
        cards[model] = {"id": model, "object": "model", "created": made, "owned_by": "ipr"} | more

    card(name, root=root or name, max_model_len=policy.engine.max_length)

    def check(request: _Asking) -> str:
        """The model that is asked. Raises _Refused for what it cannot be asked."""
        model = request.model or name
        if model not in cards:
            there = ", ".join(cards)
            raise _Refused(f"The model `{model}` does not exist. There is {there}", "model", 404, "NotFoundError")
        for key, value in (request.model_extra or {}).items():
            if value is not None and (key not in _NEUTRAL or _NEUTRAL[key] not in (value, None)):
                raise _Refused(f"{key}={value!r} is not supported", key)
        if request.temperature is not None and not 0 <= request.temperature < math.inf:
            raise _Refused(f"temperature must be non-negative and finite, got {request.temperature}", "temperature")
        for key in ("max_tokens", "max_completion_tokens"):
            if (most := getattr(request, key, None)) is not None and most < 1:
                raise _Refused(f"{key} must be at least 1, got {most}", "max_tokens")
        if request.n is not None and not 0 < request.n <= _MOST_SAMPLES:
            raise _Refused(f"n must be at least 1 and at most {_MOST_SAMPLES}, got {request.n}")
        return model

    async def answer(
        model: str, request: _Asking, prompts: list[Any], limit: int, seeds: list[int]
    ) -> tuple[list[list[Sample]], dict[str, int]]:
        """For each prompt the samples, and the usage of all."""
        temperature = 1.0 if request.temperature is None else request.temperature
        wanted = len(prompts) * len(seeds) * min(limit, answers.models[model].engine.max_length)
        if wanted > limits.tokens:
            text = f"{wanted} tokens are asked for, {limits.tokens} at most in a request; lower max_tokens or n"
            raise _Refused(text, "max_tokens")
        asked = (answers.ask(model, prompt, seeds, temperature, limit) for prompt in prompts)
        found = await asyncio.gather(*map(asyncio.wrap_future, asked))
        read = sum(length for length, _ in found)
        written = sum(len(sample.ids) for _, samples in found for sample in samples)
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return [samples for _, samples in found], usage

    @served.get("/health")
    async def health() -> Response:
        return Response()

    @served.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": list(cards.values())}

    @served.post("/v1/chat/completions")
    async def chat(request: ChatRequest) -> dict[str, Any]:
        model = check(request)
        if not request.messages:
            raise _Refused("there are no messages; give at least one")
        conversation = tuple(message.message() for message in request.messages)
        limit = request.max_completion_tokens or request.max_tokens or policy.engine.max_length
        seed = uuid.uuid4().int if request.seed is None else request.seed
        # A negative seed is a seed too; sample 0 is what a policy at hand writes with this seed.
        seeds = [seed % 2**64, *(derive_seed(seed, i) for i in range(1, request.n or 1))]
        [samples], usage = await answer(model, request, [conversation], limit, seeds)
        choices = []
        for sample in samples:
            text, choice = _choice(len(choices), sample, request.stop)
            choices.append(choice | {"message": {"role": "assistant", "content": text}})
        return _body("chat.completion", model, choices, usage)

    @served.post("/v1/completions")
    async def completions(request: CompletionRequest) -> dict[str, Any]:
        model = check(request)
        if foreign := set(request.stop_token_ids) - set(answers.models[model].engine.ends):
            raise _Refused(f"{sorted(foreign)} do not end a turn here", "stop_token_ids")
        if request.prompt is None:
            raise _Refused("a prompt must be provided", "prompt")
        prompts: list[Any] = (
            request.prompt if request.prompt and isinstance(request.prompt[0], list) else [request.prompt]
        )
        seed = uuid.uuid4().int if request.seed is None else request.seed
        seeds = [(seed + i) % 2**64 for i in range(request.n or 1)]
        found, usage = await answer(model, request, prompts, request.max_tokens or 16, seeds)
        choices = []
        for prompt, samples in zip(prompts, found, strict=True):
            for sample in samples:
                text, choice = _choice(len(choices), sample, request.stop)
                ids = {"prompt_token_ids": prompt, "token_ids": sample.ids} if request.return_token_ids else {}
                choices.append(choice | {"text": text} | ids)
        return _body("text_completion", model, choices, usage)

    if load is not None:

        @served.post("/v1/load_lora_adapter")
        async def load_adapter(request: LoadRequest) -> Response:
            if not request.lora_name or not request.lora_path:
                raise _Refused("Both 'lora_name' and 'lora_path' must be provided", kind=_INPUT)
            if request.lora_name == name:
                raise _Refused(f"'{name}' is the name of the model that is served", kind=_INPUT)
            loaded = _Refused(f"The lora adapter '{request.lora_name}' has already been loaded", kind=_INPUT)
            if request.lora_name in cards:
                raise loaded

            def work() -> None:
                with answers.busy:
                    if request.lora_name in answers.models:  # several ask for what all of them lack
                        raise loaded
                    answers.models[request.lora_name] = load(request.lora_path)

            try:
                await asyncio.to_thread(work)
            except NoAdapter as error:
                raise _Refused(str(error), status=404, kind="NotFoundError") from None
            except IprError as error:
                raise _Refused(str(error), status=500, kind=_FAILED) from None
            card(request.lora_name, root=request.lora_path, parent=name)
            return Response(f"Success: LoRA adapter '{request.lora_name}' added successfully.")

        @served.post("/v1/unload_lora_adapter")
        async def unload_adapter(request: UnloadRequest) -> Response:
            if not request.lora_name:
                raise _Refused("'lora_name' needs to be provided", kind=_INPUT)
            if request.lora_name == name or request.lora_name not in cards:
                text = f"The lora adapter '{request.lora_name}' cannot be found"
                raise _Refused(text, status=404, kind="NotFoundError")
            del cards[request.lora_name]
            await asyncio.to_thread(answers.remove, request.lora_name)
            return Response(f"Success: LoRA adapter '{request.lora_name}' removed successfully.")

    @served.exception_handler(_Refused)
    async def refused(_: HttpRequest, refusal: _Refused) -> JSONResponse:
        return error(str(refusal), refusal.status, refusal.kind, refusal.param)

    @served.exception_handler(RequestValidationError)
    async def malformed(_: HttpRequest, problem: RequestValidationError) -> JSONResponse:
        # Of a union's branches the one that understood most.
        first = max(problem.errors(), key=lambda each: len(each["loc"]))
        # Names of pydantic's own are left out, e.g. that of a union's branch.
        param = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
        return error(f"{param}: {first['msg']}", 400, param=param)

    @served.exception_handler(Exception)
    async def failed(_: HttpRequest, problem: Exception) -> JSONResponse:
        told = error(f"{type(problem).__name__}; see the server's output", 500, _FAILED)
        told.headers["Connection"] = "close"  # uvicorn closes it, and a client's next request would be lost with it
        return told

    return served


def listen(host: str, port: int) -> socket.socket:
    """A socket at the address; port 0 takes a free one. Raises IprError where it is in use or none."""
    try:
        return socket.create_server((host, port), backlog=512)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise IprError(f"cannot listen at {host}:{port} ({why}); choose another --port") from None


def server(
    policy: ChatPolicy, name: str, root: str | None = None, load: Load | None = None, limits: Limits | None = None
) -> uvicorn.Server:
    """Of `app`; to be run with `run(sockets=[listen(...)])`."""
    routes = app(policy, name, root, load, limits)
    return uvicorn.Server(uvicorn.Config(routes, log_level="warning", access_log=False))


def _choice(index: int, sample: Sample, stop: str | list[str] | None) -> tuple[str, dict[str, Any]]:
    """The answer's text, cut at the first stop text, and what both protocols say of a choice."""
    stops = [stop] if isinstance(stop, str) else stop or []
    found = [place for stop in stops if stop and (place := sample.text.find(stop)) >= 0]
    text = sample.text[: min(found)] if found else sample.text
    finish = "stop" if found or sample.finish == "stop" else "length"
    return text, {"index": index, "finish_reason": finish, "logprobs": None}


def _body(kind: str, model: str, choices: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": choices,
        "usage": usage,
    }
