"""A toy world for all tests: find the ring in one of four boxes, put it on the table. No files; torch for models alone.

`spec()` is its EnvSpec; `tokenizer()` and `model()` make a tiny byte-level BPE tokenizer with a chat template and a
tiny Llama with random weights, the same in every process.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from ipr.envs import react
from ipr.types import EnvSpec, IprError, Message, Outcome, Step, Trajectory

BOXES = 4
SPLITS = {"train": 40, "dev": 12, "seen": 12, "unseen": 12}
NOTHING = "Nothing happens."
PROMPT = (Message("user", "Find the ring and put it on the table."), Message("assistant", "OK"))


class ToyEnvironment:
    """Valid actions: "go to box K", "go to table", "take ring", "put ring", "stop".

    Reward 1 for the ring on the table, 0.5 for a "stop" with the ring in the hand, else 0.
    """

    def __init__(self):
        self.steps_played = 0
        """Of this instance, restored or not: shows how much was replayed."""

    def reset(self, task_id: str) -> str:
        self._task_id, self._place, self._held = task_id, "middle", False
        return f"You are in a room with a table and boxes 1 to {BOXES}. This is room {task_id}. Find the ring."

    def step(self, action: str) -> Outcome:
        self.steps_played += 1
        words = react.action_of(action)
        answer, reward, terminated = NOTHING, 0.0, False
        ring = f"box {ring_box(self._task_id)}"
        if words and words.startswith("go to ") and words[6:] in _PLACES:
            self._place = words[6:]
            seen = "a ring" if self._place == ring and not self._held else "nothing"
            answer = f"You are at {self._place}. You see {seen}."
        elif words == "take ring" and self._place == ring and not self._held:
            self._held, answer = True, f"You take the ring from {self._place}."
        elif words == "put ring" and self._held and self._place == "table":
            answer, reward, terminated = "The ring is on the table. Well done.", 1.0, True
        elif words == "stop":
            answer, reward, terminated = "You stop.", 0.5 * self._held, True
        return Outcome(answer, reward, terminated, valid=answer != NOTHING)

    def snapshot(self) -> Any:
        return (self._task_id, self._place, self._held)

    def restore(self, state: Any) -> None:
        self._task_id, self._place, self._held = state

    def close(self) -> None:
        pass

    def value(self) -> float:
        """Ground truth: how far the episode is, in [0, 1]."""
        return 0.5 if self._held else 0.0


_PLACES = ("table", *(f"box {i}" for i in range(1, BOXES + 1)))


def ring_box(task_id: str) -> int:
    """The box with the ring, 1 to BOXES."""
    return 1 + random.Random(task_id).randrange(BOXES)


def task_ids(split: str) -> list[str]:
    if split not in SPLITS:
        raise IprError(f"toy: no split '{split}'; there are {', '.join(SPLITS)}")
    return [f"{split}-{i}" for i in range(SPLITS[split])]


def expert(task_id: str) -> Trajectory:
    """Looks into the boxes in turn; `max_steps` of the default spec suffices always."""
    env = ToyEnvironment()
    first, steps, reward = env.reset(task_id), [], 0.0
    box = ring_box(task_id)
    plan = [(f"I look into box {i}.", f"go to box {i}") for i in range(1, box + 1)]
    plan += [("There is the ring.", "take ring"), ("I bring it.", "go to table"), ("I put it down.", "put ring")]
    for thought, action in plan:
        words = react.compose(thought, action)
        outcome = env.step(words)
        steps.append(Step(words, outcome.observation))
        reward = outcome.reward
    return Trajectory(task_id, first, tuple(steps), reward, "terminated", "expert")


def spec(max_steps: int = 10) -> EnvSpec:
    return EnvSpec(
        name="toy",
        make=ToyEnvironment,
        task_ids=task_ids,
        prompt=PROMPT,
        max_steps=max_steps,
        expert=expert,
        task_type=lambda task_id: f"box {ring_box(task_id)}",
        oracle=lambda env: env.value(),  # type: ignore[attr-defined]
    )


@lru_cache
def tokenizer() -> Any:
    """A byte-level BPE tokenizer (lossless) of about 400 tokens, trained on the expert's words."""
    from ipr import models

    played = [expert(task_id) for task_id in task_ids("train")[:8]]
    return models.train_tokenizer([m.content for t in played for m in (*PROMPT, *t.history(len(t.steps)))], 400)


def model(seed: int = 0, *, max_length: int = 512, sharp: float = 8.0, **sizes: int) -> Any:
    """A Llama with random weights in evaluation mode, a new one at every call.

    `sharp` scales the matrices: without it all logits of a random model are nearly equal, rounding decides the argmax,
    and the layers hardly matter. `sizes` as in `models.new_base_model` (hidden, layers, heads, kv_heads).
    """
    from ipr import models

    small: dict[str, Any] = {"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2} | sizes
    made = models.new_base_model(len(tokenizer()), max_length=max_length, seed=seed, **small).eval()
    for weight in made.parameters():
        if weight.dim() == 2:
            weight.data *= sharp
    return made


def adapted(base: Any, config: Any, seed: int) -> Any:
    """The model in the folder `base` with a new adapter of random weights, as a training by `config` would leave it."""
    import torch

    from ipr import models

    found = models.load_model(base, config, training=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return found
