"""Train the next agent: L_outcome-DPO + L_step-DPO + L_SFT from the current agent, with the SFT agent as reference."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ipr import algorithms, models, store
from ipr.profiling import timed
from ipr.runs.progress import progress
from ipr.runs.run import Run, stage_name
from ipr.tokens import ChatTokens
from ipr.training.trainer import TrainResult, reference_logps, train_preference, train_sft
from ipr.types import Demonstration, PreferencePair, derive_seed
from tasks.common import SCORER, base_path, environment, log, stage_task, wait_for_all


@stage_task("train")
def train(run_dir: str, iteration: int) -> str:
    """Train `iteration-K/model` from the model of iteration K-1; returns its folder."""
    run = Run(run_dir)
    loss = algorithms.make(run.config.algorithm).loss

    def work() -> dict:
        if loss == "sft":
            rows = store.load(run.stage(iteration) / "demonstrations.parquet", Demonstration)
            return imitate(run, iteration, base_path(run), rows)
        return prefer(run, iteration, store.load(run.stage(iteration) / "pairs.parquet", PreferencePair))

    run.once(iteration, "train", work)
    return str(run.model(iteration))


def imitate(run: Run, iteration: int, start: str, rows: Sequence[Demonstration]) -> dict[str, Any]:
    """SFT from the model at `start` into the stage's model."""
    tokenizer = models.load_tokenizer(start, run.config.model.date)
    model = models.load_model(start, run.config.model, training=True)
    result = timed("training")(train_sft)(
        model,
        ChatTokens(tokenizer),
        rows,
        environment(run.config).prompt,
        run.config.sft,
        max_length=run.config.model.max_length,
        seed=derive_seed(run.config.seed, "sft", iteration),
        out=run.stage(iteration) / "checkpoint",
        progress=progress(f"{stage_name(iteration)} train", "updates"),
    )
    return _finish(run, iteration, model, tokenizer, result)


def prefer(run: Run, iteration: int, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """Preference training from the model of the iteration before into the stage's model."""
    start = run.model(iteration - 1)
    if not pairs:
        log.warning("iteration %d: no pairs, so the model of iteration %d goes on unchanged", iteration, iteration - 1)
        if run.keeper:
            store.replace_folder(run.model(iteration), lambda aside: shutil.copytree(start, aside, dirs_exist_ok=True))
        return {"updates": 0}
    config, prompt = run.config, environment(run.config).prompt
    tokenizer = models.load_tokenizer(str(start))
    chat = ChatTokens(tokenizer)
    reference = _reference(run, iteration, chat, pairs)
    model = models.load_model(str(start), config.model, training=True)
    result = timed("training")(train_preference)(
        model,
        chat,
        pairs,
        prompt,
        config.train,
        reference=reference,
        max_length=config.model.max_length,
        seed=derive_seed(config.seed, "train", iteration),
        out=run.stage(iteration) / "checkpoint",
        progress=progress(f"{stage_name(iteration)} train", "updates"),
    )
    return _finish(run, iteration, model, tokenizer, result)


def _reference(
    run: Run, iteration: int, chat: ChatTokens, pairs: Sequence[PreferencePair]
) -> tuple[list[float], list[float]]:
    """log pi_ref of every pair's chosen and rejected remainder, computed once and kept beside the pairs."""
    path = run.stage(iteration) / "reference.json"
    if not path.exists():
        # Loaded and run as the policy will be, so that training starts at margin 0.
        model = models.load_model(str(run.model(SCORER)), run.config.model, training=True)
        chosen, rejected = timed("training")(reference_logps)(
            model,
            chat,
            pairs,
            environment(run.config).prompt,
            run.config.train,
            max_length=run.config.model.max_length,
        )
        wait_for_all(run)
        if run.keeper:
            store.write_json(path, {"chosen": [float(x) for x in chosen], "rejected": [float(x) for x in rejected]})
        wait_for_all(run)
    logps = store.read_json(path)
    return logps["chosen"], logps["rejected"]


def _finish(run: Run, iteration: int, model: Any, tokenizer: Any, result: TrainResult) -> dict[str, Any]:
    if run.keeper:
        models.save_model(model, tokenizer, run.model(iteration))
        shutil.rmtree(Path(run.stage(iteration) / "checkpoint"), ignore_errors=True)
    wait_for_all(run)
    return result.facts() | {"history": result.history}
