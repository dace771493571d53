"""Train the next agent, in the way that the method says: with its loss, from its start, on its rows."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from ipr import algorithms, models, store
from ipr.algorithms import Training
from ipr.config import PreferenceConfig
from ipr.data.experts import environment
from ipr.profiling import timed
from ipr.runs.progress import progress
from ipr.runs.project import project_root
from ipr.runs.run import Run, stage_name
from ipr.tokens import ChatTokens
from ipr.tracking import Tracker, live
from ipr.training import losses, trainer
from ipr.types import Demonstration, PreferencePair, derive_seed
from tasks.common import SCORER, log, stage_task, wait_for_all

ROWS = {"pairs": PreferencePair, "demonstrations": Demonstration}


@stage_task("train")
def train(run_dir: str, iteration: int) -> str:
    """Train `iteration-K/model` from the rows that `pairs` wrote; returns its folder."""
    run = Run(run_dir)

    def work() -> dict:
        how = algorithms.make(run.config.algorithm).training
        kind = losses.get(how.loss).on
        if rows := store.load(run.stage(iteration) / f"{kind}.parquet", ROWS[kind]):
            return fit(run, iteration, how, rows)
        last, before = iteration - 1, run.model(iteration - 1)
        log.warning("iteration %d: no %s, so the model of iteration %d goes on unchanged", iteration, kind, last)
        if run.keeper:
            store.replace_folder(run.model(iteration), lambda aside: models.copy_files(before, aside))
        return {"updates": 0}

    run.once(iteration, "train", work)
    return str(run.model(iteration))


def fit(
    run: Run, iteration: int, how: Training, rows: Sequence[Demonstration] | Sequence[PreferencePair]
) -> dict[str, Any]:
    """Train the stage's model on the rows; returns figures and the history."""
    config, spec = getattr(run.config, how.section), environment(run.config.env)
    start = run.base if how.start == "base" else str(run.model(iteration - 1))
    tokenizer = models.load_tokenizer(start, run.config.model.date)
    chat = ChatTokens(tokenizer)
    fix = models.smaller_passes(how.section)
    with models.enough_memory(fix):
        reference = _reference(run, iteration, chat, rows, config) if losses.get(how.loss).reference else None
    models.free_gpu()
    model = models.load_model(start, run.config.model, training=True)
    tracker = Tracker(run.folder, run.config.track, project_root())
    shown = live.curve(tracker, "train", iteration) if run.keeper else nullcontext()
    with models.enough_memory(fix), shown as log_update:
        result = timed("training")(trainer.train)(
            model,
            chat,
            rows,
            spec.told,
            how.loss,
            config,
            reference=reference,
            max_length=run.config.model.max_length,
            seed=derive_seed(run.config.seed, how.section, iteration),
            out=run.stage(iteration) / "checkpoint",
            start=models.model_hash(start),
            share=1 / (iteration + 1) if isinstance(config, PreferenceConfig) and config.average else 1.0,
            log=log_update,
            progress=progress(f"{stage_name(iteration)} train", "updates"),
        )
    models.save_model(model, tokenizer, run.model(iteration))
    if run.keeper:
        shutil.rmtree(run.stage(iteration) / "checkpoint", ignore_errors=True)
    wait_for_all(run)
    return result.facts() | {"history": result.history}


def _reference(
    run: Run, iteration: int, chat: ChatTokens, pairs: Sequence[Any], config: Any
) -> tuple[list[float], list[float]]:
    """log pi_ref of every pair's chosen and rejected remainder, computed once and kept beside the pairs."""
    path = run.stage(iteration) / "reference.json"
    if not path.exists():
        # Loaded and run as the policy will be, so that training starts at margin 0.
        model = models.load_model(str(run.model(SCORER)), run.config.model, training=True)
        chosen, rejected = timed("training")(trainer.reference_logps)(
            model,
            chat,
            pairs,
            environment(run.config.env).told,
            config,
            max_length=run.config.model.max_length,
        )
        wait_for_all(run)
        if run.keeper:
            store.write_json(path, {"chosen": [float(x) for x in chosen], "rejected": [float(x) for x in rejected]})
        wait_for_all(run)
    logps = store.read_json(path)
    return logps["chosen"], logps["rejected"]
