"""The environment: contract, limits, snapshots; the oracle against trying every combination."""

from __future__ import annotations

import itertools
import pickle
import random
import time
from dataclasses import replace

import pytest

from ipr import envs
from ipr.envs import checker
from ipr.envs.webshop import generate
from ipr.envs.webshop.goods import SEPARATOR, Goal, Product
from ipr.envs.webshop.oracle import best_score
from ipr.envs.webshop.pages import State
from ipr.envs.webshop.reward import score
from ipr.envs.webshop.world import Shop
from ipr.policies.scripted import ScriptedPolicy
from ipr.rollout import play
from ipr.types import EnvSpec, IprError, Job, Outcome, Prefix, Sampling


@pytest.fixture(scope="module")
def spec() -> EnvSpec:
    return envs.get("webshop")


def shop(spec: EnvSpec, task_id: str = "train/000000") -> Shop:
    env = spec.make()
    assert isinstance(env, Shop)
    env.reset(task_id)
    return env


def test_spec(spec: EnvSpec) -> None:
    assert (spec.name, spec.max_steps, envs.get("webshop", max_steps=7).max_steps) == ("webshop", 10, 7)
    instruction, ok = spec.prompt
    assert (instruction.role, ok.role, ok.content) == ("user", "assistant", "OK")
    assert "search[" in instruction.content
    assert "click[" in instruction.content
    assert len(instruction.content.split()) <= 100
    assert {spec.task_type(i) for i in spec.task_ids("train")[:26]} == {
        "fashion", "beauty", "electronics", "garden", "grocery", "sports",
    }  # fmt: skip
    with pytest.raises(IprError, match="split 'test'"):
        spec.task_ids("test")


def test_the_contract_holds(spec: EnvSpec) -> None:
    splits = ("train", "dev", "seen", "unseen", "pretrain")
    report = checker.check(spec, [i for s in splits for i in spec.task_ids(s)[:12]])
    assert report["problems"] == []
    assert report["ok"]
    assert report["expert_wins"] >= 45
    assert report["steps_per_s"] > 2_000


def test_a_short_limit_cuts_the_expert_too() -> None:
    short = envs.get("webshop", max_steps=3)
    assert checker.check(short, short.task_ids("dev")[:8])["problems"] == []
    assert {short.expert(i).ending for i in short.task_ids("dev")[:20]} == {"terminated", "truncated"}


def test_buying_ends_the_episode_with_the_reward(spec: EnvSpec) -> None:
    expert, env = spec.expert("train/000000"), shop(spec)
    outcomes = [env.step(s.action) for s in expert.steps]
    assert [(o.reward, o.terminated) for o in outcomes[:-1]] == [(0.0, False)] * (len(outcomes) - 1)
    assert (outcomes[-1].reward, outcomes[-1].terminated) == (1.0, True)
    after = env.step("Thought: x\nAction: search[shoes]")
    assert after == replace(outcomes[-1], valid=False)


def test_step_limit() -> None:
    spec, words = envs.get("webshop", max_steps=2), ["Action: look", "Action: search[shoes]", "Action: click[x]"]
    env = spec.make()
    first = env.reset("train/000000")
    assert env.step(words[0]) == Outcome(first, 0.0, False, valid=False)
    policy = ScriptedPolicy({first: words})
    (played,) = play(spec, policy, [Job(Prefix("train/000000"))], Sampling())
    assert (played.ending, played.invalid, played.reward, len(played.steps)) == ("truncated", 1, 0.0, 2)


@pytest.mark.parametrize(
    ("action", "works"),
    [
        ("search[Running Shoes]", True),
        ("search[shoes] and that is all", True),  # what follows the bracket is not read ...
        ("search[shoes] and then click[Buy Now]", False),  # ... unless it has brackets: the last one parts
        ("search[red shoes] search[blue]", False),
        ("search[black [2 pack]]", False),
        ("search[shoes []", True),
        ("search[]", False),
        ("search[ ]", True),  # nothing is found
        ("search shoes", False),
        ("search[shoes", False),
        ("Search[shoes]", False),
        ("click[Buy Now]", False),
        ("click[search]", False),
        ("buy[x]", False),
        ("", False),
    ],
)
def test_what_counts_as_an_action(spec: EnvSpec, action: str, works: bool) -> None:
    env = shop(spec)
    first = env.reset("train/000000")
    outcome = env.step(f"Thought: x\nAction: {action}")
    assert outcome.valid == works
    assert (outcome.observation == first) == (not works)


def test_reset_comes_first(spec: EnvSpec) -> None:
    with pytest.raises(IprError, match="reset"):
        spec.make().step("Action: search[x]")
    for wrong in ("train/999999", "train/1", "test/000000", "", "train/\u0661\u0661\u0661\u0661\u0661\u0661"):
        with pytest.raises(IprError, match="is no generated goal"):
            spec.make().reset(wrong)


def test_snapshots_are_small_quick_and_carry_over(spec: EnvSpec) -> None:
    rng = random.Random(5)
    env, other = shop(spec), shop(spec)
    for task_id in spec.task_ids("dev")[:10]:
        env.reset(task_id)
        query = env.step("Action: search[shoes for women]")
        assert query.valid
        for _ in range(6):
            state = pickle.loads(pickle.dumps(env.snapshot()))
            assert len(pickle.dumps(state)) < 1000
            other.restore(state)
            assert other.clickable() == env.clickable()
            action = f"Action: click[{rng.choice(env.clickable() or ['x'])}]"
            assert other.step(action) == env.step(action)
    start = time.perf_counter()
    for _ in range(1000):
        env.restore(env.snapshot())
    assert (time.perf_counter() - start) / 1000 < 50e-6


def test_attributes_page_on_request() -> None:
    env = Shop(generate, attributes=True)
    env.reset("train/000000")
    asin = env.step("Action: search[shoes]").observation.split(" [SEP] ")[5]
    env.step(f"Action: click[{asin}]")
    assert "attributes" in env.clickable()
    page = env.step("Action: click[Attributes]").observation
    product = next(p for p in generate.products() if p.asin == asin)
    assert page.endswith(" [SEP] ".join(("< Prev", *product.attributes)))


# The oracle ----------------------------------------------------------------------------------------------------------


def draw(rng: random.Random) -> tuple[Product, Goal]:
    """A product and a goal whose options match in many ways, also one value for two goals."""
    values = ("red", "dark red", "navy blue", "blue", "large", "x-large", "xx-large", "8", "8.5", "tan", "standard")
    names = rng.sample(("color", "size", "style"), rng.randint(0, 3))
    options = tuple((name, tuple(rng.choices(values, k=rng.randint(1, 4)))) for name in names)
    crumbs = f"A {SEPARATOR} B"
    wanted = tuple(rng.choice((v, ("size", v))) for v in rng.choices(values, k=rng.randint(0, 4)))
    product = Product("B0", "Shoe", "q", "", crumbs, "", (), ("wool",), options, "$5.0", 5.0, ("shoe",))
    return product, Goal("", "B0", "q", crumbs, ("wool", "mesh"), wanted, rng.choice((4.0, 5.0)), ("shoe",))


def combinations(product: Product) -> list[dict[str, str]]:
    groups = [[(name, value) for value in values] for name, values in product.options]
    return [dict(chosen) for chosen in itertools.product(*groups)]


def test_the_closed_forms_equal_trying_every_combination() -> None:
    rng = random.Random(6)
    for _ in range(300):
        product, goal = draw(rng)
        rewards = [score(product, goal, chosen).reward for chosen in combinations(product)]
        assert best_score(product, goal) == pytest.approx(max(rewards))


def test_an_option_without_values_is_no_obstacle() -> None:
    product, goal = draw(random.Random(1))
    product = replace(product, options=(("size", ()), ("color", ("red",))))
    goal = replace(goal, options=("red",))
    assert best_score(product, goal) == score(product, goal, {"color": "red"}).reward


def test_the_page_score_of_each_page(spec: EnvSpec) -> None:
    assert spec.oracle is not None
    env = shop(spec)
    assert spec.oracle(env) == 0
    values, rewards = [0.0], [0.0]
    for step in spec.expert("train/000000").steps:
        rewards.append(env.step(step.action).reward)
        values.append(spec.oracle(env))
    assert values[-1] == rewards[-1] == 1.0
    assert values[1] == max(
        best_score(generate.catalogue().product(row), generate.goal("train/000000"))
        for row in generate.catalogue().search("wide toe box machine washable slip resistant running shoes burgundy")[
            :10
        ]
    )
    env.restore(("train/000000", State("results", "no such thing")))
    assert spec.oracle(env) == 0


def test_choosing_the_wrong_option_costs_nothing_until_it_is_bought(spec: EnvSpec) -> None:
    env = shop(spec)
    for step in spec.expert("train/000000").steps:
        product = env.snapshot()[1]
        if product.page == "item" and not product.chosen:
            break
        env.step(step.action)
    before = env.page_score()
    name, values = generate.catalogue().product(env.snapshot()[1].row).options[0]
    wrong = next(v for v in values if v not in generate.goal("train/000000").options)
    env.step(f"Action: click[{wrong}]")
    assert env.snapshot()[1].chosen == ((name, wrong),)
    assert env.page_score() == before == 1.0
    assert env.step("Action: click[Buy Now]").reward < 1
    assert env.page_score() < 1
