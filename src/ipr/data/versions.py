"""Which data is newest: a list of versions in the DVC remote, beside the data, that needs no git commit.

Decided here: one small object (`ipr/versions.json`), written only where it is still what was read (`runs.bucket`). Who
comes second reads it again and puts his change on top of the newest, so what is published is a change, not a state.
A file that another checkout has put at the same path stays; a run's own then go beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ipr.data.objects import Tree
from ipr.runs import bucket
from ipr.types import IprError

KEY = "ipr/versions.json"


@dataclass(frozen=True)
class Version:
    number: int
    """From 1 on."""
    md5: str
    """Of the whole data set, as in data.dvc."""
    author: str
    date: str
    message: str
    checkout: str
    """The project folder that published it, a random name."""
    rows: dict[str, dict[str, int]]
    """Environment -> table -> rows in all its files."""
    changed: dict[str, tuple[str | None, int]]
    """Files that this version brought: md5 and rows; None for one that is gone."""


@dataclass(frozen=True)
class Change:
    """What is published: files of new content, files that go, rows to append. Waits as JSON where it must."""

    author: str
    date: str
    message: str
    checkout: str
    files: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    """Path -> md5 before and after; None before: not there, None after: removed."""
    rows: dict[str, str] = field(default_factory=dict)
    """Path -> md5 of a Parquet file whose rows are appended to what is there."""
    place: str | None = None
    """A run's folder under `data/`, in which all of `files` are."""
    aside: str | None = None
    """The folder that they take where another checkout has put other files at `place`."""


class Clash(IprError):
    """The newest version has another content where a change was made by hand."""


def read(place: bucket.Bucket) -> tuple[list[Version], str]:
    """The versions, the oldest first, and the tag to `append` with. Raises IprError where the remote is down."""
    found = place.read(KEY)
    if found is None:
        return [], bucket.FREE
    try:
        rows = json.loads(found[0])["versions"]
        return [Version(**row) for row in rows], found[1]
    except (ValueError, KeyError, TypeError) as error:
        raise IprError(f"{place.url}/{KEY} is no list of versions ({error}); restore it") from None


def append(place: bucket.Bucket, versions: Sequence[Version], tag: str) -> None:
    """Write the longer list. Raises `bucket.Changed` where another publisher was quicker."""
    content = (json.dumps({"versions": [asdict(v) for v in versions]}, indent=1) + "\n").encode()
    place.write(KEY, content, tag)
    if tag == bucket.FREE:
        try:
            place.write(KEY, content, bucket.FREE)
        except bucket.Changed:
            return
        raise IprError(
            f"{place.url} ignores conditional writes (If-None-Match), so that two publishers could overwrite each"
            " other; use a store that has them, or publish from one machine"
        )


def find(versions: Sequence[Version], ref: str) -> Version | None:
    """By number, or by md5 or its beginning; None where there is none."""
    if ref.isdigit() and len(ref) < 6:
        return next((v for v in versions if v.number == int(ref)), None)
    return next((v for v in reversed(versions) if len(ref) >= 6 and v.md5.startswith(ref)), None)


def apply(
    change: Change,
    tree: Tree,
    owner: Callable[[str], str | None] | None,
    appended: Callable[[str, str | None, str], str],
) -> tuple[Tree, dict[str, str]]:
    """The tree with the change, and where each of the change's paths is in it.

    `owner(path)`: the checkout that published the file last; None where nobody else has published. `appended(path, md5,
    rows)`: the md5 of the file with the rows appended. Raises Clash where a file that was changed by hand has been
    changed meanwhile, too, or one of a run by another checkout. (What this checkout has appended to others' rows is not
    what it has here.)
    """
    clashes = [
        name
        for name, pair in change.files.items()
        if owner and tree.get(name) not in pair and name in tree
        if change.place is None or owner(name) != change.checkout
    ]
    if clashes and change.aside is None:
        raise Clash(
            f"data/{clashes[0]} was changed here and, meanwhile, in the newest version ({len(clashes)} such files);"
            " move data/ away, then: ipr data pull, and append your rows from there: ipr data import parquet FILE --env"
            " NAME --append"
        )
    made, names = dict(tree), {}
    for name, (_, md5) in change.files.items():
        final = name
        if clashes and change.place and change.aside:
            final = change.aside + name.removeprefix(change.place)
        names[name] = final
        if md5 is None:
            made.pop(final, None)
        else:
            made[final] = md5
    for name, rows in change.rows.items():
        names[name], made[name] = name, appended(name, made.get(name), rows)
    return made, names


def following(
    newest: Version | None, change: Change, before: Tree, after: Tree, count: Callable[[str], int]
) -> Version:
    """The version that a change makes of the newest; `count(md5)`: rows of a file of `after` or `before`."""
    rows = {env: dict(tables) for env, tables in (newest.rows if newest else {}).items()}
    changed: dict[str, tuple[str | None, int]] = {}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        env, table = Path(name).parts[0], Path(name).stem
        more, less = count(new) if new else 0, count(old) if old else 0
        changed[name] = (new, more)
        tables = rows.setdefault(env, {})
        tables[table] = tables.get(table, 0) + more - less
    return Version(
        newest.number + 1 if newest else 1,
        "",
        change.author,
        change.date,
        change.message,
        change.checkout,
        {env: {t: n for t, n in tables.items() if n} for env, tables in rows.items() if any(tables.values())},
        changed,
    )


def owner_in(versions: Sequence[Version]) -> Callable[[str], str | None]:
    def owner(name: str) -> str | None:
        return next((v.checkout for v in reversed(versions) if name in v.changed), None)

    return owner


def rows_of(path: Path) -> int:
    """Of a Parquet file; other files count as none."""
    try:
        return pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException):
        return 0


def difference(a: Mapping[str, Path], b: Mapping[str, Path]) -> Any:
    """Which rows came and went between two data sets, given the files in which they differ (path in `data/` -> file).

    A pandas frame: env, table, file, change ("came" or "went"), and of the row what names it (task_id, t, level,
    policy, reward, margin, mean). A row that only moved to another file of its table has neither come nor gone.
    """
    import pandas as pd

    shown = ["task_id", "t", "level", "policy", "reward", "margin", "mean"]
    sides = [_rows(files) for files in (a, b)]
    both: Any = pd.concat([frame.assign(change=change) for frame, change in zip(sides, ("went", "came"), strict=True)])
    # The n-th copy of a row in one is that of the other.
    both["copy"] = both.groupby(["env", "table", "row", "change"]).cumcount()
    both = both[~both.duplicated(["env", "table", "row", "copy"], keep=False)]
    columns = ["env", "table", "file", "change", *(c for c in shown if c in both)]
    return both.sort_values(by=["env", "table", "change", "file"], kind="stable")[columns].reset_index(drop=True)


def _rows(files: Mapping[str, Path]) -> Any:
    import pandas as pd

    frames = []
    for name, path in files.items():
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise IprError(f"{name}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
        flat = [c for c in table.column_names if not pa.types.is_nested(table.schema.field(c).type)]
        frame = table.select(flat).to_pandas()
        frame["row"] = [json.dumps(row, sort_keys=True) for row in table.to_pylist()]
        frames.append(frame.assign(env=Path(name).parts[0], table=Path(name).stem, file=name))
    return pd.concat(frames) if frames else pd.DataFrame(columns=["env", "table", "file", "row"])
