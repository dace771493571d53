"""A model of 20,000 parameters, a tokenizer and toy data, the same in every process. Run: one training, for kill tests.

`python tiny.py <out folder> <weights file> [update]` trains on the toy pairs and writes the weights.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

from ipr import models
from ipr.config import PreferenceConfig
from ipr.tokens import ChatTokens
from ipr.training.losses import sum_by_row, token_logps
from ipr.training.trainer import TrainResult, reference_logps, train
from ipr.types import Demonstration, Message, PreferencePair

torch.set_num_threads(1)  # products this small lose by threads, and much where the cores are shared

PROMPT = (Message("user", "Find it."), Message("assistant", "OK"))


def told(task_id: str) -> tuple[Message, ...]:
    return PROMPT


CONFIG = PreferenceConfig(
    learning_rate=1e-3, batch_size=4, epochs=3, micro_batch_tokens=256, checkpoint_every=2, warmup=0.1
)


def user(text: str) -> Message:
    return Message("user", text)


def agent(text: str) -> Message:
    return Message("assistant", text)


def make_chat() -> ChatTokens:
    tokenizer = models.train_tokenizer(
        ["Thought: look\nAction: go to shelf 1", "You see a mug 2. Nothing happens."], 300
    )
    return ChatTokens(tokenizer)


def make_model(chat: ChatTokens, seed: int = 0) -> Any:
    size = len(chat.tokenizer)
    return models.new_base_model(size, hidden=24, layers=2, heads=2, kv_heads=1, max_length=512, seed=seed).eval()


def make_pairs(n: int = 10) -> list[PreferencePair]:
    """Pairs of different lengths: a third step pairs with a history that holds an agent's turn."""
    pairs = []
    for i in range(n):
        step = i % 3 == 2
        first = (user(f"You see a mug {i}."),)
        history = (*first, agent(f"Action: open drawer {i}"), user("It is open.")) if step else first
        chosen = (agent(f"Action: take mug {i}"), user("You take it."), agent("Thought: done\nAction: stop"))
        rejected = (agent(f"Action: go to shelf {i + 1}"),) + (user("Nothing happens."), agent("Action: look")) * (
            i % 4
        )
        level = "step" if step else "outcome"
        pairs.append(PreferencePair(str(i), int(step), level, history, chosen, rejected, 1.0))
    return pairs


def make_demonstrations(n: int = 10) -> list[Demonstration]:
    return [Demonstration(p.task_id, (*p.prompt, *p.chosen)) for p in make_pairs(n)]


def prefer(model: Any, out: Path, config: PreferenceConfig = CONFIG, **more: Any) -> TrainResult:
    """Preference training on the toy pairs, the untrained model (seed 0) as reference."""
    chat = make_chat()
    reference = reference_logps(make_model(chat), chat, make_pairs(), told, config, max_length=512)
    return train(
        model, chat, make_pairs(), told, "ipr", config, reference=reference, max_length=512, seed=5, out=out, **more
    )


def sequence_logps(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """log pi of the tokens with mask 1, summed by row, from whole logits: what the trainer must come to.

    logits [B, T, V] (position t predicts token t + 1), ids [B, T], mask [B, T] -> [B].
    """
    where = mask[:, 1:] > 0
    logps = token_logps(logits[:, :-1][where], ids[:, 1:][where])
    return sum_by_row(logps, where.nonzero()[:, 0], len(ids))


def main(out: str, weights: str, hold_at: str = "") -> None:
    """Train and save the weights, telling each update; after update `hold_at` wait to be killed."""

    def log(update: int, _: Any) -> None:
        print(update, flush=True)
        if str(update) == hold_at:
            time.sleep(600)

    model = make_model(make_chat())
    prefer(model, Path(out), log=log)
    torch.save(model.state_dict(), weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
