"""What is there, what is missing, and the one line that mends it.

Decided here: a check is `needed` where its failing stops `ipr run quick` (or the config that is named); a server, a
remote or an environment that is not played is not. Nothing is started or trained; weights are not read.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from ipr import envs, models, policies
from ipr.apps import start
from ipr.config import EMBEDDED, RolloutConfig, RunConfig, TrackConfig, public, shipped
from ipr.data import datasets
from ipr.runs import alerts, bucket, workers
from ipr.runs.project import answers
from ipr.tracking.client import asking, tracking_uri
from ipr.types import IprError

SPARE = ("boto3", "dvc-s3", "rapidfuzz", "sqlglot")
"""Requirements without which `quick` still runs: those of S3, WebShop and InterCodeSQL."""
BREAKS = ("fastapi",)
"""Requirements that stop every flow where they are of another version (see docs/operations.md)."""
PORT = 29500
"""Where accelerate's processes meet, whatever MASTER_PORT says."""
SPACE, SOME_SPACE = 200, 2000
"""MiB without which no run starts, and those that a run takes."""


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    detail: str
    fix: str = ""
    needed: bool = False
    """Whether a run is stopped where this is not ok."""


def checks(root: Path, config: RunConfig | None = None) -> Iterator[Check]:
    """All checks, for `config` (the defaults where there is none), as they are done."""
    config = config or RunConfig()
    yield Check("python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or later", True)
    stopped = False
    for some in (
        _packages(),
        _machine(root),
        _project(root),
        _servers(root, config),
        _models(config),
        _environments(config),
    ):
        for check in some:
            stopped |= check.needed and not check.ok
            yield check
    if not stopped:
        yield _tried("start", lambda: _started(config), "correct that key, or the config that sets it", needed=True)


def _started(config: RunConfig) -> str:
    """What else stops a run as it starts."""
    start.check(config)
    start.check_memory(config)
    return "a run's own checks pass"


def _packages() -> Iterator[Check]:
    """The requirements one by one where one is amiss, and everything against the lock."""
    try:
        needs = [Requirement(text) for text in requires("ipr") or []]
    except PackageNotFoundError:
        yield Check("packages", False, "ipr is not installed", "make setup", True)
        return
    amiss = 0
    for need in needs:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        found = _version(need.name)
        if found is None or not need.specifier.contains(found, prereleases=True):
            amiss += 1
            stops = need.name in BREAKS or (found is None and need.name not in SPARE)
            yield Check(need.name, False, found or "missing", f"make setup, or: pip install '{need}'", stops)
    if not amiss:
        yield Check("packages", True, "every requirement of ipr is there")
    lock = Path(__file__).resolve().parents[3] / "requirements.lock"
    if not lock.is_file():  # installed from a wheel
        return
    pins = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))
    other = [(name, pin, found) for name, pin in pins.items() if (found := _version(name)) != pin]
    detail = f"{len(pins)} packages as locked"
    if other:
        name, pin, found = other[0]
        detail = f"{name} is {found or 'missing'}, locked {pin}" + (f" ({len(other)} such)" if len(other) > 1 else "")
    yield Check("lock", not other, detail, "make setup, or: pip install -r requirements.lock")


def _version(package: str) -> str | None:
    try:
        return version(package).split("+")[0]  # torch's says how it was built: 2.13.0+cpu
    except PackageNotFoundError:
        return None


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine(root: Path) -> Iterator[Check]:
    free = shutil.disk_usage(root).free >> 20
    space = f"{free} MiB free for {root}"
    yield Check("disk", free > SOME_SPACE, space, "free 2 GiB, or choose another --dir", free < SPACE)
    yield Check(
        "folder", os.access(root, os.W_OK), f"{root} can be written", f"make {root} writable, or set IPR_ROOT", True
    )
    yield Check("cores", True, str(cores()))
    yield from _gpus()


def _gpus() -> Iterator[Check]:
    """The driver with torch's build; with several GPUs what their processes speak by."""
    asked = "--query-gpu=name,memory.total,memory.used,driver_version"
    said = _said("nvidia-smi", asked, "--format=csv,noheader")
    if said is None:
        yield Check("gpu", True, "none; models run on the CPU")
        return
    told = "; ".join(said.splitlines()) + " (memory, in use, driver)"
    try:
        import torch
    except ImportError:  # which the packages tell
        yield Check("gpu", True, told)
        return
    if torch.version.cuda is None:
        told += ", but torch is a build for CPUs"
        yield Check("gpu", False, told, "install torch's CUDA build: pip install --force-reinstall torch")
        return
    if not torch.cuda.is_available():
        told += f", but torch {torch.__version__} cannot use it with its CUDA {torch.version.cuda}"
        yield Check("gpu", False, told, "install a newer driver, or torch for an older CUDA; see CUDA_VISIBLE_DEVICES")
        return
    yield Check("gpu", True, f"{told}; torch sees {torch.cuda.device_count()}, CUDA {torch.version.cuda}")
    if torch.cuda.device_count() < 2:
        return
    from torch.cuda import nccl

    there = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    number = ".".join(map(str, nccl.version())) if there else "torch is built without it"
    yield Check("nccl", there, number, "install torch's CUDA build: training on several GPUs speaks by NCCL")
    try:
        socket.create_server(("", PORT)).close()
        yield Check("port", True, f"{PORT} is free for accelerate launch")
    except OSError as error:
        fix = f"accelerate launch --main_process_port {PORT + 1}; on one machine it takes another by itself"
        yield Check("port", False, f"{PORT}: {error.strerror}", fix)


def _said(*command: str, cwd: Path | None = None) -> str | None:
    """What a command prints; None where it fails, hangs or is not there."""
    try:
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _project(root: Path) -> Iterator[Check]:
    commit = _said("git", "rev-parse", "HEAD", cwd=root)
    detail = commit[:12] if commit else "no repository, so runs do not know their commit"
    yield Check("git", commit is not None, detail, "git clone the project, or: git init")
    try:
        named = datasets.recorded(root)
    except IprError as error:
        yield Check("data", False, str(error), datasets.CONFLICT, True)
        return
    if not (root / "data").is_dir():
        yield Check("data", named is None, "no data/; the first run pulls or makes it", "ipr data pull")
    elif named is None:
        yield Check("data", False, "data/ is not under DVC yet", "ipr data publish")
    else:
        problems = datasets.verify(root)
        detail = problems[0] if problems else "data/ is as it was pulled or published"
        yield Check("data", not problems, detail, "ipr data publish (keeps data/), or ipr data pull (brings it back)")
    if not (root / ".dvc").is_dir():
        yield Check("dvc remote", True, "no DVC project yet; the first publish makes one with a local remote")
        return
    yield _tried(
        "dvc remote",
        lambda: datasets.reach_remote(root),
        "dvc remote list; dvc remote modify, or your keys (docs/operations.md); until then data waits here",
    )


def _servers(root: Path, config: RunConfig) -> Iterator[Check]:
    uri = tracking_uri(config.track, root)
    if not config.track.enabled:
        yield Check("mlflow", True, "off (track.enabled=false)")
    elif uri.startswith("http"):
        fix = "start it, or set MLFLOW_TRACKING_URI, _USERNAME and _PASSWORD; until then runs keep events.jsonl: ipr"
        yield _tried("mlflow", lambda: _asked(config.track, root), f"{fix} status RUN --sync")
    else:
        place = Path(re.sub(r"^(sqlite:///|file://)", "", public(uri)))
        above = next((p for p in (place, *place.parents) if p.exists()), Path("/"))
        local = not re.match(r"\w+://", str(uri)) or uri.startswith(("sqlite:///", "file:"))
        fix = f"make {above} writable, or set MLFLOW_TRACKING_URI"
        yield Check("mlflow", not local or os.access(above, os.W_OK), public(uri), fix)
    api = os.environ.get("PREFECT_API_URL", "")
    if not api:
        yield Check("prefect", True, "no server set; each run starts its own (schedules need one: PREFECT_API_URL)")
    else:
        hidden = public(api) == api
        fix = "start it, or: unset PREFECT_API_URL" if hidden else "leave the password out: PREFECT_API_AUTH_STRING"
        up = hidden and answers(f"{api.rstrip('/')}/health")
        yield Check("prefect", up, public(api), fix, True)

    if config.run.store:
        yield _tried("run.store", lambda: _reached(str(config.run.store)), "correct run.store, or your keys", True)
    if config.rollout.scheduler:
        yield _tried("dask", lambda: _dialled(config.rollout), "correct rollout.scheduler", True)
    told = ", ".join(alerts.channels(config.alerts)) or "nobody is told (alerts.webhook, alerts.email, alerts.command)"
    yield Check("alerts", True, told)


def _asked(config: TrackConfig, root: Path) -> str:
    """Ask MLflow's server for something: one that wants a password is well, and takes nothing without it."""
    with asking(config, root) as client:
        client.search_experiments(max_results=1)
    return tracking_uri(config, root)


def _reached(store: str) -> str:
    bucket.at(store).read("manifest.json")
    return store


def _dialled(config: RolloutConfig) -> str:
    with workers.opened(config):
        return f"{config.scheduler} has workers"


def _models(config: RunConfig) -> Iterator[Check]:
    path = config.model.path
    yield _tried(
        "embedded models",
        _shipped,
        "git checkout src/ipr/models/embedded, or: ipr base NAME",
        path.startswith(EMBEDDED),
    )
    if path != "champion" and not path.startswith(EMBEDDED):
        yield _tried("model", lambda: models.check_model(path) or path, "correct model.path", needed=True)
    yield _tried(
        f"backend {config.rollout.backend}",
        lambda: policies.check(config, Path("runs")),
        "see docs/gpu.md",
        needed=True,
    )


def _shipped() -> str:
    for name in shipped():
        models.check_model(f"{EMBEDDED}-{name}")
    return ", ".join(shipped())


def _environments(config: RunConfig) -> Iterator[Check]:
    """Every environment loads; the one of the config with its data."""
    for name in envs.names():
        mine = name == config.env.name
        data = config.env.data if mine else None
        fix = (
            "reinstall ipr: make setup" if envs.origin(name) == "built in" else f"mend or uninstall {envs.origin(name)}"
        )
        fix = f"correct env.data={data}" if data else fix
        yield _tried(f"environment {name}", _loader(name, data), fix, needed=mine)
    if config.env.server is not None:
        yield _tried("database server", _served(config), "correct env.server=mysql://user@host/", needed=True)
    if config.env.name not in envs.names():
        yield _tried("environment", _loader(config.env.name, None), "correct env.name (ipr env list)", needed=True)
    for line in envs.refused():
        yield Check("environment", False, line, "rename it there, or uninstall that package")
    spacy = importlib.util.find_spec("spacy") is not None
    detail = "there" if spacy else "not there; WebShop's real data set takes nouns by a rule of ours instead"
    yield Check("spacy (optional)", True, detail)


def _served(config: RunConfig) -> Callable[[], str]:
    """The account of env.server may only read; made first where IPR_MYSQL_ADMIN says who can."""

    def look() -> str:
        from ipr.envs.sql import server

        assert config.env.server is not None
        if os.environ.get(server.ADMIN):
            folder = server.ServedFolder(Path(config.env.data or "."), config.env.server)
            server.make_account(config.env.server, folder.databases())
        return server.check_account(config.env.server)

    return look


def _loader(name: str, data: str | None) -> Callable[[], str]:
    def load() -> str:
        spec = envs.get(name, data)
        first = spec.task_ids("train")[:1]
        if not first:
            raise IprError(f"split 'train' has no games (env.data={data})")
        spec.make().reset(first[0])
        return f"{envs.origin(name)}, {spec.version}" + (f", {data}" if data else "")

    return load


def _tried(name: str, act: Callable[[], str], fix: str, needed: bool = False) -> Check:
    """A check that something does not raise; its words are the detail."""
    try:
        return Check(name, True, act())
    except Exception as error:  # whatever is wrong is what a doctor is asked for
        text = str(error) if isinstance(error, IprError) else f"{type(error).__name__}: {error}"
        return Check(name, False, " ".join(text.split()), fix, needed)
