"""What tests ask the engine: prompts of toy episodes as ids, and the same answered by a plain model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ipr.engine import Generated, Request
from ipr.engine.batching import TransformersEngine
from ipr.engine.sampling import draw, uniforms
from ipr.policies.chat import end_tokens
from ipr.tokens import ChatTokens
from ipr.types import derive_seed
from tests import toy

CHAT = ChatTokens(toy.tokenizer())
ENDS = end_tokens(CHAT)


def make(model: Any = None, *, slots: int = 8, max_length: int = 512, **more: Any) -> TransformersEngine:
    return TransformersEngine(model or toy.model(), ENDS, max_length=max_length, slots=slots, **more)


def prompt(task_id: str = "train-0", t: int = 0) -> list[int]:
    return CHAT.prompt((*toy.PROMPT, *toy.expert(task_id).history(t)))


def requests(n: int, most: int = 12, sampled: bool = True) -> list[Request]:
    """Of several tasks and lengths, some of them equal but for the seed."""
    seeds = [derive_seed(7, i) if sampled else 0 for i in range(n)]
    return [Request(prompt(f"train-{i // 4}", i % 3), most, seeds[i], session=i) for i in range(n)]


def go_on(request: Request, answer: Generated, observation: str = "Nothing happens.") -> Request:
    """The session's next turn."""
    ids = [*request.prompt, *answer.ids, *CHAT.observation(observation)]
    return replace(request, prompt=ids, seed=request.seed + 1)


@torch.no_grad()
def plain(model: Any, request: Request, temperature: float) -> Generated:
    """The answer by one whole forward pass a token."""
    written: list[int] = []
    while len(written) < request.max_new_tokens and not set(ENDS) & set(written):
        logits = model(torch.tensor([[*request.prompt, *written]])).logits[:, -1]
        u = uniforms(np.array([request.seed], dtype=np.uint64), len(written))
        written.append(int(draw(logits, temperature, u)[0][0]))
    return Generated(tuple(written), "stop" if written[-1] in ENDS else "length")


class Passes(list[int]):
    """How many tokens each forward pass of a model is fed by the engine (not by `plain`)."""

    def __init__(self, model: Any):
        super().__init__()

        def note(module: Any, arguments: Any, named: dict[str, Any]) -> None:
            if "input_ids" in named:
                self.append(named["input_ids"].shape[1])

        model.register_forward_pre_hook(note, with_kwargs=True)

    def taken(self) -> int:
        """Tokens since it was last asked."""
        total = sum(self)
        self.clear()
        return total
