"""Supervised fine-tuning on the expert trajectories: the first agent, the reference and the scorer."""

from __future__ import annotations

from ipr import models
from ipr.algorithms import Training
from ipr.algorithms.rft import demonstration
from ipr.runs.run import Run
from tasks.common import experts, stage_task, wait_for_all
from tasks.train import fit

TRAINING = Training(loss="sft", start="base", section="sft")


@stage_task("sft")
def sft(run_dir: str, iteration: int = 0) -> str:
    """Train `sft/model` from the base model; returns its folder. With `sft.epochs=0` the base is the SFT agent."""
    run = Run(run_dir)

    def work() -> dict:
        base = run.base
        if run.config.sft.epochs == 0:
            if run.keeper:
                config = run.config.model
                model = models.load_model(base, config, training=config.lora.rank > 0)  # a new adapter changes nothing
                models.save_model(model, models.load_tokenizer(base, config.date), run.model(0))
                models.share_weights(run.model(0), models.resolve(base))
            wait_for_all(run)
            return {"updates": 0}
        return fit(run, iteration, TRAINING, [demonstration(expert) for expert in experts(run)])

    run.once(iteration, "train", work)
    run.note(scorer=models.model_hash(run.model(0)))
    return str(run.model(0))
