"""The model that a person names: "champion", "embedded", a folder or a hub name; and whether episodes fit into it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ipr import models
from ipr.config import RunConfig, embedded
from ipr.data import experts
from ipr.runs.project import defaults, project_root
from ipr.runs.run import Run
from ipr.tokens import ChatTokens
from ipr.tracking import champion_info
from ipr.types import EnvSpec, IprError, Message

OF_PLAYING = ("model", "track", "rollout.slots", "rollout.kv_dtype")
"""Keys and sections that decide how a model that is named plays, wherever."""


def only(where: str, overrides: Sequence[str], *keys: str) -> None:
    """Raises IprError for the first override of another key, which would be ignored there."""
    for override in overrides:
        if not f"{override.partition('=')[0]}.".startswith(tuple(f"{key}." for key in keys)):
            raise IprError(f"{override} changes nothing {where}, where {', '.join(keys)} may be given; leave it out")


def folder_of(model: str, config: RunConfig) -> str:
    """The folder or hub name of a model that can be played, the champion's where it is asked for."""
    path = _champion(config) if model == "champion" else embedded(model, config.env.name)
    if path is None:
        raise IprError(f"'{config.track.registered_model}' has no champion yet; train one: ipr run quick")
    models.check_model(path)
    return path


def base_of(run: Run) -> str:
    """The model to start from. The champion is copied when the run begins, so that a resumed run starts from the same;
    that another model is the same one is looked at by `Run.identify`."""
    if run.base != "champion":
        return run.base
    folder = _champion(run.config)
    if folder is None:
        raise IprError("model.path=champion, but there is no champion yet; train one first: ipr run quick")
    # A copy inside the run: the champion may move while this run is stopped.
    return str(models.copy_model(folder, run.folder / "base" / "model"))


def check_room(spec: EnvSpec, split: str, path: str, config: RunConfig) -> None:
    """Raises IprError where most of the expert's episodes do not fit into the model's context; notes it where some.

    Of the train split, from which the agent learns, it also notes turns for which an agent has no room.
    """
    chat, talks = ChatTokens(models.load_tokenizer(path, config.model.date)), experts.conversations(spec, split)
    if split == "train":
        _note_turns(chat, talks, config.rollout.max_new_tokens)
    lengths = [len(chat.conversation(talk).ids) for talk in talks]
    context = models.context_length(path)
    limit = min(config.model.max_length, context)
    longer = sum(length > limit for length in lengths)
    if not longer:
        return
    fix = "raise model.max_length" if limit < context else "use a model with a longer context"
    fix += ", or leave the example out (env.shots=0)" if config.env.shots else ""
    told = f"{longer} of {len(lengths)} expert episodes of {spec.name} are longer than the context of {limit} tokens"
    if 2 * longer > len(lengths):
        raise IprError(f"{told} (the longest has {max(lengths)}); {fix}")
    print(f"note: {told}; such games cannot be played to their end: {fix}", file=sys.stderr)


def _note_turns(chat: ChatTokens, talks: Sequence[Sequence[Message]], limit: int) -> None:
    longest = [max((len(chat.agent(m.content)) for m in talk if m.role == "assistant"), default=0) for talk in talks]
    if longer := sum(length > limit for length in longest):
        print(
            f"note: {longer} of {len(longest)} expert episodes have a turn of more than rollout.max_new_tokens={limit}"
            f" tokens; an agent that learns it is cut off before its action: set it to {max(longest)} or more",
            file=sys.stderr,
        )


def _champion(config: RunConfig) -> str | None:
    root = project_root()
    defaults(root)
    info = champion_info(config.track, root)
    return None if info is None else str(info["folder"])
