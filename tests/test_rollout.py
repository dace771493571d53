from __future__ import annotations

from dataclasses import replace

import pytest

from ipr.envs import react
from ipr.policies.scripted import ScriptedPolicy
from ipr.rollout import UntilSolved, play, replay, shortened
from ipr.types import Completion, EnvSpec, IprError, Job, Prefix, Sampling, Step, Trajectory, derive_seed
from tests import toy

GREEDY = Sampling()


def say(action: str) -> str:
    return react.compose("So be it.", action)


def counted(spec: EnvSpec) -> tuple[EnvSpec, list[toy.ToyEnvironment]]:
    """The spec, and the list of the environments it will have made."""
    made: list[toy.ToyEnvironment] = []

    def make() -> toy.ToyEnvironment:
        env = toy.ToyEnvironment()
        made.append(env)
        return env

    return replace(spec, make=make), made


def experts_words(spec: EnvSpec) -> ScriptedPolicy:
    return ScriptedPolicy({f"room {i}.": [s.action for s in spec.expert(i).steps] for i in spec.task_ids("train")})


def test_the_experts_words_give_the_experts_trajectories():
    spec = toy.spec()
    policy = experts_words(spec)
    jobs = [Job(Prefix(i), seed) for seed, i in enumerate(spec.task_ids("train"))]
    seen: list[tuple[int, int]] = []
    played = play(spec, policy, jobs, GREEDY, slots=7, progress=lambda *counts: seen.append(counts))
    assert played == [replace(spec.expert(j.prefix.task_id), policy="scripted", seed=j.seed) for j in jobs]
    assert seen[-1] == (len(jobs), len(jobs))
    assert seen == sorted(set(seen))


def test_a_finished_episode_is_replaced_before_the_next_round():
    spec = toy.spec()
    policy = experts_words(spec)
    jobs = [Job(Prefix(i)) for i in spec.task_ids("train")]
    play(spec, policy, jobs, GREEDY, slots=6)
    turns = sum(len(spec.expert(j.prefix.task_id).steps) for j in jobs)
    sizes = [len(batch) for batch in policy.batches]
    assert max(sizes) == 6
    assert sum(sizes) == turns
    assert sizes == sorted(sizes, reverse=True), "a slot was empty while jobs were waiting"
    assert sorted(policy.closed) == list(range(len(jobs)))  # type: ignore[type-var]


def test_no_more_episodes_at_a_time_than_the_policy_has_room_for():
    spec = toy.spec()
    policy = experts_words(spec)
    policy.slots = 2  # type: ignore[attr-defined]  # as a GPU's memory has it
    play(spec, policy, [Job(Prefix(i)) for i in spec.task_ids("train")[:5]], GREEDY, slots=6)
    assert max(map(len, policy.batches)) == 2


class OneByOne(ScriptedPolicy):
    """Answers the turn that came last, alone."""

    def stream(self, waiting, sampling):
        while waiting:
            turn = waiting.pop()
            yield turn, self.generate([turn], sampling)[0]


def test_turns_that_do_not_wait_for_each_other_make_the_same_episodes():
    spec = toy.spec()
    jobs = [Job(spec.expert(i).prefix(k % 3), k) for k, i in enumerate(spec.task_ids("train"))]
    words = {f"room {i}.": [s.action for s in spec.expert(i).steps] for i in spec.task_ids("train")}
    policy, kept = OneByOne(words), []
    played = play(spec, policy, jobs, GREEDY, slots=6, keep=kept.append)
    assert played == play(spec, experts_words(spec), jobs, GREEDY, slots=6)
    assert {len(batch) for batch in policy.batches} == {1}
    assert sorted(kept, key=lambda t: t.seed) == played
    assert sorted(policy.closed) == list(range(len(jobs)))  # type: ignore[type-var]


class Twice:
    """Asks for every first episode once more, from its first step, where it was won."""

    def part(self, jobs):
        return self

    def after(self, job, reward):
        return [replace(job, seed=job.seed + 100)] if job.seed < 100 and reward == 1 else []


def test_what_is_asked_for_while_playing_is_played_too():
    spec = toy.spec()
    jobs = [Job(Prefix(i), seed) for seed, i in enumerate(spec.task_ids("train")[:5])]
    words = {f"room {job.prefix.task_id}.": [say("stop")] for job in jobs[3:]}
    words |= {f"room {i}.": [s.action for s in spec.expert(i).steps] for i in spec.task_ids("train")[:3]}
    seen: list[tuple[int, int]] = []
    more = play(spec, ScriptedPolicy(words), jobs, GREEDY, more=Twice(), progress=lambda *at: seen.append(at))
    assert more[:5] == play(spec, ScriptedPolicy(words), jobs, GREEDY)
    assert sorted(t.job.seed for t in more[5:]) == [100, 101, 102]
    assert all(t.job.prefix == jobs[t.seed - 100].prefix for t in more[5:])
    assert seen[-1] == (8, 8)


def test_sessions_seeds_and_conversations_of_the_turns():
    spec = toy.spec()
    expert = spec.expert("train-0")
    policy = experts_words(spec)
    job = Job(expert.prefix(2), seed=5)
    (played,) = play(spec, policy, [job], GREEDY)
    turns = [turn for batch in policy.batches for turn in batch]
    for k, turn in enumerate(turns, 2):
        assert turn.conversation == (*spec.prompt, *expert.history(k))
        assert turn.seed == derive_seed(5, k)
        assert turn.session == turns[0].session
        assert turn.last == (k == spec.max_steps - 1)
    assert played == replace(expert, policy="scripted", seed=5, start=2)


def test_a_prefix_is_replayed_once_and_extends_what_was_replayed():
    spec, made = counted(toy.spec())
    policy = ScriptedPolicy(lambda conversation, seed: say("stop"))
    expert = spec.expert("train-1")
    other = (*expert.steps[:1], Step(say("dance"), toy.NOTHING))
    prefixes = [expert.prefix(3), Prefix("train-1", other), expert.prefix(1), expert.prefix(0)]
    jobs = [Job(p, s) for s in range(4) for p in prefixes]
    played = play(spec, policy, jobs, GREEDY, slots=5)
    # One stop a job; three steps of the expert and the one dance are replayed, each once.
    assert sum(env.steps_played for env in made) == len(jobs) + 4
    assert len(made) == 5 + 1  # environments are reused
    for job, trajectory in zip(jobs, played, strict=True):
        assert trajectory.steps[:-1] == job.prefix.steps
        assert (trajectory.seed, trajectory.start) == (job.seed, len(job.prefix.steps))
        assert trajectory.ending == "terminated"
    # Equal prefixes are neighbours, short ones first.
    lengths = [len(turn.conversation) for batch in policy.batches for turn in batch]
    assert lengths == sorted(lengths)


def test_a_prefix_that_ended_the_episode_is_not_played():
    spec = toy.spec(max_steps=3)
    expert = toy.expert("train-2")
    steps = tuple(Step(say("dance"), toy.NOTHING) for _ in range(3))
    policy = ScriptedPolicy({})
    won, late = (
        play(toy.spec(), policy, [Job(expert.prefix(len(expert.steps)))], GREEDY),
        play(spec, policy, [Job(Prefix("train-2", steps))], GREEDY),
    )
    assert won == [replace(expert, policy="scripted", start=len(expert.steps))]
    assert (late[0].ending, late[0].reward, late[0].invalid) == ("truncated", 0.0, 0)
    assert policy.batches == []
    with pytest.raises(IprError, match=r"train-2, step 4 of a prefix of 4: the episode is already truncated"):
        play(spec, policy, [Job(Prefix("train-2", (*steps, steps[0])))], GREEDY)


def test_the_step_limit_truncates_and_invalid_actions_count_from_the_start():
    spec = toy.spec(max_steps=4)
    prefix = Prefix("train-3", (Step(say("dance"), toy.NOTHING),))
    policy = ScriptedPolicy({"room": [say("dance"), say("dance"), say("go to table"), "no action"]})
    (played,) = play(spec, policy, [Job(prefix)], GREEDY)
    assert (played.ending, played.reward, len(played.steps), played.invalid) == ("truncated", 0.0, 4, 2)


class FullPolicy(ScriptedPolicy):
    """Has no room left for a third turn."""

    def generate(self, turns, sampling):
        return [
            Completion("", (), "overflow") if len(t.conversation) > len(toy.PROMPT) + 4 else c
            for t, c in zip(turns, super().generate(turns, sampling), strict=True)
        ]


def test_a_full_context_ends_the_episode():
    spec = toy.spec()
    policy = FullPolicy(lambda conversation, seed: say("go to table"))
    (played,) = play(spec, policy, [Job(Prefix("train-4"))], GREEDY)
    assert (played.ending, played.reward, len(played.steps)) == ("overflow", 0.0, 2)
    assert policy.closed == [0]


def test_a_replay_that_differs_is_refused():
    spec = toy.spec()
    expert = spec.expert("train-5")
    steps = (expert.steps[0], replace(expert.steps[1], observation="You are in Rome."), *expert.steps[2:])
    policy = ScriptedPolicy(lambda conversation, seed: say("stop"))
    with pytest.raises(IprError) as refused:
        play(spec, policy, [Job(Prefix("train-5", steps[:3]))], GREEDY)
    told = str(refused.value)
    assert "train-5, step 2 of a prefix of 3" in told
    assert "'You are in Rome.'" in told
    assert repr(expert.steps[1].observation) in told


def test_an_error_closes_sessions_and_environments():
    spec, made = counted(toy.spec())
    closed: list[int] = []

    class Closing(toy.ToyEnvironment):
        def close(self) -> None:
            closed.append(1)

    def fail(conversation, seed):
        raise RuntimeError("no power")

    policy = ScriptedPolicy(fail)
    with pytest.raises(RuntimeError, match="no power"):
        play(replace(spec, make=Closing), policy, [Job(Prefix("train-0"), s) for s in range(3)], GREEDY)
    assert policy.closed == [0, 1, 2]
    assert len(closed) == 3 + 1
    assert not made


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, []),
        ({"first_observation": "Hello."}, ["first observation: expected 'Hello.', got 'You are in a room"]),
        ({"reward": 0.5}, ["reward: expected 0.5, got 1.0"]),
        ({"ending": "truncated"}, ["ending: expected 'truncated', got 'terminated'"]),
    ],
)
def test_replay_tells_the_first_difference(change: dict, told: list[str]):
    spec = toy.spec()
    problems = replay(spec, replace(spec.expert("dev-0"), **change))
    assert len(problems) == len(told)
    assert all(problem.startswith(start) for problem, start in zip(problems, told, strict=True))


def test_replay_tells_wrong_steps():
    spec = toy.spec()
    expert = spec.expert("dev-1")
    n = len(expert.steps)
    broken = replace(expert, steps=(replace(expert.steps[0], observation="?"), *expert.steps[1:]))
    assert replay(spec, broken) == [f"step 1 of {n}: expected '?', got {expert.steps[0].observation!r}"]
    longer = replace(expert, steps=(*expert.steps, Step(say("stop"), "You stop.")))
    assert replay(spec, longer) == [f"step {n} of {n + 1}: the episode is terminated here, the record goes on"]
    shorter = replace(expert, steps=expert.steps[:-1], reward=0.0)
    assert replay(spec, shorter) == ["ending: expected 'terminated', got None"]
    assert replay(spec, replace(shorter, ending="overflow")) == []


def test_play_without_jobs():
    assert play(toy.spec(), ScriptedPolicy({}), [], GREEDY) == []


def test_trajectories_of_play_replay():
    spec = toy.spec(max_steps=3)
    words = [say(a) for a in ("go to box 1", "dance", "stop")]
    policy = ScriptedPolicy(lambda conversation, seed: words[seed % len(words)])
    jobs = [Job(Prefix(i), seed) for i in spec.task_ids("train")[:10] for seed in range(3)]
    played: list[Trajectory] = play(spec, policy, jobs, GREEDY, slots=8)
    assert {t.ending for t in played} == {"terminated", "truncated"}
    assert [replay(spec, t) for t in played] == [[]] * len(jobs)
    assert play(spec, policy, jobs, GREEDY, slots=3) == played


def test_an_episode_that_comes_to_where_another_starts_is_played_once():
    """The expert's words from every prefix: one turn each, but for the last; and the same trajectories."""
    spec = toy.spec()
    task_id = max(spec.task_ids("train"), key=lambda i: len(spec.expert(i).steps))
    expert = spec.expert(task_id)
    jobs = [Job(expert.prefix(t), seed=t) for t in range(len(expert.steps))]
    together, apart = experts_words(spec), experts_words(spec)
    joined = play(spec, together, jobs, GREEDY, slots=3)
    assert joined == play(spec, apart, jobs, GREEDY, slots=3, join=False)
    n = len(jobs)
    assert n > 2
    assert sum(map(len, together.batches)) == n
    assert sum(map(len, apart.batches)) == n * (n + 1) // 2
    assert [t.start for t in joined] == list(range(n))


def test_sampled_episodes_do_not_join():
    spec = toy.spec()
    policy = experts_words(spec)
    expert = spec.expert(spec.task_ids("train")[0])
    play(spec, policy, [Job(expert.prefix(t)) for t in range(len(expert.steps))], Sampling(1.0))
    n = len(expert.steps)
    assert sum(map(len, policy.batches)) == n * (n + 1) // 2


def test_actions_that_fail_count_for_both_who_joined():
    spec = toy.spec()
    task_id = spec.task_ids("train")[0]
    bad = say("fly away")
    first = play(spec, ScriptedPolicy({"": [bad] * 50}), [Job(Prefix(task_id))], GREEDY)[0]
    jobs = [Job(first.prefix(t)) for t in (0, 2, 3)]
    policy = ScriptedPolicy({"": [bad] * 50})
    played = play(spec, policy, jobs, GREEDY)
    assert [t.invalid for t in played] == [len(first.steps) - t for t in (0, 2, 3)]
    assert played == play(spec, ScriptedPolicy({"": [bad] * 50}), jobs, GREEDY, join=False)


def test_until_solved_draws_again_with_other_seeds_until_it_is_solved():
    spec = toy.spec()
    tries: dict[str, list[int]] = {}

    def answer(conversation, seed):
        room = conversation[-1].content.rsplit("room ", 1)[-1].split(".")[0]
        if len(conversation) == len(spec.prompt) + 1:
            tries.setdefault(room, []).append(seed)
        return say("stop")

    jobs = [Job(Prefix(task_id), 7) for task_id in spec.task_ids("train")[:3]]
    played = play(spec, ScriptedPolicy(answer), jobs, Sampling(1.0), more=UntilSolved(3, 0.5))
    assert [len(seeds) for seeds in tries.values()] == [3, 3, 3]
    assert all(len(set(seeds)) == 3 for seeds in tries.values())
    assert len(played) == 9
    solved = UntilSolved(3, 0.5)
    assert solved.after(jobs[0], 0.5) == []
    assert [len(solved.after(jobs[1], 0.0)) for _ in range(4)] == [1, 1, 0, 0]
    assert solved.part(jobs).after(jobs[1], 0.0)  # another process counts anew


def test_a_success_is_shortened_to_what_its_end_needed():
    spec = toy.spec()
    task_id = spec.task_ids("train")[0]
    ring = toy.ring_box(task_id)
    other = next(k for k in range(1, toy.BOXES + 1) if k != ring)
    words = ["dance", f"go to box {other}", f"go to box {other}", f"go to box {ring}"]
    words += ["take ring", "go to table", "put ring"]
    policy = ScriptedPolicy(lambda conversation, seed: say(words[(len(conversation) - len(spec.prompt)) // 2]))
    (long,) = play(spec, policy, [Job(Prefix(task_id))], GREEDY)
    assert (long.reward, long.invalid, len(long.steps)) == (1.0, 1, 7)
    short = shortened(spec, long)
    # The box without the ring showed something new, once.
    assert [s.action for s in short.steps] == [say(w) for w in (words[1], *words[3:])]
    assert not replay(spec, short)
    assert short.invalid == 0
