"""Generated games: always the same, splits apart, won by the expert; the wanderer; export and the real folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from ipr.envs.alfworld import expert, games, play, rooms
from ipr.envs.alfworld.engine import NOTHING, Game
from ipr.envs.alfworld.real import Folder, read
from ipr.envs.react import action_of
from ipr.types import IprError
from tests.envs.thoughts import thought_of

SPLITS = ("train", "dev", "seen", "unseen", "pretrain")


def some(split: str, n: int = 60) -> list[str]:
    return games.task_ids(split)[:n]


def test_a_task_id_gives_the_same_game_in_every_process(in_two_processes: Callable[[str], set[str]]) -> None:
    code = (
        "import hashlib, json; from ipr.envs.alfworld import games, play;"
        "d = [games.generate(f'{s}/00000{k}') for s in ('train', 'unseen', 'pretrain') for k in range(3)];"
        "d += [[s.action for s in play.wander('pretrain/000001', 7, 10).steps]];"
        "print(hashlib.sha256(json.dumps(d).encode()).hexdigest())"
    )
    assert len(in_two_processes(code)) == 1


def test_splits_have_no_game_in_common() -> None:
    problems = [games.generate(i)["pddl_problem"].split("\n", 1)[1] for split in SPLITS for i in some(split, 40)]
    assert len(set(problems)) == len(problems)
    assert len({i for split in SPLITS for i in games.task_ids(split)}) == sum(games.SIZES.values())


def test_unseen_and_pretrain_rooms_differ_from_the_rooms_of_training() -> None:
    def layouts(pool: str) -> set[tuple[object, ...]]:
        rooms_ = [room for group in rooms.pools()[pool].values() for room in group]
        return {(room.kind, *sorted(Counter(t for _, t in room.receptacles).items())) for room in rooms_}

    train, unseen, pretrain = (layouts(pool) for pool in ("train", "unseen", "pretrain"))
    assert (len(train), len(unseen), len(pretrain)) == (120, 40, 400)
    assert not train & unseen
    assert not train & pretrain
    assert not unseen & pretrain

    for split, pool in (("train", "train"), ("dev", "train"), ("seen", "train"), ("unseen", "unseen")):
        numbers = {room.number for group in rooms.pools()[pool].values() for room in group}
        assert {games.generate(i)["scene"] for i in some(split, 100)} <= numbers


@pytest.mark.parametrize("split", SPLITS)
def test_games_look_like_rooms(split: str) -> None:
    for task_id in some(split):
        game = games.game(task_id)
        assert rooms.FEWEST <= len(game.receptacle_names) <= rooms.MOST
        assert 8 <= len(game.object_names) <= 30
        assert not game.won(game.start)


@pytest.mark.parametrize("split", ["train", "dev", "seen", "unseen"])
def test_the_expert_wins_every_game_from_what_it_sees(split: str) -> None:
    lengths, words = [], []
    for task_id in some(split):
        game = games.game(task_id)
        found = expert.play(game, task_id, games.expert.MAX_STEPS)
        assert found.reward == 1.0
        assert found.ending == "terminated"
        assert found.invalid == 0
        assert found == expert.play(game, task_id, games.expert.MAX_STEPS)
        lengths.append(len(found.steps))
        known = found.first_observation
        for step in found.steps:
            words.append(len(thought_of(step.action).split()))
            for name in expert.things_in(
                f"a {action_of(step.action)}".replace(" from ", " a ").replace(" with ", " a ")
            ):
                assert name in known, f"{task_id}: {name} was never shown"
            known += step.observation
    assert sum(n <= 18 for n in lengths) > 0.9 * len(lengths)
    assert min(words) >= 5
    assert max(words) <= 60  # the names of twelve places and their numbers among them


def test_all_task_types_are_generated() -> None:
    assert Counter(games.task_type(i) for i in some("train")) == dict.fromkeys(games.TYPES, 10)
    for task_id in some("train", 12):
        assert games.generate(task_id)["task_type"] == games.task_type(task_id)


@pytest.mark.parametrize("task_id", ["train/1", "train/999999", "test/000001", "nonsense", "train/-00001", ""])
def test_unknown_ids_are_refused(task_id: str) -> None:
    with pytest.raises(IprError):
        games.game(task_id)


def test_the_wanderer_names_what_it_uses_and_never_pursues_the_task() -> None:
    episodes = [play.wander(task_id, 3, 14) for task_id in some("pretrain", 80)]
    assert episodes[0] == play.wander(episodes[0].task_id, 3, 14)
    assert episodes[0] != play.wander(episodes[0].task_id, 4, 14)
    steps = [s for e in episodes for s in e.steps]
    verbs = Counter((action_of(s.action) or "").split()[0] for s in steps)
    assert set(verbs) >= {"go", "open", "take", "put", "clean", "heat", "cool", "examine", "look", "inventory", "use"}
    assert 0.03 < sum(s.observation == NOTHING for s in steps) / len(steps) < 0.25
    assert sum(e.reward for e in episodes) / len(episodes) < 0.05
    assert all(5 <= len(thought_of(s.action).split()) <= 40 for s in steps)
    copied = [s for s in steps if (action_of(s.action) or "").startswith("take ")]
    assert all(" ".join((action_of(s.action) or "").split()[1:3]) in thought_of(s.action) for s in copied)


def test_an_exported_game_is_read_back(tmp_path: Path) -> None:
    for task_id in some("unseen", 12):
        data = games.generate(task_id)
        file = games.export(data, tmp_path, "valid_unseen")
        assert file.parts[-3] == "-".join(
            (data["task_type"], data["object_target"], "None", data["parent_target"], str(data["scene"]))
        )
        assert json.loads((file.parent / "traj_data.json").read_text())["task_type"] == data["task_type"]
        again = read(file)
        assert again.first == games.game(task_id).first
        found = expert.play(again, task_id, 20)
        assert found.reward == 1.0
    folder = Folder(tmp_path)
    assert len(folder.task_ids("unseen")) == 12
    assert folder.task_ids("train") == []
    assert folder.task_type(folder.task_ids("unseen")[0]) in games.TYPES


def test_the_real_folder(real: Path) -> None:
    folder = Folder(real)
    sizes = {split: len(folder.task_ids(split)) for split in ("train", "dev", "seen", "unseen")}
    assert sizes["train"] + sizes["dev"] == 400
    assert sizes["seen"] == sizes["unseen"] == 60
    assert 10 <= sizes["dev"] <= 30
    won = []
    for task_id in folder.task_ids("seen"):
        won.append(expert.play(folder.game(task_id), task_id, 50).reward)
    assert sum(won) == 60


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(IprError, match="no such folder"):
        Folder(tmp_path / "none")
    with pytest.raises(IprError, match=r"json_2\.1\.1"):
        Folder(tmp_path)


def test_unsolvable_and_left_out_games_are_not_listed(tmp_path: Path) -> None:
    for name, solvable in (
        ("pick_a-A-None-B-1", "true"),
        ("pick_b-A-None-B-1", "false"),
        ("pick_movable-A-B-C-1", "true"),
    ):
        (tmp_path / "train" / name / "t").mkdir(parents=True)
        (tmp_path / "train" / name / "t" / "game.tw-pddl").write_text(f'{{"grammar": "", "solvable": {solvable}}}')
    folder = Folder(tmp_path)
    listed = folder.task_ids("train") + folder.task_ids("dev")
    assert listed == ["train/pick_a-A-None-B-1/t"]
    with pytest.raises(IprError, match=r"game\.tw-pddl"):
        folder.game(listed[0])
    with pytest.raises(IprError, match=r"game\.tw-pddl"):
        folder.game("train/none/t")


def test_generated_games_parse_as_real_ones_do() -> None:
    data = games.generate("train/000003")
    assert set(data) >= {"pddl_domain", "grammar", "pddl_problem", "solvable"}
    assert Game(json.loads(json.dumps(data)), "x").first == games.game("train/000003").first
