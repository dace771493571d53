"""A laboratory for refinement: one stage at a time, from inputs stored under runs/lab-PRESET, on generated problems.

    python benchmarks/lab.py sft NAME [--experts 400 --epochs 3 --seed 0]      the SFT agent
    python benchmarks/lab.py sft NAME --start AGENT --epochs 6                 SFT+: the same experts, more updates
    python benchmarks/lab.py sample NAME --agent A [--problems 1000:2500 --temperature 0.7 --draws 3]
    python benchmarks/lab.py train NAME --start AGENT --data S1,S2             experts and own successes, imitated
    python benchmarks/lab.py train NAME --start AGENT --data S1 --experts 0    own successes alone
    python benchmarks/lab.py evaluate NAME [--against SFT --dev]               600 test games, greedy and at T = 1
    python benchmarks/lab.py average NAME --of A,B [--shares 0.5,0.5]          weights between those of agents

`--preset sql` does the same on another environment (the default is `quick`, ALFWorld), `--set KEY=VALUE ...` changes
the preset. What each does is the project's own trainer, rollouts and statistics. A row of settings and figures is
appended to rows.jsonl there by every training, sampling and evaluation. A seed has problems of its own: the first are
those with experts, the others are played without one. The train split is made larger than it is elsewhere.
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

from ipr import config, envs, evaluate, models, policies, rollout, store
from ipr.algorithms.best import Best
from ipr.algorithms.rft import demonstration
from ipr.envs.alfworld import games
from ipr.envs.sql import questions
from ipr.envs.webshop import generate
from ipr.tokens import ChatTokens
from ipr.training import trainer
from ipr.types import Demonstration, Job, Prefix, Sampling, Trajectory, derive_seed

EACH_SEED = 20_000
"""Problems that a seed has for itself."""
for sizes in (games.SIZES, questions.SIZES, generate.SIZES):
    sizes["train"] = 10 * EACH_SEED


class Lab:
    """What the stages have in common: the preset's config and environment, and the folder of what they made."""

    def __init__(self, preset: str, overrides: Sequence[str]):
        self.folder = Path(f"runs/lab-{preset}")
        self.config = config.load(preset, overrides, Path("flows/configs"))
        self.spec = envs.get(self.config.env.name)

    def agent(self, name: str) -> str:
        return config.embedded(name, self.config.env.name) if name == "embedded" else str(self.folder / name)

    def problems(self, seed: int, ranges: str) -> list[str]:
        """The task ids of "0:400,5000:5400"."""
        bounds = (map(int, part.split(":")) for part in ranges.split(","))
        return [f"train/{seed * EACH_SEED + k:06d}" for first, last in bounds for k in range(first, last)]

    def experts(self, args: argparse.Namespace) -> list[Trajectory]:
        return [self.spec.expert(task_id) for task_id in self.problems(args.seed, f"0:{args.experts}")]

    def played(self, name: str, jobs: Sequence[Job], temperature: float, more: Any = None) -> list[Trajectory]:
        policy = policies.load(self.agent(name), name, self.config)
        sampling = Sampling(temperature, self.config.rollout.max_new_tokens)
        return rollout.play(self.spec, policy, jobs, sampling, slots=self.config.rollout.slots, more=more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("name")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the preset")
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
    lab = Lab(args.preset, args.set)
    lab.folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    facts = STAGES[args.stage](lab, args)
    given = {k: v for k, v in vars(args).items() if v != parser.get_default(k)}
    row = given | facts | {"seconds": round(time.monotonic() - start)}
    with open(lab.folder / "rows.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


# Training ------------------------------------------------------------------------------------------------------------


def sft(lab: Lab, args: argparse.Namespace) -> dict[str, Any]:
    return fit(lab, args, [demonstration(expert) for expert in lab.experts(args)])


def train(lab: Lab, args: argparse.Namespace) -> dict[str, Any]:
    own = [t for name in args.data.split(",") for t in store.load(lab.folder / f"{name}.parquet", Trajectory)]
    short = [rollout.shortened(lab.spec, t) if t.reward >= 1 else t for t in own]
    rows = Best(success=1.0).examples(lab.experts(args), short, {}).demonstrations
    return {"own": len(rows) - args.experts} | fit(lab, args, rows)


def fit(lab: Lab, args: argparse.Namespace, rows: Sequence[Demonstration]) -> dict[str, Any]:
    path, out = lab.agent(args.start), lab.folder / f"{args.name}.checkpoint"
    given = {"epochs": args.epochs, "batch_size": args.batch, "learning_rate": args.rate}
    tokenizer = models.load_tokenizer(path)
    model = models.load_model(path, lab.config.model, training=True)
    result = trainer.train(
        model,
        ChatTokens(tokenizer),
        rows,
        lab.spec.told,
        "sft",
        lab.config.sft.model_copy(update=given),
        max_length=lab.config.model.max_length,
        seed=derive_seed(args.seed, "lab"),
        out=out,
    )
    models.save_model(model, tokenizer, lab.folder / args.name)
    shutil.rmtree(out, ignore_errors=True)
    return {"updates": result.updates, "examples": result.examples} | {k: round(v, 4) for k, v in result.final.items()}


def average(lab: Lab, args: argparse.Namespace) -> dict[str, Any]:
    names = args.of.split(",")
    shares = [float(s) for s in args.shares.split(",")] if args.shares else [1 / len(names)] * len(names)
    loaded = [models.load_model(lab.agent(name), lab.config.model).state_dict() for name in names]
    model = models.load_model(lab.agent(names[0]), lab.config.model)
    model.load_state_dict({k: sum(s * w[k] for s, w in zip(shares, loaded, strict=True)) for k in loaded[0]})
    models.save_model(model, models.load_tokenizer(lab.agent(names[0])), lab.folder / args.name)
    return {}


# Playing -------------------------------------------------------------------------------------------------------------


def sample(lab: Lab, args: argparse.Namespace) -> dict[str, Any]:
    ids = lab.problems(args.seed, args.problems)
    jobs = [Job(Prefix(task_id), derive_seed(args.seed, args.name, task_id)) for task_id in ids]
    more = rollout.UntilSolved(args.draws, 1.0) if args.draws > 1 else None
    found = lab.played(args.agent, jobs, args.temperature, more)
    store.save(lab.folder / f"{args.name}.parquet", found, Trajectory)
    return {
        "episodes": len(found),
        "success": round(fmean(t.reward for t in found), 4),
        "solved": len({t.task_id for t in found if t.reward >= 1}),
        "of_problems": len(ids),
    }


def assess(lab: Lab, args: argparse.Namespace) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    test = [i for split in ("seen", "unseen") for i in evaluate.games(lab.spec.task_ids(split), split, 300)]
    sets = [("greedy", test, 0.0), ("T=1", test, 1.0)]
    if args.dev:
        sets = [("dev", evaluate.games(lab.spec.task_ids("dev"), "dev", 300), 0.0)]
    for label, ids, temperature in sets:
        found = lab.played(args.name, [Job(Prefix(i), derive_seed("lab", i)) for i in ids], temperature)
        store.save(lab.folder / "eval" / f"{args.name}-{label}.parquet", found, Trajectory)
        facts[label] = round(100 * fmean(t.reward for t in found), 1)
        facts[f"{label} invalid"] = round(sum(t.invalid for t in found) / sum(len(t.steps) for t in found), 3)
        facts[f"{label} steps"] = round(fmean(len(t.steps) for t in found), 1)
        for other in filter(None, args.against.split(",")):
            of_other = store.load(lab.folder / "eval" / f"{other}-{label}.parquet", Trajectory)
            gap = evaluate.compare(of_other, found)
            low, high = gap["interval"]
            facts[f"{label} - {other}"] = f"{100 * gap['difference']:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        print(facts, flush=True)
    return facts


STAGES = {"sft": sft, "sample": sample, "train": train, "evaluate": assess, "average": average}

if __name__ == "__main__":
    main()
