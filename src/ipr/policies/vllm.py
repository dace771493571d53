"""A model run by vLLM as a policy: in this process (`vllm.LLM`), or by a server (`vllm serve`). Tokens in, tokens out.

Decided here: the prompt's tokens are ours (`ChatTokens`), so both forms and `hf` see the same ones, and a server's chat
template has no say. Every stage's adapter is loaded beside the others on one base that stays loaded, under a name that
has the hash of its content; which one answers is said with each request. Key-values of earlier turns are found by
vLLM's prefix caching, so sessions mean nothing here. Equal prompts with seeds in a row are one request for n samples
(vLLM gives sample i the seed + i); in a run each sample's seed is its own, and what its N samples share is the prefix.

What holds: a sample is drawn with the seed of its turn, whatever is answered beside it. What does not: vLLM computes in
batches that are never the same twice, so on a GPU logits, and with them a token once in a while, differ by rounding
from run to run (VLLM_BATCH_INVARIANT=1 is vLLM's own remedy); and its samples are not those of `hf` at the same seed.
Left out: a full model cannot be exchanged on a server (it is refused); in this process it is loaded anew.
"""

from __future__ import annotations

import gc
import importlib
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import openai

from ipr import models
from ipr.config import RunConfig
from ipr.policies.openai import Server, as_they_come, together
from ipr.profiling import count, timed
from ipr.tokens import ChatTokens
from ipr.types import Completion, IprError, Sampling, Turn

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as max_lora_rank."""
_NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Said in every request to a server, which else takes them from the model's generation_config.json."""
_HINT = "it must be vLLM 0.10.2 or newer, or ipr serve"


@dataclass(frozen=True, slots=True)
class Asked:
    """n samples of a prompt, drawn with `seed`, `seed` + 1 and so on, of at most `room` tokens each."""

    prompt: list[int]
    room: int
    seed: int
    n: int


Written = tuple[tuple[int, ...], bool]
"""A sample's tokens, its end with them, and whether it said its end."""
Write = Callable[[Sequence[Asked], float, list[int]], list[list[Written]]]
"""(requests, temperature, tokens that end a turn) -> each request's samples."""


class VllmPolicy:
    """`write` is one of the two forms, for one model; see `load`. No conversation grows over `max_length` tokens."""

    def __init__(self, write: Write, tokenizer: Any, name: str, *, max_length: int, generation_config: Any = None):
        from ipr.policies.hf import ends

        self.name, self.max_length = name, max_length
        self.chat = ChatTokens(tokenizer)
        self._write, self._ends = write, sorted(ends(generation_config, self.chat))

    def close_session(self, session: Hashable) -> None:
        pass

    def generate(self, turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        with timed("tokenizer"):
            prompts = [self.chat.prompt(turn.conversation) for turn in turns]
        places: dict[tuple[int, ...], dict[int, list[int]]] = {}
        """Prompt -> seed -> the turns that want this sample."""
        for i, (prompt, turn) in enumerate(zip(prompts, turns, strict=True)):
            if len(prompt) < self.max_length:
                seed = turn.seed % 2**63 if sampling.temperature > 0 else 0
                places.setdefault(tuple(prompt), {}).setdefault(seed, []).append(i)
        asked: list[Asked] = []
        for prompt, seeds in places.items():
            room = min(sampling.max_new_tokens, self.max_length - len(prompt))
            for _, row in groupby(enumerate(sorted(seeds)), key=lambda pair: pair[1] - pair[0]):
                found = [seed for _, seed in row]
                asked.append(Asked(list(prompt), room, found[0], len(found)))
        with timed("model"):
            written = self._write(asked, sampling.temperature, self._ends) if asked else []
        answers = [Completion("", (), "overflow")] * len(turns)
        with timed("tokenizer"):
            for one, samples in zip(asked, written, strict=True):
                for seed, sample in enumerate(samples, one.seed):
                    answer = self._completion(sample, sampling)
                    for i in places[tuple(one.prompt)][seed]:
                        answers[i] = answer
        return answers

    def _completion(self, written: Written, sampling: Sampling) -> Completion:
        ids, stopped = written
        count("tokens", len(ids))
        finish = "stop" if stopped else "length" if len(ids) == sampling.max_new_tokens else "overflow"
        return Completion(self.chat.text(ids), ids, finish)


class ServedPolicy(VllmPolicy):
    """Of a server, which is asked for at most `most` turns at the same time."""

    def __init__(self, *arguments: Any, most: int, **options: Any):
        super().__init__(*arguments, **options)
        self._most = most

    def stream(self, waiting: deque[Turn], sampling: Sampling) -> Iterator[tuple[Turn, Completion]]:
        """See `ipr.types.Streaming`; raises IprError."""

        one = threading.Lock()  # the tokenizer is not for several threads

        def write(turn: Turn) -> Written | None:
            with one:
                prompt = self.chat.prompt(turn.conversation)
            room = min(sampling.max_new_tokens, self.max_length - len(prompt))
            seed = turn.seed % 2**63 if sampling.temperature > 0 else 0
            asked = [Asked(prompt, room, seed, 1)]
            return self._write(asked, sampling.temperature, self._ends)[0][0] if room > 0 else None

        answers = as_they_come(write, waiting, self._most)
        while True:
            with timed("model"):
                turn, written = next(answers, (None, None))
            if turn is None:
                break
            yield turn, Completion("", (), "overflow") if written is None else self._completion(written, sampling)


def load(path: str, name: str, config: RunConfig) -> VllmPolicy:
    """The model or adapter of a folder or hub name as a policy called `name`.

    Raises IprError, before anything is played, where vLLM is missing, or its server, or that serves another model.
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
    form = _Remote(need) if config.rollout.endpoint else _engine(need)
    write, tokenizer = form.writer(named), models.load_tokenizer(path, config.model.date)
    options = {"max_length": need.max_length, "generation_config": generation_config}
    if isinstance(form, _Remote):
        return ServedPolicy(write, tokenizer, name, most=config.rollout.slots, **options)
    return VllmPolicy(write, tokenizer, name, **options)


def check(config: RunConfig) -> None:
    """Raise IprError for what would stop a run later: no vLLM, no server, or one that cannot exchange adapters."""
    if not config.rollout.endpoint:
        _library()
        if config.rollout.workers > 1:
            raise IprError(
                "rollout.workers: each would want the whole GPU; use 1, or one vLLM server for all (rollout.endpoint)"
            )
        return
    if not config.model.lora.rank:
        raise IprError(
            "rollout.endpoint: a server cannot exchange a full model after each training; train adapters"
            " (model.lora.rank=16), or let the run load vLLM itself (rollout.endpoint=null)"
        )
    path = config.model.path
    if path == "champion":  # not known yet
        _Remote(_Need("MODEL", config.model.lora.rank, config.model.max_length, config)).check_adapters()
        return
    base, rank = models.adapter(path) or (models.resolve(path), config.model.lora.rank)
    server = _Remote(_Need(base, rank, min(config.model.max_length, models.context_length(path)), config))
    server.writer(None)
    server.check_adapters()


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


class _Remote:
    """`vllm serve`, or `ipr serve`: POST /v1/completions with token ids; one request for each Asked, all at once."""

    def __init__(self, need: _Need):
        self._need, config = need, need.config
        self._server = Server(config.rollout.endpoint or "", config.endpoint, "rollout.endpoint", _HINT)
        self._client, self.url = self._server.client, self._server.url
        self._most = config.rollout.slots

    def writer(self, adapter: tuple[str, str] | None) -> Write:
        """Loads the adapter (name, folder) unless it is there; raises IprError where the base is another model."""
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
        return partial(self._write_all, adapter[0] if adapter else name)

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

    def _write_all(
        self, model: str, asked: Sequence[Asked], temperature: float, ends: list[int]
    ) -> list[list[Written]]:
        return together(lambda one: self._write(model, one, temperature, ends), asked, self._most)

    def _write(self, model: str, asked: Asked, temperature: float, ends: list[int]) -> list[Written]:
        try:
            answer = self._client.completions.create(
                model=model,
                prompt=asked.prompt,
                max_tokens=asked.room,
                temperature=temperature,
                top_p=1.0,
                n=asked.n,
                seed=asked.seed,
                extra_body={"stop_token_ids": ends, "return_token_ids": True, **_NEUTRAL},
            )
        except openai.OpenAIError as error:
            raise self._server.refused(error) from None
        found: list[Written] = []
        for choice in sorted(answer.choices, key=lambda choice: choice.index):
            ids = (choice.model_extra or {}).get("token_ids")
            if ids is None:
                raise IprError(f"{self.url} returns no token ids; {_HINT}")
            found.append((tuple(ids), choice.finish_reason == "stop"))
        return found


def _same(root: str | None, folder: str) -> bool:
    return root is not None and Path(root).resolve() == Path(folder).resolve()


# In this process ------------------------------------------------------------------------------------------------------

_kept: list[_Engine] = []
"""The engine that is loaded: one, because it takes most of the GPU."""


def rest() -> None:
    """Leave the GPU's memory to others, e.g. to training, until the engine is used again."""
    for engine in _kept:
        engine.rest()


class _Engine:
    """`vllm.LLM` on one base, and the adapters that it knows."""

    def __init__(self, key: tuple[Any, ...], llm: Any):
        self.key, self._llm = key, llm
        self._adapters: dict[str, int] = {}
        """Name -> the number that vLLM knows it by."""
        self._awake = True

    def writer(self, adapter: tuple[str, str] | None) -> Write:
        lora = None
        if adapter:
            name, folder = adapter
            number = self._adapters.setdefault(name, len(self._adapters) + 1)
            lora = _library("vllm.lora.request").LoRARequest(name, number, folder)
        return partial(self._write, lora)

    def rest(self) -> None:
        if self._awake:
            self._llm.sleep(level=1)
            self._awake = False

    def _write(self, lora: Any, asked: Sequence[Asked], temperature: float, ends: list[int]) -> list[list[Written]]:
        vllm = _library()
        if not self._awake:
            _clear()
            self._llm.wake_up()
            self._awake = True
        params = [
            vllm.SamplingParams(
                n=one.n,
                temperature=temperature,
                seed=one.seed,
                max_tokens=one.room,
                stop_token_ids=ends,
                detokenize=False,
            )
            for one in asked
        ]
        prompts = [vllm.TokensPrompt(prompt_token_ids=one.prompt) for one in asked]
        found = self._llm.generate(prompts, params, lora_request=lora, use_tqdm=False)
        return [
            [(tuple(o.token_ids), o.finish_reason == "stop") for o in sorted(one.outputs, key=lambda o: o.index)]
            for one in found
        ]


def _engine(need: _Need) -> _Engine:
    """The engine for what is needed; another one that is loaded goes first."""
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
        _kept.append(_Engine(key, llm))
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
