"""DVC as the library uses it: its cache, its remote, and its lock. Files and folders are named by their md5 alone.

Decided here: what is in a data set is a tree (path under `data/` -> md5). Its own md5 is that of its sorted listing, as
DVC has it; computed here, so that what needs no DVC does not pay for its import. DVC brings and sends objects; it never
touches `data/`.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ipr import store, yaml12
from ipr.config import public
from ipr.runs import bucket
from ipr.runs.project import answers
from ipr.types import IprError

LOCK_WAIT = 1800.0
"""Seconds to wait for another process that publishes or runs DVC, e.g. pushes much."""

Tree = dict[str, str]
"""Path under `data/` -> md5 of the file."""

T = TypeVar("T")


def listing(tree: Mapping[str, str]) -> bytes:
    """A tree as DVC writes it."""
    rows = [{"md5": tree[name], "relpath": name} for name in sorted(tree)]
    return json.dumps(rows, sort_keys=True).encode()


def md5_of_tree(tree: Mapping[str, str]) -> str:
    return hashlib.md5(listing(tree)).hexdigest() + ".dir"


def md5_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def tree_of(folder: Path) -> Tree:
    """The files of a folder; those that are being written are left out."""
    paths = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".part")
    return {p.relative_to(folder).as_posix(): md5_of(p) for p in paths}


def with_dvc(root: Path, act: Callable[[Any], T], *, create: bool = False) -> T:
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
                raise IprError(f"DVC is locked by another process ({line(error)}); try again later") from None
            time.sleep(0.5)
        except DvcException as error:
            raise IprError(f"DVC: {line(error)}") from error


def path_in_cache(repo: Any, md5: str) -> Path:
    return Path(repo.cache.local.oid_to_path(md5))


def keep(repo: Any, path: Path, md5: str) -> None:
    """Put a file into DVC's cache, unless it is there. Raises IprError where its content is not of this md5."""
    target = path_in_cache(repo, md5)
    if target.is_file():
        return

    def copy(aside: Path) -> None:
        shutil.copyfile(path, aside)
        if md5_of(aside) != md5:
            raise IprError(f"{path} changed while it was published; publish again")
        aside.chmod(0o444)  # as DVC has them

    store.replace(target, copy)


def keep_tree(repo: Any, tree: Mapping[str, str]) -> str:
    """Put a tree's listing into DVC's cache; its md5."""
    md5 = md5_of_tree(tree)
    target = path_in_cache(repo, md5)
    if not target.is_file():
        store.replace(target, lambda aside: aside.write_bytes(listing(tree)))
        target.chmod(0o444)
    return md5


def tree_in_cache(repo: Any, md5: str) -> Tree:
    """The tree of a listing in the cache. Raises IprError where it is not there."""
    entries = store.read_json(path_in_cache(repo, md5))
    return {entry["relpath"]: entry["md5"] for entry in entries}


def fetch(repo: Any, md5: str, remote: str | None = None) -> Tree:
    """Bring a data set's objects (of a folder, where `md5` ends with ".dir", or of one file) into the cache, from the
    remote as far as they lack; returns its tree, or {"": md5}. Raises IprError where they cannot be had."""
    if lacking(repo, [md5]):
        try:
            name = remote_of(repo, remote)[0] if remote or repo.config["core"].get("remote") else None
            with named(Path(repo.root_dir), [md5]) as files:
                repo.fetch(targets=files, remote=name)
        except IprError:
            raise
        except Exception as error:  # DVC hands through what its file systems raise
            raise IprError(f"DVC cannot bring {md5}: {line(error)}; check the remote: dvc remote list") from None
        if left := lacking(repo, [md5]):
            raise IprError(
                f"DVC cannot bring {md5}: {len(left)} of its objects are neither in the cache nor in the remote;"
                " whoever made it has yet to push it: ipr data publish"
            )
    return tree_in_cache(repo, md5) if md5.endswith(".dir") else {"": md5}


def lacking(repo: Any, md5s: Iterable[str]) -> list[str]:
    """Which objects of the data sets the cache does not have."""
    found: dict[str, None] = {}
    for md5 in md5s:
        wanted = [md5]
        if md5.endswith(".dir") and path_in_cache(repo, md5).is_file():
            wanted += tree_in_cache(repo, md5).values()
        found |= {m: None for m in wanted if not path_in_cache(repo, m).is_file()}
    return list(found)


def lay(repo: Any, tree: Mapping[str, str], folder: Path, present: Path | None = None) -> None:
    """Make `folder` with the files of a tree, from the cache; as links to the same files under `present` where it has
    them. Every file is verified. Raises IprError."""
    folder.mkdir(parents=True)
    there = tree_of(present) if present and present.is_dir() else {}
    for name, md5 in tree.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if present and there.get(name) == md5:
            with contextlib.suppress(OSError):  # a file system without links
                os.link(present / name, target)
                continue
        source = path_in_cache(repo, md5)
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise IprError(f"cannot write {target}: {error.strerror or error}; data/ stays as it was") from None
        if md5_of(target) != md5:
            raise IprError(f"{source} in DVC's cache is broken; remove it and pull again: data/ stays as it was")


def push(repo: Any, md5s: Iterable[str], remote: str | None) -> None:
    """Send data sets to the remote. Raises what its file system raises."""
    with named(Path(repo.root_dir), list(md5s)) as files:
        repo.push(targets=files, remote=remote_of(repo, remote)[0])


def check_remote(root: Path, remote: str) -> None:
    """Raise IprError where the DVC project has no remote of this name; whether it answers is not asked."""
    with_dvc(root, lambda repo: _known(repo, remote))


def reach_remote(root: Path, remote: str | None = None) -> str:
    """Name and url of the remote, which answered. Raises IprError where it does not."""

    def act(repo: Any) -> str:
        name, url = remote_of(repo, remote)
        objects = repo.cloud.get_remote_odb(name)
        if objects.fs.protocol == "local":
            above = next(p for p in (Path(objects.path), *Path(objects.path).parents) if p.exists())
            if not os.access(above, os.W_OK):
                raise IprError(f"DVC remote {name}: {above} cannot be written")
        elif url.startswith("s3:"):
            place = objects.path.split("/", 1)[0]  # what is under it may not be there before the first push
            if not objects.fs.exists(place):
                raise IprError(f"DVC remote {name}: no bucket {place}, or no right to see it")
        else:
            objects.fs.exists(objects.path)  # raises what its file system raises
        return f"{name}: {public(url)}"

    try:
        return with_dvc(root, act)
    except IprError:
        raise
    except Exception as error:  # as in fetch
        raise IprError(f"DVC remote: {line(error)}") from None


def url_of(repo: Any, remote: str | None = None) -> str:
    """Of the remote, which need not answer."""
    return repo.config["remote"][_known(repo, remote)]["url"]


def shared(repo: Any, remote: str | None = None) -> bucket.Bucket:
    """The DVC remote as a place of small objects. Raises IprError where it is neither on S3 nor a folder, or down."""
    name, url = remote_of(repo, remote)
    given = repo.config["remote"][name]
    names = {
        "endpointurl": "endpoint_url",
        "region": "region_name",
        "profile": "profile_name",
        "access_key_id": "aws_access_key_id",
        "secret_access_key": "aws_secret_access_key",
        "session_token": "aws_session_token",
        "use_ssl": "use_ssl",
        "ssl_verify": "verify",
    }
    try:
        return bucket.at(url, {ours: given[theirs] for theirs, ours in names.items() if given.get(theirs) is not None})
    except IprError as error:
        raise IprError(f"DVC remote {name}: {error}; which version is newest can be kept in those alone") from None


@contextlib.contextmanager
def named(root: Path, md5s: list[str]) -> Iterator[list[str]]:
    """DVC files that name data sets by md5 alone, which is all that push and fetch need."""
    with tempfile.TemporaryDirectory(dir=root, prefix=".ipr-") as folder:
        files = []
        for md5 in md5s:
            path = Path(folder) / f"{md5.removesuffix('.dir')}.dvc"
            path.write_text(yaml12.dumps({"outs": [{"md5": md5, "hash": "md5", "path": path.stem}]}))
            files.append(str(path))
        yield files


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """One publish or pull at a time in a project."""
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


def line(error: BaseException) -> str:
    """The error in one line, with its cause: DVC's own text often only counts files."""
    text, cause = str(error) or type(error).__name__, error.__cause__
    if cause is not None and str(cause) not in text:
        text += f": {type(cause).__name__}: {cause}"
    return " ".join(text.split())[:300]


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


def remote_of(repo: Any, name: str | None = None) -> tuple[str, str]:
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
