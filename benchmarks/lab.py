"""A laboratory for refinement: one stage at a time, from inputs stored under runs/lab, on generated ALFWorld games.

    python benchmarks/lab.py sft NAME [--experts 400 --epochs 3 --seed 0]      the SFT agent
    python benchmarks/lab.py sft NAME --start AGENT --epochs 6                 SFT+: the same experts, more updates
    python benchmarks/lab.py sample NAME --agent A [--problems 1000:2500 --temperature 0.7 --draws 3]
    python benchmarks/lab.py train NAME --start AGENT --data S1,S2             experts and own successes, imitated
    python benchmarks/lab.py evaluate NAME [--against SFT --dev]               600 test games, greedy and at T = 1
    python benchmarks/lab.py average NAME --of A,B [--shares 0.5,0.5]          weights between those of agents

What each does is the project's own trainer, rollouts and statistics. A row of settings and figures is appended to
runs/lab/rows.jsonl by every training, sampling and evaluation. A seed has problems of its own: the first are those with
experts, the others are played without one. The train split is made larger than it is elsewhere.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ipr import config, evaluate, models, policies, rollout, store
from ipr.algorithms.best import Best
from ipr.algorithms.rft import demonstration
from ipr.envs import alfworld
from ipr.envs.alfworld import games
from ipr.tokens import ChatTokens
from ipr.training import trainer
from ipr.types import Demonstration, Job, Prefix, Sampling, Trajectory, derive_seed

LAB = Path("runs/lab")
QUICK = config.load("flows/configs/quick.yaml")
EACH_SEED = 20_000
"""Problems that a seed has for itself."""
games.SIZES["train"] = 10 * EACH_SEED
SPEC = alfworld.spec()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--agent", default="")
    parser.add_argument("--problems", default="1000:2500")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--draws", type=int, default=3, help="of a problem at most, until one succeeds")
    parser.add_argument("--of", default="", help="average: agents")
    parser.add_argument("--shares", default="")
    parser.add_argument("--start", default="embedded", help="base or agent that is trained on")
    parser.add_argument("--experts", type=int, default=400)
    parser.add_argument("--data", default="", help="sampled episodes whose successes are imitated")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--against", default="")
    parser.add_argument("--dev", action="store_true", help="300 dev games instead")
    args = parser.parse_args()
    LAB.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    facts = STAGES[args.stage](args)
    given = {k: v for k, v in vars(args).items() if v != parser.get_default(k)}
    row = given | facts | {"seconds": round(time.monotonic() - start)}
    with open(LAB / "rows.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def agent(name: str) -> str:
    return name if name.startswith("embedded") else str(LAB / name)


def problems(seed: int, first: int, last: int) -> list[str]:
    return [f"train/{seed * EACH_SEED + k:06d}" for k in range(first, last)]


def experts(args: argparse.Namespace) -> list[Trajectory]:
    return [SPEC.expert(task_id) for task_id in problems(args.seed, 0, args.experts)]


# Training ------------------------------------------------------------------------------------------------------------


def sft(args: argparse.Namespace) -> dict[str, Any]:
    return fit(args, [demonstration(expert) for expert in experts(args)])


def train(args: argparse.Namespace) -> dict[str, Any]:
    own = [t for name in args.data.split(",") for t in store.load(LAB / f"{name}.parquet", Trajectory)]
    short = [rollout.shortened(SPEC, t) if t.reward >= 1 else t for t in own]
    rows = Best(success=1.0).examples(experts(args), short, {}).demonstrations
    return {"own": len(rows) - args.experts} | fit(args, rows)


def fit(args: argparse.Namespace, rows: Sequence[Demonstration]) -> dict[str, Any]:
    path, out = agent(args.start), LAB / f"{args.name}.checkpoint"
    given = {"epochs": args.epochs, "batch_size": args.batch, "learning_rate": args.rate}
    tokenizer = models.load_tokenizer(path)
    model = models.load_model(path, QUICK.model, training=True)
    result = trainer.train(
        model,
        ChatTokens(tokenizer),
        rows,
        SPEC.told,
        "sft",
        QUICK.sft.model_copy(update=given),
        max_length=QUICK.model.max_length,
        seed=derive_seed(args.seed, "lab"),
        out=out,
    )
    models.save_model(model, tokenizer, LAB / args.name)
    shutil.rmtree(out, ignore_errors=True)
    return {"updates": result.updates, "examples": result.examples} | {k: round(v, 4) for k, v in result.final.items()}


def average(args: argparse.Namespace) -> dict[str, Any]:
    names = args.of.split(",")
    shares = [float(s) for s in args.shares.split(",")] if args.shares else [1 / len(names)] * len(names)
    loaded = [models.load_model(agent(name), QUICK.model).state_dict() for name in names]
    model = models.load_model(agent(names[0]), QUICK.model)
    model.load_state_dict({k: sum(s * w[k] for s, w in zip(shares, loaded, strict=True)) for k in loaded[0]})
    models.save_model(model, models.load_tokenizer(agent(names[0])), LAB / args.name)
    return {}


# Playing -------------------------------------------------------------------------------------------------------------


def played(name: str, jobs: Sequence[Job], temperature: float, more: Any = None) -> list[Trajectory]:
    policy = policies.load(agent(name), name, QUICK)
    sampling = Sampling(temperature, QUICK.rollout.max_new_tokens)
    return rollout.play(SPEC, policy, jobs, sampling, slots=QUICK.rollout.slots, more=more)


def sample(args: argparse.Namespace) -> dict[str, Any]:
    ids = problems(args.seed, *map(int, args.problems.split(":")))
    jobs = [Job(Prefix(task_id), derive_seed(args.seed, args.name, task_id)) for task_id in ids]
    found = played(args.agent, jobs, args.temperature, rollout.UntilSolved(args.draws, 1.0))
    store.save(LAB / f"{args.name}.parquet", found, Trajectory)
    return {
        "episodes": len(found),
        "success": round(fmean(t.reward for t in found), 4),
        "solved": len({t.task_id for t in found if t.reward >= 1}),
        "of_problems": len(ids),
    }


def assess(args: argparse.Namespace) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    test = [i for split in ("seen", "unseen") for i in evaluate.games(SPEC.task_ids(split), split, 300)]
    sets = [("greedy", test, 0.0), ("T=1", test, 1.0)]
    if args.dev:
        sets = [("dev", evaluate.games(SPEC.task_ids("dev"), "dev", 300), 0.0)]
    for label, ids, temperature in sets:
        found = played(args.name, [Job(Prefix(i), derive_seed("lab", i)) for i in ids], temperature)
        store.save(LAB / "eval" / f"{args.name}-{label}.parquet", found, Trajectory)
        facts[label] = round(100 * fmean(t.reward for t in found), 1)
        facts[f"{label} invalid"] = round(sum(t.invalid for t in found) / sum(len(t.steps) for t in found), 3)
        facts[f"{label} steps"] = round(fmean(len(t.steps) for t in found), 1)
        for other in filter(None, args.against.split(",")):
            of_other = store.load(LAB / "eval" / f"{other}-{label}.parquet", Trajectory)
            gap = evaluate.compare(of_other, found)
            low, high = gap["interval"]
            facts[f"{label} - {other}"] = f"{100 * gap['difference']:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        print(facts, flush=True)
    return facts


STAGES = {"sft": sft, "sample": sample, "train": train, "evaluate": assess, "average": average}

if __name__ == "__main__":
    main()
