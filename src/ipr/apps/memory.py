"""How much memory a run takes on each GPU, training and playing, and how much disk: worked out, nothing is loaded.

Decided here: what autograd keeps is not guessed by a formula. A pass of the training's own code is run over a model of
the same widths with one layer and with two, whose tensors have shapes and no numbers (`plug.without_numbers`), and the
bytes alive are counted; every further layer adds what the second added. So adapters, number types, recomputing, shared
beginnings and any family count as they are. Weights, gradients and optimizer are counted, key-values are the engine's
own arithmetic (`engine.kv`).

Left out: what the allocator of a GPU cannot use and what CUDA itself takes, for which `SPARE` leaves room, and the
kernels of a GPU, where they keep something else than a CPU's do. Pure: files are not read, and no device is asked.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import cycle, islice
from math import ceil
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ipr import algorithms, models
from ipr.algorithms.rft import demonstration
from ipr.config import LoraConfig, ModelConfig, PreferenceConfig, RunConfig, TrainConfig
from ipr.engine import batching, kv
from ipr.models import plug
from ipr.policies import vllm_server
from ipr.tokens import ChatTokens
from ipr.training import losses, trainer
from ipr.training.batches import Batch, Example, collate, example, micro_batches
from ipr.training.sharing import shares
from ipr.types import Demonstration, EnvSpec, PreferencePair, Trajectory

GIB = 1 << 30
SPARE = 0.92
"""Share of a GPU's memory that training may fill."""
ASLEEP = 2 * GIB
"""What a vLLM that sleeps keeps of its GPU, CUDA's context above all: logs that others have published say 0.8 to 1.4
GiB for a server of one GPU."""
_LOGIT = 12
"""Bytes of a trained token's logit where a loss is gone back from: its log-probability and two gradients, float32."""
_TURNS = {
    "transformers": "training and playing take turns: what plays is dropped before training loads its model",
    "workers": "training and {n} workers take turns, up to {share} of them on a GPU: they drop what they play with",
    "vllm": "training and vLLM take turns: asleep it leaves the GPU but for its CUDA context, its weights"
    " ({weights:.1f} GiB) lie in the CPU's memory",
    "server": "the server at {url} keeps its share of its GPU all the time, here it is not counted; where it is on the"
    " GPU that trains, start it with a smaller --gpu-memory-utilization",
}


@dataclass(frozen=True)
class Sizes:
    """Parameters of a model."""

    whole: int
    trained: int
    matrices: int
    """Of the trained ones those that Muon takes."""
    layer: int
    """Of a layer."""


def sizes(of: Any, config: ModelConfig) -> Sizes:
    """Of the model of a transformers config, what reads pictures and sounds too, with the adapter that is asked for."""
    model, one, two = (_build(of, config, layers) for layers in (None, 1, 2))
    whole, first, second = (sum(p.numel() for p in m.parameters()) for m in (model, one, two))
    outside = set(map(id, models.embeddings(model)))
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = sum(p.numel() for p in trained if p.ndim == 2 and id(p) not in outside)
    return Sizes(whole, sum(p.numel() for p in trained), matrices, second - first)


# Training -------------------------------------------------------------------------------------------------------------


def training(
    of: Any,
    config: RunConfig,
    section: TrainConfig,
    examples: Sequence[Example],
    *,
    processes: int = 1,
    sharded: bool = False,
) -> dict[str, int]:
    """Bytes on each GPU where an update of these examples needs most, by what takes them, and their "total"; and the
    "tokens" of the largest pass, and of the "longest" example.

    `examples` are those of an update, of which every process has its part; `sharded`: weights, gradients and optimizer
    state are divided among the processes, and a layer is gathered while it is used (FSDP2).
    """
    text, size = of.get_text_config(), sizes(of, config.model)
    itemsize = getattr(torch, models.dtype_of(config.model, training=True)).itemsize
    states = 8 * size.trained - (4 * size.matrices if section.optimizer == "muon" else 0)
    found = {
        "weights": itemsize * (size.whole - size.trained) + 4 * size.trained,
        "gradients": 4 * size.trained,
        "optimizer": states,
    }
    if isinstance(section, PreferenceConfig) and section.average:
        found["weights at the start"] = 4 * size.trained
    if sharded:
        found = {name: ceil(held / processes) for name, held in found.items()}
        # As they are kept: the layer at work and the next, whole, and their gradients before they are summed up; what
        # is outside of the layers for the whole pass.
        ends, layer = size.whole - text.num_hidden_layers * size.layer, size.layer
        found["gathered"] = itemsize * (2 * layer + ends) + (0 if config.model.lora.rank else 4 * (layer + ends))
    own = sorted(examples, key=lambda one: -one.length)[::processes]  # as the trainer deals them out
    peak, tokens, read, longest = _peak(
        text, config, section, own, recomputes=size.whole > models.LARGE, sharded=sharded
    )
    logits = min(peak, _LOGIT * tokens * text.vocab_size)
    found |= {"activations": peak - logits, "logits": logits}
    return found | {"total": sum(found.values()), "tokens": read, "longest": longest}


def _peak(
    text: Any, config: RunConfig, section: TrainConfig, own: Sequence[Example], *, recomputes: bool, sharded: bool
) -> tuple[int, int, int, int]:
    """Bytes that the largest pass of a process adds to what is there between passes, the tokens that are trained
    and read in it, and those of the longest example, below which no pass can be cut."""
    dtype, found = getattr(torch, models.dtype_of(config.model, training=True)), []
    share = not plug.scaled(text, max(e.length for e in own)) and _shares(text)
    cut = micro_batches(own, range(len(own)), section.micro_batch_tokens, share)
    passes = [collate([row for i in part for row in own[i].rows], share) for part in cut]
    batch = max(passes, key=lambda one: (_read(one), len(one.targets)))
    for layers in (1, 2):
        model = _build(text, config.model, layers, dtype).train()
        if recomputes:
            model.activation_checkpointing_enable()
        with plug.without_numbers(model):
            for p in model.parameters():
                p.grad = torch.zeros_like(p) if p.requires_grad else None
            # Of a model that is spread, rounded weights are not kept for the rest of the pass.
            mixed = torch.autocast(
                "cpu", torch.bfloat16, enabled=section.mixed_precision == "bf16", cache_enabled=not sharded
            )
            found.append(_bytes(model, batch, mixed, layers, section.temperature))
    one, two = found
    # Forward, and back through the last layer, each layer adds alike; after that what was kept goes, layer by layer.
    deep = (a + (text.num_hidden_layers - 1) * (b - a) for a, b in zip(one[:2], two[:2], strict=True))
    longest = max(_read(collate(one.rows, share)) for one in own)
    return max(*deep, two[2]), len(batch.targets), _read(batch), longest


def _bytes(model: Any, batch: Batch, mixed: torch.autocast, layers: int, temperature: float) -> tuple[int, int, int]:
    """The most that is alive forward, back until the last layer is through, and after that."""
    stack = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == layers)
    passed: list[int] = []

    def watch(_: Any, args: Any, given: Any) -> None:
        states = args[0] if args else given["hidden_states"]
        if states.requires_grad:
            states.register_hook(lambda _: passed.append(held.most))

    stack[-1].register_forward_pre_hook(watch, with_kwargs=True)
    tree = not isinstance(batch.inputs, torch.Tensor)
    plugged = plug.plugged_in(plug.own_config(model), "ipr_tree") if tree else nullcontext()
    outside = [t for p in model.parameters() for t in (p, p.grad) if t is not None]
    with plugged, plug.Held([*outside, *model.buffers()]) as held:
        with mixed:
            loss = losses.token_logps(trainer.logits(model, batch), batch.targets, temperature).sum()
        forward, held.most = held.most, held.now
        loss.backward()
    return forward, passed[0] if passed else held.most, held.most


def _shares(text: Any) -> bool:
    """Whether the training will share beginnings: tried, as there, on a tiny copy that has numbers."""
    try:
        return shares(models.tiny_copy(text))
    except Exception:  # of an architecture that cannot be made small
        return False


def _read(batch: Batch) -> int:
    """Tokens of a pass, padding included."""
    return batch.inputs.numel() if isinstance(batch.inputs, torch.Tensor) else len(batch.inputs.ids)


def _build(of: Any, config: ModelConfig, layers: int | None, dtype: torch.dtype = torch.float32) -> Any:
    """A model of so many layers of text (None: all there is), without numbers, with the adapter that is asked for."""
    part = models.shallow(of, layers) if layers else copy.deepcopy(of)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(part, dtype=dtype)
        if config.lora.rank:
            return models.with_adapter(model, config)
        if config.freeze_embeddings:
            models.freeze_embeddings(model)
        return model


def updates(config: RunConfig, spec: EnvSpec, chat: ChatTokens, experts: Sequence[Trajectory]) -> dict[str, Any]:
    """The examples of an update of each of the run's trainings, by the config's section, made of these trajectories.

    What an agent will do is not known: where it fails, it is taken to play to the step limit.
    """
    how = algorithms.make(config.algorithm).training
    found: dict[str, Sequence[Demonstration | PreferencePair]] = {"sft": [demonstration(expert) for expert in experts]}
    if losses.get(how.loss).on == "pairs":
        found[how.section] = list(_pairs(experts, spec.max_steps))
    elif how.section == "train":
        found["train"] = [demonstration(_longer(expert, spec.max_steps)) for expert in experts]
    rows: dict[str, list[Example]] = {}
    for name, of in found.items():
        section = getattr(config, name)
        some = of[:: max(1, len(of) // section.batch_size)][: section.batch_size]
        made = [example(chat, spec.told(r.task_id), r, observation_weight=section.observation_weight) for r in some]
        rows[name] = [one for one in made if one.length <= config.model.max_length] or made
    return rows


def _pairs(experts: Sequence[Trajectory], limit: int) -> Iterator[PreferencePair]:
    """From every step of each expert: on the one side what it does, on the other what another one does, to the end."""
    for k, expert in enumerate(experts):
        other = _longer(experts[(k + 1) % len(experts)], limit)
        for t in range(len(expert.steps)):
            chosen = tuple(expert.continuation(t))
            rejected = tuple(other.continuation(min(t, len(other.steps) - 1)))
            level = "step" if t else "outcome"
            yield PreferencePair(expert.task_id, t, level, tuple(expert.history(t)), chosen, rejected, 1.0)


def _longer(trajectory: Trajectory, limit: int) -> Trajectory:
    """The same steps again and again, to the limit."""
    steps = tuple(islice(cycle(trajectory.steps), max(limit, len(trajectory.steps))))
    return Trajectory(trajectory.task_id, trajectory.first_observation, steps, 0.0, "truncated")


# Playing --------------------------------------------------------------------------------------------------------------


def playing(of: Any, config: RunConfig, *, memory: float | None = None) -> dict[str, int]:
    """Bytes on the GPU of a process that plays, by what takes them, their "total", and "slots": episodes at a time.

    On a GPU with so many bytes of `memory` there are as many slots as fit, 0 where none does. vLLM takes its share of
    it, whatever the slots need.
    """
    text = of.get_text_config()
    dtype, limit = getattr(torch, config.model.dtype), min(config.model.max_length, models.longest(text))
    base = config.model.model_copy(update={"lora": LoraConfig()})
    adapter = sizes(of, config.model).trained if config.model.lora.rank else 0
    weights = dtype.itemsize * sizes(of, base).whole + 4 * adapter
    kept = torch.bfloat16 if config.rollout.kv_dtype == "bfloat16" else dtype
    _check_states(text, base, dtype)
    model = _build(text, base, text.num_hidden_layers, dtype).eval()
    with plug.without_numbers(model):
        token, slot = kv.bytes_a_token(model, dtype), kv.bytes_a_slot(limit, model, kept)
    if config.rollout.backend == "vllm" and memory is not None:
        room = vllm_server.SHARE * memory - weights
        slots = min(config.rollout.slots, int(max(0, room) / (token * limit)))
        return {"weights": weights, "key-values": int(room), "total": int(vllm_server.SHARE * memory), "slots": slots}
    slots, (values, drawn) = config.rollout.slots, slot
    if memory is not None:
        slots = min(slots, kv.slots_in(int(memory) - weights, slot))
    found = {
        "weights": weights,
        "key-values": slots * values,
        "logits": slots * drawn,
        "a pass": _forward(text, base, min(batching.PASS_TOKENS, slots * limit), dtype),
    }
    return found | {"total": sum(found.values()), "slots": slots}


def _check_states(text: Any, config: ModelConfig, dtype: torch.dtype) -> None:
    """Raises RuntimeError where a model reads one token after the other, and so cannot be counted."""
    model = _build(text, config, 1, dtype).eval()
    with plug.without_numbers(model), torch.no_grad():
        if _read_by(model, 64).operations - _read_by(model, 32).operations >= 32:
            raise RuntimeError("a state goes from token to token, which would take minutes")


def _forward(text: Any, config: ModelConfig, tokens: int, dtype: torch.dtype) -> int:
    """Bytes that a pass over so many tokens takes, without what is drawn from."""
    model = _build(text, config, 1, dtype).eval()
    with plug.without_numbers(model), torch.no_grad():
        return _read_by(model, max(1, tokens)).most


def _read_by(model: Any, tokens: int) -> plug.Held:
    """What a model without numbers does and holds as it reads so many tokens."""
    ids = torch.zeros(1, tokens, dtype=torch.long)
    with plug.Held([*model.parameters(), *model.buffers()]) as held:
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    return held


# The whole run --------------------------------------------------------------------------------------------------------


NUMBERS = ("slots", "tokens", "longest")
"""What an estimate tells beside bytes."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes of each GPU, in bytes."""

    training: dict[str, dict[str, int]]
    """By the section of the config ("sft", "train"), as `training` has it; with what others hold meanwhile."""
    playing: dict[str, int]
    """As `playing` has it; empty where a server plays."""
    turns: str
    """How the two share a GPU."""

    def refusal(self, config: RunConfig, memory: float, *, idle: bool = False) -> str | None:
        """What does not fit into so many bytes, in a line with what to do; None where all does.

        `idle`: there are more GPUs than train.
        """
        room = SPARE * memory
        for name, held in self.training.items():
            if held["total"] <= room:
                continue
            parts = ", ".join(
                f"{what} {size / GIB:.1f}" for what, size in held.items() if what not in ("total", *NUMBERS)
            )
            told = (
                f"{name} needs {held['total'] / GIB:.1f} GiB on a GPU ({parts}), of {memory / GIB:.1f} GiB it may have"
            )
            passing = held["activations"] + held["logits"]
            # Fewer than the largest pass has: a micro-batch that is not full is no smaller for a lower limit.
            tokens = int(held["tokens"] * (1 - (held["total"] - room) / passing)) // 256 * 256
            if tokens >= max(1024, held["longest"]):
                return f"{told} {room / GIB:.1f}; set {name}.micro_batch_tokens={tokens}"
            fix = "give it more or larger GPUs" if config.model.lora.rank else "train adapters (model.lora.rank=16)"
            if idle:
                fix = "train stage by stage on all GPUs together (accelerate launch, docs/training.md)"
            return f"{told} {room / GIB:.1f}; {fix}, or take a smaller model"
        if self.playing and self.playing["slots"] < 1:
            return (
                f"not one conversation of {config.model.max_length} tokens can be played: the weights take"
                f" {self.playing['weights'] / GIB:.1f} GiB of {memory / GIB:.1f}; lower model.max_length"
            )
        return None


def estimate(
    of: Any,
    config: RunConfig,
    examples: dict[str, list[Example]],
    *,
    memory: float | None = None,
    processes: int = 1,
    sharded: bool = False,
    gpus: int = 1,
) -> Estimate:
    """Of the model of a transformers config. `examples` are an update's (`updates`); `memory` is a GPU's, in bytes.
    `processes` train; the workers play on `gpus`.
    """
    workers, share = config.rollout.workers, config.rollout.on_a_gpu(gpus)
    # First, as it is what fails soon where there are no key-values to count.
    played = {} if config.rollout.endpoint else playing(of, config, memory=memory and memory / share)
    learnt = {
        name: training(of, config, getattr(config, name), rows, processes=processes, sharded=sharded)
        for name, rows in examples.items()
        if (section := getattr(config, name)).epochs or section.updates
    }
    if config.rollout.endpoint:
        return Estimate(learnt, {}, _TURNS["server"].format(url=config.rollout.endpoint))
    kind = "vllm" if config.rollout.backend == "vllm" else "transformers"
    if config.rollout.vllm:
        learnt = {
            name: held | {"a sleeping vLLM": ASLEEP, "total": held["total"] + ASLEEP} for name, held in learnt.items()
        }
    if workers > 1 and not config.rollout.scheduler and kind == "transformers":
        return Estimate(learnt, played, _TURNS["workers"].format(n=workers, share=share))
    return Estimate(learnt, played, _TURNS[kind].format(weights=played["weights"] / GIB))


def disk(of: Any, config: RunConfig) -> dict[str, int]:
    """Bytes that a run writes at most, beside its tables: the models of its stages, and a training's checkpoint."""
    size = sizes(of, config.model)
    saved = 4 * (size.trained if config.model.lora.rank else size.whole)
    # A checkpoint is written aside while the one before is still there: weights and both of AdamW's moments.
    return {"models": (config.algorithm.iterations + 1) * saved, "checkpoint": 2 * 12 * size.trained}
