"""The command `ipr`. Each command is a function here; what takes time to import is imported inside it.

Bad input ends with one line on standard error and exit code 2; `--json` prints one JSON value as the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ipr.runs import ITERATION
from ipr.types import IprError

SHOWN = 10
"""Problems that are printed; `--json` has all."""
REGISTERED_MODEL = "where the agent has a name of its own (track.registered_model)"
STAGE_TASKS = ("experts", "sft", *ITERATION, "report")


def main(arguments: Sequence[str] | None = None) -> int:
    # Threads that wait for each other sleep: where other processes want the cores, two that spin take ten times as long
    # (docs/lab-notes.md). Read when torch is imported; worker processes inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse takes no positional arguments after an option, and `ipr run quick --dir DIR key=value` is what one types.
    if rest and "overrides" in options and all("=" in r and not r.startswith("-") for r in rest):
        options.overrides += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        _launched(options)
        result = options.command(options)
    except IprError as error:
        print(f"ipr: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ipr: stopped; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    if result is not None and options.json:
        print(json.dumps(result, default=str))
    return options.status


# Running -------------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> Any:
    """Run or resume a preset or YAML file."""
    from ipr.config import keys, load

    if options.help_config:
        for key, text in keys().items():
            print(f"{key}\n    {text}")
        return None
    config = load(options.preset, options.overrides, _presets())
    if options.dry_run:
        from ipr.apps import start

        plan = start.dry_run(config)
        if options.seeds:
            plan["seeds"] = f"{options.seeds}, each of which costs that"
        if not options.json:
            _print_plan(plan)
        return plan
    from flows import launch

    preset = Path(options.preset).stem
    if options.seeds is not None:
        from ipr.runs import seeds

        folder = options.dir or Path("runs") / f"{preset}-seeds"
        summary = launch.run_seeds(folder, config, preset, options.seeds, options.profile)
        show = seeds.table
    else:
        from ipr.runs import report

        summary = launch.run(options.dir or Path("runs") / preset, config, preset, options.profile)
        show = report.table
    if not options.json:
        print(show(summary))
        for what, command in summary["links"].items():
            print(f"{what}: {command}")
    return summary


def stage(options: argparse.Namespace) -> Any:
    """Run one stage of a run, without Prefect's server."""
    from flows import launch

    if getattr(options, "quality", None):
        return quality(options)
    if options.dir is None:
        raise IprError(f"say which run: ipr {options.task} --dir RUN")
    record = launch.one_task(options.dir, options.task, options.iteration, *_config(options))
    if os.environ.get("RANK", "0") != "0":  # the first of the processes tells
        return None
    if not options.json:
        if options.task == "report":
            from ipr.runs import report

            print(report.table(record))
        else:
            _print(record)
    return record


def quality(options: argparse.Namespace) -> Any:
    """How well a run's step rewards order pairs, against the environment's oracle."""
    import tasks.quality
    from ipr.credit.quality import table
    from ipr.runs.run import Run

    run = Run(options.quality)
    with run.lock():
        run.identify()
        found = tasks.quality.quality(run, options.samples, options.tau, options.scorer)
    if not options.json:
        print(table(found["rows"]))
        print(f"\nplot: {found['plot']}" + (f"\nnote: {found['note']}" if found["note"] else ""))
    return found


OF_A_MODEL = {"model": None, "endpoint": None, "shots": None, "env": "alfworld", "data": None}
OF_A_MODEL |= {"split": "unseen", "games": 200, "out": None, "overrides": []}
"""Options of `ipr eval --model` and what they are where they are not given."""


def evaluate(options: argparse.Namespace) -> Any:
    """Evaluate a stage of a run (--dir), or any model, local or hosted (--endpoint), on any environment (--model)."""
    given = [name for name in OF_A_MODEL if getattr(options, name) not in (None, [])]
    if options.dir and given:
        names = ", ".join("KEY=VALUE" if name == "overrides" else f"--{name}" for name in given)
        raise IprError(f"{names}: not with --dir, as a run's own config says what is played and how")
    if options.best_of is not None:
        return best_of(options)
    if options.model:
        from ipr.apps import prompted

        for name, default in OF_A_MODEL.items():
            if getattr(options, name) is None:
                setattr(options, name, default)
        figures = prompted.run(options)
        if not options.json:
            print(prompted.table(options.model, figures))
        return figures
    if options.dir:
        from flows import launch

        figures = launch.one_task(options.dir, "evaluate", options.iteration, *_config(options))
    else:
        raise IprError("say what to evaluate: --dir RUN [--iteration K], or --model NAME [--endpoint URL]")
    if not options.json:
        _print(figures)
    return figures


def best_of(options: argparse.Namespace) -> Any:
    """Best-of-N of a stage of a run."""
    if options.dir is None or options.model:
        raise IprError("--best-of is of a stage of a run: ipr eval --dir RUN --iteration K --best-of N")
    import tasks.best_of
    from ipr.runs import report, workers
    from ipr.runs.run import Run, stage_name

    run = Run(options.dir)
    with run.lock(), workers.opened(run.config.rollout):
        run.identify()
        found = tasks.best_of.best_of(run, options.iteration, options.best_of, options.temperature)
    if not options.json:
        print(report.best_of({"stage": stage_name(options.iteration)} | found))
    return found


def serve(options: argparse.Namespace) -> Any:
    """Serve a model through the chat protocol of OpenAI, at /v1; IPR_API_KEY holds the key that clients must send."""
    from ipr.apps import serve_command

    serve_command.run(options)
    return None


def bench(options: argparse.Namespace) -> Any:
    """Play methods side by side over several seeds, and put their figures, intervals and costs into one table."""
    from flows import bench as flow
    from ipr.runs import bench as benches

    plan = benches.plan(options.env, _presets(), options.methods or [], options.overrides)
    folder = options.dir or Path("runs") / f"bench-{options.env}"
    found = flow.play(folder, plan, options.seeds, options.samples, options.jobs)
    if not options.json:
        print(benches.table(found))
        print(f"tables: {folder / 'bench.md'}, page: {folder / 'bench.html'}, plot: {folder / 'plots' / 'bench.png'}")
    return found


def compare(options: argparse.Namespace) -> Any:
    """Compare two models on the same games, pair by pair, or two groups of runs over seeds and games."""
    from ipr.apps import comparison

    found = comparison.compare(options.a, options.b, options.split, options.resamples)
    if not options.json:
        print(comparison.sentence(found))
    return found


def status(options: argparse.Namespace) -> Any:
    """Where a run stands."""
    from ipr.runs import mirror, report, seeds
    from ipr.runs.run import Run
    from ipr.runs.summary import summarise

    if seeds.is_group(options.dir):
        group = seeds.Seeds(options.dir)
        if options.sync:
            names = ", ".join(f"ipr status {run.folder} --sync" for run in group.runs.values())
            raise IprError(f"{options.dir} holds several runs, each of which is sent by itself: {names}")
        summary = group.summary()
        if not options.json:
            print(seeds.table(summary))
        return summary
    run = Run(options.dir)
    state = run.status()
    if options.sync:
        from flows import launch

        if state["status"] != "running":
            launch.bring(run.folder, run.config, removed=True)
            run = Run(options.dir)
            state = run.status()
        state["tracked"] = launch.deliver(run)
        if state["status"] != "running":
            with run.lock(), mirror.kept(run.folder, run.config.run.store):
                pass
    summary = summarise(run, state["status"])
    if not options.json:
        _print(state)
        if summary["stages"]:
            print(report.table(summary))
    return state | {"summary": summary}


def champion(options: argparse.Namespace) -> Any:
    """Show and explain the champion; promote a version by hand, or roll back to the champion before."""
    from ipr.apps import champion as champions

    found = champions.command(options)
    if not options.json:
        print(champions.text(found))
    return found


def clean(options: argparse.Namespace) -> Any:
    """Say what old runs have left behind, and with --yes remove it; champions and all that is in use stay."""
    from ipr.apps.clean import clean
    from ipr.runs.project import project_root

    found = clean(project_root(), options.runs, options.keep, options.yes, options.remote)
    if not options.json:
        for name, why in found["stay"].items():
            print(f"stays: {name} ({why})")
        for name, size in found["runs"].items():
            print(f"goes: {name}, {size / 2**20:.1f} MiB")
        sizes = ", ".join(f"{place} {size / 2**20:.1f} MiB" for place, size in found["bytes"].items())
        print(f"{'removed' if options.yes else 'would be removed'}: {found['total']} bytes ({sizes})")
        if found["flow_runs"]:
            print(f"and {found['flow_runs']} flow runs of Prefect")
        if not options.yes and (found["total"] or found["flow_runs"]):
            print("nothing is removed yet; to do it: the same command with --yes")
    return found


def deploy(options: argparse.Namespace) -> Any:
    """Serve scheduled retraining from the champion; needs a Prefect server."""
    from ipr.apps import start
    from ipr.config import load
    from ipr.runs.project import defaults, project_root

    config = load(options.preset, options.overrides, _presets())
    start.check_schedules(config, project_root())
    defaults(project_root())  # before Prefect is imported
    from flows import retrain

    name = options.name or Path(options.preset).stem
    cron = retrain.schedule_of(options.cron, options.timezone)
    retrain.deploy(options.preset, options.overrides, cron, name, options.runs, config)
    return None


# Data and environments -----------------------------------------------------------------------------------------------


def data(options: argparse.Namespace) -> Any:
    from ipr.apps.data_commands import COMMANDS

    result = COMMANDS[options.what](options)
    if not options.json:
        _print(result)
    return result


def env_check(options: argparse.Namespace) -> Any:
    """Check an environment's contract, or play everything that a folder of its real data set holds."""
    from ipr.envs import check_data, checker

    recorded = check_data(options.name, Path(options.data)) if options.data else None
    if recorded is not None:
        result, show = recorded, lambda figures: print(json.dumps(figures))
        problems = [*result.get("messages", []), *(checker.Difference(**d) for d in result.get("differences", []))]
    else:
        result = checker.check_named(options.name, options.data, options.games)
        problems, show = result["problems"], _print
    options.status = int(bool(problems))
    if not options.json:
        for problem in problems[:SHOWN]:
            print(f"problem: {problem}")
        if len(problems) > SHOWN:
            print(f"... {len(problems) - SHOWN} more; --json prints all")
        show({key: value for key, value in result.items() if not isinstance(value, list)})
    return result


def env_compare(options: argparse.Namespace) -> Any:
    """The statements that SQLite and a real server answer differently (InterCodeSQL; docs/environments.md)."""
    from ipr.envs.sql.compare import compare

    report = compare(Path(options.data), options.server, Path(options.statements) if options.statements else None)
    if not options.json:
        for one in report["differences"]:
            print(
                f"{one['kind']}: {one['db']}: {one['statement']}\n  sqlite: {one['sqlite']}\n  server: {one['server']}"
            )
        _print({key: value for key, value in report.items() if key != "differences"})
    return report


def env_list(options: argparse.Namespace) -> Any:
    """The environments that there are, where each comes from, and what is wrong with it."""
    from ipr import envs

    found: dict[str, str] = {}
    for name in envs.names():
        try:
            envs.get(name)
            found[name] = envs.origin(name)
        except IprError as error:
            found[name] = f"broken: {error}"
    if not options.json:
        _print(found)
        for line in envs.refused():
            print(line)
    return found


def doctor(options: argparse.Namespace) -> Any:
    """Say what is there, what is missing and the line that mends it; exit 1 where a run would not start."""
    from ipr.apps.doctor import checks
    from ipr.config import load
    from ipr.runs.project import project_root

    found = []
    for check in checks(project_root(), load(options.preset, options.overrides, _presets())):
        found.append(check)
        if not options.json:
            word = "ok  " if check.ok else "STOP" if check.needed else "mend"
            print(f"{word} {check.name}: {check.detail}" + ("" if check.ok else f"  ->  {check.fix}"), flush=True)
    options.status = int(any(check.needed and not check.ok for check in found))
    if not options.json and not options.status:
        print(f"ipr run {' '.join([options.preset, *options.overrides])} can start")
    return [asdict(check) | {"fix": "" if check.ok else check.fix} for check in found]


def export(options: argparse.Namespace) -> Any:
    """Write an agent as a model folder for other software; with --merge an adapter becomes whole weights."""
    from ipr import models
    from ipr.apps.champion import named
    from ipr.apps.chosen_model import folder_of

    found = models.export(folder_of(options.model, named(options)), options.out, merge=options.merge)
    if not options.json:
        _print(found)
    return found


def model_import(options: argparse.Namespace) -> Any:
    """Make a model folder of a GGUF file: its weights in float32, its tokenizer and chat template."""
    from ipr import models

    found = models.import_gguf(options.file, options.out)
    if not options.json:
        _print(found)
    return found


def base(options: argparse.Namespace) -> Any:
    """Rebuild a small base model that is shipped with the package: alfworld's, sql's or webshop's."""
    from ipr.apps.base import build
    from ipr.config import BASES

    return build(options.env, Path(options.out or BASES), options.overrides)


def tokens(options: argparse.Namespace) -> Any:
    """Show a conversation's tokens; the agent's, which are trained, in colour."""
    from ipr import models, store
    from ipr.config import embedded
    from ipr.envs import get
    from ipr.tokens import ChatTokens, coloured
    from ipr.types import Trajectory

    episodes = store.load(Path(options.file), Trajectory)
    if not 0 <= options.row < len(episodes):
        raise IprError(f"{options.file} has {len(episodes)} rows; --row {options.row} is not one of them")
    episode = episodes[options.row]
    chat = ChatTokens(models.load_tokenizer(embedded(options.model, options.env)))
    print(coloured(chat, [*get(options.env).told(episode.task_id), *episode.history(0), *episode.continuation(0)]))
    return None


# Helpers -------------------------------------------------------------------------------------------------------------


def _launched(options: argparse.Namespace) -> None:
    """Refuses what several processes would do all at once, each for itself."""
    from ipr.runs.project import launched

    task = getattr(options, "task", None)
    if (number := launched()) > 1 and task not in ("sft", "train"):
        raise IprError(
            f"{number} processes were launched (WORLD_SIZE), and only `ipr sft` and `ipr train` share out their work;"
            " start everything else without accelerate launch (docs/training.md)"
        )


def _presets() -> Path:
    import flows

    return Path(flows.__path__[0]) / "configs"


def _config(options: argparse.Namespace) -> tuple[Any, str]:
    """The config of --config and its name; None where there is none: the run's folder has one."""
    if options.config is None:
        return None, ""
    from ipr.config import load

    return load(options.config, [], _presets()), Path(options.config).stem


def _listed(kind: type) -> Any:
    """Reads "1,2,3"."""

    def read(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",") if part]

    read.__name__ = f"comma-separated {kind.__name__}"
    return read


def _of_an_agent(parser: argparse.ArgumentParser) -> None:
    """Whose champion is meant."""
    parser.add_argument("--env", default="alfworld")
    parser.add_argument("--data", type=Path, help="folder of the real data set, whose agents are another model")
    parser.add_argument("--registered-model", metavar="NAME", help=REGISTERED_MODEL)


def _from(least: int) -> Callable[[str], int]:
    """Reads a whole number of `least` or more."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r:.40} is no whole number of {least} or more")
        return number

    return read


def _print(value: Any, indent: str = "") -> None:
    items = value.items() if isinstance(value, dict) else [(f"[{i}]", v) for i, v in enumerate(value)]
    for key, item in items:
        if isinstance(item, dict):
            print(f"{indent}{key}:")
            _print(item, indent + "  ")
        elif isinstance(item, list) and item and isinstance(item[0], dict):  # a line each; `--json` has all of it
            print(f"{indent}{key}:")
            for row in item:
                told = (f"{name} {v}" for name, v in row.items() if not isinstance(v, dict | list))
                print(f"{indent}  {', '.join(told)}")
        elif isinstance(item, float):
            print(f"{indent}{key}: {item:.4g}")
        elif not (isinstance(item, list) and len(item) > 12):
            print(f"{indent}{key}: {item}")


def _print_plan(plan: dict[str, Any], indent: str = "") -> None:
    for key, value in plan.items():
        name = f"{indent}{key.replace('_', ' ')}"
        if isinstance(value, dict) and any(isinstance(v, dict) for v in value.values()):
            print(f"{name}:")
            _print_plan(value, indent + "  ")
        else:
            told = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"{name}: {told}")


def _parser() -> argparse.ArgumentParser:
    from ipr import __version__

    parser = argparse.ArgumentParser(
        prog="ipr", description="Iterative step-level Process Refinement: improve an LLM agent from its own mistakes."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Any, parent: Any = commands, text: str = "") -> argparse.ArgumentParser:
        text = text or (command.__doc__ or "").strip()
        sub = parent.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command, status=0)
        sub.add_argument("--json", action="store_true", help="print one JSON value as the last line")
        return sub

    sub = add("run", run)
    sub.add_argument(
        "preset",
        nargs="?",
        default="quick",
        help="smoke, quick, quick-ipr, sql, webshop, paper, released, llama-3.2-1b, qwen3-4b-lora, qwen2.5-7b-lora,"
        " llama-2-7b, or a YAML file",
    )
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. train.learning_rate=1e-5")
    sub.add_argument("--dir", type=Path, help="the run's folder (default runs/PRESET); an unfinished run continues")
    text = "play N runs, of the config's seed and the next ones, as one experiment (default folder runs/PRESET-seeds)"
    sub.add_argument("--seeds", type=_from(1), metavar="N", help=text)
    sub.add_argument("--dry-run", action="store_true", help="print what the run will cost, and start nothing")
    sub.add_argument("--profile", action="store_true", help="write where the time went: profile.json, report, MLflow")
    sub.add_argument("--help-config", action="store_true", help="print every configuration key")

    config = "a YAML file or preset, with which the run is begun or goes on: what a change in it decides is made again"
    texts = {
        "experts": "Begin a run, stage by stage: the expert trajectories.",
        "sft": "Supervised fine-tuning on the expert trajectories.",
        "explore": "The agent continues from every prefix of the expert trajectories.",
        "reward": "Estimate step rewards with the scorer.",
        "pairs": "Build outcome and step pairs.",
        "train": "Train the iteration's agent on its pairs.",
        "report": "Write summary.json, metrics.json, the plots and report.html of what is done so far.",
    }
    for task in STAGE_TASKS:
        sub = add(task, stage, text=texts[task])
        sub.add_argument("--dir", type=Path, help="a run's folder")
        sub.add_argument("--config", metavar="FILE", help=config)
        sub.set_defaults(task=task, iteration=0)
        if task in ITERATION:
            sub.add_argument("--iteration", type=_from(1), default=1)
        if task == "reward":
            text = "compare the step rewards of this run with the environment's oracle, and estimate nothing new"
            sub.add_argument("--quality", type=Path, metavar="RUN", help=text)
            sub.add_argument("--samples", type=_listed(int), default=[], metavar="N,...", help="with --quality")
            sub.add_argument("--tau", type=_listed(float), default=[], metavar="TAU,...", help="with --quality")
            text = "with --quality: stages whose models play as scorers, e.g. sft,base"
            sub.add_argument("--scorer", type=_listed(str), default=[], metavar="STAGE,...", help=text)

    sub = add("eval", evaluate)
    sub.add_argument("--dir", type=Path, help="a run's folder")
    sub.add_argument("--config", metavar="FILE", help=f"with --dir: {config}")
    sub.add_argument("--iteration", type=_from(-1), default=0, help="-1 base, 0 SFT, K iteration K")
    text = "with --dir: N sampled episodes of each test game, and what the best of them earns"
    sub.add_argument("--best-of", type=int, metavar="N", help=text)
    sub.add_argument("--temperature", type=float, default=1.0, help="with --best-of")
    sub.add_argument("--model", help="a model folder, 'embedded', 'champion' or a hub name; its name at --endpoint")
    sub.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible server; the key is in OPENAI_API_KEY")
    sub.add_argument("--shots", type=int, choices=(0, 1), help="worked examples in the prompt (env.shots)")
    sub.add_argument("--env", help="alfworld (the default), sql, webshop or an installed package's")
    sub.add_argument("--data", help="folder of the real data set")
    sub.add_argument("--split", help="unseen (the default), seen, dev or train")
    sub.add_argument("--games", type=_from(1), help="200, or so many")
    sub.add_argument("--out", type=Path, help="folder that keeps the episodes; an unfinished evaluation continues")
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. endpoint.price_in=0.15")

    sub = add("serve", serve)
    sub.add_argument("model", help="a model folder, 'embedded', 'champion' or a hub name")
    sub.add_argument("--host", default="127.0.0.1")
    sub.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    sub.add_argument("--name", help="what the model is called in requests (default: as it is given here)")
    text = "let clients load adapters on the model that are in this folder (as vLLM with --enable-lora)"
    sub.add_argument("--adapters", type=Path, metavar="FOLDER", help=text)
    text = "a name that clients may call this server by, besides localhost and its addresses; again for more"
    sub.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=text)
    sub.add_argument("--max-body", type=_from(1), default=16 << 20, metavar="BYTES", help="of a request (16 MiB)")
    text = "that a request may ask for, over all its samples (1,000,000)"
    sub.add_argument("--max-tokens", type=_from(1), default=1_000_000, metavar="N", help=text)
    sub.add_argument("--max-requests", type=_from(1), default=256, metavar="N", help="under way at once (256)")
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. model.dtype=bfloat16 rollout.slots=32")

    sub = add("bench", bench)
    sub.add_argument("env", help="alfworld, sql or webshop: flows/configs/bench/ENV.yaml")
    text = "for all methods that have a use for it; METHOD:KEY=VALUE for one"
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    text = "of these instead of the plan's: also those under `more`, e.g. rloo,ppo,ipr-without-step"
    sub.add_argument("--methods", type=_listed(str), metavar="NAME,...", help=text)
    sub.add_argument("--seeds", type=_from(1), default=3, metavar="N", help="the preset's seed and the next ones")
    sub.add_argument("--samples", type=_from(2), default=4, metavar="N", help="episodes a test game at temperature 1")
    text = "runs at once, each with its share of the cores (default: one a core; with a GPU 1)"
    sub.add_argument("--jobs", type=_from(1), metavar="N", help=text)
    sub.add_argument("--dir", type=Path, help="default runs/bench-ENV; what is unfinished there continues")

    sub = add("compare", compare)
    text = "Parquet of trajectories, a stage such as runs/quick/sft, a run (its reported stage), or a folder of runs of"
    text += " several seeds (--seeds), with /STAGE for a stage of all"
    sub.add_argument("a", help=text)
    sub.add_argument("b")
    sub.add_argument("--split", help="one split instead of all test splits")
    sub.add_argument("--resamples", type=_from(1), default=2000)

    sub = add("status", status)
    sub.add_argument("dir", type=Path, help="a run's folder")
    sub.add_argument(
        "--sync", action="store_true", help="send to MLflow, and to run.store, what could not be sent before"
    )

    sub = add("champion", champion)
    sub.set_defaults(what=None)
    _of_an_agent(sub)
    kinds = sub.add_subparsers(metavar="WHAT", dest="what")
    for name, text in {
        "promote": "Make a version champion by hand.",
        "rollback": "Make the champion before the present one champion again.",
    }.items():
        kind = kinds.add_parser(name, help=text, description=text)
        if name == "promote":
            kind.add_argument("version", metavar="MODEL/VERSION", help="e.g. ipr-agent/3, or 3 for the env's model")
        text = "kept in the registry, with your name"
        kind.add_argument("--reason", required=name == "promote", default="rolled back by hand", help=text)
        kind.add_argument("--json", action="store_true", default=argparse.SUPPRESS)

    sub = add("deploy", deploy)
    sub.add_argument("preset", nargs="?", default="quick")
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    sub.add_argument("--cron", required=True, help="e.g. '0 3 * * *'")
    sub.add_argument("--timezone", default="UTC", help="of --cron, e.g. Europe/Berlin (UTC)")
    sub.add_argument("--name", help="of the deployment: another schedule needs another (the preset's name)")
    sub.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs' folders go")

    sub = add("clean", clean)
    sub.add_argument("--runs", type=Path, default=Path("runs"), help="where the runs' folders are")
    sub.add_argument("--keep", type=_from(0), default=10, metavar="N", help="newest finished runs that stay (10)")
    sub.add_argument("--remote", action="store_true", help="DVC's default remote too: only where you alone push to it")
    sub.add_argument("--yes", action="store_true", help="remove it; without, it is only said what would go")

    sub = add("data", data)
    kinds = sub.add_subparsers(metavar="WHAT", dest="what", required=True)
    for name, text in {
        "generate": "Make the published expert data set (deterministic).",
        "publish": "Make a new version of what was changed in data/ by hand, and push it.",
        "pull": "Bring data/ to the newest version, or to another one.",
        "log": "List the versions, the newest first.",
        "diff": "Say which rows came and went between two versions.",
        "commit": "Let data.dvc name the version that data/ is, and commit it.",
        "verify": "Check that data/ is as it was pulled or published.",
        "games": "Write generated games in the real format.",
        "lineage": "From a model in MLflow to the exact data that made it.",
        "restore": "Fetch the data that made a model.",
        "experts": "Let a hosted model play the train split; what earned the reward becomes experts.",
        "import": "Take trajectories, or ALFWorld's data folder, after playing all of it again.",
        "export": "Write pairs or trajectories for other trainers.",
        "convert": "Make Spider's folder (SQLite files, schema.json) of a dump of MySQL, such as InterCode's.",
    }.items():
        kind = kinds.add_parser(name, help=text, description=text)
        kind.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        kind.add_argument("--env", default=None if name in ("generate", "export") else "alfworld")
        if name in ("publish", "commit", "import"):
            kind.add_argument("-m", "--message", default="", help="what it is, for the list of versions or git's log")
        if name == "pull":
            kind.add_argument("--version", help="a number of ipr data log, or an md5 (default: the newest)")
        if name == "diff":
            kind.add_argument("a", help='a number or md5 of ipr data log, or "data.dvc"')
            kind.add_argument("b")
        if name in ("lineage", "restore"):
            kind.add_argument(
                "ref", nargs="?", default="champion", help="champion, a model version, or an MLflow run id"
            )
        if name == "import":
            kind.add_argument("format", choices=("messages", "conversations", "parquet", "alfworld"))
            kind.add_argument("file", type=Path, help="file of trajectories; for alfworld the folder json_2.1.1")
            text = "leave out what differs by an article, a comma or the order of rows, too"
            kind.add_argument("--strict", action="store_true", help=text)
            text = "add them to the published experts of the environment, as a new version"
            kind.add_argument("--append", action="store_true", help=text)
        if name == "export":
            kind.add_argument("format", choices=("trl", "messages"))
            kind.add_argument(
                "source", type=Path, help="a run, a stage of it, or a Parquet file of pairs or trajectories"
            )
        if name == "experts":
            text = "an OpenAI-compatible server; the key is in OPENAI_API_KEY"
            kind.add_argument("--endpoint", metavar="URL", required=True, help=text)
            kind.add_argument("--model", required=True, help="its name there")
            kind.add_argument("--shots", type=int, choices=(0, 1), help="worked examples in the prompt (env.shots)")
            kind.add_argument("--games", type=_from(1), default=sys.maxsize, help="of the train split (default: all)")
            kind.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. endpoint.price_in=0.15")
        if name in ("lineage", "restore"):
            kind.add_argument("--registered-model", metavar="NAME", help=REGISTERED_MODEL)
        if name in ("lineage", "restore", "experts", "import", "export"):
            kind.add_argument("--data", type=Path, help="folder of the real data set")
        if name == "convert":
            kind.add_argument("dump", type=Path, help="what mysqldump wrote")
        if name in ("games", "restore", "experts", "import", "export", "convert"):
            kind.add_argument("--out", type=Path, required=name != "import")
        if name == "games":
            kind.add_argument("--split", default="train")
            kind.add_argument("--count", type=_from(1), default=100)
        if name == "generate":
            kind.add_argument("--count", type=_from(1), help="expert trajectories (without --env: of each)")

    envs = commands.add_parser("env", help="List and check environments.").add_subparsers(metavar="WHAT", required=True)
    add("list", env_list, envs)
    sub = add("check", env_check, envs)
    sub.add_argument("name")
    sub.add_argument("--data", help="folder of the real data set: all in it is played")
    sub.add_argument("--games", type=_from(1), default=20)

    sub = add("compare", env_compare, envs)
    sub.add_argument("name", choices=("sql",))
    sub.add_argument("--data", required=True, help="Spider's folder")
    sub.add_argument("--server", required=True, help="mysql://user@host/, which has the same databases")
    sub.add_argument("--statements", help="rows with db and statement, JSON or a line each (default: the gold queries)")

    sub = add("doctor", doctor)
    sub.add_argument("preset", nargs="?", default="quick", help="what is to run: a preset or a YAML file")
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. env.data=FOLDER")
    sub = add("export", export)
    sub.add_argument("model", help="a model folder such as runs/quick/iteration-1/model, 'champion' or 'embedded'")
    sub.add_argument("--out", type=Path, required=True, help="the new folder")
    sub.add_argument("--merge", action="store_true", help="add an adapter's weights to its base's")
    _of_an_agent(sub)
    made = commands.add_parser("model", help="Bring a model of another format.").add_subparsers(
        metavar="WHAT", required=True
    )
    sub = add("import", model_import, made)
    sub.add_argument("file", type=Path, help="the .gguf file")
    sub.add_argument("--out", type=Path, required=True, help="the new folder")
    sub = add("base", base)
    sub.add_argument("env", help="whose: alfworld, sql or webshop")
    sub.add_argument("--out", help="the folder for its folder (default: the package's)")
    sub.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    sub = add("tokens", tokens)
    sub.add_argument("file", help="Parquet of trajectories")
    sub.add_argument("--row", type=int, default=0)
    sub.add_argument("--env", default="alfworld")
    sub.add_argument("--model", default="embedded")
    return parser


if __name__ == "__main__":
    sys.exit(main())
