"""Trajectories and pairs in the formats of other trainers, one JSON object a line.

Decided here: the environment's prompt stands before every conversation, so that a file is complete by itself; with
`ipr.data.imports` the trajectories come back as they were. Left out: masks. Trainers that take `trl` rows train on the
environment's words inside chosen and rejected too, unless told otherwise (see docs/data.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ipr import store
from ipr.types import Message, PreferencePair, Trajectory

Told = Callable[[str], Sequence[Message]]
"""Task id -> what stands before its conversation (`EnvSpec.told`)."""


def trl(pairs: Iterable[PreferencePair], told: Told) -> list[dict[str, Any]]:
    """Rows of TRL's conversational preference format."""
    return [
        {
            "prompt": _chat([*told(pair.task_id), *pair.prompt]),
            "chosen": _chat(pair.chosen),
            "rejected": _chat(pair.rejected),
        }
        for pair in pairs
    ]


def messages(trajectories: Iterable[Trajectory], told: Told) -> list[dict[str, Any]]:
    """Rows of whole conversations, with what else is known of each. The last observation, which ends the episode, is
    left out, as in training."""
    return [
        {
            "task_id": t.task_id,
            "messages": _chat([*told(t.task_id), *t.history(0), *t.continuation(0)]),
            "reward": t.reward,
            "ending": t.ending,
            "policy": t.policy,
            "seed": t.seed,
            "start": t.start,
        }
        for t in trajectories
    ]


def write(rows: Iterable[dict[str, Any]], file: Path) -> Path:
    return store.write_text(file, "".join(json.dumps(row) + "\n" for row in rows))


def _chat(turns: Iterable[Message]) -> list[dict[str, str]]:
    return [turn.as_dict() for turn in turns]
