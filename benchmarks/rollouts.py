"""Explore and step rewards of one IPR iteration: our engine against what others do. Ratios in one run, on one machine.

    python benchmarks/rollouts.py [--workers 2] [--env alfworld] [--model embedded] [--tasks 32] [--json FILE]

Everyone draws each token from the same uniforms, so the trajectories should be equal letter by letter; how many are is
printed. "raw" is our engine with gate, skip_equal, reuse, join and curtail off, "saving" with all on. The others:

a  one episode at a time: environment reset, prefix replayed through it, and at every turn the whole history through
   tokenizer and `model.generate`
b  the same over many episodes at once: left padding, one `model.generate` a turn. To its advantage it runs in our
   loop, so the environment is forked, not replayed, and ended episodes are replaced
c  as b with transformers' continuous batching (`generate_batch`), greedy exploring only
d  vLLM (--vllm PATH: its command), where it is asked for

They play an even choice of our episodes; what all would take them follows from their seconds a new token.
With `--workers N` we play as a run does with rollout.workers=N, in N processes of one thread; the others are one
process and play with 1 and with N threads, the faster of which counts. Seconds are the clock's, so have the cores to
yourself; starting the workers, which a run does once, is not in them. With `--workers 1` everybody has one thread,
seconds are the process's, so busy neighbours disturb little, and it is printed where our time went.
Take a model after SFT (`--model runs/quick/sft/model`): what the savings save depends on how often the agent wins.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ipr` does

import numpy as np
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessor, LogitsProcessorList, StaticCache

from ipr import algorithms, credit, envs, models, policies, profiling
from ipr import config as configs
from ipr.config import AlgorithmConfig, ModelConfig
from ipr.engine import sampling as drawing
from ipr.engine.batching import TransformersEngine
from ipr.policies.chat import ChatPolicy, end_tokens
from ipr.rollout import play
from ipr.runs import workers
from ipr.runs.run import cut, shard_size
from ipr.tokens import ChatTokens
from ipr.types import Completion, Environment, EnvSpec, Job, More, Prefix, Sampling, Trajectory, Turn, derive_seed

TAU = 0.3
RAW = AlgorithmConfig(tau=TAU, gate=False, skip_equal=False, reuse=False, join=False, curtail=False)
SAVING = AlgorithmConfig(tau=TAU, curtail=True)
BASELINES = {
    "a": "one episode at a time, everything read anew",
    "b": "the same, batched",
    "c": "transformers' continuous batching",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="alfworld", choices=envs.names())
    parser.add_argument("--model", default="embedded", help="folder or hub name")
    parser.add_argument("--workers", type=int, default=2, help="our processes, and the others' threads")
    parser.add_argument("--tasks", type=int, default=32, help="problems that are explored")
    parser.add_argument("--a", type=int, default=16, help="episodes (a) plays")
    parser.add_argument("--b", type=int, default=48, help="episodes (b) plays")
    parser.add_argument("--c", type=int, default=8, help="episodes (c) plays")
    parser.add_argument("--batch", type=int, default=48, help="episodes (b) has under way at once")
    parser.add_argument("--slots", type=int, default=128, help="episodes that we have under way at once")
    parser.add_argument("--shard", type=int, default=1024, help="episodes (at most) that a worker plays at a time")
    parser.add_argument("--kv", default="model", choices=("model", "bfloat16"), help="type of our key-values")
    parser.add_argument("--max-steps", type=int, default=None)
    parser.add_argument("--max-new-tokens", type=int, default=56)
    parser.add_argument("--vllm", help="the `vllm` command of its environment")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    spec = envs.get(options.env, max_steps=options.max_steps)
    setup = Setup(spec, options)
    with workers.opened(setup.player(0.0).config.rollout):
        if setup.workers > 1:
            list(workers.play(setup.player(0.0), [[Job(Prefix(spec.task_ids("train")[0]))]] * setup.workers))
        raw = ours("raw", setup, RAW)
        saving = ours("saving", setup, SAVING)
    equal = raw.pairs == saving.pairs
    print(f"raw and saving make the same pairs: {equal} ({len(raw.pairs)})")

    chat = Chat(setup)
    others = {
        "a": theirs("a", Generate(chat), one_at_a_time, raw, setup, options.a),
        "b": theirs("b", Generate(chat), batched(options.batch), raw, setup, options.b),
        "c": theirs("c", Continuous(chat), batched(options.c), replace(raw, scored=[]), setup, options.c),
    }
    others |= with_vllm(setup, raw, options.b)

    ratios = {
        f"{label}/{name}": others[name]["whole_seconds"] / iteration.total
        for name in ("a", "b")
        for label, iteration in (("raw", raw), ("saving", saving))
    }
    speed = raw.tokens["explore"] / raw.seconds["explore"]
    ratios["raw/c (explore, a token)"] = speed / (others["c"]["tokens"] / others["c"]["seconds"])
    print("times as fast: " + ", ".join(f"{name} {ratio:.1f}" for name, ratio in ratios.items()))
    if options.json:
        facts = {
            "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
            "ours": {"raw": raw.facts(), "saving": saving.facts()},
            "pairs_equal": equal,
            "others": others,
            "times_as_fast": ratios,
        }
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


# Ours -----------------------------------------------------------------------------------------------------------------


class Setup:
    """What everyone plays."""

    def __init__(self, spec: EnvSpec, options: argparse.Namespace):
        self.spec, self.path, self.tasks, self.workers = spec, options.model, options.tasks, options.workers
        self.slots, self.vllm = options.slots, options.vllm
        self.settings = [
            f"env.name={options.env}",
            f"env.max_steps={'null' if options.max_steps is None else options.max_steps}",
            f"model.max_length={self.max_length}",
            "model.device=cpu",
            f"rollout.workers={options.workers}",
            f"rollout.slots={options.slots}",
            f"rollout.shard={options.shard}",
            f"rollout.max_new_tokens={options.max_new_tokens}",
            f"rollout.kv_dtype={options.kv}",
        ]
        self.max_new_tokens = options.max_new_tokens
        self.now = time.process_time if self.workers == 1 else time.perf_counter

    def player(self, temperature: float, join: bool = True) -> workers.Player:
        """As a run has it."""
        config = configs.load(None, [*self.settings, f"algorithm.join={str(join).lower()}"])
        return workers.Player(self.path, "ours", config, temperature)

    def model(self) -> Any:
        return models.load_model(self.path, ModelConfig(device="cpu"))

    def tokenizer(self) -> Any:
        return models.load_tokenizer(self.path)

    @property
    def max_length(self) -> int:
        return min(4096, models.context_length(self.path))


@dataclass(frozen=True)
class Iteration:
    """What one iteration played and took."""

    explored: list[Trajectory]
    scored: list[Trajectory]
    seconds: dict[str, float]
    tokens: dict[str, int]
    """New ones, by stage."""
    counts: dict[str, int]
    pairs: set[tuple[Any, ...]]
    clock: dict[str, float]
    """Where the time went: shares of it with one worker, else seconds of all workers together."""

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def facts(self) -> dict[str, Any]:
        rollouts = {"explore": len(self.explored), "reward": len(self.scored)}
        return {"seconds": self.seconds, "tokens": self.tokens, "rollouts": rollouts, "counts": self.counts} | {
            "clock": self.clock
        }


def ours(label: str, setup: Setup, settings: AlgorithmConfig) -> Iteration:
    """Explore and score once, as `tasks/explore.py` and `tasks/reward.py` do; where the time went."""
    policy = Timed(setup) if setup.workers == 1 else None
    experts = [setup.spec.expert(i) for i in setup.spec.task_ids("train")[: setup.tasks]]
    method = algorithms.make(settings)
    seconds, tokens, scored = {}, {}, []

    def played(jobs: list[Job], temperature: float, more: More | None = None) -> list[Trajectory]:
        player = setup.player(temperature, settings.join)
        shards = [[jobs[i] for i in shard] for shard in cut(jobs, shard_size(len(jobs), player.config))]
        if policy:
            vars(player).update(policy=policy, spec=policy.spec)  # in place of those that it would load
        return [t for _, trajectories in sorted(workers.play(player, shards, more=more)) for t in trajectories]

    def stage(name: str, start: float, moment: Any) -> None:
        seconds[name] = setup.now() - start - (policy.again() if policy else 0.0)
        tokens[name] = int(profiling.since(moment)["tokens"])

    first = start, moment = setup.now(), profiling.now()
    jobs = [Job(prefix, derive_seed(0, "explore", 1, prefix.key())) for prefix in method.explore(experts, [])]
    explored = played(jobs, settings.explore_temperature)
    stage("explore", start, moment)
    start, moment = setup.now(), profiling.now()
    wanted = method.score(experts, explored)
    rewards, counts = credit.estimate(
        wanted.prefixes,
        lambda jobs, more: scored.extend(found := played(jobs, settings.temperature, more)) or found,
        samples=settings.samples,
        seed=0,
        known=credit.known_outcomes([*experts, *explored]),
        contrasts=wanted.contrasts,
        curtail_at=settings.tau if settings.curtail else None,
    )
    stage("reward", start, moment)
    pairs = method.examples(experts, explored, rewards).pairs
    counts |= {reason: 2 * settings.samples * n for reason, n in wanted.saved.items()}
    decided = {(p.task_id, p.t, p.level, p.chosen, p.rejected) for p in pairs}
    total, rollouts, written = sum(seconds.values()), len(explored) + len(scored), sum(tokens.values())
    parts = profiling.since(first[1])
    print(
        f"ours, {label}: {rollouts} rollouts ({len(explored)} explored) in {total:.1f} s, {rollouts / total:.1f} a"
        f" second, {written / total:.0f} new tokens/s; {dict(counts)}"
    )
    clock = policy.clock(total) if policy else {part: parts[part] for part in (*profiling.PARTS, "other")}
    print("  " + ", ".join(f"{part} {fact:.3g}" for part, fact in clock.items()))
    return Iteration(explored, scored, seconds, tokens, dict(counts), decided, clock)


class TimedEngine(TransformersEngine):
    """Our engine with a clock around its forward passes, and around what it does for them."""

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.spent: defaultdict[str, float] = defaultdict(float)
        """Seconds by part."""
        self.passes: list[tuple[int, float, float, float]] = []
        """Of some passes that decode: tokens, their mean length, seconds, and seconds when it is run once more."""
        self.again = 0.0
        """Seconds in which passes were run once more, since they were last asked for."""

    def timed(self, part: str, call: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time()
        found = call(*arguments)
        self.spent[part] += time.process_time() - start
        return found

    def prefill(self, fresh: Any) -> None:
        self.timed("passes", super().prefill, fresh)

    def step(self, active: Any, temperature: float) -> list[int]:
        before = self.again
        ended = self.timed("passes", super().step, active, temperature)
        self.spent["passes"] -= self.again - before
        return ended

    def forward(self, ids: Any, layout: Any, keep: Any) -> torch.Tensor:
        start = time.process_time()
        logits = super().forward(ids, layout, keep)
        took = time.process_time() - start
        part = "decode" if layout.decoded else "prompts"
        self.spent[part] += took
        self.spent[f"{part} tokens"] += len(ids)
        self.spent[f"{part} passes"] += 1
        if layout.decoded == len(ids) and self.spent["decode passes"] % 20 == 0:
            start = time.process_time()
            super().forward(ids, layout, keep)  # writes the same key-values to the same places
            again = time.process_time() - start
            self.again += again
            self.passes.append((len(ids), float(layout.places.mean()), took, again))
        return logits


class Timed(ChatPolicy):
    """Our policy with a clock around its engine, its tokenizer and its drawing, and around the environment."""

    def __init__(self, setup: Setup):
        config = setup.player(0.0).config
        model, chat = setup.model(), ChatTokens(setup.tokenizer())
        self.timed = TimedEngine(
            model,
            end_tokens(chat, model.generation_config),
            max_length=config.model.max_length,
            slots=config.rollout.slots,
            kv_dtype=torch.bfloat16 if config.rollout.kv_dtype == "bfloat16" else None,
        )
        super().__init__(self.timed, chat, "ours")
        spent, timed = self.timed.spent, self.timed.timed
        self.spec = replace(setup.spec, make=lambda: TimedEnvironment(setup.spec.make(), spent))
        prompt, text, draw = chat.prompt, chat.text, drawing.draw
        chat.prompt = lambda conversation: timed("tokenizer", prompt, conversation)
        chat.text = lambda ids: timed("tokenizer", text, ids)
        drawing.draw = lambda *arguments: timed("drawing", draw, *arguments)

    def again(self) -> float:
        again, self.timed.again = self.timed.again, 0.0
        return again

    @torch.inference_mode()
    def clock(self, total: float) -> dict[str, float]:
        """Shares of `total` seconds, and how fast the passes are against the same ones alone and transformers' own."""
        spent = self.timed.spent
        shares = {part: spent[part] / total for part in ("decode", "prompts", "drawing", "tokenizer", "environment")}
        shares["rest of the passes (draft, merge, layout, copies)"] = (
            spent["passes"] - spent["decode"] - spent["prompts"] - spent["drawing"]
        ) / total
        shares["rest of the loop"] = 1 - sum(shares.values())
        batch, length, took, again = np.array(self.timed.passes).T
        return shares | {
            "all forward passes": shares["decode"] + shares["prompts"],
            "decoding, fed tokens/s": spent["decode tokens"] / spent["decode"],
            "of the same passes alone": again.sum() / took.sum(),
            "prompts, tokens/s": spent["prompts tokens"] / spent["prompts"],
            "mean tokens of a pass": batch.mean(),
            "mean length": float(np.average(length, weights=batch)),
            "transformers' own forward, static cache, tokens/s": stock_decoding(
                self.timed.model, round(batch.mean()), round(float(np.average(length, weights=batch)))
            ),
        }


def stock_decoding(model: Any, batch: int, length: int, steps: int = 8) -> float:
    """Tokens/s of transformers' own forward in a loop: static cache, no padding, every row as long as the mean."""
    cache = StaticCache(model.config, max_cache_len=length + steps + 2)
    model(torch.full((batch, 8), 5), past_key_values=cache)  # the mask hides the rest, which is read all the same
    ids, times = torch.full((batch, 1), 5), []
    for step in range(steps):
        at = torch.full((batch, 1), length + step)
        start = time.process_time()
        model(ids, past_key_values=cache, position_ids=at)
        times.append(time.process_time() - start)
    return batch / sorted(times)[steps // 2]


@dataclass
class TimedEnvironment:
    """An environment whose calls are counted in `spent["environment"]`."""

    env: Environment
    spent: defaultdict[str, float]

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.env, name)

        def timed(*arguments: Any) -> Any:
            start = time.process_time()
            try:
                return call(*arguments)
            finally:
                self.spent["environment"] += time.process_time() - start

        setattr(self, name, timed)
        return timed


# The others -----------------------------------------------------------------------------------------------------------


class Chat:
    """A model as transformers runs it, its tokenizer with padding on the left."""

    def __init__(self, setup: Setup):
        self.model, self.tokenizer = setup.model(), setup.tokenizer()
        self.tokenizer.padding_side = "left"
        self.max_length = setup.max_length
        self.end = ChatTokens(self.tokenizer).end_id
        self.config = {"do_sample": False, "eos_token_id": self.end, "pad_token_id": self.tokenizer.pad_token_id}

    def encode(self, turns: Sequence[Turn], **options: Any) -> Any:
        chats = [[m.as_dict() for m in turn.conversation] for turn in turns]
        return self.tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True, **options)

    def completion(self, ids: list[int], most: int) -> Completion:
        """Of at most so many tokens, in which a turn must end or be full, or else the context is."""
        stop = self.end in ids
        if not stop and len(ids) < most:
            return Completion("", (), "overflow")
        words = ids[: ids.index(self.end)] if stop else ids
        text = self.tokenizer.decode(words, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()
        return Completion(text, tuple([*words, self.end] if stop else words), "stop" if stop else "length")


class Drawn(LogitsProcessor):
    """Leaves one token a row: the one that our engine draws from the same distribution."""

    def __init__(self, turns: Sequence[Turn], temperature: float, length: int):
        self.seeds = np.array([turn.seed for turn in turns], dtype=np.uint64)
        self.temperature, self.length = temperature, length

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        u = drawing.uniforms(self.seeds, input_ids.shape[1] - self.length)
        tokens = torch.from_numpy(drawing.draw(scores, self.temperature, u)[0])
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


@dataclass
class Generate:
    """A policy that reads the whole history of every turn: tokenizer, padding, `model.generate`."""

    chat: Chat
    name: str = "generate"
    written: int = field(default=0, init=False)

    def generate(self, turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        chat = self.chat
        inputs = chat.encode(turns, padding=True, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        room = (chat.max_length - inputs["attention_mask"].sum(1)).clamp(min=0).tolist()
        processors = LogitsProcessorList([Drawn(turns, sampling.temperature, length)] if sampling.temperature else [])
        new = max(1, min(sampling.max_new_tokens, max(room)))
        config = GenerationConfig(**chat.config | {"max_new_tokens": new})
        ids = chat.model.generate(**inputs, generation_config=config, logits_processor=processors)
        found = zip(ids[:, length:].tolist(), room, strict=True)
        answers = [chat.completion(row[:most], sampling.max_new_tokens) for row, most in found]
        self.written += sum(len(a.token_ids) for a in answers)
        return answers

    def close_session(self, session: Any) -> None:
        pass


class Continuous(Generate):
    """The same by `generate_batch`; its cache is as large as the turns need, greedy only."""

    def generate(self, turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        chat = self.chat
        prompts = chat.encode(turns)["input_ids"]
        longest = max(map(len, prompts)) + sampling.max_new_tokens
        pages = len(prompts) * (-(-longest // 256) + 1)
        config = GenerationConfig(**chat.config | {"max_new_tokens": sampling.max_new_tokens})
        batching = ContinuousBatchingConfig(num_blocks=pages, max_batch_tokens=2048, use_cuda_graph=False)
        found = chat.model.generate_batch(
            prompts, generation_config=config, continuous_batching_config=batching, progress_bar=False
        )
        ordered = [found[key] for key in sorted(found, key=lambda key: int(key.rsplit("_", 1)[1]))]
        answers = [chat.completion(list(one.generated_tokens), sampling.max_new_tokens) for one in ordered]
        self.written += sum(len(a.token_ids) for a in answers)
        return answers


def one_at_a_time(spec: EnvSpec, policy: Generate, jobs: list[Job], sampling: Sampling) -> list[Trajectory]:
    """Each episode alone, a fresh loop (and replay) for each."""
    return [trajectory for job in jobs for trajectory in play(spec, policy, [job], sampling, slots=1, join=False)]


def batched(size: int) -> Callable[..., list[Trajectory]]:
    return lambda spec, policy, jobs, sampling: play(spec, policy, jobs, sampling, slots=size, join=False)


def theirs(
    name: str, policy: Generate, plays: Callable[..., list[Trajectory]], raw: Iteration, setup: Setup, rollouts: int
) -> dict[str, Any]:
    """Play an even choice of what `raw` played; seconds, and what all of it would take at the same speed."""
    found = [_theirs(name, policy, plays, raw, setup, rollouts, n) for n in sorted({1, setup.workers})]
    return min(found, key=lambda facts: facts["whole_seconds"])


def _theirs(
    name: str,
    policy: Generate,
    plays: Callable[..., list[Trajectory]],
    raw: Iteration,
    setup: Setup,
    rollouts: int,
    threads: int,
) -> dict[str, Any]:
    torch.set_num_threads(threads)
    total = len(raw.explored) + len(raw.scored)
    facts: dict[str, Any] = {"seconds": 0.0, "rollouts": 0, "tokens": 0, "equal": 0, "whole_seconds": 0.0}
    facts["threads"] = threads
    for stage, temperature, episodes in (("explore", 0.0, raw.explored), ("reward", 1.0, raw.scored)):
        size = -(-rollouts * len(episodes) // total)
        chosen = [episodes[i] for i in np.linspace(0, len(episodes) - 1, size).round().astype(int)] if size else []
        if not chosen:
            continue
        before, start = policy.written, setup.now()
        jobs = [Job(t.prefix(t.start), t.seed) for t in chosen]
        try:
            found = plays(setup.spec, policy, jobs, Sampling(temperature, setup.max_new_tokens))
        except Exception as error:  # whatever transformers says
            print(f"{name} ({BASELINES[name]}) does not run: {type(error).__name__}: {error}")
            return facts | {"error": str(error)}
        seconds, tokens = setup.now() - start, policy.written - before
        equal = sum(f.steps == t.steps for f, t in zip(found, chosen, strict=True))
        facts["seconds"] += seconds
        facts["rollouts"] += len(chosen)
        facts["tokens"] += tokens
        facts["equal"] += equal
        facts["whole_seconds"] += seconds / tokens * raw.tokens[stage]
        print(
            f"{name} ({BASELINES[name]}), {threads} threads, {stage}: {len(chosen)} rollouts in {seconds:.1f} s,"
            f" {tokens / seconds:.0f} new tokens/s; {equal} equal ours"
        )
    return facts


def with_vllm(setup: Setup, raw: Iteration, rollouts: int) -> dict[str, Any]:
    """(d): an even choice of what `raw` explored, by vLLM's server on its own device; in seconds of the wall."""
    if setup.vllm is None:
        print("d: not asked for (--vllm PATH)")
        return {}
    fields = {"max_length": setup.max_length, "path": setup.path}
    played = {"backend": "vllm", "vllm": setup.vllm, "slots": setup.slots}
    config = configs.validate({"model": fields, "rollout": played}, "rollouts.py")
    policy = policies.load(setup.path, "vllm", config)
    chosen = raw.explored[:: max(1, len(raw.explored) // rollouts)]
    jobs = [Job(t.prefix(t.start), t.seed) for t in chosen]
    start, moment = time.perf_counter(), profiling.now()
    found = play(setup.spec, policy, jobs, Sampling(0.0, setup.max_new_tokens), slots=setup.slots, join=False)
    seconds, tokens = time.perf_counter() - start, int(profiling.since(moment).get("tokens", 0))
    equal = sum(f.steps == t.steps for f, t in zip(found, chosen, strict=True))
    print(
        f"d (vLLM), explore: {len(chosen)} rollouts in {seconds:.1f} s, {tokens / seconds:.0f} new tokens/s;"
        f" {equal} equal ours"
    )
    return {"d": {"seconds": seconds, "tokens": tokens, "rollouts": len(chosen), "equal": equal}}


if __name__ == "__main__":
    main()
