"""ALFWorld's official data folder, checked and packed: only what is played, and the expert's trajectories of it.

Decided here: the games are copied as they are (with their recorded transcripts, where there are any), so that
`env.data` takes the result as it takes the original; what is unsolvable, or a task that the data set leaves out, or
cannot be read, stays behind. Counts other than the official ones are told, not refused: a part of the data is data too.
The experts are our own expert's (see `expert`), which speaks its thoughts and knows only what it saw; recorded
transcripts have no thoughts and know where things are, so they check the engine and are not imitated. Left out:
`traj_data.json`, images.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from ipr import store
from ipr.envs.alfworld import expert
from ipr.envs.alfworld.real import DIRECTORIES, Folder, check_recorded
from ipr.envs.checker import Difference
from ipr.types import IprError, Trajectory

OFFICIAL = {"train": 3553, "seen": 140, "unseen": 134}
"""Games of the published splits; dev is a part of train."""
EXPERT_STEPS = 50
"""Real rooms have up to 54 receptacles to search, so an expert may need more steps than an agent's episode has."""


def pack(folder: Path, out: Path) -> dict[str, Any]:
    """Writes `out`, with train, valid_seen, valid_unseen, experts.parquet and report.txt; returns what was found.

    `folder` is json_2.1.1 or the folder above it. `messages` tells what is missing, broken or not won, a line each.
    Raises IprError where there is no game at all.
    """
    source = Folder(folder)
    folder = source.folder
    if out.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise IprError(f"--out {out} is the data itself or above it; give a new folder")
    messages = [*_without_game(folder), *source.absent()]
    wordings: Counter[str] = Counter()
    ids: dict[str, list[str]] = {}
    for split in DIRECTORIES:
        ids[split] = []
        for task_id in source.task_ids(split):
            try:
                wordings[source.game(task_id).wording.put] += 1
                ids[split].append(task_id)
            except IprError as error:
                messages.append(str(error))
    found: dict[str, int] = {split: len(games) for split, games in ids.items()}
    if not sum(found.values()):
        raise IprError(f"{folder}: none of its games can be read; fetch the data again: alfworld-download")
    if len(wordings) > 1:
        told = ", ".join(f"{n} {put!r}" for put, n in wordings.items())
        messages.append(f"games of two wordings ({told}): each is told its own, but an agent learns that of its games")
    for split, official in OFFICIAL.items():
        games = found["train"] + found["dev"] if split == "train" else found[split]
        if games != official:
            messages.append(f"{DIRECTORIES[split]}: {games} games, the official data has {official}")
    experts = []
    for task_id in ids["train"]:
        try:
            played = expert.play(source.game(task_id), task_id, EXPERT_STEPS)
        except IprError as error:  # a goal in somebody's own words
            messages.append(f"{task_id}: {error}")
            continue
        if played.reward:
            experts.append(played)
        else:
            messages.append(f"{task_id}: not won by the expert in {EXPERT_STEPS} steps")
    recorded = _transcripts(folder, messages)

    def write(aside: Path) -> None:
        for games in ids.values():
            for task_id in games:
                (aside / task_id).mkdir(parents=True)
                for name in ("game.tw-pddl", "gt_traj.json"):
                    if (folder / task_id / name).is_file():
                        shutil.copyfile(folder / task_id / name, aside / task_id / name)
        store.save(aside / "experts.parquet", experts, Trajectory)
        store.write_text(aside / "report.txt", "".join(f"{message}\n" for message in messages))

    store.replace_folder(out, write)
    return {
        "data": str(out),
        "games": found,
        "wording": ", ".join(wordings),
        "recorded": recorded,
        "experts": len(experts),
        "experts_file": str(out / "experts.parquet"),
        "longer_than_20": sum(len(t.steps) > expert.MAX_STEPS for t in experts),
        "messages": messages,
        "report": str(out / "report.txt"),
    }


def _without_game(folder: Path) -> list[str]:
    """What has been downloaded by half: recorded tasks without the game that is made of them."""
    found = Counter(
        file.relative_to(folder).parts[0]
        for file in sorted(folder.glob("*/*/*/traj_data.json"))
        if not file.with_name("game.tw-pddl").is_file()
    )
    return [f"{top}: {n} tasks without game.tw-pddl; fetch them: alfworld-download" for top, n in found.items()]


def _transcripts(folder: Path, messages: list[str]) -> dict[str, int]:
    """How many recorded observations the engine gives back, where transcripts lie beside the games."""
    found = check_recorded(folder)
    if found is None:
        return {}
    messages += [*found["messages"], *(str(Difference(**difference)) for difference in found["differences"])]
    if found["equal"] != found["observations"]:
        messages.append(f"{found['observations'] - found['equal']} recorded observations are not given back")
    return {key: found[key] for key in ("games", "wins", "observations", "equal")}
