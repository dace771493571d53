"""The paper's algorithm as flows: SFT, then per iteration explore, step rewards, pairs, train, evaluate.

One can read the method here. What a stage does is in `tasks/`, how it is done in `ipr`. Every task is skipped when the
run folder already holds its result, so starting a flow again continues it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.killed import note_process
from ipr.runs.run import Run
from ipr.tracking import live
from tasks.champion import champion
from tasks.evaluate import evaluate
from tasks.experts import experts
from tasks.explore import explore
from tasks.pairs import pairs
from tasks.publish import ensure_data, publish
from tasks.report import begin, report
from tasks.reward import reward
from tasks.sft import sft
from tasks.train import train


def _of_run(stage: str) -> Callable[[], str]:
    """Names a flow run after its run and stage, so that Prefect's pages tell the runs' stages apart."""

    def name() -> str:
        given = flow_run.parameters
        return f"{Path(given['run_dir']).name}-{stage.format(**given)}"

    return name


@flow(name="sft", flow_run_name=_of_run("sft"), validate_parameters=False)
def supervised(run_dir: str) -> None:
    """pi_ref: the base model fine-tuned on expert trajectories. Base and SFT agent are evaluated."""
    experts(run_dir, ensure_data(run_dir))
    evaluate(run_dir, -1)
    sft(run_dir)
    evaluate(run_dir, 0)
    publish(run_dir, 0)
    report(run_dir, 0)


@flow(name="iteration", flow_run_name=_of_run("iteration-{iteration}"), validate_parameters=False)
def iterate(run_dir: str, iteration: int) -> None:
    """One iteration of IPR, from the agent of the iteration before."""
    explore(run_dir, iteration)
    reward(run_dir, iteration)
    pairs(run_dir, iteration)
    train(run_dir, iteration)
    evaluate(run_dir, iteration)
    publish(run_dir, iteration)
    report(run_dir, iteration)


@flow(name="refine", flow_run_name="refine-{name}", validate_parameters=False)
def refine(run_dir: str, iterations: int, name: str) -> State[None]:
    """The whole job: SFT, the iterations, and the choice of the champion on the dev split, which the state tells."""
    note_process()
    with live.system_metrics(begin(Run(run_dir))):
        supervised(run_dir)
        for iteration in range(1, iterations + 1):
            iterate(run_dir, iteration)
        return Completed(message=champion(run_dir, iterations))


@flow(name="evaluate", flow_run_name=_of_run("evaluate"), validate_parameters=False)
def evaluate_stages(run_dir: str, stages: list[int]) -> None:
    """Evaluate stages of a run (-1 base, 0 SFT, K iteration K) that are not evaluated yet, whatever their turn was."""
    run = Run(run_dir)
    with run.lock():
        run.identify()
        for stage in stages:
            evaluate(run_dir, stage)
