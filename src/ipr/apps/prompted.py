"""Evaluate a model outside a run: hosted or local, with no or one example; every finished episode is kept.

    OUT/settings.json  what decides the results (`ipr.identity`); another model, data or setting is refused
    OUT/played/SPLIT/  the finished episodes, as they come, and usage.json: what they cost
    OUT/eval/SPLIT.parquet, OUT/evaluate.json  what is asked for, like a stage of a run: `ipr compare` takes OUT

Decided here: the games are those that a run evaluates on (same split, same number), so both compare. More games later
play only what is new. Left out: an average step reward, which needs a scorer.
"""

from __future__ import annotations

import fcntl
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ipr import evaluate, identity, models, policies, rollout, store
from ipr.apps.chosen_model import OF_PLAYING, check_room, folder_of, only
from ipr.config import EndpointConfig, load
from ipr.data import experts
from ipr.runs.progress import progress
from ipr.runs.run import check_space
from ipr.types import EnvSpec, IprError, Job, Policy, Prefix, Sampling, Trajectory

if TYPE_CHECKING:
    from ipr.policies.openai import Usage


_ASKED = ("env.server", "env.max_steps", "rollout.max_new_tokens", "algorithm.success", "eval.bootstrap")
_ENGINES = ("rollout.backend", "rollout.endpoint", "rollout.vllm")


class Folder:
    """`--out`: what was played, by whom."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        """A new folder (made when there is something to keep), or one of the same settings; another one is refused."""
        if path.is_file():
            raise IprError(f"--out {path} is a file; give a folder")
        self.path, self._settings = path, settings
        file = path / "settings.json"
        if file.exists() and (told := identity.differences(store.read_json(file), settings)):
            raise IprError(f"{path} holds an evaluation of something else ({'; '.join(told)}); use another --out")
        self._held: TextIO | None = None
        if file.exists():
            self._hold()

    def played(self, split: str) -> dict[str, Trajectory]:
        """The finished episodes by game."""
        return {t.task_id: t for t in store.rows_of(sorted(self._shards(split)), Trajectory)}

    def keep(self, split: str, episode: Trajectory) -> None:
        self._start()
        number = len(self._shards(split))
        store.save(self.path / "played" / split / f"{number:05}.parquet", [episode], Trajectory)

    def spent(self, split: str) -> dict[str, int]:
        """The usage of all that was played for this split."""
        file = self.path / "played" / split / "usage.json"
        return store.read_json(file) if file.exists() else {}

    def note_spent(self, split: str, usage: dict[str, int]) -> None:
        self._start()
        store.write_json(self.path / "played" / split / "usage.json", usage)

    def finish(self, split: str, episodes: Sequence[Trajectory], figures: dict[str, Any]) -> None:
        store.save(self.path / "eval" / f"{split}.parquet", episodes, Trajectory)
        file = self.path / "evaluate.json"
        store.write_json(file, (store.read_json(file) if file.exists() else {}) | {split: figures})

    def _start(self) -> None:
        if not (file := self.path / "settings.json").exists():
            store.write_json(file, self._settings)
        self._hold()

    def _hold(self) -> None:
        """Lock the folder as long as this lives; two commands would overwrite each other's episodes."""
        if self._held is not None:
            return
        self._held = (self.path / "settings.json").open()
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IprError(f"another command is playing into {self.path}; wait for it, or use another --out") from None

    def _shards(self, split: str) -> list[Path]:
        return list((self.path / "played" / split).glob("*.parquet"))


def play(
    spec: EnvSpec,
    policy: Policy,
    sampling: Sampling,
    *,
    split: str,
    games: int,
    slots: int,
    out: Folder | None = None,
    check: Callable[[], None] | None = None,
    usage: Usage | None = None,
    prices: EndpointConfig | None = None,
    success: float = 1.0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Play what is missing of `games` games; the figures over all of them. Asks nothing where all are there.

    `check` is called before anything is played. `usage` is what the policy counts: it is noted with the episodes, and
    in the figures with its cost by `prices`. Raises IprError where not even the prompt fits into the model's context.
    """
    wanted = evaluate.games(spec.task_ids(split), split, games)
    played = out.played(split) if out else {}

    def note() -> None:
        if out and usage is not None:
            out.note_spent(split, asdict(usage))

    def keep(episode: Trajectory) -> None:
        note()
        if out:
            out.keep(split, episode)

    left = [Job(Prefix(task_id)) for task_id in wanted if task_id not in played]
    if check and left:
        check()
    label = f"{policy.name} {spec.name} {split}"
    try:
        with models.enough_memory("lower rollout.slots"):
            shown = progress(label, "episodes")
            fresh = rollout.play(spec, policy, left, sampling, slots=slots, progress=shown, keep=keep)
    finally:
        note()
    played |= {t.task_id: t for t in fresh}
    episodes = [played[task_id] for task_id in wanted]
    if all(t.ending == "overflow" and not t.steps for t in episodes):
        raise IprError(
            f"the prompt of {spec.name} is longer than the context of {policy.name}; use --shots 0, or a model with a"
            " longer context"
        )
    figures = evaluate.metrics(episodes, task_type=spec.task_type, success_at=success, resamples=resamples)
    if usage is not None:
        figures["usage"] = asdict(usage) | {"dollars": usage.cost(prices) if prices else None}
    if out:
        out.finish(split, episodes, figures)
    return figures


def run(options: Namespace) -> dict[str, Any]:
    """Any model on any environment, hosted (`--endpoint`) or a folder: figures, and the episodes in `--out`."""
    given = {"env.name": options.env, "env.data": options.data, "env.shots": options.shots}
    for override in options.overrides:
        if override.partition("=")[0] in given:
            raise IprError(f"{override}: say it by the option of its own (--env, --data, --shots)")
    config = load(None, [*(f"{k}={v}" for k, v in given.items() if v is not None), *options.overrides])
    if options.endpoint:
        only("with --endpoint", options.overrides, *_ASKED, "endpoint")
    else:
        only("with a model that is not hosted", options.overrides, *_ASKED, *OF_PLAYING, *_ENGINES)
    spec = experts.environment(config.env)
    if not spec.task_ids(options.split):
        raise experts.no_games(config.env, spec, options.split)
    sampling = Sampling(0.0, config.rollout.max_new_tokens)
    ask = {"split": options.split, "games": options.games}
    ask |= {"success": config.algorithm.success, "resamples": config.eval.bootstrap}
    if options.endpoint:
        from ipr.policies.openai import EndpointPolicy, Usage, base_url

        if options.out is None:
            raise IprError("a hosted model's answers cost time and money; say where to keep them: --out FOLDER")
        url = base_url(options.endpoint)
        check_space(options.out, 50 << 20)
        out = Folder(options.out, identity.hosted(spec, sampling, options.model, url, config))
        usage = Usage(**out.spent(options.split))
        player = EndpointPolicy(url, options.model, config.endpoint, usage)

        def check() -> None:
            known = experts.conversations(spec, options.split)
            player.check(sampling, known[len(known) // 2])

        return play(
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
    path = folder_of(options.model, config)
    settings = identity.playing(spec, sampling, models.model_hash(path), config)
    out = None if options.out is None else Folder(options.out, settings)
    check_room(spec, options.split, path, config)
    player = policies.load(path, options.model, config)
    return play(spec, player, sampling, slots=config.rollout.slots, out=out, **ask)


def table(name: str, figures: dict[str, Any]) -> str:
    """The figures for a terminal: all games, each type of problem, then what was asked of a hosted model."""
    shown = {name: figures} | figures["by_type"]
    cells = [["", "games", "reward", "success %", "steps", "invalid"]]
    for kind, row in shown.items():
        reward, success, steps, invalid = f"{row['reward']:.3f}", f"{100 * row['success']:.1f}", "", ""
        if row is figures:
            low, high = row["reward_interval"]
            reward += f" [{low:.3f}, {high:.3f}]"
            low, high = row["success_interval"]
            success += f" [{100 * low:.1f}, {100 * high:.1f}]"
            steps, invalid = f"{row['steps']:.1f}", f"{100 * row['invalid']:.0f} %"
        cells.append([kind, str(row["games"]), reward, success, steps, invalid])
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines.insert(1, "  ".join("-" * w for w in widths))
    endings = ", ".join(f"{kind} {n}" for kind, n in figures["endings"].items())
    lines += ["", f"mean with its 95 % interval; endings: {endings}"]
    return "\n".join([*lines, *notes(figures)])


def notes(figures: dict[str, Any]) -> list[str]:
    """Where the context was full, what that did and what to set; and what was asked of a hosted model."""
    lines = []
    if full := figures["endings"].get("overflow"):
        lines.append(
            f"WARNING: {full} games ended because the context was full: use --shots 0, raise model.max_length, or take"
            f" a model with a longer context ({100 * full / figures['games']:.0f} % of all games)"
        )
    if usage := figures.get("usage"):
        cost = usage["dollars"]
        lines.append(
            f"{usage['requests']} requests ({usage['retries']} retries), {usage['prompt_tokens']} tokens in"
            f" ({usage['cached_tokens']} of them cached), {usage['completion_tokens']} out; cost:"
            f" {'unknown price (endpoint.price_in, endpoint.price_out)' if cost is None else f'${cost:.4f}'}"
        )
    return lines
