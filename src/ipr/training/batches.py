"""Conversations become rows of numbers, rows become updates, updates become micro batches.

Decided here: an update is `batch_size` examples whatever their length; a micro batch is as many of an update's examples
as fit the token budget: neighbours in the order of their ids, so that much is shared (`sharing`), or for a model that
cannot share, in the order of their lengths, so that little is padding. A pair is never split: its two rows are
needed for one loss. Padding is on the right, where a causal model cannot see it, so no attention mask is needed
and any id will do. What is longer than the limit is dropped (both sides of a pair: a cut-off on one side biases
DPO) and counted.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ipr.tokens import ChatTokens
from ipr.training.sharing import Tree, common
from ipr.types import Demonstration, Message, PreferencePair, derive_seed


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation of T tokens."""

    ids: Tensor
    """[T] int64."""
    agent: Tensor
    """[T] bool: the agent's tokens that are trained; never those of the environment's prompt or a pair's history."""
    weights: Tensor
    """[T] float32: weight in the loss; 1 for the agent's tokens, `observation_weight` for the environment's, times the
    weight of the message where a demonstration gives it."""
    start_logps: Tensor | None = None
    """log pi of the tokens with a weight, in their order, by the model as it was before the training, where the loss
    asks for it."""


@dataclass(frozen=True, slots=True)
class Example:
    """What is never split between micro batches: a demonstration (1 row) or a pair (chosen, rejected)."""

    rows: tuple[Row, ...]
    step: bool = False
    """A pair of D_s (step level)."""
    reference: tuple[float, float] = (0.0, 0.0)
    """log pi_ref of chosen and rejected."""

    @property
    def length(self) -> int:
        return max(len(row.ids) for row in self.rows)

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)

    @property
    def agent_tokens(self) -> int:
        return sum(int(row.agent.sum()) for row in self.rows)

    def content(self) -> bytes:
        """All that decides what it teaches."""
        facts = repr((self.step, self.reference, len(self.rows))).encode()
        return facts + b"".join(row.ids.numpy().tobytes() + row.weights.numpy().tobytes() for row in self.rows)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model reads in one pass, and the K tokens with a weight, row by row."""

    inputs: Tensor | Tree
    """Padded rows [B, T] of ids, or the packed rows; a row's last token is not read, as nothing follows it."""
    lengths: list[int]
    """[B]: how many tokens are read of each row."""
    before: Tensor
    """[K]: of each token, where the one before it is among those read: its logits predict it."""
    targets: Tensor
    """[K]: the tokens."""
    rows: Tensor
    """[K]"""
    agent: Tensor
    """[K] bool"""
    weights: Tensor
    """[K]"""
    start_logps: Tensor
    """[K] log pi by the model as it was before the training; 0 where the loss does not ask for it."""


def example(
    chat: ChatTokens,
    prompt: Sequence[Message],
    row: Demonstration | PreferencePair,
    reference: tuple[float, float] = (0.0, 0.0),
    observation_weight: float = 0.0,
) -> Example:
    """A row of training as numbers, by what it is."""
    if isinstance(row, PreferencePair):
        return pair_example(chat, prompt, row, reference)
    return demonstration_example(chat, prompt, row, observation_weight)


def demonstration_example(
    chat: ChatTokens, prompt: Sequence[Message], demonstration: Demonstration, observation_weight: float = 0.0
) -> Example:
    return Example((_row(chat, prompt, demonstration.messages, observation_weight, demonstration.weights),))


def pair_example(
    chat: ChatTokens, prompt: Sequence[Message], pair: PreferencePair, reference: tuple[float, float] = (0.0, 0.0)
) -> Example:
    """The two remainders, each after the same history e_{t-1}, whose tokens (the agent's too) are not trained."""
    history = (*prompt, *pair.prompt)
    rows = (_row(chat, history, pair.chosen), _row(chat, history, pair.rejected))
    return Example(rows, pair.level == "step", reference)


def _row(
    chat: ChatTokens,
    given: Sequence[Message],
    trained: Sequence[Message],
    observation_weight: float = 0.0,
    of_messages: Sequence[float] = (),
) -> Row:
    tokens = chat.conversation([*given, *trained])
    # Rendering is append-only, so what is given takes the same ids with and without what follows.
    start = len(chat.conversation(given).ids) if given else 1
    ids, agent = torch.tensor(tokens.ids), torch.tensor(tokens.mask, dtype=torch.bool)
    agent[:start] = False
    weights = torch.where(agent, 1.0, observation_weight)
    weights[:start] = 0.0
    if of_messages:
        weights *= torch.tensor([0.0] * len(given) + list(of_messages))[torch.tensor(tokens.message)]
    return Row(ids, agent, weights)


def updates(examples: Sequence[Example], batch_size: int, epochs: int, seed: int) -> list[list[int]]:
    """Indices of the examples of every update; every epoch in another order, decided by the seed alone.

    Outcome and step pairs are shuffled each and then interleaved evenly, so that every update holds both in the
    proportion of the whole (a term with a single pair in an update would weigh that pair too much).
    """
    plan: list[list[int]] = []
    for epoch in range(epochs):
        rng = random.Random(derive_seed(seed, "order", epoch))
        order: list[tuple[float, int]] = []
        for step in (False, True):
            level = [i for i, example in enumerate(examples) if example.step == step]
            rng.shuffle(level)
            order += [((k + rng.random()) / len(level), i) for k, i in enumerate(level)]
        indices = [i for _, i in sorted(order)]
        plan += [indices[k : k + batch_size] for k in range(0, len(indices), batch_size)]
    return plan


def micro_batches(
    examples: Sequence[Example], indices: Iterable[int], most_tokens: int, share: bool
) -> list[list[int]]:
    """The indices, cut so that a pass reads at most `most_tokens` (padding included; one example always goes in)."""
    batches: list[list[int]] = []
    if not share:  # longest first
        room = 0
        for i in sorted(indices, key=lambda i: (-examples[i].length, i)):
            if room < len(examples[i].rows):
                batches.append([])
                room = most_tokens // examples[i].length
            batches[-1].append(i)
            room -= len(examples[i].rows)
        return batches
    room, before = -1, ()
    for i in sorted(indices, key=lambda i: [row.ids.tolist() for row in examples[i].rows]):
        rows = [row.ids for row in examples[i].rows]
        alone = examples[i].tokens - sum(common(a, b) for a, b in pairwise(rows))
        shared = max((common(row, rows[0]) for row in before), default=0)
        if room < alone - shared:
            batches.append([])
            room, shared = most_tokens, 0
        batches[-1].append(i)
        room -= alone - shared
        before = rows
    return batches


def collate(rows: Sequence[Row], share: bool, device: torch.device | str = "cpu") -> Batch:
    """Rows packed into one sequence, or padded on the right to the longest."""
    read = [row.ids[:-1] for row in rows]
    if share:
        inputs = Tree(read, device)
        places = inputs.places
    else:
        inputs = pad_sequence(read, batch_first=True).to(device)
        places = [i * inputs.shape[1] + torch.arange(len(ids)) for i, ids in enumerate(read)]
    where = [row.weights[1:] != 0 for row in rows]

    def chosen(values: Iterable[Tensor]) -> Tensor:
        return torch.cat([value[w] for value, w in zip(values, where, strict=True)]).to(device)

    return Batch(
        inputs,
        [len(ids) for ids in read],
        chosen(places),
        chosen(row.ids[1:] for row in rows),
        torch.arange(len(rows)).repeat_interleave(torch.tensor([int(w.sum()) for w in where])).to(device),
        chosen(row.agent[1:] for row in rows),
        chosen(row.weights[1:] for row in rows),
        torch.cat(
            [
                torch.zeros(int(w.sum())) if row.start_logps is None else row.start_logps
                for row, w in zip(rows, where, strict=True)
            ]
        ).to(device),
    )
