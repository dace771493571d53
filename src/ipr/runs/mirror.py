"""A run's folder kept elsewhere (`run.store`), so that a machine that loses its disk does not lose the run.

    STORE/RUN/index.json        every file of the folder: path -> SHA-256 and size; written last, so it is the commit
    STORE/RUN/files/SHA256      their contents, each once
    STORE/RUN/lease.json        who is at it

Decided here: a thread looks at the folder every few seconds and sends what is new. What exists in a run's folder is
complete (`ipr.store`) and a stage's record is written last, so the records are listed before all else: a record in the
index never lacks its files. A store that is down is tried again; training never waits for it. Another thread renews the
lease, however long a file takes; the index is written and contents are deleted only by who holds it.
Left out on purpose: sharing. One machine is at a run at a time; a lease that is no longer renewed runs out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ipr import store
from ipr.runs import bucket
from ipr.types import IprError

log = logging.getLogger("ipr")

EVERY = 5.0
"""Seconds between two looks at the folder."""
LEASE = 60.0
"""Seconds after which a machine that no longer says that it is at the run is taken to be gone."""
MARK = ".store"
"""In the run's folder: the index it was last sent as or made from, and the one it is sent as (digests), so that another
machine's is known as such."""
ABOUT = ("preset", "policy", "complete", "created", "keys")
"""What the index tells of the manifest."""


@contextmanager
def kept(folder: Path, url: str | None) -> Iterator[None]:
    """While this lasts, what is finished in the run's folder goes to the store, and at the end what is left.

    Raises IprError at once where another machine is at the run, or the store has another run or more of this one; never
    for a store that is down. One that answers only later is left as it is then, with a warning.
    """
    if url is None or int(os.environ.get("RANK", "0")) != 0:
        yield
        return
    mirror = _Mirror(folder, _place(url, folder.resolve().name))
    mirror.take()
    watching = threading.Thread(target=mirror.watch, name="ipr-store", daemon=True)
    holding = threading.Thread(target=mirror.hold, name="ipr-store-lease", daemon=True)
    watching.start()
    holding.start()
    try:
        yield
    finally:
        mirror.ending.set()
        watching.join()
        mirror.send(last=True)
        mirror.sent_all.set()
        holding.join()
        mirror.leave()


def bring(folder: Path, url: str | None, keys: str | None = None, removed: bool = False) -> bool:
    """Make the run's folder what the store has of it, where that is further; whether it was.

    It is further by a record, or by what another machine has made since the last one (`_is_further`). `keys` is
    `identity.of_config` of a run that has no folder yet. With `removed`, what this machine alone has removed is not
    brought back: by stages, it is to be made again (DVC removes what a stage makes before it). Raises IprError where
    the store is down, another machine is at the run, or it is a run of another config. Every file is verified before it
    takes its place; the records come last, so that this can be interrupted, too.
    """
    if url is None:
        return False
    place = _place(url, folder.resolve().name)
    found = _index(place)
    if not found or (removed and _is_last(found, folder)) or not _is_further(found, folder, place, keys):
        return False
    wait_for(place)
    found = _index(place) or found
    for path in sorted(found["files"], key=lambda path: (_is_record(path), path == "config.yaml", path)):
        sha256 = found["files"][path]["sha256"]
        if not _is_there(folder / path, sha256):
            bucket.fetch(place, f"files/{sha256}", folder / path, sha256)
    store.write_text(folder / MARK, _mark(found))
    return True


def unfinished(url: str, preset: str, policy: str) -> list[str]:
    """A preset's and registered model's scheduled runs in a store that are not complete and at which nobody is, the
    newest first."""
    found = []
    for name in bucket.at(url).folders():
        if name.startswith(f"{preset}-"):
            place = _place(url, name)
            index = _index(place)
            about = index["about"] if index else {}
            scheduled = bool(index) and "schedule.json" in index["files"]
            ours = about.get("preset") == preset and about.get("policy") in (None, policy)  # old ones do not say
            if scheduled and ours and not about.get("complete") and not _held(place):
                found.append(name)
    return sorted(found, reverse=True)


def wait_for(place: bucket.Bucket) -> None:
    """Until nobody is at the run: a machine that died is waited for until its lease has run out. Raises IprError where
    another one is at it."""
    limit, told = time.monotonic() + 1.2 * LEASE, False
    while (held := _held(place)) is not None:
        if time.monotonic() > limit:
            raise Taken(f"{place.url}: {held['host']} is at this run (process {held['pid']}); wait for it")
        if not told:
            print(f"note: {place.url}: waiting until {held['host']} has gone or its lease has run out", file=sys.stderr)
            told = True
        time.sleep(1)


class _Mirror:
    def __init__(self, folder: Path, place: bucket.Bucket):
        self.folder, self.place = folder, place
        self.ending, self.sent_all = threading.Event(), threading.Event()
        self.lease = {"id": uuid.uuid4().hex, "host": platform.node(), "pid": os.getpid()}
        self.known: dict[str, tuple[tuple[int, int], str]] = {}
        """Path -> (time and size when it was hashed, SHA-256)."""
        self.stored: set[str] | None = None
        """What the store has; None where that is not known yet."""
        self.sent: dict[str, Any] = {}
        self.held = self.ours = self.lost = self.failed = False

    def take(self) -> None:
        """Be the one who is at the run."""
        try:
            wait_for(self.place)
            self._claim()
        except Taken:
            self.leave()
            raise
        except IprError as error:
            self._fails(error)

    def _claim(self) -> None:
        """Raises Taken where what is here must not replace what the store has."""
        self._renew()
        index = _index(self.place)
        if index and not _is_last(index, self.folder) and _is_further(index, self.folder, self.place):
            raise Taken(f"{self.place.url} has what {self.folder} lacks; ipr status {self.folder} --sync brings it")
        self.ours = True

    def watch(self) -> None:
        while not self.ending.wait(EVERY):
            self.send()

    def hold(self) -> None:
        while not self.lost and not self.sent_all.wait(LEASE / 4):
            try:
                self._renew()
            except Exception as error:  # as in `send`
                self._fails(error)

    def leave(self) -> None:
        """The next machine need not wait. Never raises."""
        with contextlib.suppress(Exception):  # then the lease runs out
            self._renew()
            self.place.delete(["lease.json"])

    def send(self, last: bool = False) -> None:
        """What is new goes to the store, the index last. Never raises."""
        if self.lost:
            return
        try:
            files = self._files()
            if files != self.sent:
                if not self.ours:
                    self._claim()
                if self.stored is None:
                    self.stored = {key.removeprefix("files/") for key in self.place.keys("files/")}
                for path, entry in [*files.items()]:
                    if entry["sha256"] not in self.stored:
                        try:
                            self.place.upload(f"files/{entry['sha256']}", self.folder / path)
                        except (OSError, IprError):
                            if (self.folder / path).exists():
                                raise
                            del files[path]  # removed by the run meanwhile: a checkpoint, for the next one
                            continue
                        self.stored.add(entry["sha256"])
                # One that was replaced while it was sent comes with the next look; until then its former content.
                moved = [path for path, entry in files.items() if not self._is_still(path, entry["sha256"])]
                files = {p: e for p, e in (files | {p: self.sent.get(p) for p in moved}).items() if e}
                manifest = store.read_json(self.folder / "manifest.json")
                about = {key: manifest[key] for key in ABOUT if key in manifest}
                index = {"about": about, "files": files}
                # Read before the lease is renewed: of what another machine writes after that, nothing is replaced.
                found = self.place.read("index.json")
                self._renew()
                content = (json.dumps(index, indent=1) + "\n").encode()
                was = [_mark(json.loads(found[0]))] if found else []
                store.write_text(self.folder / MARK, " ".join([*was, _mark(index)]))  # first: this may be killed here
                self.place.write("index.json", content, found[1] if found else bucket.FREE)
                self.sent = files
                for sha256 in sorted(self.stored - {entry["sha256"] for entry in files.values()}):
                    if self.lost:
                        return
                    self.place.delete([f"files/{sha256}"])
                    self.stored.discard(sha256)
            if self.failed:
                self.failed = False
                log.info("%s has everything again", self.place.url)
        except Exception as error:  # whatever a store and the network raise
            self.lost = self.lost or isinstance(error, Taken)
            self._fails(error)
            if last and not self.lost:
                log.warning(
                    "%s lacks what was finished since; the same command, or ipr status %s --sync, sends it",
                    self.place.url,
                    self.folder,
                )

    def _files(self) -> dict[str, dict[str, Any]]:
        """Path -> SHA-256 and size of what is finished. Records first: see above."""
        everything = [*_walk(self.folder, records=True), *_walk(self.folder, records=False)]
        found: dict[str, dict[str, Any]] = {}
        for path in everything:
            name = path.relative_to(self.folder).as_posix()
            try:
                stat = path.stat()
                stamp = (stat.st_mtime_ns, stat.st_size)
                if name not in self.known or self.known[name][0] != stamp:
                    self.known[name] = (stamp, bucket.sha256_of(path))
            except FileNotFoundError:  # replaced or removed by the run meanwhile
                continue
            found[name] = {"sha256": self.known[name][1], "size": stamp[1]}
        return dict(sorted(found.items()))

    def _is_still(self, path: str, sha256: str) -> bool:
        """Whether the file was uploaded as it was hashed."""
        try:
            stat = (self.folder / path).stat()
        except FileNotFoundError:
            return True  # it is in the store, and what replaced it comes with the next look
        if (stat.st_mtime_ns, stat.st_size) == self.known[path][0]:
            return True
        assert self.stored is not None
        self.stored.discard(sha256)
        return False

    def _renew(self) -> None:
        """Raises IprError where another machine has, or has had, the lease since."""
        held = self.place.read("lease.json")
        other = json.loads(held[0]) if held else {"id": None, "host": "another machine"}
        if other["id"] != self.lease["id"] and (self.lost or self.held or (held and _fresh(other))):
            self.lost = True
            raise IprError(f"{other['host']} has taken this run over; what is finished here is not sent any more")
        was = held[1] if held else bucket.FREE
        try:
            self.place.write("lease.json", json.dumps(self.lease | {"time": time.time()}).encode(), was)
            self.held = True
        except bucket.Changed:
            self._renew()

    def _fails(self, error: Exception) -> None:
        if not self.failed or self.lost:
            again = "" if self.lost else ", and it is tried again"
            log.warning("run.store: %s; the run goes on%s", " ".join(str(error).split())[:300], again)
        self.failed = True


class Taken(IprError):
    """The store has another run at this run's place, or more of this one, or another machine is at it."""


def _place(url: str, run: str) -> bucket.Bucket:
    return bucket.at(f"{url.rstrip('/')}/{run}")


def _index(place: bucket.Bucket) -> dict[str, Any] | None:
    found = place.read("index.json")
    return json.loads(found[0]) if found else None


def _held(place: bucket.Bucket) -> dict[str, Any] | None:
    """The lease of who is at the run; None where nobody is."""
    found = place.read("lease.json")
    if found is None:
        return None
    lease = json.loads(found[0])
    return lease if _fresh(lease) else None


def _fresh(lease: dict[str, Any]) -> bool:
    if lease["host"] == platform.node() and lease["pid"] != os.getpid():
        try:
            os.kill(lease["pid"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
    return time.time() - lease["time"] < LEASE


def _is_further(index: dict[str, Any], folder: Path, place: bucket.Bucket, keys: str | None = None) -> bool:
    """Whether the index has a record that the folder lacks; or is another machine's, with other files, and without a
    record that the folder has. Raises Taken where it is of another config."""
    if (folder / "manifest.json").exists():
        keys = store.read_json(folder / "manifest.json").get("keys")
    if keys not in (None, index["about"].get("keys")):
        if _is_last(index, folder):
            return False  # by stages, the run's config has changed since
        raise Taken(
            f"{place.url} holds a run with another config than {folder}; use another --dir, or another run.store"
        )
    if not all((folder / path).exists() for path in index["files"] if _is_record(path)):
        return True
    if _is_last(index, folder):
        return False
    if any(p.relative_to(folder).as_posix() not in index["files"] for p in _walk(folder, records=True)):
        return False
    return not all(_is_there(folder / path, entry["sha256"]) for path, entry in index["files"].items())


def _is_last(index: dict[str, Any], folder: Path) -> bool:
    """Whether the folder was last sent as this index, or made from it: what differs is newer here."""
    return (folder / MARK).exists() and _mark(index) in (folder / MARK).read_text().split()


def _mark(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _is_there(file: Path, sha256: str) -> bool:
    return file.is_file() and bucket.sha256_of(file) == sha256


def _walk(folder: Path, records: bool) -> list[Path]:
    # Not by `rglob`, which fails where a folder goes meanwhile.
    every = (Path(inside, name) for inside, _, names in os.walk(folder) for name in names)
    found = (p for p in every if p.is_file())
    names = ((p, p.relative_to(folder).as_posix()) for p in found)
    return [p for p, name in names if _is_record(name) == records and not _unfinished(name)]


def _is_record(path: str) -> bool:
    """What says that something is done: a task's record, and the manifest."""
    return path.endswith(".json") and "/model/" not in path and path.count("/") < 2


def _unfinished(path: str) -> bool:
    return path in (".lock", MARK) or any(part.endswith(".part") for part in path.split("/"))
