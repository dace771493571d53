"""Episodes in MLflow: a drawn sample as traces with their rewards as assessments, and all games as an evaluation set.

Decided here: what is sent lies in a file of the run first, so that it can be sent again without the environment. Ids
follow from the run and the episode, so that sending twice changes nothing; MLflow's public functions draw ids, which is
why a trace is made of its parts here (pinned: mlflow 3.17). Of an evaluation the same games are drawn in every stage,
and an episode's session is its problem, so that MLflow's pages put stages side by side.
Left out: the times of the steps, which are not recorded. A step is drawn as a millisecond.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipr import store
from ipr.runs.episodes import Episode, Episodes, Scored
from ipr.tracking.client import Refused
from ipr.types import Trajectory, derive_seed

ENDINGS = {"terminated": "by the environment", "truncated": "step limit", "overflow": "context was full"}


def write_sample(episodes: Episodes, stage: str, most: int, path: Path) -> Path:
    """`most` of a stage's episodes, as JSON: half of them explored ones that were scored, half evaluated ones.

    Drawn with the run's seed; where there are too few of a half, others take their place.
    """
    seed = episodes.run.config.seed
    mine = [e for e in episodes.all if e.stage == stage]

    def order(episode: Episode) -> tuple[int, int]:
        played = episode.trajectory
        return derive_seed(seed, "traces", episode.split, played.task_id, played.start), played.seed

    scored = episodes.scored
    explored = sorted((e for e in mine if e.kind == "explored"), key=order)
    explored.sort(key=lambda e: not any(state in scored for state in e.states[e.trajectory.start :]))
    evaluated = sorted((e for e in mine if e.kind == "evaluated"), key=order)
    few = max(min(most // 2, len(explored)), most - len(evaluated))
    drawn = [*explored[:few], *evaluated[: most - min(few, len(explored))]]
    return store.write_json(path, [_told(e, episodes) for e in drawn])


def _told(episode: Episode, episodes: Episodes) -> dict[str, Any]:
    """An episode with its step rewards, as plain values."""
    played, solved = episode.trajectory, episodes.run.config.algorithm.success
    scored = [_of_stage(episodes.scored.get(state, ()), episode.stage) for state in episode.states]
    return {
        "stage": episode.stage,
        "kind": episode.kind,
        "split": episode.split,
        "task_id": played.task_id,
        "task_type": episodes.types.get(played.task_id, ""),
        "policy": played.policy,
        "reward": played.reward,
        "solved": played.reward >= solved,
        "ending": played.ending,
        "start": played.start,
        "seed": played.seed,
        "invalid": played.invalid,
        "first_observation": played.first_observation,
        "steps": [
            {"action": s.action, "observation": s.observation}
            | ({"mean": r.mean, "n": r.n, "samples": r.samples, "source": r.source} if r else {})
            for s, r in zip(played.steps, (one and one.reward for one in scored), strict=True)
        ],
        "pairs": [{"level": p.level, "margin": p.margin, "winner": p.winner} for p in episode.pairs],
    }


def _of_stage(scored: Sequence[Scored], stage: str) -> Scored | None:
    """The step reward that the stage itself estimated, else the last one there is."""
    return next((one for one in scored if one.stage == stage), scored[-1] if scored else None)


def send_sample(uri: str, experiment: str, run: str, key: str, path: Path, time: int) -> None:
    """A trace for each episode of a file that `write_sample` wrote, linked to the MLflow run. `time` in ms."""
    from mlflow.tracing.client import TracingClient

    if not path.is_file():
        raise Refused(f"{path} is gone")
    client = TracingClient(uri)
    spans: list[Any] = []
    for episode in store.read_json(path):
        info, mine = _trace(experiment, run, key, episode, time)
        client.start_trace(info)
        spans += mine
    if spans:
        client.log_spans(experiment, spans)


def _trace(experiment: str, run: str, key: str, told: Mapping[str, Any], time: int) -> tuple[Any, list[Any]]:
    from mlflow.entities import (
        AssessmentSource,
        Feedback,
        TraceInfo,
        TraceLocation,
        TraceState,
    )

    place = "/".join(str(told[name]) for name in ("stage", "kind", "split", "task_id", "start", "seed"))
    digest = hashlib.sha256(f"{key}/{place}".encode()).hexdigest()
    trace_id = f"tr-{digest[:32]}"
    name = f"{told['stage']} {told['kind']}"
    word = "solved" if told["solved"] else "in part" if told["reward"] > 0 else "failed"
    outcome = {"reward": told["reward"], "outcome": word, "ending": ENDINGS[told["ending"]]}
    facts = {k: str(told[k]) for k in ("stage", "kind", "split", "task_id", "task_type", "policy", "ending")}
    spans = [
        _span(trace_id, digest, -1, name, "AGENT", time, time + len(told["steps"]))
        | {"inputs": {"problem": told["first_observation"]}, "outputs": outcome, "more": facts}
    ]
    found: list[tuple[str, Any, int | None, str]] = [
        ("outcome_reward", told["reward"], None, "environment"),
        ("solved", told["solved"], None, "environment"),
        ("invalid_actions", told["invalid"], None, "environment"),
    ]
    if told["pairs"]:
        widest = max(told["pairs"], key=lambda p: p["margin"])
        said = "; ".join(f"{p['level']} pair, margin {p['margin']:.2f}, {p['winner']} chosen" for p in told["pairs"])
        found.append(("pair_margin", widest["margin"], None, said))
    scored = []
    for t, step in enumerate(told["steps"]):
        given = " (given)" if t < told["start"] else ""
        spans.append(
            _span(trace_id, digest, t, f"step {t + 1}{given}", "TOOL", time + t, time + t + 1)
            | {"inputs": {"action": step["action"]}, "outputs": {"observation": step["observation"]}}
            | {"more": {"given": str(bool(given))}}
        )
        if "mean" in step:
            samples = ", ".join(f"{x:g}" for x in step["samples"])
            said = f"n = {step['n']}, {step['source']}" + (f": {samples}" if samples else "")
            found.append(("step_reward", step["mean"], t, said))
            scored += [step["mean"]] if t >= told["start"] else []
    if scored:
        said = f"of {len(scored)} actions of the agent"
        found.append(("mean_step_reward", sum(scored) / len(scored), None, said))
    assessments = []
    for what, value, t, said in found:
        one = Feedback(
            name=what,
            value=value,
            source=AssessmentSource("CODE", "ipr"),
            trace_id=trace_id,
            span_id=None if t is None else _span_id(digest, t),
            rationale=said,
            create_time_ms=time,
            last_update_time_ms=time,
        )
        one.assessment_id = "a-" + hashlib.sha256(f"{trace_id}/{what}/{t}".encode()).hexdigest()[:32]
        assessments.append(one)
    info = TraceInfo(
        trace_id=trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment),
        request_time=time,
        execution_duration=len(told["steps"]),
        state=TraceState.OK,
        request_preview=told["first_observation"].rsplit("\n", 1)[-1][:200],
        response_preview=f"{word} {told['reward']:.2f}, {outcome['ending']}",
        trace_metadata={"mlflow.sourceRun": run, "mlflow.trace.session": told["task_id"]},
        tags={f"ipr.{k}": v for k, v in facts.items()} | {"mlflow.traceName": name},
        assessments=assessments,
    )
    return info, [_entity(span) for span in spans]


def _span_id(digest: str, t: int) -> str:
    return hashlib.sha256(f"{digest}/{t}".encode()).hexdigest()[:16]


def _span(trace_id: str, digest: str, t: int, name: str, kind: str, start: int, end: int) -> dict[str, Any]:
    """A span without what it holds; t -1 is the episode, which the steps belong to."""
    return {
        "trace": trace_id,
        "id": _span_id(digest, t),
        "parent": None if t < 0 else _span_id(digest, -1),
        "name": name,
        "kind": kind,
        "times": (start, end),
    }


def _entity(span: Mapping[str, Any]) -> Any:
    from mlflow.entities import Span

    attributes = {
        "mlflow.traceRequestId": span["trace"],
        "mlflow.spanType": span["kind"],
        "mlflow.spanInputs": span["inputs"],
        "mlflow.spanOutputs": span["outputs"],
    } | span["more"]
    return Span.from_dict(
        {
            "trace_id": span["trace"],
            "span_id": span["id"],
            "parent_span_id": span["parent"],
            "name": span["name"],
            "start_time_unix_nano": span["times"][0] * 1_000_000,
            "end_time_unix_nano": span["times"][1] * 1_000_000,
            "status": {"code": "STATUS_CODE_OK", "message": ""},
            "attributes": {k: json.dumps(v) for k, v in attributes.items()},
        }
    )


def send_games(
    client: Any, experiment: str, run: str, name: str, key: str, data: Mapping[str, Any], folder: Path
) -> None:
    """All games of a stage's evaluation as records of the run's evaluation data set, a record a game and stage.

    `data`: "stage", "success", and "splits" (name -> file in `folder`). The data set is found by its tag.
    """
    missing = [file for file in data["splits"].values() if not (folder / file).is_file()]
    if missing:
        raise Refused(f"{folder / missing[0]} is gone")
    try:  # MLflow finds no data set by a tag with a dot
        known = client.search_datasets(experiment_ids=[experiment], filter_string=f"tags.ipr_run_key = '{key}'")
        tags = {"ipr_run_key": key, "ipr_run": name, "mlflow_run": run}
        games = known[0] if known else client.create_dataset(f"{name} games", [experiment], tags)
    except NotImplementedError as error:  # a store without a database
        raise Refused("this MLflow store keeps no evaluation data sets; use a database") from error
    games.merge_records(
        [
            {
                "inputs": {"stage": data["stage"], "split": split, "game": t.task_id},
                "outputs": {
                    "reward": t.reward,
                    "solved": t.reward >= data["success"],
                    "ending": t.ending,
                    "steps": len(t.steps),
                    "invalid": t.invalid,
                },
                "expectations": {"solved": True},
                "source": {"source_type": "CODE", "source_data": {"file": file}},
            }
            for split, file in data["splits"].items()
            for t in store.load(folder / file, Trajectory)
        ]
    )
