"""The published data sets: `data/` under DVC.

    data/<env>/experts.parquet
    data/<env>/<run>/iteration-K/{explored,step_rewards,pairs,demonstrations}.parquet

Decided here: one folder, one `data.dvc`, one writer (`publish`); files are only added or replaced, so any earlier
md5 of `data/` can be fetched again from the cache or the remote. A remote that cannot be reached costs a warning: what
could not be pushed is remembered and goes with the next publish. Hashes are computed here (md5 of the bytes; of the
sorted listing for a folder, as DVC does), so what needs no DVC does not pay for its import.
Left out on purpose: git. `data.dvc` is committed by a person or by CI; the md5 alone is enough to fetch the data.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ipr import store
from ipr.config import public
from ipr.runs.project import answers
from ipr.types import IprError

log = logging.getLogger("ipr")

LOCK_WAIT = 1800.0
"""Seconds to wait for another process that publishes or runs DVC, e.g. pushes much."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Published:
    md5: str
    """Of the whole `data/`, as in data.dvc ("<32 digits>.dir")."""
    files: dict[str, str]
    """The given files (paths under `data/`) with their md5."""
    pushed: bool
    """Whether everything published so far is in the remote."""


def publish(root: Path, files: Mapping[str, Path], *, push: bool = True, remote: str | None = None) -> Published:
    """Copy `files` (path under `data/` -> source) into `data/`, `dvc add data`, and push to `remote`.

    Does nothing where nothing is new. Raises IprError for bad paths and a broken DVC project, never for a remote.
    """
    with alone(root):
        given = {_inside(name): _copy(source, root / "data" / name) for name, source in files.items()}
        if not (root / "data").is_dir():
            raise IprError(f"{root / 'data'}: nothing to publish; make the experts first: ipr data generate")
        md5, _ = hashes(root)
        state = _state(root)
        # A data/ that was generated here may be what data.dvc names and yet not be in DVC's cache.
        if md5 != recorded(root) or md5 != state["added"]:
            _dvc(root, lambda repo: repo.add([str(root / "data")]), create=True)
            if md5 != recorded(root):
                raise IprError(f"{root / 'data'} changed while it was added to DVC; publish again")
            state["added"] = md5
            state["waiting"] = [m for m in state["waiting"] if m != md5] + [md5]
            _keep(root, state)
        return Published(md5, given, push and _push(root, md5, remote))


def hashes(root: Path) -> tuple[str, dict[str, str]]:
    """The md5 of `data/` as DVC computes it, and of each file by its path under `data/`."""
    data = root / "data"
    paths = sorted(p for p in data.rglob("*") if p.is_file() and p.suffix != ".part")
    files = {p.relative_to(data).as_posix(): md5_of(p) for p in paths}
    listing = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir", files


def md5_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def recorded(root: Path) -> str | None:
    """The md5 that data.dvc names; None where there is no data.dvc."""
    path = root / "data.dvc"
    if not path.is_file():
        return None
    try:
        return yaml.safe_load(path.read_text())["outs"][0]["md5"]
    except (OSError, yaml.YAMLError, LookupError, TypeError):
        raise IprError(f"{path} is not a DVC file (merge conflict?); restore it: git checkout data.dvc") from None


def verify(root: Path) -> list[str]:
    """What keeps `data/` from being what data.dvc names, one line each; nothing when it is."""
    wanted = recorded(root)
    if wanted is None:
        return [f"no data.dvc in {root}; make one: ipr data generate, ipr data publish"]
    if not (root / "data").is_dir():
        return ["data/ is missing; bring it here: ipr data pull"]
    md5, files = hashes(root)
    if md5 == wanted:
        return []
    listing = root / ".dvc/cache/files/md5" / wanted[:2] / wanted[2:]
    if not listing.is_file():
        return [f"data/ is {md5}, data.dvc names {wanted}"]
    named = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text())}
    return [
        f"{'missing' if name not in files else 'not in data.dvc' if name not in named else 'changed'}: data/{name}"
        for name in sorted(named.keys() | files.keys())
        if files.get(name) != named.get(name)
    ]


def pull(root: Path, remote: str | None = None) -> None:
    """Bring `data/` to what data.dvc names, from the cache or the remote. Raises IprError where that fails."""
    if recorded(root) is None:
        raise IprError(f"no data.dvc in {root}; make one: ipr data generate, ipr data publish")
    if (root / "data").is_dir() and not verify(root):
        return
    with alone(root):
        _pull(root, str(root / "data.dvc"), remote)


def pull_newest(root: Path) -> bool:
    """`pull` for those who can go on with what is there: a failure is a warning."""
    try:
        pull(root)
    except IprError as error:
        log.warning("data/ stays as it is: %s", error)
        return False
    return True


def ensure(root: Path, generate: Callable[[Path], object]) -> None:
    """Make sure that there is a `data/`: it is pulled, or else made by `generate(folder)` and checked against data.dvc.

    A `data/` that is there is kept; the next publish records what differs from data.dvc.
    """
    data, wanted = root / "data", recorded(root)
    if data.is_dir():
        if wanted is not None and (problems := verify(root)):
            log.warning("data/ is not what data.dvc names (%d differences, e.g. %s)", len(problems), problems[0])
        return
    if wanted is not None:
        try:
            return pull(root)
        except IprError as error:
            log.info("data/ is made here: %s", error)

    with tempfile.TemporaryDirectory(dir=root, prefix=".ipr-") as folder:
        # Made aside and hashed there, so that a data set that differs never becomes data/.
        aside = Path(folder)
        generate(aside / "data")
        made, _ = hashes(aside)
        if wanted not in (None, made):
            raise IprError(
                f"data.dvc names {wanted}, which neither the cache nor the remote has; what can be generated here is"
                f" {made}: reach the remote (dvc remote list), or start from the committed one: git checkout data.dvc"
            )
        with alone(root):
            if not data.is_dir():  # another process may have been quicker
                (aside / "data").rename(data)


def restore(root: Path, md5: str, out: Path, remote: str | None = None) -> Path:
    """Fetch the data set (a folder if `md5` ends with .dir, else a file) into `out`; `data/` is not touched."""
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise IprError(f"{out} is not empty; give a new folder")
    with alone(root), _named(root, [md5]) as (file,):
        _pull(root, file, remote)
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            out.rmdir()
        shutil.move(Path(file).with_suffix(""), out)
    return out


def check_remote(root: Path, remote: str) -> None:
    """Raise IprError where the DVC project has no remote of this name; whether it answers is not asked."""
    _dvc(root, lambda repo: _known(repo, remote))


def reach_remote(root: Path, remote: str | None = None) -> str:
    """Name and url of the remote, which answered. Raises IprError where it does not."""

    def act(repo: Any) -> str:
        name, url = _remote(repo, remote)
        objects = repo.cloud.get_remote_odb(name)
        if objects.fs.protocol == "local":
            above = next(p for p in (Path(objects.path), *Path(objects.path).parents) if p.exists())
            if not os.access(above, os.W_OK):
                raise IprError(f"DVC remote {name}: {above} cannot be written")
        elif url.startswith("s3:"):
            bucket = objects.path.split("/", 1)[0]  # what is under it may not be there before the first push
            if not objects.fs.exists(bucket):
                raise IprError(f"DVC remote {name}: no bucket {bucket}, or no right to see it")
        else:
            objects.fs.exists(objects.path)  # raises what its file system raises
        return f"{name}: {public(url)}"

    try:
        return _dvc(root, act)
    except IprError:
        raise
    except Exception as error:  # as in _push
        raise IprError(f"DVC remote: {_line(error)}") from None


# Helpers -------------------------------------------------------------------------------------------------------------


def _inside(name: str) -> str:
    if name.startswith("/") or ".." in Path(name).parts:
        raise IprError(f"'{name}' is not a path under data/")
    return name


def _copy(source: Path, target: Path) -> str:
    """A copy (never a link: DVC may make its own read-only), unless the same bytes are there; returns the md5."""
    if not source.is_file():
        raise IprError(f"no file {source} to publish")
    md5 = md5_of(source)
    if not target.is_file() or md5_of(target) != md5:
        store.replace(target, lambda aside: shutil.copyfile(source, aside))
    return md5


def _dvc(root: Path, act: Callable[[Any], T], *, create: bool = False) -> T:
    """`act` on the DVC project of `root`, again while another process holds its lock. Raises IprError."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError

    for name in ("dvc", "dvc_data"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what matters of it is in our own line
    if create and not (root / ".dvc").is_dir():
        _init(root)
    limit = time.monotonic() + LOCK_WAIT
    while True:
        try:
            with _open(root) as repo:
                return act(repo)
        except LockError as error:
            if time.monotonic() > limit:
                raise IprError(f"DVC is locked by another process ({_line(error)}); try again later") from None
            time.sleep(0.5)
        except DvcException as error:
            raise IprError(f"DVC: {_line(error)}") from error


def _open(root: Path) -> Any:
    from dvc.repo import Repo

    if not (root / ".dvc").is_dir():
        raise IprError(f"{root} is no DVC project (no .dvc); publish something first: ipr data publish")
    # A copy of the project without its git history is still a DVC project.
    git = any((folder / ".git").exists() for folder in (root, *root.parents))
    return Repo(str(root), config=None if git else {"core": {"no_scm": True}})


def _init(root: Path) -> None:
    from dvc.repo import Repo

    git = (root / ".git").exists()
    Repo.init(str(root), no_scm=not git).close()
    core = "analytics = false\n    check_update = false\n    remote = local" + ("" if git else "\n    no_scm = true")
    # Written by hand: DVC's own edit takes a relative url as relative to the working directory.
    store.write_text(root / ".dvc/config", f"[core]\n    {core}\n['remote \"local\"']\n    url = ../.dvc-remote\n")
    store.write_text(root / ".dvcignore", "*.part\n")


def _push(root: Path, md5: str, remote: str | None) -> bool:
    """Push data set `md5` and those that could not be pushed before. A failure is a warning."""

    def act(repo: Any) -> None:
        name, url = _remote(repo, remote)
        state = _state(root)
        waiting = state["waiting"] or [md5] * (state["pushed"].get(url) != md5)
        if waiting:
            with _named(root, waiting) as files:
                repo.push(targets=files, remote=name)
            _keep(root, state | {"waiting": [], "pushed": state["pushed"] | {url: md5}})

    try:
        _dvc(root, act)
    except Exception as error:  # DVC hands through what its file systems raise; none of it may stop a training
        log.warning("data/ is not pushed (%s); the next publish tries again", _line(error))
        return False
    return True


def _state(root: Path) -> dict[str, Any]:
    """What this machine added last, what waits to be pushed, and what was pushed last by url."""
    path = root / ".dvc" / "tmp" / "ipr.json"
    return store.read_json(path) if path.is_file() else {"added": None, "waiting": [], "pushed": {}}


def _keep(root: Path, state: dict[str, Any]) -> None:
    store.write_json(root / ".dvc" / "tmp" / "ipr.json", state)


def _pull(root: Path, file: str, remote: str | None) -> None:
    def act(repo: Any) -> None:
        name = _remote(repo, remote)[0] if remote or repo.config["core"].get("remote") else None
        repo.pull(targets=[file], remote=name)

    try:
        _dvc(root, act)
    except Exception as error:  # as in _push
        raise IprError(
            f"DVC cannot bring {Path(file).name}: {_line(error)}; check the remote: dvc remote list"
        ) from None


def _remote(repo: Any, name: str | None) -> tuple[str, str]:
    """Name and url of the remote; one that is down is noticed in seconds (its client tries for up to half an hour)."""
    name = _known(repo, name)
    settings = repo.config["remote"][name]
    if settings["url"].startswith("s3:"):
        settings.setdefault("connect_timeout", 10)
        settings.setdefault("read_timeout", 20)
        endpoint = settings.get("endpointurl")
        if endpoint and not answers(endpoint):
            raise IprError(f"DVC remote {name}: no answer from {endpoint}")
    return name, settings["url"]


def _known(repo: Any, name: str | None) -> str:
    remotes = repo.config["remote"]
    name = name or repo.config["core"].get("remote")
    if not name or name not in remotes:
        raise IprError(
            f"no DVC remote {name or '(no default)'}; known: {', '.join(remotes) or 'none'};"
            f" add it: dvc remote add {name or '-d NAME'} URL"
        )
    return name


@contextlib.contextmanager
def _named(root: Path, md5s: Sequence[str]) -> Iterator[list[str]]:
    """DVC files that name data sets by md5 alone, which is all that push and pull need."""
    with tempfile.TemporaryDirectory(dir=root, prefix=".ipr-") as folder:
        files = []
        for md5 in md5s:
            path = Path(folder) / f"{md5.removesuffix('.dir')}.dvc"
            path.write_text(yaml.safe_dump({"outs": [{"md5": md5, "hash": "md5", "path": path.stem}]}))
            files.append(str(path))
        yield files


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """One publish or pull at a time in a project: copying and adding belong together."""
    folder = os.open(root, os.O_RDONLY)  # the folder itself is locked, so no file is left behind
    limit = time.monotonic() + LOCK_WAIT
    try:
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > limit:
                    raise IprError(
                        f"another process is publishing or pulling {root / 'data'}; try again later"
                    ) from None
                time.sleep(0.1)
        yield
    finally:
        os.close(folder)


def _line(error: BaseException) -> str:
    """The error in one line, with its cause: DVC's own text often only counts files."""
    text, cause = str(error) or type(error).__name__, error.__cause__
    if cause is not None and str(cause) not in text:
        text += f": {type(cause).__name__}: {cause}"
    return " ".join(text.split())[:300]
