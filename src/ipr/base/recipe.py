"""The small base model that is shipped with the package, and how it is made: `ipr base` (or `make base`).

It stands for the pretrained model of a real run: it has read much play in many generated rooms, so it knows the
world's words and copies names, but no text in it decides anything about a goal (the player is the wanderer of
`envs.alfworld.play`), and its rooms and games are of the split "pretrain", which no run trains or evaluates on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ipr import models
from ipr.config import TrainConfig
from ipr.envs.alfworld import expert, games, play
from ipr.envs.alfworld.prompt import prompt
from ipr.progress import progress
from ipr.training.tokens import ChatTokens
from ipr.training.trainer import train_sft
from ipr.types import Demonstration, IprError


@dataclass(frozen=True)
class Recipe:
    """Every figure of the shipped model."""

    seed: int = 0
    episodes: int = 6000
    """Wanderer's episodes, one per pretrain game."""
    steps: int = 16
    """Turns of an episode."""
    vocabulary: int = 1024
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    intermediate: int = 512
    max_length: int = 2048
    batch_size: int = 8
    learning_rate: float = 3e-3
    micro_batch_tokens: int = 8192


def build(out: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train tokenizer and model from generated play and write them to `out`; a killed build continues.

    `overrides` are "episodes=2000" and the like, for trials.
    """
    import torch

    recipe = _recipe(overrides)
    ids = games.task_ids("pretrain")[: recipe.episodes]
    episodes = [play.wander(task_id, recipe.seed, recipe.steps) for task_id in ids]
    # The expert's words are in the vocabulary, so that SFT needs no more tokens a word than the base model.
    words = [s.action for i in ids[:500] for s in expert.play(games.game(i), i, 20).steps]
    words += [m.content for e in episodes[:2000] for m in (*e.history(0), *e.continuation(0))] + [prompt()[0].content]
    tokenizer = models.train_tokenizer(words, recipe.vocabulary)
    model = models.new_base_model(
        len(tokenizer),
        hidden=recipe.hidden,
        layers=recipe.layers,
        heads=recipe.heads,
        kv_heads=recipe.kv_heads,
        intermediate=recipe.intermediate,
        max_length=recipe.max_length,
        seed=recipe.seed,
    )
    result = train_sft(
        model,
        ChatTokens(tokenizer),
        [Demonstration(e.task_id, (*e.history(0), *e.continuation(0)), "wanderer") for e in episodes],
        prompt(),
        TrainConfig(
            epochs=1,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            warmup=0.02,
            observation_weight=1.0,
            micro_batch_tokens=recipe.micro_batch_tokens,
            mixed_precision="bf16",
            checkpoint_every=100,
        ),
        max_length=recipe.max_length,
        seed=recipe.seed,
        out=out / "checkpoint",
        progress=progress("base", "updates"),
    )
    models.save_model(model.to(torch.bfloat16), tokenizer, out / "model")
    return asdict(recipe) | {"parameters": model.num_parameters()} | result.facts()


def _recipe(overrides: Sequence[str]) -> Recipe:
    kinds = {f.name: type(f.default) for f in fields(Recipe)}
    chosen: dict[str, Any] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in kinds:
            raise IprError(f"ipr base: unknown key '{key}'; keys: {', '.join(kinds)}")
        chosen[key] = kinds[key](float(value))
    return Recipe(**chosen)
