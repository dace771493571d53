"""The small base models that are shipped with the package, one an environment, and how they are made: `ipr base NAME`.

They stand for the pretrained model of a real run. Each reads the text of its environment's `play`: first `glance`s,
then whole episodes of `wander`. What is in that text, and what is not, is said there: names are looked up and copied,
rooms, pages and tables read, and for SQL small questions answered; never an expert's whole episode. All of it is of the
split "pretrain", which no run trains or evaluates on.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from ipr import envs, identity, models, store
from ipr.config import TrainConfig
from ipr.runs.progress import progress
from ipr.tokens import ChatTokens
from ipr.training.trainer import train
from ipr.types import Demonstration, IprError, Message, suggestion

FAMILIES = ("llama", "qwen3", "mistral", "gpt_neox", "olmo2")
"""Architectures that a base is made in, as transformers calls them; each is tried in tests."""


Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(gt=0)]


@dataclass(frozen=True)
class Recipe:
    """Every figure of a shipped model; the defaults are ALFWorld's."""

    seed: Count = 0
    repeats: Count = 0
    """Lists of names said again and again (`play.repeat`), read first of all."""
    glances: Count = 10_000
    """Short texts read first (`play.glance`), one per pretrain game, from the last backwards."""
    tours: Count = 3_000
    """Searches of a few places (`play.tour`) read next, of the same games as the glances."""
    episodes: Size = 8_000
    """Wanderer's episodes read then, one per pretrain game, from the first."""
    steps: Size = 16
    """Turns of an episode."""
    vocabulary: Size = 1024
    names: bool = True
    """Whether a name with its number is one token (see `models.train_tokenizer`)."""
    related: bool = False
    """Whether the forms of a word begin as neighbours (see `models.relate_forms`)."""
    family: str = "llama"
    """Of `FAMILIES`."""
    hidden: Size = 192
    layers: Size = 3
    heads: Size = 3
    kv_heads: Size = 3
    intermediate: Size = 768
    max_length: Size = 2048
    glances_batch: Size = 32
    tours_batch: Size = 8
    batch_size: Size = 4
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    observation_weight: Annotated[float, Field(ge=0)] = 0.3
    micro_batch_tokens: Size = 8192


READINGS = {"repeats": "repeat", "glances": "glance", "tours": "tour"}
"""Key of a recipe -> the function of an environment's `play` that writes such a text, in the order they are read."""
_READER = Recipe(
    repeats=12_000,
    glances=12_000,
    tours=0,
    episodes=800,
    vocabulary=2048,
    names=False,
    related=True,
    intermediate=640,
    glances_batch=16,
    micro_batch_tokens=4096,
)
"""For text with more words than rooms have."""
RECIPES = {
    "alfworld": Recipe(),
    "sql": replace(_READER, steps=9),
    "webshop": replace(_READER, steps=5, max_length=3072, observation_weight=0.1),
}


def build(env: str, out: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train tokenizer and model from generated play and write them to `out/<env>`; a killed build continues.

    `overrides` are "episodes=2000" and the like, for trials. Of another recipe or other texts nothing is continued.
    """
    import torch

    recipe = _recipe(env, overrides)
    spec, play = envs.get(env), _play(env)
    all_ids = spec.task_ids("pretrain")
    episodes = [play.wander(task_id, recipe.seed, recipe.steps) for task_id in all_ids[: recipe.episodes]]
    # The expert's words are in the vocabulary, so that SFT needs no more tokens a word than the base model.
    words = [step.action for i in all_ids[: min(500, recipe.episodes)] for step in spec.expert(i).steps]
    words += [m.content for e in episodes[:2000] for m in (*e.history(0), *e.continuation(0))]
    words += [spec.prompt[0].content, *(play.words() if recipe.related else ())]
    tokenizer = models.train_tokenizer(words, recipe.vocabulary, names=recipe.names)
    model = models.new_base_model(
        len(tokenizer),
        hidden=recipe.hidden,
        layers=recipe.layers,
        heads=recipe.heads,
        kv_heads=recipe.kv_heads,
        intermediate=recipe.intermediate,
        max_length=recipe.max_length,
        seed=recipe.seed,
        family=recipe.family,
    )
    if recipe.related:
        models.relate_forms(model, tokenizer)
    chat, work = ChatTokens(tokenizer), out / "build" / env
    texts = {
        stage: [getattr(play, reading)(task_id, recipe.seed) for task_id in all_ids[: -count - 1 : -1]]
        for stage, reading in READINGS.items()
        if (count := getattr(recipe, stage))
    }
    texts["episodes"] = [(*e.history(0), *e.continuation(0)) for e in episodes]
    said = [[m.as_dict() for m in text] for text in (spec.prompt, *(text for read in texts.values() for text in read))]
    of, made = work / "of", identity.digest([asdict(recipe), tokenizer.get_vocab(), said])
    if not of.exists() or of.read_text() != made:
        shutil.rmtree(work, ignore_errors=True)  # of another recipe, or of other texts
        store.write_text(of, made)
    facts: dict[str, float] = {}
    for stage, read in texts.items():
        last = stage == "episodes"
        ids = [e.task_id for e in episodes] if last else [""] * len(read)
        demonstrations = [Demonstration(i, text, "wanderer") for i, text in zip(ids, read, strict=True)]
        batch = {"episodes": recipe.batch_size, "tours": recipe.tours_batch}.get(stage, recipe.glances_batch)
        facts = _read(model, chat, demonstrations, spec.prompt if last else (), batch, recipe, work / stage)
    models.save_model(model.to(torch.bfloat16), tokenizer, out / env)
    shutil.rmtree(work)
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
    facts = train(
        model,
        chat,
        texts,
        lambda task_id: given,
        "sft",
        config,
        max_length=recipe.max_length,
        seed=recipe.seed,
        out=out / "checkpoint",
        progress=progress(f"base {out.name}", "updates"),
    ).facts()
    store.replace(done, lambda path: torch.save({"weights": model.state_dict(), "facts": facts}, path))
    shutil.rmtree(out / "checkpoint", ignore_errors=True)
    return facts


def _recipe(env: str, overrides: Sequence[str]) -> Recipe:
    if env not in RECIPES:
        raise IprError(f"ipr base: no recipe '{env}'; there are {', '.join(RECIPES)}")
    known = [f.name for f in fields(Recipe)]
    given = {key: value for key, _, value in (override.partition("=") for override in overrides)}
    for key in given:
        if key not in known:
            raise IprError(f"ipr base: unknown key '{key}'; keys: {', '.join(known)}")
    try:
        recipe = TypeAdapter(Recipe).validate_python(asdict(RECIPES[env]) | given)
    except ValidationError as error:
        first = error.errors()[0]
        raise IprError(f"ipr base: {first['loc'][0]}: {first['msg']} (got {first['input']!r})") from None
    if recipe.family not in FAMILIES:
        raise IprError(f"ipr base: no family '{recipe.family}'; {suggestion(recipe.family, FAMILIES)}")
    if recipe.hidden % (2 * recipe.heads) or recipe.heads % recipe.kv_heads:
        raise IprError(
            f"ipr base: hidden={recipe.hidden} has to be a multiple of twice heads={recipe.heads}, and these of"
            f" kv_heads={recipe.kv_heads}"
        )
    for key, reading in READINGS.items():
        if getattr(recipe, key) and not hasattr(_play(env), reading):
            raise IprError(f"ipr base: {key}={getattr(recipe, key)}: {env} has no such text; leave it at 0")
    return recipe


def _play(env: str) -> Any:
    return import_module(f"ipr.envs.{env}.play")
