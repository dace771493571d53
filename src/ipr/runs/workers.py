"""Rollouts in other processes: shards go to Dask workers, on this machine or on several.

Decided here: a worker plays whole shards, and what a shard holds does not depend on the workers (`run.cut`), so
trajectories are those of one process, letter by letter. To a worker goes what to play with by name (`Player`), never a
model; it loads that once and keeps the last one. Where there are several GPUs each worker of this machine sees one of
them alone, and leaves its memory to others when a stage is played. A worker that dies is replaced where it was started
here, and its shard is played again. Left out: Prefect's task runners (without a server each of their processes starts
one).
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipr import envs, identity, models, policies, profiling, rollout
from ipr.config import RolloutConfig, RunConfig
from ipr.types import EnvSpec, IprError, Job, More, Progress, Sampling, Trajectory

if TYPE_CHECKING:
    from ipr.types import Policy

log = logging.getLogger("ipr")

Share = dict[str, float]
"""Where a worker's time went, as `profiling.since` has it."""


@dataclass(frozen=True)
class Player:
    """Who plays what and how, by name: small to send, and equal in every process."""

    path: str
    """Of the model."""
    name: str
    """The policy's, for the trajectories."""
    config: RunConfig
    temperature: float

    @cached_property
    def policy(self) -> Policy:
        return policies.load(self.path, self.name, self.config)

    @cached_property
    def spec(self) -> EnvSpec:
        env = self.config.env
        return _environment(env.name, env.data, env.max_steps, env.shots, env.server)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.config.rollout.max_new_tokens)

    def identity(self) -> dict[str, Any]:
        """What decides what it plays, as it lies on this machine."""
        return identity.playing(self.spec, self.sampling, models.model_hash(self.path), self.config)

    def play(self, jobs: Sequence[Job], progress: Progress | None = None, more: More | None = None) -> list[Trajectory]:
        return rollout.play(
            self.spec,
            self.policy,
            jobs,
            self.sampling,
            slots=self.config.rollout.slots,
            join=self.config.algorithm.join,
            progress=progress,
            more=more,
        )


def play(
    player: Player, shards: Sequence[Sequence[Job]], progress: Progress | None = None, more: More | None = None
) -> Iterator[tuple[int, list[Trajectory]]]:
    """(place, trajectories) of every shard as soon as it is played: here, or by the workers that the config names.

    What `more` asks for after a shard's episodes is played with them (see `rollout.play`). Raises IprError where the
    scheduler does not answer or its workers cannot play.
    """
    config = player.config.rollout
    total = sum(map(len, shards))
    if config.workers > 1 or config.scheduler:
        finished = _elsewhere(player, shards, more)
        shown = progress
    else:
        finished = _here(player, shards, more, progress)
        shown = None  # shown as it goes on
    done = 0
    with models.enough_memory("lower rollout.slots or rollout.workers"):
        for place, trajectories in finished:
            done += len(trajectories)
            if shown:
                shown(done, max(done, total))
            yield place, trajectories


@contextmanager
def opened(config: RolloutConfig) -> Iterator[None]:
    """The block's workers end with it. Those of this machine start when they are first needed.

    Raises IprError at once where a scheduler is named that does not answer.
    """
    try:
        if config.scheduler:
            _client(config)
        yield
    finally:
        close()


def close() -> None:
    """End the workers that were started here, and the connection to those that were not."""
    if _connected:
        client, cluster = _connected.pop()
        client.close()
        if cluster is not None:
            cluster.close()


# In the main process --------------------------------------------------------------------------------------------------

_PATIENCE = 10
"""Seconds in which a scheduler has to answer, and after which its workers are looked at again."""
_connected: list[tuple[Any, Any]] = []
"""The process's client and, where the workers were started here, their cluster; made at first use."""


def _here(
    player: Player, shards: Sequence[Sequence[Job]], more: More | None, progress: Progress | None
) -> Iterator[tuple[int, list[Trajectory]]]:
    total, before = sum(map(len, shards)), 0
    try:
        for place, shard in enumerate(shards):
            moved = progress and (lambda done, _, before=before: progress(before + done, max(before + done, total)))
            trajectories = player.play(shard, moved, more and more.part(shard))
            before += len(trajectories)
            yield place, trajectories
    finally:
        policies.rest()


def _elsewhere(
    player: Player, shards: Sequence[Sequence[Job]], more: More | None
) -> Iterator[tuple[int, list[Trajectory]]]:
    """Hands the next shard to whoever is free."""
    from distributed import CancelledError, KilledWorker, as_completed

    client = _client(player.config.rollout)
    player = _named_everywhere(player)
    wanted, versions = player.identity(), _versions()
    gpus = [] if player.config.rollout.scheduler else models.gpus(player.config.model)
    places: dict[str, int] = {}
    waiting = list(enumerate(shards))[::-1]
    log.info("%d shards wait for %d workers", len(waiting), len(client.nthreads()))
    finished = as_completed(loop=client.loop)

    def hand_out() -> None:
        # No more than workers: what is handed out too early lies with one worker while another has nothing to do.
        while waiting and (not places or len(places) < len(client.nthreads())):
            place, shard = waiting.pop()
            part = more and more.part(shard)
            future = client.submit(_work, player, list(shard), part, wanted, versions, gpus, pure=False)
            places[future.key] = place
            finished.add(future)

    def watch() -> None:
        """Until a shard is played: workers that have come meanwhile get theirs, and it is said where none is left."""
        looked, told = time.monotonic(), False
        while not finished.has_ready():
            time.sleep(0.02)
            if time.monotonic() - looked < _PATIENCE:
                continue
            looked = time.monotonic()
            with suppress(OSError):  # a lost scheduler is told by the shards
                hand_out()
                if not told and not client.nthreads():
                    told = True
                    scheduler = client.scheduler.address
                    log.warning("no worker is left at %s; waiting for one: dask worker %s", scheduler, scheduler)

    try:
        hand_out()
        while places:
            with profiling.timed("waiting"):
                watch()
                future = next(finished)
                trajectories, share = future.result()
            profiling.add(share)
            place = places.pop(future.key)
            hand_out()
            yield place, trajectories
        client.run(_rest, on_error="ignore")
    except KilledWorker:
        raise IprError(
            "a shard's worker died each time it was played, mostly for want of memory; lower rollout.workers,"
            " rollout.slots or model.max_length"
        ) from None
    except CancelledError:
        raise IprError(
            "the Dask scheduler was lost; start it again, then the same command continues with the shards that lack"
        ) from None
    finally:
        if places:
            client.cancel(list(finished.futures))


def _client(config: RolloutConfig) -> Any:
    """The process's client, of the scheduler that is named or of workers started now."""
    if not _connected:
        from distributed import Client, LocalCluster

        logging.getLogger("distributed").setLevel(logging.WARNING)  # not every connection, in a Prefect flow's log
        if config.scheduler:
            _connected.append((_dial(config.scheduler), None))
        else:
            cluster = LocalCluster(
                n_workers=config.workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,  # a limit would stop workers at a share of the memory; a model needs what it needs
                scheduler_kwargs={"dashboard": False},
                dashboard_address="127.0.0.1:0",  # still asked for: any port that is free
            )
            _connected.append((Client(cluster, set_as_default=False), cluster))
    return _connected[0][0]


def _dial(address: str) -> Any:
    from distributed import Client

    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise IprError(
            f"rollout.scheduler: no Dask scheduler answers at {address} ({told}); start one: dask scheduler"
        ) from None
    if not client.nthreads():
        client.close()
        raise IprError(f"rollout.scheduler: {address} has no workers; start some: dask worker {address} --nthreads 1")
    return client


def _named_everywhere(player: Player) -> Player:
    """With whole paths: a worker may run in another folder."""
    path, env, played = player.path, player.config.env, player.config.rollout
    whole = str(Path(path).resolve()) if Path(path).is_dir() else path
    data = None if env.data is None else str(Path(env.data).resolve())
    env = env.model_copy(update={"data": data})
    if played.vllm is not None and Path(played.vllm).name != played.vllm:  # else it is looked for there
        played = played.model_copy(update={"vllm": str(Path(played.vllm).absolute())})
    config = player.config.model_copy(update={"env": env, "rollout": played})
    return Player(whole, player.name, config, player.temperature)


def _versions() -> dict[str, str]:
    """What has to be the same for the same results."""
    return {name: version(name) for name in ("ipr", "torch", "transformers")}


# In a worker ----------------------------------------------------------------------------------------------------------

_one = threading.Lock()
"""A worker with several threads still plays one shard at a time: policies are not for threads."""
_kept: list[tuple[Player, dict[str, Any]]] = []
"""The last player and what decides its games: its policy stays loaded. One only, because models are large."""


def _work(
    player: Player,
    jobs: list[Job],
    more: More | None,
    wanted: dict[str, Any],
    versions: dict[str, str],
    gpus: list[str],
) -> tuple[list[Trajectory], Share]:
    """Play a shard. Raises IprError where this machine would play something else than the main process."""
    from distributed import get_worker

    if gpus:  # before CUDA starts, which then sees this one alone; a worker that is started again has the same name
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(get_worker().name) % len(gpus)]
    import torch

    with _one:
        torch.set_num_threads(1)
        _keep_memory()
        _share_gpu(player.config, len(gpus))
        moment = profiling.now()
        if not _kept or _kept[0] != (player, wanted):
            _kept.clear()
            _check(player, wanted, versions)
            _kept.append((player, wanted))
        return _kept[0][0].play(jobs, more=more), profiling.since(moment)


def _rest() -> None:
    """Leave a GPU to others until it is played again."""
    import torch

    if not _one.acquire(blocking=False):
        return  # it plays for another run
    try:
        policies.rest()
        if torch.cuda.is_initialized():
            _kept.clear()
            models.free_gpu()
    finally:
        _one.release()


def _share_gpu(config: RunConfig, gpus: int) -> None:
    """Take a GPU's part, where there are more workers than GPUs: each would take all that the others have not yet."""
    import torch

    each = config.rollout.on_a_gpu(gpus)
    if each > 1 and (place := models.device(config.model)).type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1 / each, place)


def _keep_memory() -> None:
    """Undo what Dask sets for its workers, that free memory goes back at once: each pass would ask for it again."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        for threshold, value in ((-1, 1 << 30), (-3, 1 << 25)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            libc.mallopt(threshold, value)


def _check(player: Player, wanted: dict[str, Any], versions: dict[str, str]) -> None:
    from distributed import get_worker

    where = f"worker {get_worker().address}"
    for name, ours in versions.items():
        if (theirs := version(name)) != ours:
            raise IprError(f"{where} has {name} {theirs}, the run {ours}; install the same there")
    try:
        found = player.identity()
    except IprError as error:
        raise IprError(f"{where}: {error}; the run's folder must be the same path on every machine") from None
    if found["model"] != wanted["model"]:
        raise IprError(f"{where} has another model in {player.path}; the run's folder must be shared by all machines")
    if different := identity.differences(wanted, found):
        raise IprError(f"{where} would play something else ({'; '.join(different)}); give it the same data")


@lru_cache(maxsize=1)
def _environment(name: str, data: str | None, max_steps: int | None, shots: int, server: str | None) -> EnvSpec:
    return envs.get(name, data, max_steps, shots, server)
