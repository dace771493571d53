"""A run's episodes inside report.html: a small index, and blocks of episodes that the page unpacks one at a time.

Decided here: one file that needs nothing else and opens from a disk, whatever it holds. Blocks are gzip in base64, so a
page of thousands of episodes opens at once, and no text of an episode is ever part of the page's HTML: `page/viewer.js`
unpacks it and shows it as text. Of a run with very many episodes whole problems are drawn, so that what can be seen
side by side stays together.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ipr.runs.episodes import Episode, Episodes, Scored
from ipr.types import PreferencePair, derive_seed

MOST = 10_000
"""Episodes of a page."""
BLOCK = 1 << 18
"""Bytes of JSON in a block, about; unpacked in a few milliseconds."""


def packed(episodes: Episodes, most: int = MOST) -> dict[str, Any]:
    """ "index" and "blocks" (gzip in base64), "total" and "shown" (counts of episodes and problems)."""
    shown = _drawn(episodes.all, most, episodes.run.config.seed)
    experts = {e.trajectory.task_id: i for i, e in enumerate(shown) if e.kind == "expert"}
    scored = episodes.scored
    names: dict[str, dict[str, int]] = defaultdict(dict)  # of each column the texts, numbered

    def number(column: str, text: str) -> int:
        return names[column].setdefault(text, len(names[column]))

    rows: list[list[Any]] = []
    blocks: list[list[Any]] = [[]]
    size = 0
    for episode in shown:
        if size > BLOCK:
            blocks.append([])
            size = 0
        played = episode.trajectory
        content = _content(episode, shown, experts, scored)
        blocks[-1].append(content)
        size += len(json.dumps(content))
        rows.append(
            [
                number("stage", episode.stage),
                number("split", episode.split),
                number("type", episodes.types.get(played.task_id, "")),
                number("task", played.task_id),
                number("policy", played.policy),
                number("ending", played.ending),
                number("pair", _pair_level(episode)),
                number("kind", episode.kind),
                round(played.reward, 4),
                played.start,
                len(played.steps),
                len(blocks) - 1,
                len(blocks[-1]) - 1,
            ]
        )
    settings = episodes.run.config.algorithm
    index = {
        "names": {column: list(texts) for column, texts in names.items()},
        "rows": rows,
        "success": settings.success,
        "tau": settings.tau,
        "outcome_margin": settings.outcome_margin,
    }
    problems = [len({e.trajectory.task_id for e in some}) for some in (episodes.all, shown)]
    return {
        "index": _pack(index),
        "blocks": [_pack(block) for block in blocks],
        "total": {"episodes": len(episodes.all), "problems": problems[0]},
        "shown": {"episodes": len(shown), "problems": problems[1]},
    }


def _drawn(every: Sequence[Episode], most: int, seed: int) -> list[Episode]:
    """All episodes of as many problems as fit, drawn with the run's seed."""
    if len(every) <= most:
        return list(every)
    by_problem: dict[str, int] = defaultdict(int)
    for episode in every:
        by_problem[episode.trajectory.task_id] += 1
    problems = sorted(by_problem)
    random.Random(derive_seed(seed, "viewer")).shuffle(problems)
    kept: set[str] = set()
    room = most
    for problem in problems:
        if by_problem[problem] <= room:
            kept.add(problem)
            room -= by_problem[problem]
    return [e for e in every if e.trajectory.task_id in kept]


def _content(
    episode: Episode, shown: Sequence[Episode], experts: dict[str, int], scored: dict[int, list[Scored]]
) -> dict[str, Any]:
    """What the page needs to show it; steps that an expert took alike are named, not repeated."""
    played = episode.trajectory
    expert = experts.get(played.task_id) if episode.kind != "expert" else None
    same = 0
    if expert is not None:
        same = _common(shown[expert].states, episode.states)
        if shown[expert].trajectory.first_observation != played.first_observation:
            expert, same = None, 0
    found: dict[str, Any] = {
        "steps": [[s.action, s.observation] for s in played.steps[same:]],
        "seed": str(played.seed),  # JavaScript has 53 bits
        "invalid": played.invalid,
        "pairs": [_pair(p) for p in episode.pairs],
        "rewards": {
            t: [_reward(one) for one in scored[state]] for t, state in enumerate(episode.states) if state in scored
        },
    }
    return found | ({"first": played.first_observation} if expert is None else {"expert": expert, "same": same})


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first steps two episodes of a problem have in common."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _reward(scored: Scored) -> dict[str, Any]:
    reward = scored.reward
    numbers = {"mean": reward.mean, "n": reward.n, "planned": reward.planned, "samples": reward.samples}
    return numbers | {"source": reward.source, "stage": scored.stage, "kind": scored.kind}


def _pair(pair: PreferencePair) -> dict[str, Any]:
    return {"level": pair.level, "t": pair.t, "margin": pair.margin, "winner": pair.winner}


def _pair_level(episode: Episode) -> str:
    """ "step", "outcome", "outcome and step" or "none"."""
    return " and ".join(sorted({p.level for p in episode.pairs})) or "none"


def _pack(value: Any) -> str:
    raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(raw.encode(errors="replace"), 6, mtime=0)).decode()
