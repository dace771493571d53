"""Two doors, one after the other, a or b at each: who takes a at both has won. So the optimum is known."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from ipr.config import TrainConfig
from ipr.episode import Episode, Outcome
from ipr.tokens import ChatTokens
from ipr.training.trainer import train
from ipr.types import Demonstration, Message
from tests.training import tiny

FIRST = "Take a door."


class Doors(Episode):
    name, max_steps = "doors", 2
    prompt = "Go."
    splits: ClassVar = {"train": 20, "dev": 2, "seen": 2, "unseen": 2}

    def start(self, seed: int) -> str:
        self.taken: list[str] = []
        return FIRST

    def step(self, action: str) -> Outcome:
        return super().step(f"Action: {action}")  # a door is all that is said: there is no format to learn

    def act(self, action: str) -> Outcome | None:
        if action not in ("a", "b"):
            return None
        self.taken.append(action)
        return Outcome("Another.", float(self.taken == ["a", "a"]), len(self.taken) == 2)

    def expert(self, conversation: tuple[Message, ...]) -> str:
        return "a"

    def value(self) -> float:
        return float("b" not in self.taken)


spec = Doors.spec


def beginner(out: Path) -> tuple[ChatTokens, Any]:
    """A tiny model that takes both as often, so that it wins a quarter of its episodes."""
    chat = tiny.make_chat()
    model = tiny.make_model(chat)
    ways = [
        Demonstration("", (tiny.user(FIRST), tiny.agent(x), tiny.user("Another."), tiny.agent(y)))
        for x, y in product("ab", repeat=2)
    ]
    config = TrainConfig(learning_rate=1e-2, batch_size=4, epochs=60)
    train(model, chat, ways, spec().told, "sft", config, max_length=128, seed=0, out=out)
    return chat, model
