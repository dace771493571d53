"""Trajectories from other people's files, each played again here before it is believed.

Decided here: only what the environment gives back comes in. A record is matched to a task by its id, else by what the
environment says first; by that, too, its episode is found behind instruction and examples: it begins at the message
whose text, or last lines, are the first observation of a task, and goes on from there to the record's end. Compared is
what the observations tell (see `alike`; with `strict` every letter), without the label "Observation:", blanks and the
wording of another version (`EnvSpec.reword`); kept are the environment's own. A record may end with the last action.
One that cannot be kept (half a character, a seed beyond 63 bits) is named, and the others come in. A record that is
not given back is tried as the published environment ran it (`EnvSpec.published`: InterCode's wrapper runs the first
line of a block), and then holds what was run. Left out: mending what an agent wrote; only blanks and line breaks at a
turn's ends go, as they do where tokens become text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipr import envs, store
from ipr.data.alike import alike, bare
from ipr.envs.checker import around
from ipr.envs.react import action_of
from ipr.envs.retrace import retrace
from ipr.types import Ending, EnvSpec, IprError, Message, Outcome, Step, Trajectory, messages, trimmed

FORMATS = ("messages", "conversations", "parquet")
SPLITS = ("train", "dev", "seen", "unseen")
"""Where a task is looked for, in this order."""

_ROLES = {
    "user": "user", "human": "user", "tool": "user", "function": "user",
    "assistant": "assistant", "gpt": "assistant", "system": "system", "developer": "system",
}  # fmt: skip
_TRANSCRIPT = "gt_traj.json"
"""ALFWorld's file of one game's winning commands, without thoughts."""
_TEXTWORLD = "-= Welcome to TextWorld"
"""What such a transcript begins with."""
_REFUSED = re.compile(r"I don't understand|Invalid (?:format|action)|Error Input|Nothing happens", re.IGNORECASE)
"""What other wrappers answer to a turn that they cannot carry out."""
_LABEL = re.compile(r"^(?:Observation|Question)\s*:\s*")


@dataclass(frozen=True, slots=True)
class Record:
    """What a file holds of one trajectory."""

    name: str
    """For reports: the file's row."""
    ids: tuple[str, ...]
    """What may name the task; a path to its file does too."""
    messages: tuple[Message, ...]
    reward: float | None = None
    """What it must earn again, where that is recorded."""
    ending: str = ""
    policy: str = "expert"
    seed: int = 0
    start: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where a record and the environment part."""

    record: str
    task_id: str
    """Empty where no task was found."""
    turn: int
    """The agent's turn, from 1; 0 is the first observation."""
    expected: object
    got: object

    def __str__(self) -> str:
        expected, got = around(str(self.expected), str(self.got))
        return f"{self.record} (task {self.task_id or '?'}): turn {self.turn}: expected {expected!r}, got {got!r}"


def load(
    kind: str, file: Path, env: str, data: Path | None = None, strict: bool = False
) -> tuple[list[Trajectory], list[Difference]]:
    """The trajectories of a file that `env` gives back, and the first difference of each of the others.

    `kind` is one of FORMATS; `file` may be a folder with ALFWorld's transcripts (gt_traj.json). `strict` leaves out
    what differs by an article or a comma, too. Raises IprError for a file that cannot be read.
    """
    records, differences = read(kind, file)
    spec = envs.get(env, data)
    player, played = _Player(spec, strict), []
    for record in records:
        found = player.play(record)
        (differences if isinstance(found, Difference) else played).append(found)  # type: ignore[arg-type]
    return played, differences


# Reading -------------------------------------------------------------------------------------------------------------


def read(kind: str, file: Path) -> tuple[list[Record], list[Difference]]:
    """The records of a file, and the rows that are none."""
    if kind == "parquet":
        return [_of_trajectory(k, t) for k, t in enumerate(store.load(file, Trajectory), 1)], []
    if file.is_dir():
        found = sorted(file.rglob(_TRANSCRIPT))
        if not found:
            raise IprError(f"{file}: no {_TRANSCRIPT} in this folder; give a file of trajectories")
        return _records(kind, [(str(one), _rows(one), str(one)) for one in found])
    rows = _rows(file)
    if rows and all(isinstance(row, dict) and kind not in row and {"value", "content"} & row.keys() for row in rows):
        return _records(kind, [("row 1", rows, str(file.resolve()))])
    return _records(kind, [(f"row {k}", row, "") for k, row in enumerate(rows, 1)])


def _records(kind: str, given: list[tuple[str, Any, str]]) -> tuple[list[Record], list[Difference]]:
    """Of (name, row, path) each; a row that is a list is a whole transcript, whose path names its task."""
    records, broken = [], []
    for name, row, path in given:
        try:
            records.append(_of_transcript(name, row, path) if path else _of_row(name, row, kind))
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            broken.append(Difference(name, "", 0, f"a record with '{kind}'", repr(error)))
    return records, broken


def _rows(file: Path) -> list[Any]:
    """The rows of a JSON list or of JSON lines, in UTF-8, UTF-16 or UTF-32, with or without a mark of the order."""
    try:
        raw = file.read_bytes()
        text = raw.decode(json.detect_encoding(raw), "surrogatepass").removeprefix("\ufeff")
        if text.lstrip().startswith("["):
            return json.loads(text)
        rows = []
        for k, line in enumerate(text.split("\n"), 1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                raise ValueError(f"line {k}: {error}") from None
        return rows
    except OSError as error:
        raise IprError(f"{file}: {error.strerror}; give a file of trajectories") from None
    except (ValueError, RecursionError) as error:
        raise IprError(f"{file} is neither a JSON list nor JSON lines ({error}); fetch the file again") from None


def _of_row(name: str, row: Mapping[str, Any], kind: str) -> Record:
    turns = tuple(_message(m) for m in row[kind])
    ids = (row.get(key) for key in ("task_id", "id", "game_file"))
    reward = row.get("reward")
    return Record(
        name=name,
        ids=tuple(i for i in ids if isinstance(i, str) and i),
        messages=tuple(m for m in turns if m.role != "system"),
        reward=None if reward is None else float(reward),
        ending=str(row.get("ending") or ""),
        policy=_kept(str(row.get("policy") or "expert")),
        seed=_number(row, "seed", 63),
        start=_number(row, "start", 31),
    )


def _of_transcript(name: str, turns: Sequence[Mapping[str, Any]], path: str) -> Record:
    """A transcript by itself. ALFWorld's commands become turns without a thought."""
    said = tuple(_message(turn) for turn in turns)
    if said[0].content.startswith(_TEXTWORLD):
        said = tuple(Message(m.role, f"Action: {m.content}") if m.role == "assistant" else m for m in said)
    return Record(name, (path,), said)


def _message(given: Mapping[str, Any]) -> Message:
    role, content = given.get("role", given.get("from")), given.get("content", given.get("value"))
    if isinstance(content, list):
        content = "".join(part if isinstance(part, str) else part["text"] for part in content)
    if not isinstance(content, str):
        raise TypeError(f"a message without text: {given!r:.60}")
    return Message(_ROLES[str(role)], _kept(content))  # type: ignore[arg-type]


def _kept(text: str) -> str:
    """The text; ValueError where it holds half a character, which no file can keep."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half a character (a lone surrogate) at place {error.start} of {text[:20]!r}") from None
    return text


def _number(row: Mapping[str, Any], key: str, bits: int) -> int:
    value = int(row.get(key) or 0)
    if abs(value) >> bits:
        raise ValueError(f"{key} {value:.6g} has no place in {bits} bits")
    return value


def _of_trajectory(k: int, t: Trajectory) -> Record:
    turns = tuple(messages(t.first_observation, t.steps))
    return Record(f"row {k}", (t.task_id,), turns, t.reward, t.ending, t.policy, t.seed, t.start)


# Matching ------------------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    return " ".join(_LABEL.sub("", text.strip()).split())


class _Player:
    """An environment's tasks, found by id or by what is said first, and records played on them."""

    def __init__(self, spec: EnvSpec, strict: bool) -> None:
        self._spec = spec
        self._strict = strict
        self._env = spec.make()
        self._ids = {split: spec.task_ids(split) for split in SPLITS}
        self._known = {task_id for ids in self._ids.values() for task_id in ids}
        self._said: dict[str, dict[str, list[str]]] = {}
        self._used: set[str] = set()

    def play(self, record: Record) -> Trajectory | Difference:
        """On the first task that gives it back; else the difference from the likeliest."""
        nearest, found = -1, Difference(record.name, "", 0, "a message that begins a task", self._none(record))
        for index in self._indices(record):
            places = self._places(record.messages, index)
            for text in reversed(places):  # an example's text comes before that of the record's own task
                for place in places[text]:
                    for task_id in sorted(index[text], key=self._used.__contains__):
                        played = self._replay(record, task_id, place)
                        if isinstance(played, Trajectory):
                            self._used.add(task_id)
                            return played
                        if (rank := places[text][0] * 10_000 + played.turn) > nearest:
                            nearest, found = rank, played
            if not places and len(index) == 1:
                said = next((m.content for m in record.messages if m.role == "user"), "no message of the environment")
                return Difference(record.name, next(iter(index.values()))[0], 0, said, next(iter(index)))
        return found

    def _none(self, record: Record) -> str:
        """Why a record has no task."""
        return (
            f"none in the record, and its id {record.ids[0]!r} is no task here" if record.ids else "none in the record"
        )

    def _text(self, text: str) -> str:
        return _plain(self._spec.reword(text, None))

    def _key(self, text: str) -> str:
        return self._text(text) if self._strict else bare(self._text(text))

    def _same(self, recorded: str, outcome: Outcome) -> bool:
        """Whether what was recorded tells what the environment says; any refusal is one."""
        expected, got = self._text(recorded), self._text(outcome.observation)
        if expected == got or self._strict:
            return expected == got
        return alike(expected, got) or (not outcome.valid and bool(_REFUSED.match(expected)))

    def _places(self, turns: Sequence[Message], index: Mapping[str, object]) -> dict[str, list[int]]:
        """First observations of tasks in a record, in the order of their first appearance: text -> places."""
        places: dict[str, list[int]] = {}
        for place, message in enumerate(turns):
            if message.role == "user" and (text := next((e for e in self._ends(message.content) if e in index), None)):
                places.setdefault(text, []).append(place)
        return places

    def _ends(self, text: str) -> Iterator[str]:
        """A text, and what is left of it from each of its lines on."""
        lines = text.splitlines()
        return (self._key("\n".join(lines[k:])) for k in range(len(lines)))

    def _indices(self, record: Record) -> Iterator[dict[str, list[str]]]:
        """What is said first -> the tasks that begin so: of the record's own task, else of one split after another."""
        own = next((i for name in record.ids if (i := self._named(name))), None)
        if own is not None:
            yield {self._key(self._env.reset(own)): [own]}
            return
        for split, ids in self._ids.items():
            if split not in self._said:
                index = self._said.setdefault(split, {})
                for task_id in ids:
                    index.setdefault(self._key(self._env.reset(task_id)), []).append(task_id)
            yield self._said[split]

    def _named(self, name: str) -> str | None:
        """The task of an id, or of a path that ends with it or with a file in it."""
        parts = name.replace("\\", "/").split("/")
        paths = ["/".join(parts[k:n]) for n in (len(parts), len(parts) - 1) for k in range(n)]
        return next((p for p in paths if p in self._known), None)

    def _replay(self, record: Record, task_id: str, place: int) -> Trajectory | Difference:
        """The record from its message `place` on, as an episode of the task: as it stands, else as it was run."""
        turns = record.messages[place + 1 :]
        task_id = self._spec.adopted(task_id, record.messages[place].content)
        said = [trimmed(self._spec.reword(m.content, task_id)) for m in turns[::2]]
        found, run = self._retraced(record, task_id, turns, said), [self._spec.published(turn) for turn in said]
        if isinstance(found, Difference) and run != said:
            again = self._retraced(record, task_id, turns, run)
            return again if isinstance(again, Trajectory) else found
        return found

    def _retraced(
        self, record: Record, task_id: str, turns: Sequence[Message], actions: list[str]
    ) -> Trajectory | Difference:
        first, n = self._env.reset(task_id), (len(turns) + 1) // 2

        def differ(turn: int, expected: object, got: object) -> Difference:
            return Difference(record.name, task_id, turn, expected, got)

        def unformed(turn: int, action: str) -> Difference | None:
            return differ(turn, "a turn with 'Action:'", f"without: {action}") if action_of(action) is None else None

        if any(m.role != ("user" if k % 2 else "assistant") for k, m in enumerate(turns)) or not turns:
            return differ(0, "agent and environment by turns", [m.role for m in turns])
        answers = [m.content for m in turns[1::2]]
        outcomes, different = retrace(self._env, [*map(Step, actions, answers)], self._same)
        t = len(outcomes)
        if different:
            return unformed(t, actions[t - 1]) or differ(t, *map(self._text, different))
        if t < n and outcomes and outcomes[-1].terminated:
            return differ(t, "the episode goes on", "it is over")
        outcomes += [self._env.step(action) for action in actions[t:]]  # a last action without an answer
        outcome = outcomes[-1]
        ending = _ending(outcome.terminated, n >= self._spec.max_steps, record.ending)
        if ending is None:
            return unformed(n, actions[-1]) or differ(n, "the end of the episode", "it is not over")
        if record.reward is not None and not abs(record.reward - outcome.reward) <= 1e-6:  # nor where it is no number
            return differ(n, f"reward {record.reward}", f"reward {outcome.reward}")
        return Trajectory(
            task_id,
            first,
            tuple(Step(action, o.observation) for action, o in zip(actions, outcomes, strict=True)),
            outcome.reward,
            ending,
            record.policy,
            record.seed,
            record.start,
            sum(not o.valid for o in outcomes[record.start :]),
        )


def _ending(terminated: bool, truncated: bool, recorded: str) -> Ending | None:
    if terminated:
        return "terminated"
    return "truncated" if truncated else "overflow" if recorded == "overflow" else None
