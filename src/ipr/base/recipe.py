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

from ipr import models, store
from ipr.config import TrainConfig
from ipr.envs.alfworld import expert, games, play
from ipr.envs.alfworld.prompt import prompt
from ipr.progress import progress
from ipr.training.tokens import ChatTokens
from ipr.training.trainer import train_sft
from ipr.types import Demonstration, IprError, Message


@dataclass(frozen=True)
class Recipe:
    """Every figure of the shipped model."""

    seed: int = 0
    glances: int = 10_000
    """Short texts read first (`play.glance`), one per pretrain game, from the last backwards."""
    tours: int = 3_000
    """Searches of a few places (`play.tour`) read next, of the same games as the glances."""
    episodes: int = 8_000
    """Wanderer's episodes read then, one per pretrain game, from the first."""
    steps: int = 16
    """Turns of an episode."""
    vocabulary: int = 1024
    hidden: int = 192
    layers: int = 3
    heads: int = 3
    kv_heads: int = 3
    intermediate: int = 768
    max_length: int = 2048
    glances_batch: int = 32
    tours_batch: int = 8
    batch_size: int = 4
    learning_rate: float = 3e-3
    observation_weight: float = 0.3
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
    tokenizer = models.train_tokenizer(words, recipe.vocabulary, names=True)
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
    chat = ChatTokens(tokenizer)
    ids = games.task_ids("pretrain")[: -recipe.glances - 1 : -1]
    read = [Demonstration(i, play.glance(i, recipe.seed), "wanderer") for i in ids]
    _read(model, chat, read, (), recipe.glances_batch, recipe, out / "glances")
    read = [Demonstration(i, play.tour(i, recipe.seed), "wanderer") for i in ids[: recipe.tours]]
    _read(model, chat, read, (), recipe.tours_batch, recipe, out / "tours")
    read = [Demonstration(e.task_id, (*e.history(0), *e.continuation(0)), "wanderer") for e in episodes]
    facts = _read(model, chat, read, prompt(), recipe.batch_size, recipe, out / "episodes")
    models.save_model(model.to(torch.bfloat16), tokenizer, out / "model")
    return asdict(recipe) | {"parameters": model.num_parameters()} | facts


def _read(
    model: Any,
    chat: ChatTokens,
    texts: Sequence[Demonstration],
    given: Sequence[Message],
    batch_size: int,
    recipe: Recipe,
    out: Path,
) -> dict[str, float]:
    """Train on texts, the environment's words too; a build that was killed goes on from what is in `out`."""
    import torch

    done = out / "done.pt"
    if done.exists():
        content = torch.load(done, weights_only=True)
        model.load_state_dict(content["weights"])
        return content["facts"]
    config = TrainConfig(
        optimizer="muon",
        epochs=1,
        batch_size=batch_size,
        learning_rate=recipe.learning_rate,
        warmup=0.02,
        observation_weight=recipe.observation_weight,
        micro_batch_tokens=recipe.micro_batch_tokens,
        mixed_precision="bf16",
        checkpoint_every=100,
    )
    facts = train_sft(
        model,
        chat,
        texts,
        given,
        config,
        max_length=recipe.max_length,
        seed=recipe.seed,
        out=out,
        progress=progress(f"base {out.name}", "updates"),
    ).facts()
    store.replace(done, lambda path: torch.save({"weights": model.state_dict(), "facts": facts}, path))
    return facts


def _recipe(overrides: Sequence[str]) -> Recipe:
    kinds = {f.name: type(f.default) for f in fields(Recipe)}
    chosen: dict[str, Any] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in kinds:
            raise IprError(f"ipr base: unknown key '{key}'; keys: {', '.join(kinds)}")
        chosen[key] = kinds[key](float(value))
    return Recipe(**chosen)
