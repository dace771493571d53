"""`ipr data ...`: the published data sets, from the command line."""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from ipr import envs, store
from ipr.apps.champion import named
from ipr.config import read_yaml, validate
from ipr.data import datasets, exports, imports
from ipr.runs.project import defaults, project_root
from ipr.runs.run import check_space
from ipr.types import EnvSpec, IprError, PreferencePair, Trajectory

EXPERTS = {"alfworld": 1000, "sql": 1000, "webshop": 1000}
"""Expert trajectories in the published data set of each environment's generated world."""


def generate_published(data: Path) -> None:
    """Make what the committed data.dvc names: the experts of every environment in EXPERTS, whatever is run."""
    for env in EXPERTS:
        generate_experts(data, env)


def generate_experts(data: Path, env: str, count: int | None = None) -> Path:
    """Write `<data>/<env>/experts.parquet`; the same bytes on every machine. `count` is EXPERTS, else all of train."""
    spec = envs.get(env)
    ids = spec.task_ids("train")[: count or EXPERTS.get(env)]
    return store.save(data / env / "experts.parquet", [spec.expert(task_id) for task_id in ids], Trajectory)


def generate(options: Namespace) -> dict[str, Any]:
    data = project_root() / "data"
    files = [generate_experts(data, env, options.count) for env in ([options.env] if options.env else EXPERTS)]
    return {"files": {str(file): datasets.md5_of(file) for file in files}}


def publish(options: Namespace) -> dict[str, Any]:
    """What was changed in `data/` by hand, as a new version."""
    defaults(project_root())
    published = datasets.publish(project_root(), {}, message=options.message)
    return {"md5": published.md5, "version": published.version, "pushed": published.pushed}


def pull(options: Namespace) -> dict[str, Any]:
    """`data/` as the newest version has it, or the one that is asked for. In a fresh clone that reaches no remote it is
    made, where it can be."""
    root = project_root()
    defaults(root)
    try:
        version = datasets.pull(root, options.version)
    except IprError:
        if options.version or (root / "data").is_dir():
            raise
        datasets.ensure(root, generate_published)
        version = None
    return {
        "data": str(root / "data"),
        "md5": datasets.hashes(root)[0],
        "version": version.number if version else None,
        "message": version.message if version else "",
    }


def log(options: Namespace) -> dict[str, Any]:
    """The versions, the newest first; `here` is the one that data/ is."""
    root = project_root()
    defaults(root)
    found = datasets.history(root)
    here = datasets.hashes(root)[0] if (root / "data").is_dir() else None
    return {
        "versions": [
            {
                "version": v.number,
                "here": v.md5 == here,
                "md5": v.md5,
                "date": v.date,
                "author": v.author,
                "message": v.message,
                "rows": v.rows,
                "changed": {name: rows for name, (_, rows) in v.changed.items()},
            }
            for v in reversed(found)
        ]
    }


def diff(options: Namespace) -> dict[str, Any]:
    """Which rows came and went between two versions, by environment and table."""
    root = project_root()
    defaults(root)
    frame = datasets.difference(root, options.a, options.b)
    counts = frame.groupby(["env", "table", "change"]).size()
    tables: dict[str, dict[str, dict[str, int]]] = {}
    for (env, table, change), rows in counts.items():
        tables.setdefault(env, {}).setdefault(table, {})[change] = int(rows)
    if not options.json and len(frame):
        print(frame.head(SHOWN).to_string(index=False))
        if len(frame) > SHOWN:
            print(f"... {len(frame) - SHOWN} more; --json prints all")
    rows = [{k: v for k, v in row.items() if v == v} for row in frame.to_dict("records")]  # without NaN
    return {"a": options.a, "b": options.b, "tables": tables} | ({"rows": rows} if options.json else {})


def commit(options: Namespace) -> dict[str, Any]:
    """data.dvc names the version that `data/` is, and is committed."""
    defaults(project_root())
    return datasets.commit(project_root(), options.message)


def verify(options: Namespace) -> dict[str, Any]:
    problems = datasets.verify(project_root())
    if problems:
        raise IprError(
            f"data/ was changed by hand: {'; '.join(problems[:3])}; ipr data publish, or move data/ away and pull again"
        )
    md5 = datasets.hashes(project_root())[0]
    named = datasets.recorded(project_root())
    return {"data": "is as it was pulled or published", "md5": md5, "data.dvc": "names it" if md5 == named else named}


def write_games(options: Namespace) -> dict[str, Any]:
    from ipr.envs.alfworld import games
    from ipr.envs.alfworld.real import DIRECTORIES

    if options.env != "alfworld":
        raise IprError(f"only alfworld's games can be written as files, not {options.env}'s")
    ids = games.task_ids(options.split)[: options.count]
    try:
        for task_id in ids:
            games.export(games.generate(task_id), options.out, DIRECTORIES.get(options.split, options.split))
    except OSError as error:
        raise IprError(f"cannot write {options.out}: {error.strerror}; choose another folder") from None
    return {"games": len(ids), "folder": str(options.out)}


def lineage(options: Namespace) -> dict[str, Any]:
    from ipr import tracking

    defaults(project_root())
    return tracking.lineage(options.ref, named(options).track, project_root())


def restore(options: Namespace) -> dict[str, Any]:
    from ipr import tracking

    check_space(options.out, SPACE)
    defaults(project_root())
    return tracking.restore_data(options.ref, options.out, named(options).track, project_root())


LEAST = {"webshop": 0.7}
"""A prompted model's episode is an expert's where it earned more; in other environments where it earned everything."""


def experts(options: Namespace) -> dict[str, Any]:
    """A prompted model's episodes of the train split (see `ipr.apps.prompted`), and those of them that earned enough as
    OUT/experts.parquet, for `env.experts`. Raises IprError where none did."""
    from ipr.apps import prompted

    options.split = "train"
    figures = prompted.run(options)
    for line in prompted.notes(figures):
        print(line, file=sys.stderr)
    played = store.load(options.out / "eval" / "train.parquet", Trajectory)
    kept = [t for t in played if t.reward > LEAST.get(options.env, 1 - 1e-9)]
    bar = f"more than {LEAST[options.env]}" if options.env in LEAST else "everything"
    if not kept:
        raise IprError(
            f"none of {len(played)} episodes of {options.model} earned {bar}; take a better model, or --shots 1"
        )
    file = store.save(options.out / "experts.parquet", kept, Trajectory)
    return {
        "file": str(file),
        "episodes": len(played),
        "kept": len(kept),
        "earned": bar,
        "mean_reward": figures["reward"],
        "endings": figures["endings"],
        "usage": figures["usage"],
    }


SHOWN = 10
"""Lines of a report that are printed; all are in its file."""
SPACE = 50 << 20
"""Bytes that have to be free where something is written."""


def import_(options: Namespace) -> dict[str, Any]:
    """Trajectories that the environment gives back, as a Parquet file; the others in a report beside it."""
    if options.append and (options.format == "alfworld" or options.data):
        raise IprError(
            "--append adds to the published experts, which are of the generated world; give those of a real data set to"
            " a run as they are: env.experts=FILE.parquet"
        )
    if not (options.append or options.out):
        raise IprError("where to? --out FILE.parquet, or --append to the published experts")
    if options.format == "alfworld":
        from ipr.envs.alfworld import pack

        found = pack(options.file, options.out)
        _tell(found["report"], found.pop("messages"))
        return found
    out: Path = options.out or options.file.with_suffix(".parquet")
    if out.is_dir():
        raise IprError(f"--out {out} is a folder; give a file: --out FILE.parquet")
    check_space(out.parent, SPACE)
    played, differences = imports.load(options.format, options.file, options.env, options.data, options.strict)
    if not (played or differences):
        raise IprError(f"{options.file} holds no trajectory; give a file of trajectories")
    report = store.write_text(out.with_suffix(".report.txt"), "".join(f"{d}\n" for d in differences))
    _tell(report, [str(d) for d in differences])
    if not played:
        raise IprError(f"{options.file}: none of {len(differences)} trajectories is given back; see {report}")
    found: dict[str, Any] = {}
    if options.out:
        found["file"] = str(store.save(out, played, Trajectory))
    if options.append:
        found |= _append(options, played)
    rewards = sum(t.reward for t in played) / len(played)
    return found | {
        "trajectories": len(played),
        "tasks": len({t.task_id for t in played}),
        "mean_reward": rewards,
        "left_out": len(differences),
        "report": str(report),
    }


def _append(options: Namespace, played: list[Trajectory]) -> dict[str, Any]:
    """Trajectories join the published experts of their environment, as a new version."""
    root = project_root()
    defaults(root)
    datasets.ensure(root, generate_published)
    with tempfile.TemporaryDirectory() as folder:
        rows = store.save(Path(folder) / "rows.parquet", played, Trajectory)
        name = f"{options.env}/experts.parquet"
        message = options.message or f"{len(played)} trajectories of {options.file.name}"
        published = datasets.publish(root, {}, rows={name: rows}, message=message)
    return {"appended_to": f"data/{name}", "version": published.version, "pushed": published.pushed}


def export(options: Namespace) -> dict[str, Any]:
    """Pairs (all iterations of a run) for TRL, or trajectories (a run's experts) as messages."""
    name, kind, lines_of = {
        "trl": ("pairs", PreferencePair, exports.trl),
        "messages": ("experts", Trajectory, exports.messages),
    }[options.format]
    source: Path = options.source
    files = [source] if source.is_file() else sorted(source.rglob(f"{name}.parquet"), key=_by_iteration)
    if not files:
        raise IprError(f"{source}: no such file, and no folder with {name}.parquet; give a run such as runs/quick")
    lines = lines_of(store.rows_of(files, kind), _environment_of(source, options).told)
    return {"file": str(exports.write(lines, options.out)), "rows": len(lines), "from": [str(f) for f in files]}


def convert_dump(options: Namespace) -> dict[str, Any]:
    from ipr.envs.sql.convert import convert

    check_space(options.out, SPACE)
    found = convert(options.dump, options.out)
    messages = found.pop("messages")
    _tell("the output of --json", messages)
    return found | ({"messages": messages} if options.json else {})


def _by_iteration(file: Path) -> tuple[int, str]:
    """iteration-10 after iteration-9."""
    number = file.parent.name.removeprefix("iteration-")
    return (int(number) if number.isdigit() else 0), str(file)


def _environment_of(source: Path, options: Namespace) -> EnvSpec:
    """The environment that the options name, or that of the run or of data/ENV in whose folder `source` lies."""
    for folder in (source, *source.resolve().parents):
        if (folder / "config.yaml").is_file() and (folder / "manifest.json").is_file():
            env = validate(read_yaml(folder / "config.yaml"), str(folder / "config.yaml")).env
            _same(source, env.name, options.env)
            return envs.get(env.name, env.data, env.max_steps, env.shots, env.server)
    parts = source.resolve().parts
    env = next((b for a, b in pairwise(parts) if a == "data" and b in envs.names()), None)
    _same(source, env, options.env)
    name = options.env or env
    if name is None:
        name = "alfworld"
        print(f"{source} is taken for {name}'s; name another environment with --env", file=sys.stderr)
    return envs.get(name, options.data)


def _same(source: Path, found: str | None, asked: str | None) -> None:
    if found and asked and found != asked:
        raise IprError(f"--env {asked}: {source} is of {found}; leave --env out")


def _tell(report: Path | str, lines: list[str]) -> None:
    for line in lines[:SHOWN]:
        print(line, file=sys.stderr)
    if len(lines) > SHOWN:
        print(f"... {len(lines) - SHOWN} more in {report}", file=sys.stderr)


COMMANDS: dict[str, Callable[[Namespace], dict[str, Any]]] = {
    "generate": generate,
    "publish": publish,
    "pull": pull,
    "log": log,
    "diff": diff,
    "commit": commit,
    "verify": verify,
    "games": write_games,
    "lineage": lineage,
    "restore": restore,
    "import": import_,
    "experts": experts,
    "convert": convert_dump,
    "export": export,
}
"""What `ipr data WHAT` does."""
