"""What nobody names any more in DVC's cache and remote.

Decided here: plain `dvc gc -w` keeps what the work tree names. A data set is also named by MLflow's tags, by what waits
to be pushed, and by runs that have not told MLflow yet: the caller gives those, and they stay with all that is in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ipr.data import datasets, objects, versions


def drop_files(root: Path, names: Iterable[str], yes: bool, remote: str | None = None, message: str = "") -> int:
    """Publish a version without the files (paths under `data/`), and take them out of `data/`; returns their bytes.

    What was changed in `data/` by hand stays unpublished. Raises Clash, and removes nothing, where another checkout has
    changed one of them.
    """
    files = {name: f for name in names if (f := root / "data" / name).is_file()}
    found = sum(f.stat().st_size for f in files.values())
    if yes and files:
        datasets.publish(root, {}, gone=files, remote=remote, message=message)
        with objects.alone(root):
            for file in files.values():  # where a change by hand keeps `data/` from following
                file.unlink(missing_ok=True)
                for folder in file.parents:
                    if folder == root / "data" or (folder.is_dir() and any(folder.iterdir())):
                        break
                    if folder.is_dir():
                        folder.rmdir()
    return found


def collect(root: Path, named: Iterable[str], yes: bool, remote: bool = False) -> dict[str, int]:
    """Bytes of unused objects in "cache" and, where asked for, in "remote"; with `yes` they are removed.

    Kept is what any branch, tag, experiment and the work tree name, what waits to be pushed, and the md5s `named`; in
    the remote also what its list of versions names.
    """
    if not (root / ".dvc").is_dir():
        return {}
    state = root / ".dvc/tmp/ipr.json"
    keep = {*named, *_md5s(state.read_text() if state.is_file() else "")}

    def act(repo: Any) -> dict[str, int]:
        git = not repo.config["core"].get("no_scm")
        used = repo.used_objs(all_branches=git, all_tags=git, all_experiments=git)
        wanted = {info.value for infos in used.values() for info in infos}
        stores, more = {"cache": repo.cache.local}, set()
        if remote:
            name, _ = objects.remote_of(repo)
            stores["remote"] = repo.cloud.get_remote_odb(name)
            more = _versions(repo.cloud.get_remote(name))
        for md5 in keep:
            wanted |= _with_files(stores.values(), md5)
        for md5 in more:
            more = more | _with_files(stores.values(), md5)
        found = {}
        for place, store in stores.items():
            stay = wanted | more if place == "remote" else wanted
            paths = [store.oid_to_path(oid) for oid in store.all() if oid not in stay]
            found[place] = sum(store.fs.size(path) for path in paths)
            if yes and paths:
                store.fs.remove(paths)
        return found

    with objects.alone(root):
        return objects.with_dvc(root, act)


def _md5s(text: str) -> set[str]:
    return set(re.findall(r"\b[0-9a-f]{32}(?:\.dir)?", text))


def _versions(remote: Any) -> set[str]:
    """What the list of published versions names (`versions.KEY` in the remote), where there is one."""
    path = remote.fs.join(remote.path, *versions.KEY.split("/"))
    if not remote.fs.exists(path):
        return set()
    with remote.fs.open(path) as file:
        return _md5s(file.read())


def _with_files(stores: Iterable[Any], md5: str) -> set[str]:
    """A data set's md5 and those of its files, from whoever has its listing."""
    if md5.endswith(".dir"):
        for store in stores:
            path = store.oid_to_path(md5)
            if store.fs.exists(path):
                with store.fs.open(path) as file:
                    return {md5, *(entry["md5"] for entry in json.load(file))}
    return {md5}
