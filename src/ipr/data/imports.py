"""Trajectories from other people's files, each played again here before it is believed.

Decided here: only what the environment gives back comes in. A record is matched to a task by its id, else by what the
environment says first, where tasks that have its id's number go first; by that, too, its episode is found behind
instruction and examples: it begins at the message whose text, or last lines, are the first observation of a task, and
goes on from there to the record's end. Compared is what the observations tell (see `alike`; with `strict` every
letter), without the label "Observation:", blanks and the wording of another version (`EnvSpec.reword`); kept are the
environment's own. A record may end with the last action, or with its wrapper's own words after the last action has won,
and a turn after the end goes (not with `strict`). One that cannot be read or kept (no JSON, half a character, a seed
beyond 63 bits) is named, and the others come in. A record that is not given back is tried as the published environment
ran it (`EnvSpec.published`: InterCode's wrapper runs the first line of a block), and then holds what was run. Left out:
mending what an agent wrote; only blanks and line breaks at a turn's ends go, as they do where tokens become text.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipr import envs, store
from ipr.data.alike import alike, bare
from ipr.envs.checker import HIGHEST, around
from ipr.envs.react import action_of
from ipr.envs.retrace import retrace
from ipr.types import Ending, EnvSpec, IprError, Message, Outcome, Step, Trajectory, trimmed

log = logging.getLogger("ipr")

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
_LABEL = re.compile(r"^(?:(?:The observation is|Observation|Question)\s*:|Here is your task\.)\s*")
"""What stands before an observation; the first and the last are AgentInstruct's."""
_CHOICE = re.compile(r"\n\s*AVAILABLE ACTIONS:.*", re.DOTALL | re.IGNORECASE)
"""What AgentGym writes after an observation."""

_NUMBER = re.compile(r"[0-9]{1,9}$")


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

    `kind` is one of FORMATS; `file` may be a folder of files, or one with ALFWorld's transcripts (gt_traj.json).
    `strict` leaves out what differs by an article or a comma, too. Raises IprError for a file that cannot be read.
    """
    records, differences = read(kind, file)
    spec = envs.get(env, data)
    player, played = _Player(spec, strict), []
    for record in records:
        found = player.play(record)
        (differences if isinstance(found, Difference) else played).append(found)  # type: ignore[arg-type]
    if player.ended:
        log.info("of %d trajectories the turn after the end is left out", player.ended)
    return played, differences


# Reading -------------------------------------------------------------------------------------------------------------


def read(kind: str, file: Path) -> tuple[list[Record], list[Difference]]:
    """The records of a file, and the rows that are none."""
    if kind == "parquet":
        rows = enumerate(store.cells(file, Trajectory), 1)
        return _records("messages", [(f"row {k}", row | {"messages": _chat(row)}, "") for k, row in rows])
    if file.is_dir():
        if found := sorted(file.rglob(_TRANSCRIPT)):
            return _records(kind, [(str(one), _transcript(one), str(one)) for one in found])
        return _records(kind, [(name, row, "") for one in _files(file) for name, row in _rows_of(one)])
    try:
        rows = _rows(file)
    except _Bad as bad:
        raise IprError(f"{file} is neither a JSON list nor JSON lines ({bad.got}); fetch the file again") from None
    except OSError as error:
        raise IprError(f"{file}: {error.strerror}; give a file of trajectories") from None
    if rows and all(isinstance(row, dict) and kind not in row and {"value", "content"} & row.keys() for _, row in rows):
        return _records(kind, [("row 1", [row for _, row in rows], str(file.resolve()))])
    return _records(kind, [(name, row, "") for name, row in rows])


class _Bad(ValueError):
    """What a record should hold, and what it holds."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(got)
        self.expected, self.got = expected, got


def _records(kind: str, given: list[tuple[str, Any, str]]) -> tuple[list[Record], list[Difference]]:
    """Of (name, row, path) each; a row with a path is a whole transcript, whose path names its task."""
    records, broken = [], []
    for name, row, path in given:
        try:
            records.append(_of_transcript(name, row, path) if path else _of_row(name, row, kind))
        except _Bad as bad:
            known = _ids(row) if isinstance(row, dict) else ()
            broken.append(Difference(name, known[0] if known else "", 0, bad.expected, bad.got))
    return records, broken


def _rows(file: Path) -> list[tuple[str, Any]]:
    """The rows of a JSON list or of JSON lines, by name; in place of a line that is no JSON what is wrong with it.

    Raises _Bad where none is an object, and OSError.
    """
    try:
        text = store.read_text(file)
    except UnicodeError:
        raise _Bad("a text", "it ends within a character") from None
    try:
        whole = _parsed(text)
    except _Bad as bad:
        lines = [(f"line {k}", _line(line)) for k, line in enumerate(text.split("\n"), 1) if line.strip()]
        if lines and not any(isinstance(row, dict) for _, row in lines):
            raise bad from None
        return lines
    return [(f"row {k}", row) for k, row in enumerate(whole if isinstance(whole, list) else [whole], 1)]


def _line(text: str) -> Any:
    try:
        return _parsed(text)
    except _Bad as bad:
        return bad


def _parsed(text: str) -> Any:
    """JSON; a number with more digits than Python reads stays a text."""
    try:
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 1000 else digits)
    except json.JSONDecodeError as error:
        raise _Bad("a JSON object", f"{error.msg.removesuffix(' at')} at character {error.pos + 1}") from None
    except RecursionError:
        raise _Bad("a JSON object", "it is nested too deep") from None


def _files(folder: Path) -> list[Path]:
    """A folder's files of trajectories, 2.json before 10.json."""
    found = [path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl") and path.is_file()]
    if not found:
        raise IprError(f"{folder}: no {_TRANSCRIPT} and no .json or .jsonl in this folder; give a file of trajectories")
    return sorted(found, key=lambda path: (path.parent, _number_of(path.stem) or 0, path.name))


def _rows_of(file: Path) -> list[tuple[str, Any]]:
    """The rows of one of a folder's files, or what is wrong with it. One row alone goes by the file's name (agents'
    evaluations are written so) where it has no id."""
    try:
        rows = _rows(file)
    except _Bad as bad:
        return [(str(file), bad)]
    except OSError as error:
        return [(str(file), _Bad("a file that can be read", str(error.strerror)))]
    if len(rows) > 1:
        return [(f"{file}, {name}", row) for name, row in rows]
    return [(str(file), {"id": file.stem} | row if isinstance(row, dict) else row) for _, row in rows]


def _transcript(file: Path) -> Any:
    """The turns of one of a folder's transcripts, or what is wrong with it."""
    try:
        return [row for _, row in _rows(file)]
    except _Bad as bad:
        return bad
    except OSError as error:
        return _Bad("a file that can be read", str(error.strerror))


def _of_row(name: str, row: Any, kind: str) -> Record:
    row = _object("a JSON object", row)
    turns = _said(row.get(kind), kind)
    reward, policy = row.get("reward"), str(row.get("policy") or "expert")
    try:
        reward = None if reward is None else float(reward)
    except (TypeError, ValueError, OverflowError):
        raise _Bad("reward: a number", _told(reward)) from None
    return Record(
        name=name,
        ids=_ids(row),
        messages=tuple(m for m in turns if m.role != "system"),
        reward=reward,
        ending=str(row.get("ending") or ""),
        policy=_kept("policy", policy),
        seed=_number(row, "seed", 63),
        start=_number(row, "start", 31),
    )


def _ids(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a row may name its task by, numbers as text; half a character is in no task's name."""
    found = (str(i) if type(i) is int else i for i in (row.get(key) for key in ("task_id", "id", "game_file")))
    return tuple(i for i in found if isinstance(i, str) and i and not store.HALF.search(i))


def _of_transcript(name: str, turns: Any, path: str) -> Record:
    """A transcript by itself. ALFWorld's commands become turns without a thought."""
    said = _said(turns, "a transcript")
    if said[0].content.startswith(_TEXTWORLD):
        said = tuple(Message(m.role, f"Action: {m.content}") if m.role == "assistant" else m for m in said)
    return Record(name, (path,), said)


def _said(given: Any, what: str) -> tuple[Message, ...]:
    if isinstance(given, _Bad):
        raise given
    if not isinstance(given, list) or not given:
        raise _Bad(f"{what}: a list of messages", _told(given))
    return tuple(_message(f"message {k}", one) for k, one in enumerate(given, 1))


def _message(name: str, given: Any) -> Message:
    given = _object(f"{name}: an object with role and content", given)
    role, content = given.get("role", given.get("from")), given.get("content", given.get("value"))
    if isinstance(content, list):
        content = "".join(_part(name, part) for part in content)
    if not isinstance(content, str):
        raise _Bad(f"{name}: a text as content", _told(content))
    known = _ROLES.get(role.casefold()) if isinstance(role, str) else None
    if known is None:
        raise _Bad(f"{name}: a role of {', '.join(_ROLES)}", _told(role))
    return Message(known, _kept(name, content))  # type: ignore[arg-type]


def _part(name: str, part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    if not isinstance(text, str):
        kind = f"one of type {_told(part.get('type'))}, without text" if isinstance(part, dict) else _told(part)
        raise _Bad(f"{name}: parts that are texts", kind)
    return text


def _object(what: str, given: Any) -> Mapping[str, Any]:
    if isinstance(given, _Bad):
        raise given
    if not isinstance(given, dict):
        raise _Bad(what, _told(given))
    return given


def _told(value: Any) -> str:
    """A JSON value in a few words."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list" if value else "an empty list"
    if isinstance(value, str):
        return repr(value[:60])
    return "nothing" if value is None else str(value)[:60]


def _kept(what: str, text: str) -> str:
    """The text; _Bad where it holds half a character, which no file can keep."""
    if half := store.HALF.search(text):
        byte = ord(half[0]) - 0xDC00
        told = f"the byte 0x{byte:x}, no UTF-8," if 0x80 <= byte < 0x100 else "half a character (a lone surrogate)"
        raise _Bad(f"{what}: whole characters", f"{told} at place {half.start()} of {text[:20]!r}")
    return text


def _number(row: Mapping[str, Any], key: str, bits: int) -> int:
    try:
        value = int(row.get(key) or 0)
    except (TypeError, ValueError, OverflowError):
        raise _Bad(f"{key}: a whole number", _told(row[key])) from None
    if abs(value) >> bits:
        raise _Bad(f"{key}: a whole number that has place in {bits} bits", _told(value))
    return value


def _chat(row: Mapping[str, Any]) -> list[Any] | None:
    """The messages of a row of trajectories."""
    if row["steps"] is None:
        return None
    said = [row["first_observation"]]
    for step in row["steps"]:
        said += [step and step["action"], step and step["observation"]]
    return [{"role": "assistant" if k % 2 else "user", "content": text} for k, text in enumerate(said)]


# Matching ------------------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    return " ".join(_LABEL.sub("", _CHOICE.sub("", text).strip()).split())


def _number_of(name: str) -> int | None:
    """What an id ends with: published records of WebShop and InterCodeSQL have a task's number alone."""
    found = _NUMBER.search(name)
    return int(found[0]) if found else None


class _Player:
    """An environment's tasks, found by id or by what is said first, and records played on them."""

    def __init__(self, spec: EnvSpec, strict: bool) -> None:
        self._spec = spec
        self._strict = strict
        self._env = spec.make()
        self._ids = {split: spec.task_ids(split) for split in SPLITS}
        self._known = {task_id for ids in self._ids.values() for task_id in ids}
        self._numbered: dict[int | None, list[str]] = {}
        for task_id in (i for ids in self._ids.values() for i in ids):
            if (number := _number_of(task_id)) is not None:
                self._numbered.setdefault(number, []).append(task_id)
        self._said: dict[str, dict[str, list[str]]] = {}
        self._used: set[str] = set()
        self.ended = 0
        """Trajectories whose records go on for a turn after the end."""

    def play(self, record: Record) -> Trajectory | Difference:
        """On the first task that gives it back; else the difference from the likeliest."""
        nearest, found = -1, Difference(record.name, "", 0, "a message that begins a task", self._none(record))
        own = next((i for name in record.ids if (i := self._named(name))), None)
        for index in self._indices(own, record.ids):
            places = self._places(record.messages, index)
            for text in reversed(places):  # an example's text comes before that of the record's own task
                for place in places[text]:
                    for task_id in sorted(index[text], key=self._used.__contains__):
                        played = self._replay(record, task_id, place)
                        if isinstance(played, Trajectory):
                            self._used.add(task_id)
                            self.ended += len(record.messages) - place > 2 * len(played.steps) + 1
                            return played
                        if (rank := places[text][0] * 10_000 + played.turn) > nearest:
                            nearest, found = rank, played
            if own is not None and not places:
                said = next((m.content for m in record.messages if m.role == "user"), "no message of the environment")
                return Difference(record.name, own, 0, said, self._env.reset(own))
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
        """Whether what was recorded tells what the environment says; any refusal is one, and so is what a wrapper says
        when the task is done."""
        expected, got = self._text(recorded), self._text(outcome.observation)
        if expected == got or self._strict:
            return expected == got
        won = outcome.terminated and outcome.reward >= HIGHEST
        return won or alike(expected, got) or (not outcome.valid and bool(_REFUSED.match(expected)))

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

    def _indices(self, own: str | None, names: Sequence[str]) -> Iterator[dict[str, list[str]]]:
        """What is said first -> the tasks that begin so: of the record's own task, else of those that have the number
        of one of its `names`, then of one split after another."""
        if own is not None:
            yield self._index([own])
            return
        if numbered := [i for name in names for i in self._numbered.get(_number_of(name), ())]:
            yield self._index(numbered)
        for split, ids in self._ids.items():
            if split not in self._said:
                self._said[split] = self._index(ids)
            yield self._said[split]

    def _index(self, ids: Sequence[str]) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for task_id in ids:
            index.setdefault(self._key(self._env.reset(task_id)), []).append(task_id)
        return index

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
        if not 0 <= record.start <= n:
            return differ(0, f"start: a number from 0 to {n}, the record's turns", record.start)
        answers = [m.content for m in turns[1::2]]
        outcomes, different = retrace(self._env, [*map(Step, actions, answers)], self._same)
        t = len(outcomes)
        if different:
            return unformed(t, actions[t - 1]) or differ(t, *map(self._text, different))
        if t < n and outcomes and outcomes[-1].terminated:
            # Of more turns they are another episode, before which this one stands as an example.
            if self._strict or n - t > 1 or record.start > t:
                return differ(t, "the episode goes on", "it is over")
            actions = actions[: (n := t)]
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
