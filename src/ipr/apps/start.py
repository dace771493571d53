"""Before a run: bad input is refused in seconds, what was named must answer, and it is told what the run will cost."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal

from ipr import algorithms, evaluate, models, policies
from ipr.apps import memory
from ipr.apps.chosen_model import check_room
from ipr.apps.plan import hours, plan
from ipr.config import RunConfig, TrainConfig, embedded, public
from ipr.data import datasets, experts
from ipr.runs import bucket
from ipr.runs.project import STARTED_BY, answers
from ipr.tokens import ChatTokens
from ipr.training import losses
from ipr.types import EnvSpec, IprError, PreferencePair

LOOKED_AT = 20
"""Games of a split whose words are looked at."""


def check(config: RunConfig, *, model: bool = True) -> None:
    """Everything that can be refused in seconds: loss, environment, games, device, model folder, tokenizer, context
    length, the modules of an adapter.

    `model` false leaves out the model, which is not here.
    """
    _trains(config)
    policies.backend(config)
    spec = experts.environment(config.env)
    if config.algorithm.confidence and spec.lowest < 0:
        raise IprError(
            f"algorithm.confidence bounds rewards from 0 to 1, those of env.name={config.env.name} go down to"
            f" {spec.lowest:g}; set it to 0"
        )
    for split in ("train", "dev", *config.eval.splits):
        if not spec.task_ids(split):
            raise experts.no_games(config.env, spec, split)
    env = spec.make()
    env.reset(spec.task_ids("train")[0])
    if config.env.data:  # a broken file is told now, not after the training
        for ids in evaluate.heldout(config.eval.sizes, spec).values():
            for task_id in ids:
                env.reset(task_id)
    experts.check(config.env, most=20)
    _wordings(config, spec)
    path = config.model.path
    models.device_named(config.model)
    if path != "champion" and model:
        models.check_model(path, config.model)
        check_room(spec, "train", path, config)


def _trains(config: RunConfig) -> None:
    """Raises IprError where the method's loss is not known or it would train nothing."""
    how = algorithms.make(config.algorithm).training
    loss = losses.get(how.loss)
    knobs: TrainConfig = getattr(config, how.section)
    if not (knobs.epochs or knobs.updates):
        raise IprError(
            f"algorithm.name={config.algorithm.name} trains with the knobs of {how.section}, and {how.section}.epochs=0"
            f" trains nothing; set {how.section}.updates, or take another method"
        )
    levels: tuple[Literal["outcome", "step"], ...] = ("outcome", "step")
    if loss.on == "pairs" and not any(
        loss.takes(PreferencePair("", 0, level, (), (), (), 1.0), knobs) for level in levels
    ):
        raise IprError(
            f"algorithm.name={config.algorithm.name} has no loss left: its weights, such as {how.section}.outcome_dpo,"
            " are 0; set one above 0"
        )


def _wordings(config: RunConfig, spec: EnvSpec) -> None:
    """Says where what is evaluated is worded otherwise than what is learned from: each game is told its own words."""
    if spec.prompts is None:
        return
    learned = {spec.told(task_id) for task_id in spec.task_ids("train")[:LOOKED_AT]}
    others = [
        split
        for split in ("dev", *config.eval.splits)
        if {spec.told(task_id) for task_id in spec.task_ids(split)[:LOOKED_AT]} - learned
    ]
    if others:
        print(
            f"note: env.data={config.env.data} has games in other words in {', '.join(others)} than in train; each is"
            " told its own, but the agent learns those of train (docs/alfworld-wording.md)",
            file=sys.stderr,
        )


def check_servers(config: RunConfig, root: Path) -> None:
    """What was named must be there: Prefect's server, without which no flow starts, the DVC remote, `run.store`.

    One that is known but down is another matter: data sets and figures wait for it.
    """
    api = os.environ.get("PREFECT_API_URL", "")
    if public(api) != api:
        raise IprError(
            "PREFECT_API_URL holds a user or password, which pages and logs would show; leave them out and set"
            " PREFECT_API_AUTH_STRING=user:password"
        )
    if api and not answers(f"{api.rstrip('/')}/health"):
        raise IprError(f"no answer from the Prefect server {api}; start it, or: unset PREFECT_API_URL")
    if config.run.store:
        bucket.at(config.run.store)
    if config.data.publish and config.data.remote and (root / ".dvc").is_dir():
        datasets.check_remote(root, config.data.remote)


def check_schedules(config: RunConfig, root: Path) -> None:
    """`check_servers` for schedules, which never fire without a Prefect server."""
    if not os.environ.get("PREFECT_API_URL"):
        raise IprError(
            "schedules need a Prefect server; start one (.venv/bin/prefect server start) and set"
            " PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    check_servers(config, root)


def dry_run(config: RunConfig) -> dict[str, Any]:
    """The plan of `ipr run --dry-run`: what is played and trained, memory of each GPU, hours, disk.

    A model that is not here is planned by its architecture where that is shipped, and its tokens are those of the
    small model that is shipped.
    """
    path = "embedded" if config.model.path == "champion" else config.model.path
    away = None if models.is_here(embedded(path, config.env.name)) else models.known(path)
    check(config, model=away is None)
    spec = experts.environment(config.env)
    path = embedded("embedded" if away else path, config.env.name)
    chat = ChatTokens(models.load_tokenizer(path, config.model.date))
    planned = plan(config, spec, chat)
    if away:
        planned["tokens"] = (
            f"by the tokenizer of {path}: {config.model.path} is not here, its own may make more of them"
        )
    of, machine = away or models.config_of(path), config.machine
    room = machine.memory and machine.memory * memory.GIB
    found = _estimate(config, spec, chat, of, room, machine.gpus, machine.gpus)
    if isinstance(found, str):
        planned["gibibytes_on_each_gpu"] = found
    else:
        size = memory.sizes(of, config.model)
        planned["parameters"] = {"all": size.whole, "trained": size.trained}
        planned["gibibytes_on_each_gpu"] = {
            name: {what: value if what in memory.NUMBERS else _gib(value) for what, value in held.items()}
            for name, held in (*found.training.items(), ("playing", found.playing))
        }
        planned["turns"] = found.turns
        if room:
            refused = found.refusal(config, room)
            n = machine.gpus
            how = f", which train together in {n} processes (docs/training.md)" if n > 1 else ""
            planned["fits"] = f"no: {refused}" if refused else f"yes: {n} x {machine.memory:g} GiB{how}"
        disk = memory.disk(of, config)
        planned["gibibytes_of_disk_at_most"] = {what: _gib(value) for what, value in disk.items()}
    if told := hours(config, planned):
        planned["hours_at_most"] = {what: round(value, 1) for what, value in told.items()}
    return planned


def _gib(size: int) -> float:
    return round(size / memory.GIB, 2)


def check_memory(config: RunConfig) -> None:
    """Raises IprError where a run will not fit: into the GPU that is here, else into what `machine.memory` states."""
    import torch

    device, stated = models.device(config.model), config.machine.memory
    room = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    room = room or (stated and stated * memory.GIB)
    if not room or config.model.path == "champion":
        return
    spec, path = experts.environment(config.env), config.model.path
    chat = ChatTokens(models.load_tokenizer(path, config.model.date))
    of = models.config_of(path)
    processes, gpus = int(os.environ.get("WORLD_SIZE", "1")), len(models.gpus(config.model)) or config.machine.gpus
    found = _estimate(config, spec, chat, of, room, processes, gpus)
    if isinstance(found, str):
        print(f"note: whether the run fits into {_gib(int(room))} GiB is {found}", file=sys.stderr)
    elif refused := found.refusal(config, room, idle=gpus > processes):
        raise IprError(refused)


def _estimate(
    config: RunConfig, spec: EnvSpec, chat: ChatTokens, of: Any, room: float | None, processes: int, gpus: int
) -> memory.Estimate | str:
    """What the run takes of each GPU, or in words why it is not known."""
    batch = max(config.sft.batch_size, config.train.batch_size)
    shown = [spec.expert(task_id) for task_id in spec.task_ids("train")[: min(batch, config.env.tasks)]]
    rows = memory.updates(config, spec, chat, shown)
    try:
        return memory.estimate(of, config, rows, memory=room, processes=processes, sharded=processes > 1, gpus=gpus)
    except IprError:
        raise
    except Exception as error:  # of a family that does not run without numbers, whatever it is
        return f"not known: a {of.model_type} cannot be counted without its weights ({models.first_line(error)})"


def end_orphans() -> None:
    """End the temporary Prefect servers of runs that are gone: one whose run was killed would stay, with its 200 MB.

    Such a server has in its environment who started it; where that is no longer its parent, nobody uses it.
    """
    for process in Path("/proc").glob("[0-9]*"):
        try:
            lines = (line.partition(b"=") for line in (process / "environ").read_bytes().split(b"\0"))
            environment = {name: value for name, _, value in lines}
            parent = (process / "stat").read_bytes().rpartition(b")")[2].split()[1]
        except OSError:  # of another user, or gone
            continue
        started_by = environment.get(STARTED_BY.encode())
        if environment.get(b"PREFECT__SERVER_EPHEMERAL") == b"1" and started_by not in (None, parent):
            with contextlib.suppress(OSError):
                os.kill(int(process.name), signal.SIGTERM)
