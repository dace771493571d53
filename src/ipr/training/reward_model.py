"""A step reward model, as the paper has one: r_s(s_t, a_t) read off the history and the action, without rollouts.

Decided here: it is an agent with one number in the place of its output layer, read where the action ends, and fitted
once, by the squared error, to Monte-Carlo step rewards that are not censored. A fifth of the problems is held out: the
rank correlation there says how far the model orders actions as Monte Carlo does, which N limits on its side too.
Stored are the trained parameters alone; the rest is in the agent's folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any

import torch
from torch import Tensor, nn

from ipr import store
from ipr.config import TrainConfig
from ipr.models import processes
from ipr.tokens import ChatTokens
from ipr.training.batches import Example, Row, collate
from ipr.training.sharing import shared_rows, shares
from ipr.training.trainer import Told, logits, run_updates, scored
from ipr.types import IprError, Prefix, Progress, StepReward, derive_seed, messages


class RewardModel:
    """The step reward of a prefix's last action, by a model that is made one of numbers here, and is changed by it."""

    def __init__(
        self,
        model: Any,
        chat: ChatTokens,
        told: Told,
        firsts: Mapping[str, str],
        config: TrainConfig,
        max_length: int,
    ):
        """`model` is loaded for training. `firsts`: problem -> first observation; `config`: how it is fitted."""
        self._share = shares(model)  # asked now: without a weight in the output layer all attention is alike
        words = model.get_output_embeddings().weight
        head = _Head(words.shape[1], 1, device=words.device)
        nn.init.zeros_(head.weight)
        nn.init.constant_(head.bias, 0.5)
        model.set_output_embeddings(head)
        self._model, self._chat, self._told, self._firsts = model, chat, told, firsts
        self._config, self._max_length = config, max_length

    def fit(
        self, rewards: Sequence[StepReward], seed: int, out: Path, progress: Progress | None = None
    ) -> dict[str, float | None]:
        """Fit it, and say how good it is: actions "fitted" and "held_out"; of the latter "spearman" (None where one
        side does not vary), "mse", and "variance" (what the mse is measured by).

        `out` holds the last checkpoint; the caller, who saves the model, removes it. Raises IprError where there is
        nothing to fit to.
        """
        known = [r for r in rewards if r.source in ("monte_carlo", "outcome")]
        fitted = [r for r in known if not _held_out(r.prefix, seed)]
        others = [r for r in known if _held_out(r.prefix, seed) and r.source == "monte_carlo"]
        if not fitted:
            raise IprError(
                "no step rewards to fit a reward model to; explore more problems (algorithm.explore_tasks), or set"
                " algorithm.rewards=monte_carlo"
            )
        processes.spread(self._model)
        with shared_rows(self._model, self._max_length, self._share) as share:

            def objective(micro: list[Example], batch: list[Example]) -> tuple[Tensor, dict[str, Tensor]]:
                targets = torch.tensor([e.reference[0] for e in micro], device=processes.place(self._model))
                return (self._values(micro, share) - targets).square().sum() / len(batch), {}

            examples = [self._example(r.prefix, r.mean) for r in fitted]
            run_updates(
                self._model,
                examples,
                objective,
                share,
                "reward model",
                self._config,
                self._max_length,
                seed,
                out,
                "",
                None,
                progress,
            )
        found = self.read([r.prefix for r in others])
        pairs = [(found[r.prefix], r.mean) for r in others]
        return {"fitted": len(fitted), "held_out": len(others)} | agreement(pairs)

    def read(self, prefixes: Sequence[Prefix]) -> dict[Prefix, float]:
        """The step rewards; 0 where the prefix is longer than the context: an agent that gets there earns nothing."""
        once = list(dict.fromkeys(prefixes))
        examples = [self._example(prefix, 0.0) for prefix in once]

        def values(micro: list[Example], share: bool) -> list[float]:
            return self._values(micro, share).tolist()

        found = scored(self._model, examples, values, self._config, self._max_length, share=self._share)
        return {prefix: found.get(i, 0.0) for i, prefix in enumerate(once)}

    def save(self, path: Path) -> None:
        """Of several processes all have to ask for it; the first writes."""
        from safetensors.torch import save_file

        named = ((name, p) for name, p in self._model.named_parameters() if p.requires_grad)
        trained = {name: processes.whole(p.detach()).cpu().contiguous() for name, p in named}
        if processes.here(processes.place(self._model)).is_main_process:
            store.replace(path, lambda aside: save_file(trained, aside))

    def load(self, path: Path) -> None:
        """Of the same agent. Raises IprError where the file is missing, broken or of another model."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            saved = load_file(path)
            with torch.no_grad():
                for name, parameter in self._model.named_parameters():
                    if parameter.requires_grad:
                        parameter.copy_(saved[name])
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise IprError(f"{path}: no reward model of this agent ({error}); restore it") from None

    def _example(self, prefix: Prefix, target: float) -> Example:
        turns = messages(self._firsts[prefix.task_id], prefix.steps)
        # What follows the action is not read; without an action, at the start, the first observation is.
        said = turns[:-1] if prefix.steps else turns
        ids = self._chat.conversation([*self._told(prefix.task_id), *said]).ids
        # A last token that is not read, as of every row: where it is predicted from, the number is.
        row = torch.tensor([*ids, self._chat.end_id])
        where = torch.zeros(len(row))
        where[-1] = 1.0
        return Example((Row(row, where.bool(), where),), reference=(target, 0.0))

    def _values(self, examples: Sequence[Example], share: bool) -> Tensor:
        """[n] float32"""
        batch = collate([e.rows[0] for e in examples], share, processes.place(self._model))
        return logits(self._model, batch)[:, 0].float()


class _Head(nn.Linear):
    """In float32, whatever the model is in: of a bias of 0.5 in bfloat16 an update of 1e-4 is lost."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


def agreement(pairs: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """Of what a model says and what is so: "spearman", "mse", "variance"; None where there is none."""
    import pandas as pd

    if not pairs:
        return {"spearman": None, "mse": None, "variance": None}
    # Spearman's is the correlation of the ranks, of equal values their mean rank.
    ranks = float(pd.DataFrame(pairs).rank().corr().iloc[0, 1])  # type: ignore[arg-type]
    return {
        "spearman": None if math.isnan(ranks) else ranks,
        "mse": fmean((a - b) ** 2 for a, b in pairs),
        "variance": pvariance(b for _, b in pairs),
    }


def _held_out(prefix: Prefix, seed: int) -> bool:
    """A fifth of the problems."""
    return derive_seed(seed, "held out", prefix.task_id) % 5 == 0
