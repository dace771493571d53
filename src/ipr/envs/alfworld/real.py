"""Games of the real data set, from its folder json_2.1.1.

Decided here: task ids are the folders of the games; dev is a twentieth of the train games, by a hash of the id, and
train is the rest. Where IPR's `alfworld_game_files.json` lies in the folder or above it, games of the splits that it
names are left out where it does not name them. Left out, as in the published counts: unsolvable games, and the tasks
with movable or sliced things.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from ipr import store
from ipr.envs.alfworld.engine import BANNER, NOTHING, Game
from ipr.envs.alfworld.world import Household
from ipr.envs.checker import Difference, differences
from ipr.types import IprError, Trajectory, derive_seed

DIRECTORIES: Mapping[str, str] = {"train": "train", "dev": "train", "seen": "valid_seen", "unseen": "valid_unseen"}

INDEX = "alfworld_game_files.json"


class Folder:
    """A folder of real games: `<split dir>/<type>-<object>-None-<receptacle>-<scene>/<trial>/game.tw-pddl`; or the one
    above it, where it is named json_2.1.1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        fix = "give the folder json_2.1.1 of the ALFWorld data (with train, valid_seen, valid_unseen)"
        if not folder.is_dir():
            raise IprError(f"{folder}: no such folder; {fix}")
        if (folder / "json_2.1.1").is_dir():
            self.folder = folder = folder / "json_2.1.1"
        if not _laid_out(folder):
            raise IprError(f"{folder} holds no train/*/*/game.tw-pddl nor any of the other splits; {fix}")
        if not any(self.task_ids(split) for split in DIRECTORIES):
            raise IprError("; ".join([f"{folder}: none of its games is one that is played", *self.absent()]))

    @lru_cache(maxsize=8)  # noqa: B019 - one object a run
    def task_ids(self, split: str) -> list[str]:
        if split not in DIRECTORIES:
            raise IprError(f"alfworld has no split '{split}'; there are {', '.join(DIRECTORIES)}")
        top = DIRECTORIES[split]
        found = [trial for trial in _trials(self.folder / top) if _playable(trial / "game.tw-pddl")]
        ids = [trial.relative_to(self.folder).as_posix() for trial in found]
        if self._listed and any(i.startswith(f"{top}/") for i in self._listed):
            ids = [i for i in ids if i in self._listed]
        if top != "train":
            return ids
        ids = [i for i in ids if (derive_seed("alfworld", "dev", i) % 20 == 0) == (split == "dev")]
        # Paths begin with the kind of the task, and a run takes the first: these are of all kinds.
        return sorted(ids, key=lambda i: derive_seed("alfworld", "order", i)) if split == "train" else ids

    @cached_property
    def _listed(self) -> frozenset[str]:
        """The task ids that IPR's index file names; none where there is no such file."""
        for file in self._index:
            try:
                listed = json.loads(file.read_bytes())
                paths = [path.removesuffix("/game.tw-pddl").rstrip("/") for path in listed]
            except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
                raise IprError(f"{file}: no index file ({error}); fetch it again, or remove it") from None
            ids = [path.split("/")[-3:] for path in paths]
            tops = sorted({*DIRECTORIES.values()})
            if not any(len(parts) == 3 and parts[0] in tops for parts in ids):
                raise IprError(
                    f"{file}: no index file (no path ends with SPLIT/TASK/TRIAL or with game.tw-pddl in it, SPLIT one"
                    f" of {', '.join(tops)}); fetch it again, or remove it"
                )
            return frozenset(map("/".join, ids))
        return frozenset()

    def absent(self) -> list[str]:
        """What IPR's index file names and the folder lacks, in a line; nothing where all is there."""
        lacking = sorted(i for i in self._listed if not (self.folder / i / "game.tw-pddl").is_file())
        if not lacking:
            return []
        told = ", ".join(lacking[:3]) + ("" if len(lacking) < 4 else ", ...")
        return [f"{INDEX}: {len(lacking)} of its games are not there ({told}); fetch them: alfworld-download"]

    @property
    def _index(self) -> list[Path]:
        """IPR's index file, where there is one."""
        return [file for at in (self.folder, self.folder.parent) if (file := at / INDEX).is_file()][:1]

    @lru_cache(maxsize=1024)  # noqa: B019
    def game(self, task_id: str) -> Game:
        return read(self.folder / task_id / "game.tw-pddl")

    @cache  # noqa: B019
    def wording(self, task_id: str) -> str:
        """The game's own template for putting something down: a folder may have games of several versions."""
        return self.game(task_id).wording.put

    def any(self) -> str:
        """The first game that there is."""
        return next(ids[0] for split in ("train", "seen", "unseen", "dev") if (ids := self.task_ids(split)))

    def files(self) -> dict[str, Path]:
        """What is read, by name: the games that are played, and the index file."""
        ids = {task_id for split in DIRECTORIES for task_id in self.task_ids(split)}
        found = {task_id: self.folder / task_id / "game.tw-pddl" for task_id in sorted(ids)}
        return found | {file.name: file for file in self._index}

    def task_type(self, task_id: str) -> str:
        return task_id.split("/")[1].split("-")[0]


def read(file: Path) -> Game:
    """A game file, parsed; IprError where it is missing or broken."""
    try:
        data = json.loads(file.read_bytes())
    except OSError as error:
        raise IprError(f"{file}: {error.strerror}; fetch it again, or give a task id of this data set") from error
    except (ValueError, RecursionError) as error:
        raise IprError(f"{file} is not JSON ({error}); fetch the file again") from error
    return Game(data, str(file))


def _trials(top: Path) -> list[Path]:
    """The folders of a split's games; a link that leads nowhere is a game, too, and is named when it is read."""
    return [trial for trial in sorted(top.glob("*/*")) if os.path.lexists(trial / "game.tw-pddl")]


def _laid_out(folder: Path) -> bool:
    """Whether there are games in the places of the real data."""
    return any(_trials(folder / top) for top in DIRECTORIES.values())


def _playable(file: Path) -> bool:
    """The real folder also holds games that the data set leaves out: unsolvable ones, and two kinds of task. What
    cannot be read is none of these."""
    if "movable" in file.parts[-3] or "Sliced" in file.parts[-3]:
        return False
    try:
        with file.open("rb") as opened:  # the flag stands at the very end of a large file
            opened.seek(max(0, file.stat().st_size - 100))
            return not re.search(rb'"solvable"\s*:\s*false', opened.read())
    except OSError:
        return True


def check_data(folder: Path) -> dict[str, Any] | None:
    """`check_recorded`, with every game of all splits read too: broken ones are among its `messages`, and `broken`
    counts them. None where nothing is recorded and no game is broken."""
    found, broken = check_recorded(folder), _broken_games(folder)
    if not broken:
        return found
    found = found or {}
    messages = list(dict.fromkeys([*broken, *found.get("messages", [])]))  # one with a transcript is named once
    return found | {"broken": len(messages), "messages": messages}


def _broken_games(folder: Path) -> list[str]:
    """What is wrong with the games, a line each."""
    if not any(map(_laid_out, (folder, folder / "json_2.1.1"))):  # there may be transcripts all the same
        return []
    try:
        source = Folder(folder)
        files, messages = source.files(), source.absent()
    except IprError as error:
        return [str(error)]
    for file in files.values():
        if file.name != INDEX:
            try:
                read(file)
            except IprError as error:
                messages.append(str(error))
    return messages


def check_recorded(folder: Path) -> dict[str, Any] | None:
    """Plays every recorded transcript (`gt_traj.json` beside a `game.tw-pddl`) found anywhere under a folder, and the
    experts of a packed one (see `pack`); None where there is neither, as in the data that `alfworld-download` fetches.

    `equal` of `observations` are the same letter by letter, first ones and the banner before them included; the others,
    and transcripts that do not win, are in `differences`. Files that cannot be read are counted in `broken` and named,
    each with its fix, in `messages`.
    """
    found, packed = sorted(folder.rglob("gt_traj.json")), folder / "experts.parquet"
    if not found and not packed.is_file():
        return None
    unlike: list[Difference] = []
    games = wins = observations = equal = commands = 0
    seconds = 0.0
    messages: list[str] = []
    for file in found:
        try:
            game = read(file.with_name("game.tw-pddl"))
            turns = [turn["value"] for turn in json.loads(file.read_bytes())]
            if not turns or not all(isinstance(turn, str) for turn in turns):
                raise ValueError("no list of texts")
        except IprError as error:
            messages.append(str(error))
            continue
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            messages.append(f"{file} is no recorded transcript ({error!r}); fetch the file again")
            continue
        start = time.process_time()
        state, answers = game.start, [BANNER + game.first]
        for command in turns[1::2]:
            state, answer = game.play(state, command)
            answers.append(NOTHING if answer is None else answer)
        seconds += time.process_time() - start
        games += 1
        commands += len(turns[1::2])
        observations += len(turns[::2])
        name = file.parent.relative_to(folder).as_posix()
        compared = enumerate(zip(turns[::2], answers, strict=False))
        unequal = [Difference(name, t, recorded, ours) for t, (recorded, ours) in compared if recorded != ours]
        equal += min(len(turns[::2]), len(answers)) - len(unequal)
        wins += (won := game.won(state))
        unlike += [*unequal, *([] if won else [Difference(name, len(turns[1::2]), "reward 1.0", "reward 0.0")])]
    experts = store.load(packed, Trajectory) if packed.is_file() else []
    unlike += _experts(folder, experts, messages)
    return {
        "games": games,
        "wins": wins,
        "observations": observations,
        "equal": equal,
        "experts": len(experts),
        "steps_per_s": round(commands / seconds) if seconds else 0,
        "broken": len(messages),
        "messages": messages,
        "differences": [difference._asdict() for difference in unlike],
    }


def _experts(folder: Path, experts: list[Trajectory], messages: list[str]) -> list[Difference]:
    """Where the experts of a packed folder are not given back; what cannot be played at all is added to `messages`."""
    found: list[Difference] = []
    if not experts:
        return found
    games = Folder(folder)
    for t in experts:
        try:
            found += differences(Household(games), t)
        except IprError as error:
            messages.append(f"the expert of {t.task_id} cannot be played: {error}")
    return found
