"""`rollout.backend=vllm`: a model run by vLLM, in this process (`vllm.LLM`) or by a server (`vllm serve`).

Decided here: every stage's adapter is loaded beside the others on one base that stays loaded, under a name that has the
hash of its content; which one answers is said with each request. Key-values of earlier turns are found by vLLM's prefix
caching, so sessions mean nothing here. In this process equal prompts with seeds in a row are one request for n samples
(vLLM gives sample i the seed + i); in a run each sample's seed is its own, and what its N samples share is the prefix.

What holds: a sample is drawn with the seed of its turn, whatever is answered beside it. What does not: vLLM computes in
batches that are never the same twice, so on a GPU logits, and with them a token once in a while, differ by rounding
from run to run (VLLM_BATCH_INVARIANT=1 is vLLM's own remedy); and its samples are not those of our own engine at the
same seed. Left out: a full model cannot be exchanged on a server (it is refused); in this process it is loaded anew.
"""

from __future__ import annotations

import gc
import importlib
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import openai

from ipr import models
from ipr.config import RunConfig
from ipr.engine import Answers, Generated, Request
from ipr.policies.chat import ChatPolicy, end_tokens
from ipr.policies.openai import Server, as_they_come
from ipr.profiling import timed
from ipr.tokens import ChatTokens
from ipr.types import IprError

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as max_lora_rank."""
_NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Said in every request to a server, which else takes them from the model's generation_config.json."""
_HINT = "it must be vLLM 0.10.2 or newer, or ipr serve"


def load(path: str, name: str, config: RunConfig) -> ChatPolicy:
    """See `ipr.policies.load`. Raises IprError, before anything is played, where vLLM is missing, or its server, or
    that serves another model.
    """
    from transformers import GenerationConfig

    adapter = models.adapter(path)
    base, rank = adapter or (models.resolve(path), config.model.lora.rank)
    named = (f"{name}-{models.model_hash(path)[:12]}", str(Path(path).resolve())) if adapter else None
    need = _Need(base, rank, min(config.model.max_length, models.context_length(path)), config)
    try:
        generation_config = GenerationConfig.from_pretrained(base)
    except OSError:
        generation_config = None  # not every model has one
    form = _Server(need) if config.rollout.endpoint else _in_process(need)
    model, chat = form.model(named), ChatTokens(models.load_tokenizer(path, config.model.date))
    ends = end_tokens(chat, generation_config)
    limits = {"max_length": need.max_length, "slots": config.rollout.slots}
    if isinstance(form, _Server):
        return ChatPolicy(ServerEngine(form, model, ends, **limits), chat, name)
    return ChatPolicy(VllmEngine(form, model, ends, **limits), chat, name)


def check(config: RunConfig) -> str:
    """See `ipr.policies.check`: no vLLM, no server, or one that cannot exchange adapters."""
    if not config.rollout.endpoint:
        _library()
        if config.rollout.workers > 1:
            raise IprError(
                "rollout.workers: each would want the whole GPU; use 1, or one vLLM server for all (rollout.endpoint)"
            )
        return "in the run's own process"
    if not config.model.lora.rank:
        raise IprError(
            "rollout.endpoint: a server cannot exchange a full model after each training; train adapters"
            " (model.lora.rank=16), or let the run load vLLM itself (rollout.endpoint=null)"
        )
    path = config.model.path
    if path == "champion":  # not known yet
        _Server(_Need("MODEL", config.model.lora.rank, config.model.max_length, config)).check_adapters()
    else:
        base, rank = models.adapter(path) or (models.resolve(path), config.model.lora.rank)
        server = _Server(_Need(base, rank, min(config.model.max_length, models.context_length(path)), config))
        server.model(None)
        server.check_adapters()
    return config.rollout.endpoint


def rest() -> None:
    """See `ipr.policies.rest`."""
    for loaded in _kept:
        loaded.rest()


@dataclass(frozen=True)
class _Need:
    """What has to be loaded."""

    base: str
    rank: int
    """Of the adapters; 0 where there are none."""
    max_length: int
    config: RunConfig

    def max_rank(self) -> int:
        """The least that vLLM takes for adapters of this rank."""
        if self.rank > _RANKS[-1]:
            raise IprError(f"model.lora.rank={self.rank} is more than vLLM takes; use at most {_RANKS[-1]}")
        return next(rank for rank in _RANKS if rank >= self.rank)

    def command(self) -> str:
        """How a server for this is started."""
        line = f"vllm serve {self.base} --max-model-len {self.max_length} --dtype {self.config.model.dtype}"
        line += " --enable-prefix-caching"
        if self.rank:
            line = f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True {line} --enable-lora --max-loras 2 --max-lora-rank"
            line += f" {self.max_rank()}"
        return line


# Behind a server ------------------------------------------------------------------------------------------------------


class _Server:
    """`vllm serve`, or `ipr serve`: POST /v1/completions with token ids."""

    def __init__(self, need: _Need):
        self._need, config = need, need.config
        self._server = Server(config.rollout.endpoint or "", config.endpoint, "rollout.endpoint", _HINT)
        self._client, self.url = self._server.client, self._server.url
        self._adapters: dict[str, str] = {}
        """Name -> folder of those that were asked for."""

    def model(self, adapter: tuple[str, str] | None) -> str:
        """What the base, or the adapter (name, folder), is called there; an adapter that is not there is loaded.

        Raises IprError where the base is another model.
        """
        base, most, served = self._need.base, self._need.max_length, self._served()
        name = next((name for name, more in served.items() if base == name or _same(more.get("root"), base)), None)
        if name is None:
            raise IprError(f"{self.url} serves {', '.join(served)}, not {base}; start it with: {self._need.command()}")
        if (limit := served[name].get("max_model_len")) is not None and limit < most:
            raise IprError(
                f"{self.url} takes {limit} tokens, the run's conversations have up to {most} (model.max_length);"
                f" start it with: {self._need.command()}"
            )
        if adapter and adapter[0] not in served:
            self.check_adapters()
            self._load(*adapter)
        self._adapters |= [adapter] if adapter else []
        return adapter[0] if adapter else name

    def check_adapters(self) -> None:
        """Raise IprError where the server has no route to load an adapter; where it has, it refuses to load nothing."""
        try:
            self._post({"lora_name": "", "lora_path": ""})
        except openai.APIStatusError as error:
            if error.status_code in (404, 405):
                line = self._need.command()
                raise IprError(f"{self.url} loads no adapters while it runs; start it with: {line}") from None
            if error.status_code not in (400, 422):
                raise self._server.refused(error) from None
        except openai.OpenAIError as error:
            raise self._server.refused(error) from None

    def _load(self, name: str, folder: str) -> None:
        try:
            self._post({"lora_name": name, "lora_path": folder})
        except openai.OpenAIError as error:
            if name not in self._served():  # else another worker was quicker
                raise self._server.refused(error) from None

    def _post(self, body: dict[str, str]) -> None:
        self._client.with_options(max_retries=0).post("/load_lora_adapter", body=body, cast_to=str)

    def _served(self) -> dict[str, dict[str, Any]]:
        """Models and adapters by name, with what vLLM says of them: "root" (folder), "max_model_len"."""
        try:
            return {m.id: m.model_extra or {} for m in self._client.with_options(max_retries=1).models.list()}
        except openai.OpenAIError as error:
            raise self._server.refused(error) from None
        except (ValueError, TypeError, AttributeError):
            raise IprError(f"{self.url} does not list its models; {_HINT}") from None

    def write(self, model: str, request: Request, temperature: float, ends: Sequence[int]) -> Generated:
        if not request.max_new_tokens:
            return Generated((), "length")

        def ask() -> Any:
            return self._client.completions.create(
                model=model,
                prompt=list(request.prompt),
                max_tokens=request.max_new_tokens,
                temperature=temperature,
                top_p=1.0,
                n=1,
                seed=_seed(request, temperature),
                extra_body={"stop_token_ids": list(ends), "return_token_ids": True, **_NEUTRAL},
            )

        try:
            try:
                answer = ask()
            except openai.NotFoundError:
                if model not in self._adapters:
                    raise
                self._load(model, self._adapters[model])  # a server that was started again has forgotten it
                answer = ask()
        except openai.OpenAIError as error:
            raise self._server.refused(error) from None
        choice = answer.choices[0] if answer.choices else None
        ids = ((choice and choice.model_extra) or {}).get("token_ids")
        if choice is None or ids is None:
            raise IprError(f"{self.url} returns no token ids; {_HINT}")
        return Generated(tuple(ids), "stop" if choice.finish_reason == "stop" else "length")


class ServerEngine:
    """An `ipr.engine.Engine` behind a server, which is asked for each request by itself; raises IprError."""

    def __init__(self, server: _Server, model: str, ends: Sequence[int], *, max_length: int, slots: int):
        self._server, self._model = server, model
        self.ends, self.max_length, self.slots = ends, max_length, slots

    def close_session(self, session: Hashable) -> None:
        pass

    def stream(self, waiting: deque[Request], temperature: float) -> Answers:
        def ask(request: Request) -> Generated:
            return self._server.write(self._model, request, temperature, self.ends)

        def name(request: Request) -> str:
            return f"a turn of episode {request.session} after {len(request.prompt)} tokens, seed {request.seed}"

        answers = as_they_come(ask, waiting, self.slots, name)
        while True:
            with timed("model"):
                answer = next(answers, None)
            if answer is None:
                return
            yield answer


def _seed(request: Request, temperature: float) -> int:
    """As vLLM takes it; greedy answers to a prompt are the same."""
    return request.seed % 2**63 if temperature > 0 else 0


def _same(root: str | None, folder: str) -> bool:
    return root is not None and Path(root).resolve() == Path(folder).resolve()


# In this process ------------------------------------------------------------------------------------------------------

_kept: list[_Loaded] = []
"""What is loaded: one, because it takes most of the GPU."""


class _Loaded:
    """`vllm.LLM` on one base, and the adapters that it knows."""

    def __init__(self, key: tuple[Any, ...], llm: Any):
        self.key, self._llm = key, llm
        self._adapters: dict[str, int] = {}
        """Name -> the number that vLLM knows it by."""
        self._awake = True

    def model(self, adapter: tuple[str, str] | None) -> Any:
        """vLLM's request for the adapter (name, folder); None for the base."""
        if adapter is None:
            return None
        name, folder = adapter
        number = self._adapters.setdefault(name, len(self._adapters) + 1)
        return _library("vllm.lora.request").LoRARequest(name, number, folder)

    def rest(self) -> None:
        if self._awake:
            self._llm.sleep(level=1)
            self._awake = False

    def write(self, prompts: list[Any], params: list[Any], lora: Any) -> list[list[Generated]]:
        """The samples of each prompt."""
        if not self._awake:
            _clear()
            self._llm.wake_up()
            self._awake = True
        return [
            [
                Generated(tuple(one.token_ids), "stop" if one.finish_reason == "stop" else "length")
                for one in sorted(found.outputs, key=lambda one: one.index)
            ]
            for found in self._llm.generate(prompts, params, lora_request=lora, use_tqdm=False)
        ]


class VllmEngine:
    """An `ipr.engine.Engine` by vLLM in this process: what waits is answered in rounds."""

    def __init__(self, loaded: _Loaded, lora: Any, ends: Sequence[int], *, max_length: int, slots: int):
        self._loaded, self._lora = loaded, lora
        self.ends, self.max_length, self.slots = ends, max_length, slots

    def close_session(self, session: Hashable) -> None:
        pass

    def stream(self, waiting: deque[Request], temperature: float) -> Answers:
        while waiting:
            requests = list(waiting)
            waiting.clear()
            with timed("model"):
                answers = self._round(requests, temperature)
            yield from zip(requests, answers, strict=True)

    def _round(self, requests: Sequence[Request], temperature: float) -> list[Generated]:
        library = _library()
        places: dict[tuple[tuple[int, ...], int], dict[int, list[int]]] = {}
        """Prompt and room -> seed -> the requests that want this sample."""
        for i, request in enumerate(requests):
            if request.max_new_tokens:
                seeds = places.setdefault((tuple(request.prompt), request.max_new_tokens), {})
                seeds.setdefault(_seed(request, temperature), []).append(i)
        prompts: list[Any] = []
        params: list[Any] = []
        wanted: list[list[list[int]]] = []
        """By prompt that vLLM is given, by sample."""
        for (prompt, room), seeds in places.items():
            for _, row in groupby(enumerate(sorted(seeds)), key=lambda pair: pair[1] - pair[0]):
                found = [seed for _, seed in row]
                prompts.append(library.TokensPrompt(prompt_token_ids=list(prompt)))
                params.append(
                    library.SamplingParams(
                        n=len(found),
                        temperature=temperature,
                        seed=found[0],
                        max_tokens=room,
                        stop_token_ids=list(self.ends),
                        detokenize=False,
                    )
                )
                wanted.append([seeds[seed] for seed in found])
        answers = [Generated((), "length")] * len(requests)
        written = self._loaded.write(prompts, params, self._lora) if prompts else []
        for samples, each in zip(written, wanted, strict=True):
            for sample, takers in zip(samples, each, strict=True):
                for i in takers:
                    answers[i] = sample
        return answers


def _in_process(need: _Need) -> _Loaded:
    """What is needed, loaded; what else is goes first."""
    config = need.config
    key = (models.model_hash(need.base), need.rank, need.max_length, config.model.dtype, config.rollout.slots)
    if not _kept or _kept[0].key != key:
        library = _library()
        _kept.clear()
        _clear()
        llm = library.LLM(
            model=need.base,
            dtype=config.model.dtype,
            max_model_len=need.max_length,
            max_num_seqs=config.rollout.slots,
            enable_prefix_caching=True,
            enable_sleep_mode=True,
            **({"enable_lora": True, "max_loras": 2, "max_lora_rank": need.max_rank()} if need.rank else {}),
        )
        _kept.append(_Loaded(key, llm))
    return _kept[0]


def _clear() -> None:
    """Give back what torch keeps of the GPU for itself, e.g. after a training."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _library(name: str = "vllm") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise IprError(
            f"rollout.backend=vllm: vLLM cannot be imported ({error}); on a machine with a GPU: pip install vllm, or"
            " name a server: rollout.endpoint=http://HOST:8000/v1"
        ) from None
