"""One training loop for every loss, on demonstrations or on preference pairs.

Decided here:
- Everything that varies is a pure function of the seed and the update's number (order of the examples, learning rate,
  dropout), so a checkpoint is weights, optimizer state and a number, and a training that was killed goes on exactly.
- Over several processes the model is spread (`models.processes`), and so are a pass' gradients: as each loss is already
  divided by the counts of the whole update, their sum is exact for any split over processes. All make as many passes; a
  process that has no more examples of an update makes one that counts for nothing.
- A checkpoint is a folder of torch.distributed.checkpoint with every process's parts, for any number of processes.
- What the rows of a pass begin with in common is run once and nothing is padded, where the model allows it (`sharing`).
- The output layer sees only the positions that are trained, for any causal model (`plug.logits_only_at`).
- Log-probabilities that stay are computed once, before the training, not in every update: those of the reference
  (`reference_logps`), and those of the model as it starts (PPO's).

Left out on purpose: saving on SIGTERM (SIGKILL is survived, so SIGTERM is), evaluation within training (the flow plays
games instead).
"""

from __future__ import annotations

import math
import pickle
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from ipr import identity, models, store
from ipr.config import TrainConfig
from ipr.models import plug, processes
from ipr.tokens import ChatTokens
from ipr.training import losses
from ipr.training.batches import (
    Batch,
    Example,
    collate,
    example,
    micro_batches,
    pair_example,
    updates,
)
from ipr.training.sharing import Tree, run, shared_rows
from ipr.types import Demonstration, IprError, Message, PreferencePair, Progress, derive_seed

Log = Callable[[int, dict[str, float]], None]
"""Called with (updates done, metrics) after every update, in the main process."""

Told = Callable[[str], Sequence[Message]]
"""Task id -> the prompt before its conversation (`EnvSpec.told`)."""


@dataclass(slots=True)
class TrainResult:
    updates: int
    examples: int
    """Trained on (per epoch)."""
    dropped: int
    """Left out: too long (or, oddly, without a word to train on)."""
    tokens: int
    """Gone through in all epochs, padding left out."""
    agent_tokens: int
    """Of these the agent's that were trained."""
    seconds: float
    """Of training, over all restarts."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row per update: loss, its terms, learning_rate, grad_norm. A term is absent where it had no pairs."""
    final: dict[str, float] = field(default_factory=dict)
    """Means of the last epoch."""

    def facts(self) -> dict[str, float]:
        """All but the history, flat."""
        numbers: dict[str, float] = {n: v for n, v in asdict(self).items() if isinstance(v, int | float)}
        return numbers | self.final


def train(
    model: Any,
    chat: ChatTokens,
    rows: Sequence[Demonstration | PreferencePair],
    told: Told,
    loss: str,
    config: TrainConfig,
    *,
    reference: tuple[Sequence[float] | Tensor, Sequence[float] | Tensor] | None = None,
    max_length: int,
    seed: int,
    out: Path,
    start: str = "",
    share: float = 1.0,
    log: Log | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Minimise the loss of that name (`losses.get`) on rows of the kind that it is on.

    `reference` is what `reference_logps` gave for these pairs, where the loss needs it. Rows that the loss does not
    take under this config are left out. `model` is trained in place (its parameters that require gradients). `out`
    holds the last checkpoint, from which the same call goes on; the caller, who saves the model, removes it. `start`
    names what the model is, so that another one's checkpoint is refused. Below 1 `share` is how far the weights go at
    last from where they were towards what was trained. Raises IprError where nothing fits max_length, the checkpoint is
    of another training, or the loss is no longer finite.
    """
    processes.spread(model)
    before = [(p, p.detach().clone()) for p in model.parameters() if p.requires_grad] if share < 1 else []
    chosen = losses.get(loss)
    references = [(0.0, 0.0)] * len(rows)
    if chosen.reference:
        of_chosen, of_rejected = reference or ((), ())
        references = list(zip((float(x) for x in of_chosen), (float(x) for x in of_rejected), strict=True))
    if len(references) != len(rows):
        raise ValueError(f"{len(references)} reference log-probabilities for {len(rows)} pairs")
    examples = [
        example(chat, told(row.task_id), row, logps, config.observation_weight)
        for row, logps in zip(rows, references, strict=True)
        if chosen.takes(row, config)
    ]

    if chosen.start:  # the model is as it starts, also where a checkpoint is gone on from: that is read later
        examples = _with_start_logps(model, examples, config, max_length)

    temperature = config.temperature if chosen.tempered else 1.0
    with shared_rows(model, max_length) as shares:

        def objective(micro: list[Example], batch: list[Example]) -> tuple[Tensor, dict[str, Tensor]]:
            return chosen.of(_part(model, micro, shares, temperature), _whole(batch), config)

        result = run_updates(
            model, examples, objective, shares, loss, config, max_length, seed, out, start, log, progress
        )
    with torch.no_grad():
        for parameter, at_start in before:
            parameter.mul_(share).add_(at_start, alpha=1 - share)
    return result


def reference_logps(
    model: Any,
    chat: ChatTokens,
    pairs: Sequence[PreferencePair],
    told: Told,
    config: TrainConfig,
    *,
    max_length: int,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """log pi_ref of every pair's chosen and rejected remainder: two float32 tensors [n]; nan for pairs too long.

    Load `model` as it is loaded for training and pass the same config: in another precision the policy would not
    start at a margin of 0.
    """
    examples = [pair_example(chat, told(pair.task_id), pair) for pair in pairs]

    def logps(micro: list[Example], share: bool) -> Sequence[Tensor]:
        return torch.stack(_pair_logps(model, micro, share), 1).float().cpu().unbind()

    found = torch.full((len(pairs), 2), torch.nan)
    for i, both in scored(model, examples, logps, config, max_length, progress).items():
        found[i] = both
    return found[:, 0], found[:, 1]


def scored(
    model: Any,
    examples: Sequence[Example],
    score: Callable[[list[Example], bool], Sequence[Any]],
    config: TrainConfig,
    max_length: int,
    progress: Progress | None = None,
    share: bool | None = None,
) -> dict[int, Any]:
    """What `score(examples of a pass, whether they share)` gives each example, by index; without gradients.

    `share` as in `shared_rows`. Those longer than the limit are left out. Passes are dealt out to the processes, which
    all get everything.
    """
    processes.spread(model)
    limit = _limit(model, max_length)
    kept = [i for i, e in enumerate(examples) if e.length <= limit]
    found: dict[int, Any] = {}
    state = processes.here(processes.place(model))
    model.eval()
    with torch.no_grad(), plug.fast_products(), shared_rows(model, limit, share) as shared, _precision(model, config):
        plan = micro_batches(examples, kept, config.micro_batch_tokens, shared)
        for done in range(0, len(plan), state.num_processes):
            # As many passes in each process: one that is left over is the last one again.
            indices = plan[min(done + state.process_index, len(plan) - 1)]
            found |= zip(indices, score([examples[i] for i in indices], shared), strict=True)
            if progress and state.is_main_process:
                progress(min(done + state.num_processes, len(plan)), len(plan))
    if state.num_processes > 1:
        from accelerate.utils import gather_object

        for part in gather_object([found]):
            found |= part
    return found


def learning_rate(update: int, total: int, config: TrainConfig) -> float:
    """Of update 0..total-1: linear up during the warm-up, then by the schedule down towards 0 (or constant)."""
    warmup = round(config.warmup * total)
    if update < warmup:
        return config.learning_rate * (update + 1) / (warmup + 1)
    done = (update - warmup) / max(1, total - warmup)
    shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}
    return config.learning_rate * shape[config.schedule]


def _with_start_logps(model: Any, examples: Sequence[Example], config: TrainConfig, max_length: int) -> list[Example]:
    """Demonstrations with log pi of their tokens by the model as it is now; those too long stay as they are."""

    def logps(micro: list[Example], share: bool) -> Sequence[Tensor]:
        part = _part(model, micro, share)
        return part.logps.cpu().split(part.rows.bincount(minlength=len(micro)).tolist())

    found = list(examples)
    for i, of_row in scored(model, examples, logps, config, max_length).items():
        found[i] = replace(examples[i], rows=(replace(examples[i].rows[0], start_logps=of_row),))
    return found


@plug.fast_products()
def run_updates(
    model: Any,
    examples: list[Example],
    objective: Callable[[list[Example], list[Example]], tuple[Tensor, dict[str, Tensor]]],
    share: bool,
    loss: str,
    config: TrainConfig,
    max_length: int,
    seed: int,
    out: Path,
    start: str,
    log: Log | None,
    progress: Progress | None,
) -> TrainResult:
    """The loop. `objective(micro, batch)`: the part of the examples `micro` in the loss of the update `batch`, and of
    its metrics; both add up to the update's."""
    limit = _limit(model, max_length)
    kept = [e for e in examples if e.length <= limit and all(row.weights.any() for row in e.rows)]
    if not kept:
        raise IprError(
            f"nothing to train on: {len(examples)} examples, none with words to train on and at most {limit} tokens;"
            " raise model.max_length or make more data"
        )
    in_epoch = math.ceil(len(kept) / config.batch_size)
    epochs = config.epochs if config.updates is None else math.ceil(config.updates / in_epoch)
    plan = updates(kept, config.batch_size, epochs, seed)[: config.updates]
    seen = [kept[i] for update in plan for i in update]
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizers = _optimizers(model, parameters, config)
    state = processes.here(processes.place(model))
    result = TrainResult(
        updates=len(plan),
        examples=len(kept),
        dropped=len(examples) - len(kept),
        tokens=sum(e.tokens for e in seen),
        agent_tokens=sum(e.agent_tokens for e in seen),
        seconds=0.0,
    )
    # The first values of every tensor tell another model from this one, where nobody says which it is.
    first_values = (processes.whole(p.detach()).flatten()[:8].tolist() for p in parameters.values())
    of = [start, *((name, [*parameters[name].shape], v) for name, v in zip(parameters, first_values, strict=True))]
    digest = identity.of_training((e.content() for e in kept), loss, config, seed, of)
    saved = _Checkpoint(Path(out), digest, model, optimizers, result)
    first = saved.load()
    begun = time.monotonic() - result.seconds
    model.train()
    for update in range(first, len(plan)):
        batch = [kept[i] for i in plan[update]]
        rate = learning_rate(update, len(plan), config)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=False)
        torch.manual_seed(derive_seed(seed, "dropout", update, state.process_index))
        # Longest first, dealt out to the processes.
        dealt = sorted(range(len(batch)), key=lambda i: (-batch[i].length, i))
        plans = [
            micro_batches(batch, dealt[k :: state.num_processes], config.micro_batch_tokens, share)
            for k in range(state.num_processes)
        ]
        mine = plans[state.process_index]
        found: list[dict[str, Tensor]] = []
        for k in range(max(map(len, plans))):
            indices = mine[k] if k < len(mine) else dealt[-1:]
            with _precision(model, config):
                value, parts = objective([batch[i] for i in indices], batch)
            if k < len(mine):
                found.append({"loss": value.detach(), **parts})
            else:
                value = 0 * value
            value.backward()
        metrics = _sum_over_processes(found, state)
        norm = float(processes.whole(nn.utils.clip_grad_norm_(parameters.values(), config.max_grad_norm)))
        if not math.isfinite(norm):
            raise IprError(
                f"gradient of update {update + 1} is {norm} (loss {metrics['loss']}); lower the learning_rate or"
                f" set mixed_precision to no, and delete {saved.out}"
            )
        for optimizer in optimizers:
            optimizer.step()
        result.history.append({**metrics, "learning_rate": rate, "grad_norm": norm})
        result.seconds = time.monotonic() - begun
        done = update + 1
        if done % config.checkpoint_every == 0 and done < len(plan):
            saved.save(done)
        if state.is_main_process:
            if log:
                log(done, result.history[-1])
            if progress:
                progress(done, len(plan))
    model.eval()
    model.zero_grad(set_to_none=True)
    result.final = _means(result.history[-in_epoch:])
    return result


def _optimizers(model: Any, parameters: dict[str, nn.Parameter], config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW; or Muon for the matrices between the embeddings, and AdamW for the rest."""
    # Fused: one pass over the parameters (the default's many small operations are a tenth of an update on a CPU).
    if config.optimizer == "adamw":
        rest = list(parameters.values())
        return [torch.optim.AdamW(rest, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)]
    ends = set(map(id, models.embeddings(model)))
    matrices = [p for p in parameters.values() if p.ndim == 2 and id(p) not in ends]
    rest = [p for p in parameters.values() if p.ndim != 2 or id(p) in ends]
    # Muon's update is orthogonal; scaled to the size of AdamW's, so that one learning rate serves both.
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(
            matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
    ]
    if rest:  # none with LoRA
        optimizers.append(
            torch.optim.AdamW(
                rest, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.95), fused=True
            )
        )
    return optimizers


def _pair_logps(model: Any, examples: Sequence[Example], share: bool) -> tuple[Tensor, Tensor]:
    """log pi of the chosen and of the rejected remainders, each [n], summed over the agent's tokens."""
    return losses.pair_logps(_part(model, examples, share))


def _part(model: Any, examples: Sequence[Example], share: bool, temperature: float = 1.0) -> losses.Part:
    """The examples as the model scores them in one pass: all first rows, then all second ones."""
    rows = [row for place in zip(*(e.rows for e in examples), strict=True) for row in place]
    device = processes.place(model)
    batch = collate(rows, share, device)
    return losses.Part(
        losses.token_logps(logits(model, batch), batch.targets, temperature),
        batch.rows,
        batch.agent,
        batch.weights,
        torch.tensor([e.reference for e in examples], device=device),
        torch.tensor([e.step for e in examples], device=device),
        batch.start_logps,
    )


def _whole(batch: Sequence[Example]) -> losses.Whole:
    weight = sum(float(row.weights.sum()) for e in batch for row in e.rows)
    step = sum(e.step for e in batch)
    return losses.Whole(weight, sum(e.agent_tokens for e in batch), len(batch) - step, step)


def logits(model: Any, batch: Batch) -> Tensor:
    """What the output layer says before each of the K tokens with a weight [K, V]."""
    inputs = batch.inputs
    plug.forget_length(model)
    with plug.logits_only_at(model, batch.before), plug.rows_alone(model, batch.lengths):
        output = run(model, inputs) if isinstance(inputs, Tree) else model(input_ids=inputs, use_cache=False)
    return output.logits[0]


def _precision(model: Any, config: TrainConfig) -> torch.autocast:
    # The cache would keep the rounded weights of all layers of a model that is spread.
    return torch.autocast(
        processes.place(model).type,
        torch.bfloat16,
        enabled=config.mixed_precision == "bf16",
        cache_enabled=not processes.several(),
    )


def _limit(model: Any, max_length: int) -> int:
    """The longest example in tokens: max_length, or the model's own limit where that is smaller."""
    return min(max_length, models.longest(model.config))


def _sum_over_processes(shares: list[dict[str, Tensor]], state: Any) -> dict[str, float]:
    """The sums of the metrics."""
    if state.num_processes > 1:
        from accelerate.utils import gather_object

        shares = gather_object([{k: v.cpu() for k, v in share.items()} for share in shares])
    return {name: float(sum(share[name] for share in shares)) for name in shares[0]}


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(v) / len(v) for name, v in values.items()}


def checkpoint(out: Path) -> Path | None:
    """The folder of the checkpoint in a training's `out`."""
    return max(Path(out).glob("updates-*"), default=None)


class _Checkpoint:
    """`out`/updates-000050/: facts.json, and the trained weights and the optimizers' state as torch.distributed keeps
    them, each process's parts in a file of its own. Whole or not there."""

    def __init__(
        self, out: Path, digest: str, model: Any, optimizers: list[torch.optim.Optimizer], result: TrainResult
    ):
        self.out = out
        self._digest = digest
        self._model, self._optimizers, self._result = model, optimizers, result
        self._state = processes.here(processes.place(model))

    def save(self, done: int) -> None:
        """All processes write; when all have, this is the checkpoint, and the one before goes."""
        path = self.out / f"updates-{done:06}"
        aside = _aside(path)
        if self._state.is_main_process:
            shutil.rmtree(aside, ignore_errors=True)
            facts = {"digest": self._digest, "done": done, "seconds": self._result.seconds}
            store.write_json(aside / "facts.json", facts | {"history": self._result.history})
        self._state.wait_for_everyone()
        try:
            self._by_torch(state_dict_saver.save, self._content(), aside)
        except (CheckpointException, OSError) as error:  # in every process
            if self._state.is_main_process:
                shutil.rmtree(aside, ignore_errors=True)  # its room is what the user is to free
            told = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
            raise IprError(f"cannot write {aside}: {told}; free space or choose another folder") from None
        if self._state.is_main_process:
            before = checkpoint(self.out)
            aside.rename(path)
            _remove(before)

    def load(self) -> int:
        """Puts everything back where there is a checkpoint; returns the updates done."""
        path = checkpoint(self.out)
        if path is None:
            return 0
        facts = store.read_json(path / "facts.json")
        if facts["digest"] != self._digest:
            raise IprError(
                f"{self.out}: holds the checkpoint of a training with another config, data or base model;"
                " choose another folder or delete it"
            )
        content = self._content()
        states = content["optimizers"]["state"]  # torch makes one for every parameter, also for those no pass uses
        try:
            kept = {key.rpartition(".")[0] for key in FileSystemReader(path).read_metadata().state_dict_metadata}
            for name in [name for name in states if f"optimizers.state.{name}" not in kept]:
                del states[name]
            self._by_torch(state_dict_loader.load, content, path)
        except (CheckpointException, OSError, RuntimeError, pickle.UnpicklingError, EOFError):
            raise IprError(f"{path}: not a readable checkpoint; delete it to train from the start") from None
        set_optimizer_state_dict(
            self._model, self._optimizers, content["optimizers"], options=StateDictOptions(strict=False)
        )
        for optimizer in self._optimizers:
            for parameter in optimizer.state:  # as before: what has been used once is updated ever after
                parameter.grad = torch.zeros_like(parameter)
        self._result.history, self._result.seconds = facts["history"], facts["seconds"]
        return facts["done"]

    def _content(self) -> dict[str, Any]:
        """The tensors themselves: what is loaded into it, is loaded into them."""
        weights = {name: p.detach() for name, p in self._model.named_parameters() if p.requires_grad}
        return {"weights": weights, "optimizers": get_optimizer_state_dict(self._model, self._optimizers)}

    def _by_torch(self, verb: Callable[..., Any], content: dict[str, Any], path: Path) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # this process is alone
            verb(content, checkpoint_id=path)


def _aside(path: Path) -> Path:
    """Where a folder is written, and removed: it is never half there. The same in every process."""
    return path.with_name(f".{path.name}.part")


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder.rename(_aside(folder)))
