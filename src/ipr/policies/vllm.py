"""`rollout.backend=vllm`: a model run by vLLM's server, which the run starts (`rollout.vllm`) or somebody else did
(`rollout.endpoint`).

Decided here: every stage's adapter is loaded beside the others on one base that stays loaded, under a name that has the
hash of its content; which one answers is said with each request. Key-values of earlier turns are found by vLLM's prefix
caching, so sessions mean nothing here. Each sample has a seed of its own; what the N samples of a step share is the
prefix. A server of somebody else is tried with a throw-away adapter before the run begins.

What holds: a sample is drawn with the seed of its turn, whatever is answered beside it. What does not: vLLM computes in
batches that are never the same twice, so on a GPU logits, and with them a token once in a while, differ by rounding
from run to run (VLLM_BATCH_INVARIANT=1 is vLLM's own remedy); and its samples are not those of our own engine at the
same seed. Left out: `vllm.LLM` in the run's process, as no environment holds both. A full model cannot be exchanged on
a server of somebody else (it is refused); the run's own server starts anew with it.
"""

from __future__ import annotations

import shlex
import tempfile
import uuid
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from ipr import models
from ipr.config import RunConfig
from ipr.engine import Answers, Generated, Request
from ipr.policies import vllm_server
from ipr.policies.chat import ChatPolicy, end_tokens
from ipr.policies.openai import Server, as_they_come
from ipr.policies.vllm_server import VllmProcess
from ipr.profiling import timed
from ipr.tokens import ChatTokens
from ipr.types import IprError

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as max_lora_rank."""
_BATCHED = 8192
"""Tokens that a pass of vLLM reads at most on a CPU; more where a conversation is longer."""
_NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Said in every request to a server, which else takes them from the model's generation_config.json."""
_HINT = "it must be vLLM 0.10.2 or newer, or ipr serve"


def load(path: str, name: str, config: RunConfig) -> ChatPolicy:
    """See `ipr.policies.load`. Raises IprError, before anything is played, where the server does not start, is not
    there, or serves another model.
    """
    from transformers import GenerationConfig

    _check_place(config)
    adapter = models.adapter(path)
    base, rank = adapter or (models.resolve(path), 0)
    rank = max(rank, config.model.lora.rank)  # one server for the base and all that is trained on it
    named = (f"{name}-{models.model_hash(path)[:12]}", str(Path(path).resolve())) if adapter else None
    need = _Need(base, rank, min(config.model.max_length, models.context_length(path)), config)
    try:
        generation_config = GenerationConfig.from_pretrained(base)
    except OSError:
        # Not every model has one; transformers then takes it from the config, and so does our own engine.
        generation_config = GenerationConfig.from_model_config(models.config_of(base))
    server = _Server(need, _process(need) if config.rollout.vllm else None)
    chat = ChatTokens(models.load_tokenizer(path, config.model.date))
    ends = end_tokens(chat, generation_config)
    limits = {"max_length": need.max_length, "slots": config.rollout.slots}
    return ChatPolicy(ServerEngine(server, server.model(named), ends, **limits), chat, name)


def check(config: RunConfig, folder: Path | None) -> str:
    """See `ipr.policies.check`: no vLLM, no server, or one that cannot exchange adapters."""
    _check_place(config)
    path, rank = config.model.path, config.model.lora.rank
    if config.rollout.vllm:
        vllm_server.find(config.rollout.vllm)
        _Need("", rank, 0, config).max_rank()
        workers, gpus = config.rollout.workers, len(models.gpus(config.model))
        if workers > max(1, gpus):
            raise IprError(
                f"rollout.workers={workers}: each starts a vLLM of its own, which takes most of a GPU, and here are"
                f" {gpus} GPUs; use {max(1, gpus)}, or one server for all (rollout.endpoint)"
            )
        return f"by a server that the run starts, {config.rollout.vllm}"
    if not rank:
        raise IprError(
            "rollout.endpoint: a server cannot exchange a full model after each training; train adapters"
            " (model.lora.rank=16), or let the run start vLLM itself (rollout.vllm=PATH)"
        )
    if path == "champion":  # not known yet
        _Server(_Need("MODEL", rank, config.model.max_length, config)).served()
    else:
        base = (models.adapter(path) or (models.resolve(path),))[0]
        most = min(config.model.max_length, models.context_length(path))
        server = _Server(_Need(base, rank, most, config))
        server.model(None)
        server.try_adapter(folder)
    return str(config.rollout.endpoint)


def rest() -> None:
    """See `ipr.policies.rest`."""
    for _, process in _kept:
        process.rest()


def _check_place(config: RunConfig) -> None:
    """It is played in one place."""
    if config.rollout.endpoint and config.rollout.vllm:
        raise IprError("rollout.vllm starts a server, rollout.endpoint names one that runs; leave one of them out")
    if not config.rollout.endpoint and not config.rollout.vllm:
        raise IprError(
            "rollout.backend=vllm: say where it runs; rollout.vllm=PATH is the `vllm` of another environment, whose"
            " server the run starts, rollout.endpoint=http://HOST:8000/v1 a server that runs (docs/gpu.md)"
        )


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

    def flags(self) -> list[str]:
        """What `vllm serve` is given."""
        length = str(self.max_length)
        found = [self.base, "--max-model-len", length, "--dtype", self.config.model.dtype, "--enable-prefix-caching"]
        found += ["--generation-config", "vllm"]  # a model's own may limit answers, and all else is said with each
        if self.rank:
            found += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(self.max_rank())]
        return found

    def command(self) -> str:
        """How a server for this is started."""
        line = f"vllm serve {shlex.join(self.flags())}"
        return f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True {line}" if self.rank else line


_kept: list[tuple[Any, VllmProcess]] = []
"""The server that this process has started, after what it was started for: one, because it takes most of the GPU."""


def _process(need: _Need) -> VllmProcess:
    """A server for what is needed: the one that runs, or a new one in its place."""
    config = need.config
    slots = config.rollout.slots
    place, wanted = models.device_named(config.model), (config.model.dtype, slots, config.rollout.vllm)
    key = (models.model_hash(need.base), need.rank, need.max_length, place, *wanted)
    if not _kept or _kept[0][0] != key or _kept[0][1].ended():
        while _kept:
            _kept.pop()[1].stop()
        executable = vllm_server.find(config.rollout.vllm or "")
        flags = [*need.flags(), "--max-num-seqs", str(slots)]
        gpu = models.device(config.model).type == "cuda"
        if gpu:
            flags += ["--gpu-memory-utilization", str(vllm_server.SHARE)]
        else:
            # Prompts whole: the engine of vLLM's CPU build dies where it reads a seeded one in pieces ("CPU Generator
            # does not use offset", 0.32). And nothing is compiled, which takes longer there than it saves.
            most = max(need.max_length, _BATCHED)
            flags += ["--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", str(most)]
        _kept.append((key, VllmProcess(executable, flags, sleeps=gpu, gpu=place.index)))
    return _kept[0][1]


class _Server:
    """`vllm serve`, or `ipr serve`: POST /v1/completions with token ids."""

    def __init__(self, need: _Need, process: VllmProcess | None = None):
        """With `process` the one that the run has started, else what `rollout.endpoint` names."""
        config = need.config
        self._need, self._process = need, process
        url, option = (process.url, "rollout.vllm") if process else (config.rollout.endpoint or "", "rollout.endpoint")
        self._server = Server(url, config.endpoint, option, _HINT, process.key if process else None)
        self._client, self.url = self._server.client, self._server.url
        self._adapters: dict[str, str] = {}
        """Name -> folder of those that were asked for."""

    def wake(self) -> None:
        if self._process:
            self._process.wake()

    def model(self, adapter: tuple[str, str] | None) -> str:
        """What the base, or the adapter (name, folder), is called there; an adapter that is not there is loaded.

        Raises IprError where the base is another model.
        """
        self.wake()
        base, most, served = self._need.base, self._need.max_length, self.served()
        name = next((name for name, more in served.items() if base == name or _same(more.get("root"), base)), None)
        if name is None:
            there = ", ".join([*served][:8]) + (f" and {len(served) - 8} others" if len(served) > 8 else "")
            raise IprError(f"{self.url} serves {there}, not {base}; start it with: {self._need.command()}")
        if isinstance(limit := served[name].get("max_model_len"), int) and limit < most:
            raise IprError(
                f"{self.url} takes {limit} tokens, the run's conversations have up to {most} (model.max_length);"
                f" start it with: {self._need.command()}"
            )
        if adapter and adapter[0] not in served:
            self._load(*adapter)
        self._adapters |= [adapter] if adapter else []
        return adapter[0] if adapter else name

    def try_adapter(self, folder: Path | None) -> None:
        """Load and unload an adapter like those that will be trained, from a place in or above `folder`.

        Raises IprError where that fails, as it would after the first training: no route for it, no --enable-lora, a
        rank over the server's, modules that it takes no adapters for, a folder that it does not see.
        """
        there = folder and next(place for place in (folder.resolve(), *folder.resolve().parents) if place.is_dir())
        with tempfile.TemporaryDirectory(prefix=".adapter-", dir=there) as place:
            name = f"check-{uuid.uuid4().hex[:12]}"
            adapter = models.save_blank_adapter(self._need.base, self._need.config.model, Path(place) / name)
            self._load(name, str(adapter))
            try:
                self._post("unload_lora_adapter", lora_name=name)
            except openai.OpenAIError as error:
                raise self._refused(error) from None

    def _load(self, name: str, folder: str) -> None:
        try:
            self._post("load_lora_adapter", lora_name=name, lora_path=folder)
        except openai.OpenAIError as error:
            if name not in self.served():  # else another worker was quicker
                raise self._not_loaded(error, folder) from None

    def _not_loaded(self, error: openai.OpenAIError, folder: str) -> IprError:
        if not isinstance(error, openai.APIStatusError) or error.status_code in (401, 403, 429):
            return self._refused(error)
        said, start = self._server.said(error), f"start it with: {self._need.command()}"
        if error.status_code in (404, 405) and "adapter" not in said.lower():
            return IprError(f"{self.url} loads no adapters while it runs; {start}")
        if error.status_code == 404:
            return IprError(
                f"{self.url} finds no adapter in {folder} ({said}); it must see the run's folder under the same path"
            )
        return IprError(f"{self.url} does not take an adapter of rank {self._need.rank} ({said}); {start}")

    def _post(self, route: str, **body: str) -> None:
        self._client.with_options(max_retries=0).post(f"/{route}", body=body, cast_to=str)

    def served(self) -> dict[str, dict[str, Any]]:
        """Models and adapters by name, with what vLLM says of them: "root" (folder), "max_model_len"."""
        try:
            listed = self._client.with_options(max_retries=1).models.list()
            found = {m.id: m.model_extra or {} for m in listed if isinstance(m.id, str)}
        except openai.OpenAIError as error:
            raise self._refused(error) from None
        except (ValueError, TypeError, AttributeError):
            found = {}
        if not found:
            raise IprError(f"{self.url} does not list its models; {_HINT}")
        return found

    def _refused(self, error: openai.OpenAIError) -> IprError:
        """A process of ours that has died is the reason itself."""
        broken = isinstance(error, openai.APIConnectionError | openai.InternalServerError)
        return (self._process and broken and self._process.died()) or self._server.refused(error)

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
            raise self._refused(error) from None
        except ValueError as error:  # JSON that is cut off
            raise IprError(f"{self.url} answers with what is no completion ({error}); {_HINT}") from None
        choices = getattr(answer, "choices", None)
        choice = choices[0] if choices else None
        ids = (getattr(choice, "model_extra", None) or {}).get("token_ids")
        if choice is None or ids is None:
            raise IprError(f"{self.url} returns no token ids; {_HINT}")
        if not isinstance(ids, list) or not all(type(n) is int and n >= 0 for n in ids):
            raise IprError(f"{self.url} returns token ids that are none; {_HINT}")
        if choice.finish_reason != "stop" and len(ids) < request.max_new_tokens:
            # Taken for a full context, it would end the episode without a word.
            raise IprError(
                f"{self.url} ended an answer ({choice.finish_reason}) after {len(ids)} of the {request.max_new_tokens}"
                " tokens asked for; start it with --generation-config vllm and no limit of its own, or lower"
                " rollout.max_new_tokens"
            )
        return Generated(tuple(ids), "stop" if choice.finish_reason == "stop" else "length")


class ServerEngine:
    """An `ipr.engine.Engine` behind a server, which is asked for each request by itself; raises IprError."""

    def __init__(self, server: _Server, model: str, ends: Sequence[int], *, max_length: int, slots: int):
        self._server, self._model = server, model
        self.ends, self.max_length, self.slots = ends, max_length, slots

    def close_session(self, session: Hashable) -> None:
        pass

    def stream(self, waiting: deque[Request], temperature: float) -> Answers:
        self._server.wake()

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


def _same(root: object, folder: str) -> bool:
    return isinstance(root, str) and Path(root).resolve() == Path(folder).resolve()
