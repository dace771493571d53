"""How the command line starts flows: bad input is refused first, then the servers' defaults are set, then it plays."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipr import config as configs
from ipr import models, policies
from ipr.apps import plan as plans
from ipr.config import RunConfig
from ipr.data import datasets, experts
from ipr.runs import workers
from ipr.runs.project import answers, defaults, project_root
from ipr.runs.run import Run, check_space, stage_name
from ipr.tokens import ChatTokens
from ipr.types import EnvSpec, IprError

if TYPE_CHECKING:
    from ipr.policies.chat import ChatPolicy

STARTED_BY = "IPR_STARTED_BY"
"""The process id of a run, in the environment of the Prefect server that it starts."""


def check(config: RunConfig) -> None:
    """Everything that can be refused in seconds: environment, games, model folder, tokenizer, context length."""
    policies.backend(config)
    spec = experts.environment(config.env)
    for split in ("train", "dev", *config.eval.splits):
        if not spec.task_ids(split):
            raise IprError(f"{config.env.name}: split '{split}' has no games; check env.data={config.env.data}")
    spec.make().reset(spec.task_ids("train")[0])
    experts.check(config.env, most=20)
    path = config.model.path
    if path == "champion":
        return
    models.check_model(path)
    _check_room(spec, "train", path, config)


def _check_room(spec: EnvSpec, split: str, path: str, config: RunConfig) -> None:
    """Raises IprError where most of the expert's episodes do not fit into the model's context; notes it where some."""
    chat = ChatTokens(models.load_tokenizer(path))
    lengths = [len(chat.conversation(talk).ids) for talk in experts.conversations(spec, split)]
    context = models.context_length(path)
    limit = min(config.model.max_length, context)
    longer = sum(length > limit for length in lengths)
    if not longer:
        return
    fix = "raise model.max_length" if limit < context else "use a model with a longer context"
    fix += ", or leave the example out (env.shots=0)" if config.env.shots else ""
    told = f"{longer} of {len(lengths)} expert episodes of {spec.name} are longer than the context of {limit} tokens"
    if 2 * longer > len(lengths):
        raise IprError(f"{told} (the longest has {max(lengths)}); {fix}")
    print(f"note: {told}; such games cannot be played to their end: {fix}", file=sys.stderr)


def check_servers(config: RunConfig, root: Path) -> None:
    """What was named must be there: Prefect's server, without which no flow starts, and the DVC remote.

    One that is known but down is another matter: data sets and figures wait for it.
    """
    if (api := os.environ.get("PREFECT_API_URL")) and not answers(f"{api.rstrip('/')}/health"):
        raise IprError(f"no answer from the Prefect server {api}; start it, or: unset PREFECT_API_URL")
    if config.data.publish and config.data.remote and (root / ".dvc").is_dir():
        datasets.check_remote(root, config.data.remote)


def plan(config: RunConfig) -> dict[str, Any]:
    """The plan of `ipr run --dry-run`."""
    check(config)
    spec = experts.environment(config.env)
    path = configs.embedded("embedded", config.env.name) if config.model.path == "champion" else config.model.path
    return plans.plan(config, spec, ChatTokens(models.load_tokenizer(path)))


def refine(folder: Path, config: RunConfig, preset: str, profile: bool = False) -> dict[str, Any]:
    """Run or resume the whole job in `folder`; returns its summary. With `profile` it also says where the time went."""
    root = project_root()
    check_space(folder, 200 << 20)
    check_servers(config, root)
    check(config)
    policies.check(config)
    defaults(root)
    run = Run.open(folder, config, preset)
    with run.lock():
        run.note(base=_base(run, config, root))
        if profile:
            run.note(profile=True)
        if not run.manifest.get("complete"):
            from flows.refine import refine as flow

            end_orphans()
            os.environ[STARTED_BY] = str(os.getpid())
            with workers.opened(config.rollout):
                flow(str(folder.resolve()), config.algorithm.iterations, run.name)
            run.note(complete=True)
        from tasks.report import finish

        return finish(run)


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


def one_task(folder: Path, name: str, iteration: int) -> dict[str, Any]:
    """One stage of a run, as plain Python: no flow, no server."""
    run = Run(folder)
    defaults(project_root())
    needs = {"explore": [], "reward": ["explore"], "pairs": ["explore", "reward"], "train": ["pairs"]}.get(name, [])
    for task in needs:
        if run.record(iteration, task) is None:
            raise IprError(f"{stage_name(iteration)} has no {task} yet; first: ipr {task} --dir {folder}")
    if name == "explore" and run.record(iteration - 1, "train") is None:
        before = "sft" if iteration == 1 else f"train --iteration {iteration - 1}"
        raise IprError(f"no model of {stage_name(iteration - 1)} yet; first: ipr {before} --dir {folder}")
    with run.lock(), workers.opened(run.config.rollout):
        if name == "sft":
            from tasks.common import wait_for_all
            from tasks.experts import experts
            from tasks.publish import ensure_data

            if run.keeper:
                experts.fn(str(folder), ensure_data.fn(str(folder)))
            wait_for_all(run)
        getattr(importlib.import_module(f"tasks.{name}"), name).fn(str(folder), iteration)
    record = run.record(iteration, "train" if name == "sft" else name) or {}
    return {key: value for key, value in record.items() if key not in ("history", "profile")}


def quality(folder: Path, samples: list[int], taus: list[float], scorers: list[str]) -> dict[str, Any]:
    """The quality of a run's step rewards; see `tasks.quality`."""
    run = Run(folder)
    from tasks import quality as task

    with run.lock():
        return task.quality(run, samples, taus, scorers)


def evaluate_model(options: Namespace) -> dict[str, Any]:
    """Any model on any environment, hosted (`--endpoint`) or a folder: figures, and the episodes in `--out`."""
    from ipr.apps import prompted
    from ipr.types import Sampling

    config = _config(options)
    spec = experts.environment(config.env)
    sampling = Sampling(0.0, config.rollout.max_new_tokens)
    settings = {
        "model": options.model,
        "env": spec.name,
        "version": spec.version,
        "max_steps": spec.max_steps,
        "shots": config.env.shots,
        "max_new_tokens": sampling.max_new_tokens,
    }
    ask = {"split": options.split, "games": options.games, "resamples": config.eval.bootstrap}
    if options.endpoint:
        from ipr.policies.openai import EndpointPolicy, Usage, base_url

        if options.out is None:
            raise IprError("a hosted model's answers cost time and money; say where to keep them: --out FOLDER")
        url = base_url(options.endpoint)
        check_space(options.out, 50 << 20)
        out = prompted.Folder(options.out, settings | {"endpoint": url, "parameters": config.endpoint.parameters})
        usage = Usage(**out.spent(options.split))
        player = EndpointPolicy(url, options.model, config.endpoint, usage)

        def check() -> None:
            known = experts.conversations(spec, options.split)
            player.check(sampling, known[len(known) // 2])

        return prompted.play(
            spec,
            player,
            sampling,
            slots=config.endpoint.concurrency,
            out=out,
            check=check,
            usage=usage,
            prices=config.endpoint,
            **ask,
        )
    path = _model_folder(options.model, config)
    settings |= {"hash": models.model_hash(path), "max_length": config.model.max_length, "dtype": config.model.dtype}
    settings |= policies.deciding(config)
    out = None if options.out is None else prompted.Folder(options.out, settings)
    _check_room(spec, options.split, path, config)
    player = policies.load(path, options.model, config)
    return prompted.play(spec, player, sampling, slots=config.rollout.slots, out=out, **ask)


def serve_model(options: Namespace) -> None:
    """Serve a model through the chat protocol until stopped."""
    from ipr.apps import serve
    from ipr.policies import local

    config = configs.load(None, options.overrides)
    path = _model_folder(options.model, config)
    listening = serve.listen(options.host, options.port)
    name = options.name or options.model
    load = partial(_adapter, base=path, config=config) if options.adapters else None
    server = serve.server(local.load(path, name, config), name, models.resolve(path), load)
    host, port = listening.getsockname()[:2]
    print(f"model '{name}' at http://{host}:{port}/v1", flush=True)
    server.run(sockets=[listening])


def _adapter(folder: str, base: str, config: RunConfig) -> ChatPolicy:
    """What a client of `serve_model` asks for: an adapter on the model that is served."""
    from ipr.policies import local

    models.check_model(folder)
    on = models.adapter(folder)
    if on is None or models.model_hash(on[0]) != models.model_hash(base):
        raise IprError(f"{folder} is no adapter on the model that is served ({base})")
    return local.load(folder, folder, config)


def _config(options: Namespace) -> RunConfig:
    given = {"env.name": options.env, "env.data": options.data, "env.shots": options.shots}
    return configs.load(None, [*(f"{k}={v}" for k, v in given.items() if v is not None), *options.overrides])


def _model_folder(model: str, config: RunConfig) -> str:
    """The folder or hub name of a model that can be played, the champion's where it is asked for."""
    path = _champion_folder(config, project_root()) if model == "champion" else configs.embedded(model, config.env.name)
    if path is None:
        raise IprError("there is no champion yet; train one: ipr run quick")
    models.check_model(path)
    return path


def deploy(config: RunConfig, preset: str, overrides: list[str], cron: str, name: str, runs: Path) -> None:
    """Serve scheduled retraining until stopped. Needs a Prefect server: schedules never fire without one."""
    if not os.environ.get("PREFECT_API_URL"):
        raise IprError(
            "schedules need a Prefect server; start one (.venv/bin/prefect server start) and set"
            " PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    check_servers(config, project_root())
    defaults(project_root())
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron)
    except ValueError:
        raise IprError(
            f"--cron '{cron}' is no schedule; five fields, e.g. '0 3 * * *' (every night at three)"
        ) from None
    from prefect import serve

    from flows.refine import evaluate_stages
    from flows.retrain import retrain

    parameters = {"preset": preset, "overrides": overrides, "runs": str(runs.resolve())}
    deployments: list[Any] = [
        retrain.to_deployment(name=name, cron=cron, tags=["ipr", "retrain"], parameters=parameters),
        evaluate_stages.to_deployment(name=name, tags=["ipr", "evaluate"]),
    ]
    serve(*deployments, limit=1)


def _base(run: Run, config: RunConfig, root: Path) -> str:
    """The model to start from, fixed when the run begins, so that a resumed run starts from the same."""
    if "base" in run.manifest:
        return run.manifest["base"]
    if config.model.path != "champion":
        return config.model.path
    folder = _champion_folder(config, root)
    if folder is None:
        raise IprError("model.path=champion, but there is no champion yet; train one first: ipr run quick")
    # A copy inside the run: the champion may move while this run is stopped.
    models.copy_model(folder, run.folder / "base" / "model")
    return str(run.folder / "base" / "model")


def _champion_folder(config: RunConfig, root: Path) -> str | None:
    defaults(root)
    from ipr.tracking import champion_info

    info = champion_info(config.track, root)
    return None if info is None else str(info["folder"])
