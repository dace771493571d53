"""The published data sets: `data/` under DVC.

    data/<env>/experts.parquet
    data/<env>/<run>/iteration-K/{explored,step_rewards,pairs,demonstrations}.parquet

Decided here: what is published becomes a version in the DVC remote (`ipr.data.versions`), and every version stays, so
that any earlier md5 of `data/` can be fetched again. `data/` is a copy of one version: what is new is prepared aside,
verified and then swapped in by renaming, and never over what was changed by hand. Publishing leaves `data.dvc` alone:
that is a person's word on which version the code goes with (`commit`). A remote that cannot be reached costs a warning:
what waits is kept on disk and delivered by the next publish.
"""

from __future__ import annotations

import getpass
import logging
import platform
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ipr import store, yaml12
from ipr.data import objects, versions
from ipr.data.objects import Tree, alone, check_remote, md5_of, reach_remote
from ipr.data.versions import Change, Version
from ipr.runs import bucket
from ipr.types import IprError, Trajectory

__all__ = ["alone", "check_remote", "md5_of", "reach_remote"]

log = logging.getLogger("ipr")

CONFLICT = "git checkout HEAD -- data.dvc"
"""Takes the committed data.dvc, in a merge conflict as well (without HEAD git refuses it there)."""


@dataclass(frozen=True, slots=True)
class Published:
    md5: str
    """Of the whole data set with these files ("<32 digits>.dir")."""
    files: dict[str, str]
    """The given files (paths under `data/`, where they came to be) with their md5."""
    pushed: bool
    """Whether everything published so far is in the remote."""
    version: int | None = None
    """Its number; None where it waits for the remote."""


# Publishing ----------------------------------------------------------------------------------------------------------


def publish(
    root: Path,
    files: Mapping[str, Path],
    *,
    rows: Mapping[str, Path] | None = None,
    gone: Collection[str] = (),
    push: bool = True,
    remote: str | None = None,
    message: str = "",
    place: str | None = None,
    aside: str | None = None,
) -> Published:
    """Publish `files` (path under `data/` -> source) as a new version on top of the newest, and bring `data/` to it.

    `rows` are appended to what is there (path -> Parquet file of trajectories), `gone` are paths that are removed.
    Without any of them: what was changed in `data/` by hand. `place` and `aside`: the folder that the files are in, and
    the one that they take where another checkout has other files there. Nothing new makes no version. Raises IprError
    for bad paths, a broken DVC project and changes by hand that another's stand against; never for a remote.
    """
    given = {_inside(name): _hash(source) for name, source in files.items()}
    more = {_inside(name): _hash(source) for name, source in (rows or {}).items()}
    less = {_inside(name) for name in gone}
    asked = bool(given or more or less)
    data = root / "data"
    with alone(root):
        nothing = IprError(f"{data}: nothing to publish; make the experts first: ipr data generate")
        if not (asked or data.is_dir()):
            raise nothing

        def act(repo: Any) -> Published:
            state = _state(root)
            here = objects.tree_of(data)
            for name, md5 in here.items():
                objects.keep(repo, data / name, md5)
            objects.keep_tree(repo, here)
            for name, source in [*files.items(), *(rows or {}).items()]:
                objects.keep(repo, source, given.get(name) or more[name])
            at = _at(root, state, objects.md5_of_tree(here))
            base = _fetched(repo, at)
            if not (asked or here or base):
                raise nothing
            if base is None and asked:
                base, at = here, objects.md5_of_tree(here)
            base = base or {}  # by hand: every file is part of the change
            changed: dict[str, tuple[str | None, str | None]]
            if asked:
                changed = {name: (base.get(name), md5) for name, md5 in given.items()}
                changed |= {name: (base[name], None) for name in sorted(less & base.keys())}
            else:
                # What was never here was not removed: a checkout may have made one environment's alone.
                names = here.keys() | (base.keys() if state["at"] else set())
                changed = {n: (base.get(n), here.get(n)) for n in sorted(names) if base.get(n) != here.get(n)}
            change = Change(_author(root), _now(), message, state["checkout"], changed, more, place, aside)
            tip = objects.fetch(repo, state["tip"]) if state["waiting"] else base
            # A clash with what is known here is one with what others published, for which the newest is asked below.
            after, names = versions.apply(replace(change, aside=None), tip, None, _appended(repo))
            if after != tip or not state["tip"]:
                md5 = objects.keep_tree(repo, after)
                state["waiting"].append({"md5": md5, "base": at, "change": asdict(change)})
                state["tip"] = md5
                _keep(root, state)
            told = _deliver(repo, root, state, remote) if push else None
            newest, moved = told or (None, {})
            md5 = newest.md5 if newest else state["tip"]
            names = {name: moved.get(name, final) for name, final in names.items()}
            _advance(repo, root, state, here, md5)
            tree = objects.fetch(repo, md5)
            came = {names[n]: tree[names[n]] for n in (*given, *more)}
            return Published(md5, came, told is not None, newest.number if newest else None)

        published = objects.with_dvc(root, act, create=True)
        if recorded(root) is None:  # a new project; from here on it is a person's
            objects.with_dvc(root, lambda repo: repo.add([str(data)]))
        return published


def _fetched(repo: Any, md5: str | None) -> Tree | None:
    """The data set; None where there is none, or it cannot be had."""
    try:
        return objects.fetch(repo, md5) if md5 else None
    except IprError:
        return None


def _deliver(
    repo: Any, root: Path, state: dict[str, Any], remote: str | None
) -> tuple[Version | None, dict[str, str]] | None:
    """Push what waits, each change on top of the newest version. Returns the newest, and where files came to be that
    are not where they were meant to; None, with a warning, where the remote did not take everything."""
    moved: dict[str, str] = {}
    newest = None
    try:
        try:
            place = objects.shared(repo, remote)
        except IprError:
            if not _plain(repo, remote):
                raise
            place = None  # a remote of another kind: its data sets are known by data.dvc alone
        if place is not None and not state["waiting"]:
            found, _ = versions.read(place)
            newest = found[-1] if found else None
            if not found:  # another remote than before: what is here is its first version
                objects.fetch(repo, state["tip"])
                change = Change(_author(root), _now(), "what was here before", state["checkout"])
                state["waiting"] = [{"md5": state["tip"], "base": state["tip"], "change": asdict(change)}]
        while state["waiting"]:
            waits = state["waiting"][0]
            if place is None:
                objects.push(repo, [waits["md5"]], remote)
            else:
                newest, names = _add(repo, place, waits, remote)
                state["tip"] = newest.md5
                moved |= {name: final for name, final in names.items() if name != final}
            state["waiting"].pop(0)
            _keep(root, state)
    except versions.Clash:
        state["at"] = state["tip"] = state["waiting"].pop(0)[
            "base"
        ]  # so data/ counts as changed by hand: a person decides
        _keep(root, state)
        raise
    except Exception as error:  # DVC hands through what its file systems raise; none of it may stop a training
        log.warning("data/ is not pushed (%s); the next publish tries again", objects.line(error))
        return None
    return newest, moved


def _add(
    repo: Any, place: bucket.Bucket, waits: Mapping[str, Any], remote: str | None
) -> tuple[Version, dict[str, str]]:
    """Make what waits a version on top of the newest, again while others are quicker. The first version of all is what
    was here before."""
    change, known, at = _change(waits["change"]), waits["md5"], waits["base"]
    count = _counter(repo, remote)
    while True:
        found, tag = versions.read(place)
        if not found and (base := _fetched(repo, at)):
            before = Change(change.author, change.date, "what was here before", change.checkout)
            found = [replace(versions.following(None, before, {}, base, count), md5=at)]
        newest = found[-1] if found else None
        tree = objects.fetch(repo, newest.md5, remote) if newest else {}
        after, names = versions.apply(change, tree, versions.owner_in(found), _appended(repo, remote))
        if newest and after == tree and tag != bucket.FREE:
            return newest, names
        md5 = objects.keep_tree(repo, after)
        if not newest or after != tree:
            found = [*found, replace(versions.following(newest, change, tree, after, count), md5=md5)]
        objects.push(repo, dict.fromkeys([known, md5, *(v.md5 for v in found if tag == bucket.FREE)]), remote)
        try:
            versions.append(place, found, tag)
        except bucket.Changed:
            continue
        return found[-1], names


def _plain(repo: Any, remote: str | None) -> bool:
    """Whether the remote is of a kind that can keep no list of versions."""
    url = objects.url_of(repo, remote)
    return "://" in url and not url.startswith("s3:")


def _appended(repo: Any, remote: str | None = None) -> Callable[[str, str | None, str], str]:
    """`appended` of `versions.apply`: rows that are there already are not there twice."""

    def appended(name: str, md5: str | None, rows: str) -> str:
        files = [m for m in (md5, rows) if m]
        for wanted in files:
            objects.fetch(repo, wanted, remote)
        kept = list(dict.fromkeys(store.rows_of([objects.path_in_cache(repo, m) for m in files], Trajectory)))
        with tempfile.TemporaryDirectory(dir=repo.root_dir, prefix=".ipr-") as folder:
            made = store.save(Path(folder) / "rows.parquet", kept, Trajectory)
            objects.keep(repo, made, found := md5_of(made))
        return found

    return appended


def _counter(repo: Any, remote: str | None) -> Callable[[str], int]:
    def count(md5: str) -> int:
        objects.fetch(repo, md5, remote)
        return versions.rows_of(objects.path_in_cache(repo, md5))

    return count


def _advance(repo: Any, root: Path, state: dict[str, Any], here: Tree, md5: str) -> None:
    """`data/` (now `here`) becomes the version, unless it was changed by hand or the version cannot be brought."""
    present = objects.md5_of_tree(here)
    if present != md5:
        if here and present not in (state["at"], _named(root)):
            log.info("data/ was changed by hand and stays as it is; publish that: ipr data publish")
            return
        try:
            _swap(repo, root, objects.fetch(repo, md5))
        except IprError as error:
            log.warning("data/ stays as it was: %s", error)
            return
    state["at"] = md5
    _keep(root, state)


def _swap(repo: Any, root: Path, tree: Tree) -> None:
    """`data/` becomes the tree: prepared aside, verified, then renamed."""
    data = root / "data"
    with tempfile.TemporaryDirectory(dir=root, prefix=".ipr-") as folder:
        aside, old = Path(folder) / "data", Path(folder) / "old"
        objects.lay(repo, tree, aside, data)
        if data.is_dir():
            data.rename(old)
        aside.rename(data)


# Taking --------------------------------------------------------------------------------------------------------------


def pull(root: Path, version: str | None = None, remote: str | None = None) -> Version | None:
    """Bring `data/` to the newest version, or to one by its number or md5; None where it is none of the list.

    Where the remote has no list yet, the newest is what data.dvc names. Raises IprError, and leaves `data/` untouched,
    where that fails, where data.dvc names what nobody has pushed yet, and where `data/` was changed by hand.
    """
    with alone(root):
        return objects.with_dvc(root, lambda repo: _take(repo, root, version, remote, strict=version is None))


def pull_newest(root: Path) -> bool:
    """`pull` for those who can go on with what is there: a failure is a warning."""
    try:
        with alone(root):
            objects.with_dvc(root, lambda repo: _take(repo, root, None, None, strict=False))
    except IprError as error:
        log.warning("data/ stays as it is: %s", error)
        return False
    return True


def _take(repo: Any, root: Path, ref: str | None, remote: str | None, strict: bool) -> Version | None:
    data, state, named = root / "data", _state(root), _named(root)
    if state["waiting"]:  # ours first, else the newest would not have it
        _deliver(repo, root, state, remote)
    try:
        found, _ = versions.read(objects.shared(repo, remote))
    except IprError:
        if ref is None and not _plain(repo, remote):
            raise
        found = []  # by md5 it may be in the cache
    if not (found or strict or ref):
        return None  # nothing is published yet: `ensure` brings what data.dvc names, or makes it
    chosen = versions.find(found, ref) if ref else (found[-1] if found else None)
    md5 = chosen.md5 if chosen else f"{ref.removesuffix('.dir')}.dir" if ref else named
    if md5 is None:
        raise IprError(f"nothing is published yet, and there is no data.dvc in {root}; ipr data generate, then publish")
    if ref and not chosen and len(md5) != 36:
        raise IprError(f"no version {ref}; the versions: ipr data log")
    here = objects.tree_of(data) if data.is_dir() else {}
    present = objects.md5_of_tree(here)
    known = {v.md5 for v in found} | {named, state["at"], state["tip"]}
    if strict and named not in known - {named}:
        _check_named(repo, root, named, remote)
    if here and present != md5 and present not in known:
        raise IprError(
            f"data/ was changed by hand ({'; '.join(verify(root)[:3])}); publish that: ipr data publish, or move data/"
            " away, then pull again"
        )
    if not here or present != md5:
        _swap(repo, root, objects.fetch(repo, md5, remote))
    _keep(root, state | {"at": md5})
    return chosen or next((v for v in found if v.md5 == md5), None)


def _check_named(repo: Any, root: Path, named: str | None, remote: str | None) -> None:
    """Raise IprError where data.dvc names a version that nobody has pushed yet: what is newest cannot be known then."""
    if named is None or ((root / "data").is_dir() and hashes(root)[0] == named):
        return
    try:
        objects.fetch(repo, named, remote)
    except IprError as error:
        raise IprError(f"data.dvc names {named}: {error}; take what is there: ipr data pull --version N") from None


def ensure(root: Path, generate: Callable[[Path], object]) -> None:
    """Make sure that there is a `data/`: what data.dvc names, brought or else made by `generate(folder)` and checked.

    A `data/` that is there is kept; `ipr data publish` makes a version of what was changed.
    """
    data, wanted = root / "data", recorded(root)
    if data.is_dir():
        if problems := verify(root) if wanted or _state(root)["at"] else []:
            log.warning("data/ was changed by hand (%d differences, e.g. %s)", len(problems), problems[0])
        return
    if wanted is not None:
        try:
            return _pull_named(root, wanted)
        except IprError as error:
            log.info("data/ is made here: %s", error)

    with tempfile.TemporaryDirectory(dir=root, prefix=".ipr-") as folder:
        # Made aside and hashed there, so that a data set that differs never becomes data/.
        aside = Path(folder) / "data"
        generate(aside)
        made = objects.md5_of_tree(objects.tree_of(aside))
        if wanted not in (None, made):
            raise IprError(
                f"data.dvc names {wanted}, which neither the cache nor the remote has; what can be generated here is"
                f" {made}: reach the remote (dvc remote list), or start from the committed one: {CONFLICT}"
            )
        with alone(root):
            if not data.is_dir():  # another process may have been quicker
                aside.rename(data)


def _pull_named(root: Path, md5: str) -> None:
    def act(repo: Any) -> None:
        _swap(repo, root, objects.fetch(repo, md5))
        _keep(root, _state(root) | {"at": md5})

    with alone(root):
        objects.with_dvc(root, act)


def restore(root: Path, md5: str, out: Path, remote: str | None = None) -> Path:
    """Fetch the data set (a folder if `md5` ends with .dir, else a file) into `out`; `data/` is not touched."""
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise IprError(f"{out} is not empty; give a new folder")

    def act(repo: Any) -> None:
        tree = objects.fetch(repo, md5, remote)
        with tempfile.TemporaryDirectory(dir=root, prefix=".ipr-") as folder:
            aside = Path(folder) / "out"
            objects.lay(repo, tree if md5.endswith(".dir") else {"file": md5}, aside)
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.is_dir():
                out.rmdir()
            shutil.move(aside if md5.endswith(".dir") else aside / "file", out)

    with alone(root):
        objects.with_dvc(root, act)
    return out


# Looking -------------------------------------------------------------------------------------------------------------


def shared(root: Path, remote: str | None = None) -> bucket.Bucket:
    """The DVC remote as a place of small objects. Raises IprError where it is down, or of another kind."""
    return objects.with_dvc(root, lambda repo: objects.shared(repo, remote), create=True)


def history(root: Path, remote: str | None = None) -> list[Version]:
    """The versions in the remote, the oldest first. Raises IprError where it is down."""
    return objects.with_dvc(root, lambda repo: versions.read(objects.shared(repo, remote))[0])


def difference(root: Path, a: str, b: str, remote: str | None = None) -> Any:
    """Which rows came and went from version `a` to `b` (numbers, md5s, or "data.dvc"), a frame of
    `versions.difference`. Raises IprError where one cannot be had."""

    def act(repo: Any) -> Any:
        found, _ = versions.read(objects.shared(repo, remote))
        trees = []
        for ref in (a, b):
            version = versions.find(found, ref)
            md5 = recorded(root) if ref == "data.dvc" else version.md5 if version else f"{ref.removesuffix('.dir')}.dir"
            if md5 is None or len(md5) != 36:
                raise IprError(f"no version {ref}; the versions: ipr data log")
            trees.append(objects.fetch(repo, md5, remote))
        differ = [n for n in trees[0].keys() | trees[1].keys() if trees[0].get(n) != trees[1].get(n)]
        sides = []
        for tree in trees:
            side = {name: tree[name] for name in sorted(differ) if name in tree}
            for md5 in side.values():
                objects.fetch(repo, md5, remote)
            sides.append({name: objects.path_in_cache(repo, md5) for name, md5 in side.items()})
        return versions.difference(*sides)

    with alone(root):
        return objects.with_dvc(root, act)


def hashes(root: Path) -> tuple[str, Tree]:
    """The md5 of `data/` as DVC computes it, and of each file by its path under `data/`."""
    files = objects.tree_of(root / "data")
    return objects.md5_of_tree(files), files


def recorded(root: Path) -> str | None:
    """The md5 that data.dvc names; None where there is no data.dvc."""
    path = root / "data.dvc"
    if not path.is_file():
        return None
    try:
        return yaml12.loads(path.read_text())["outs"][0]["md5"]
    except (OSError, *yaml12.UNREADABLE, LookupError, TypeError):
        raise IprError(
            f"{path} is not a DVC file (merge conflict?); take the committed one: {CONFLICT}, then: ipr data pull,"
            " ipr data commit"
        ) from None


def verify(root: Path) -> list[str]:
    """What was changed in `data/` by hand, one line each; nothing where it is a version (or what data.dvc names)."""
    named, at = recorded(root), _at(root, _state(root))
    if at is None:
        return [f"no data.dvc in {root}; make one: ipr data generate, ipr data publish"]
    if not (root / "data").is_dir():
        return ["data/ is missing; bring it here: ipr data pull"]
    md5, files = hashes(root)
    if md5 in (at, named):
        return []
    listing = root / ".dvc/cache/files/md5" / at[:2] / at[2:]
    if not listing.is_file():
        return [f"data/ is {md5}, and was taken as {at}"]
    taken = {entry["relpath"]: entry["md5"] for entry in store.read_json(listing)}
    return [
        f"{'missing' if name not in files else 'new' if name not in taken else 'changed'}: data/{name}"
        for name in sorted(taken.keys() | files.keys())
        if files.get(name) != taken.get(name)
    ]


def commit(root: Path, message: str | None = None) -> dict[str, Any]:
    """data.dvc names what `data/` is, and is committed to git (outside git: written). Raises IprError where `data/` is
    no published version, so that nobody can be sent to data that are not there."""
    state = _state(root)
    md5, files = hashes(root)
    if md5 != _at(root, state, md5) or state["waiting"]:
        raise IprError("data/ is no published version; first: ipr data publish")
    out = {
        "md5": md5,
        "size": sum((root / "data" / name).stat().st_size for name in files),
        "nfiles": len(files),
        "hash": "md5",
        "path": "data",
    }
    if _named(root) != md5:
        store.write_text(root / "data.dvc", yaml12.dumps({"outs": [out]}))
    told: dict[str, Any] = {"data.dvc": md5, "commit": None}
    try:
        if not _git(root, "status", "--porcelain", "--", "data.dvc"):
            return told | {"note": "data.dvc is committed already"}
        _git(root, "add", "--", "data.dvc")
        if (Path(_git(root, "rev-parse", "--absolute-git-dir")) / "MERGE_HEAD").exists():
            return told | {"note": "added; a merge is under way, so end it: git commit"}
        _git(root, "commit", "-m", message or f"data.dvc names {md5}", "--", "data.dvc")
        return told | {"commit": _git(root, "rev-parse", "HEAD")}
    except FileNotFoundError:
        return told | {"note": "no git here"}
    except subprocess.CalledProcessError as error:
        if "not a git repository" in error.stderr:
            return told | {"note": "no git repository here"}
        raise IprError(f"git: {' '.join((error.stderr or error.stdout).split())}") from None


# Helpers -------------------------------------------------------------------------------------------------------------


def _inside(name: str) -> str:
    if name.startswith("/") or ".." in Path(name).parts:
        raise IprError(f"'{name}' is not a path under data/")
    return name


def _hash(source: Path) -> str:
    if not source.is_file():
        raise IprError(f"no file {source} to publish")
    return md5_of(source)


def _state(root: Path) -> dict[str, Any]:
    """Of this project folder: its random name, the version that `data/` is (at), the last that is known with what waits
    to be delivered (tip), and that itself."""
    path = root / ".dvc" / "tmp" / "ipr.json"
    fresh = {"checkout": uuid.uuid4().hex[:12], "at": None, "tip": None, "waiting": []}
    return fresh | store.read_json(path) if path.is_file() else fresh


def _keep(root: Path, state: dict[str, Any]) -> None:
    store.write_json(root / ".dvc" / "tmp" / "ipr.json", state)


def _at(root: Path, state: dict[str, Any], present: str | None = None) -> str | None:
    """The version that `data/` was taken as; what data.dvc names where nothing else is known, or where `data/` is that
    (`present`, its md5: somebody used DVC itself)."""
    named = _named(root)
    return named if named and present == named else state["at"] or named


def _named(root: Path) -> str | None:
    """`recorded`, and None in a merge conflict."""
    try:
        return recorded(root)
    except IprError:
        return None


def _change(kept: dict[str, Any]) -> Change:
    """Of its JSON, where pairs are lists."""
    files: dict[str, tuple[str | None, str | None]] = {n: (old, new) for n, (old, new) in kept["files"].items()}
    return replace(Change(**kept), files=files)


def _author(root: Path) -> str:
    """Name by git, else by the system, and the machine."""
    try:
        name = _git(root, "config", "user.name")
    except (OSError, subprocess.CalledProcessError):
        name = ""
    return f"{name or getpass.getuser()} @ {platform.node()}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()
