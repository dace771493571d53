"""ALFWorld's data folder, checked and packed, on folders in the official form; the two wordings."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from ipr import store
from ipr.apps import start
from ipr.config import load
from ipr.data import exports, imports
from ipr.envs import get
from ipr.envs.alfworld import games
from ipr.envs.alfworld.pack import pack
from ipr.envs.alfworld.wording import reword
from ipr.envs.react import action_of
from ipr.policies.scripted import ScriptedPolicy
from ipr.rollout import play, replay
from ipr.types import IprError, Job, Message, Prefix, Sampling, Trajectory

CONFIGS = Path(__file__).parents[2] / "flows" / "configs"
PLACES = {"train": "train", "seen": "valid_seen", "unseen": "valid_unseen"}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """json_2.1.1 with 24 train games and 3 of each test split."""
    folder = tmp_path / "json_2.1.1"
    for split, place in PLACES.items():
        for task_id in games.task_ids(split)[: 24 if split == "train" else 3]:
            games.export(games.generate(task_id), folder, place)
    return folder


def test_a_folder_is_packed_to_what_a_run_takes(official: Path, tmp_path: Path) -> None:
    found = pack(official.parent, tmp_path / "out")
    assert found["games"]["train"] + found["games"]["dev"] == 24
    assert (found["games"]["seen"], found["games"]["unseen"]) == (3, 3)
    spec, original = get("alfworld", found["data"]), get("alfworld", official)
    for split in ("train", "dev", "seen", "unseen"):
        assert spec.task_ids(split) == original.task_ids(split)
    experts = store.load(Path(found["experts_file"]), Trajectory)
    assert [t.task_id for t in experts] == spec.task_ids("train")
    assert all(t.reward == 1 and replay(spec, t) == [] for t in experts)
    assert not list(Path(found["data"]).rglob("traj_data.json"))


def test_other_counts_than_the_official_ones_are_told(official: Path, tmp_path: Path) -> None:
    report = Path(pack(official, tmp_path / "out")["report"]).read_text().splitlines()
    assert report == [
        "train: 24 games, the official data has 3553",
        "valid_seen: 3 games, the official data has 140",
        "valid_unseen: 3 games, the official data has 134",
    ]


def test_what_is_broken_or_half_stays_behind_and_is_named(official: Path, tmp_path: Path) -> None:
    broken, half, unsolvable = sorted((official / "valid_seen").rglob("game.tw-pddl"))
    broken.write_text("{")
    half.unlink()
    unsolvable.write_text(json.dumps(json.loads(unsolvable.read_text()) | {"solvable": False}))
    found = pack(official, tmp_path / "out")
    assert found["games"]["seen"] == 0
    assert any(str(broken) in m and "not JSON" in m for m in found["messages"])
    assert any("valid_seen: 1 tasks without game.tw-pddl" in m for m in found["messages"])
    assert not (tmp_path / "out/valid_seen").exists()


def test_a_goal_in_other_words_has_no_expert_and_is_named(official: Path, tmp_path: Path) -> None:
    task_id = get("alfworld", official).task_ids("train")[0]
    game = official / task_id / "game.tw-pddl"
    game.write_text(re.sub("Your task is to: ", "Your task is to: kindly ", game.read_text()))
    found = pack(official, tmp_path / "out")
    assert found["experts"] == found["games"]["train"] - 1
    assert any(m.startswith(f"{task_id}: the expert knows no task of the form 'kindly ") for m in found["messages"])
    with pytest.raises(IprError, match=r"the expert knows no task of the form 'kindly .*env\.experts"):
        get("alfworld", official).expert(task_id)


def test_transcripts_are_played(official: Path, tmp_path: Path) -> None:
    game = next((official / "train").rglob("game.tw-pddl"))
    first = get("alfworld", official).make().reset(game.parent.relative_to(official).as_posix())
    turns = [f"-= Welcome to TextWorld, ALFRED! =-\n\n{first}", "look", "You are somewhere else."]
    (game.parent / "gt_traj.json").write_text(json.dumps([{"value": turn} for turn in turns]))
    found = pack(official, tmp_path / "out")
    assert found["recorded"] == {"games": 1, "wins": 0, "observations": 2, "equal": 1}
    assert "1 recorded observations are not given back" in found["messages"]


def checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], list[str]]:
    """Exit code, all that `ipr env check` finds, and the problems that it prints."""
    code = main(["env", "check", "alfworld", "--data", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["env", "check", "alfworld", "--data", str(folder)]) == code
    lines = capsys.readouterr().out.splitlines()
    return code, found, [line for line in lines if line.startswith(("problem: ", "... "))]


def test_the_check_names_what_is_not_given_back(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    game = next((official / "train").rglob("game.tw-pddl"))
    task_id = game.parent.relative_to(official).as_posix()
    spec = get("alfworld", official)
    banner = "-= Welcome to TextWorld, ALFRED! =-\n\n"
    expert = spec.expert(task_id)
    turns = [banner + expert.first_observation]
    turns += [text for s in expert.steps for text in (action_of(s.action) or "", s.observation)]

    def record(turns: list[str]) -> None:
        (game.parent / "gt_traj.json").write_text(json.dumps([{"value": turn} for turn in turns]))

    record(turns)
    code, found, lines = checked(official, capsys)
    assert (code, found["games"], found["differences"], lines) == (0, 1, [], [])
    record([*turns[:2], "You are somewhere else."])
    code, found, lines = checked(official, capsys)
    assert code == 1
    assert found["differences"] == [
        {"game": task_id, "step": 1, "expected": "You are somewhere else.", "got": expert.steps[0].observation},
        {"game": task_id, "step": 1, "expected": "reward 1.0", "got": "reward 0.0"},
    ]
    assert lines[0].startswith(f"problem: {task_id}: step 1: expected 'You are somewhere else.', got '")
    record([turns[0], *(text for _ in range(30) for text in ("look", "x"))])
    code, found, lines = checked(official, capsys)
    assert (code, len(found["differences"]), len(lines)) == (1, 31, 11)
    assert lines[-1] == "... 21 more; --json prints all"


def test_the_check_names_an_expert_that_is_not_given_back(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack(official, out := tmp_path / "out")
    assert checked(out, capsys)[0] == 0
    a, b, c, *others = store.load(out / "experts.parquet", Trajectory)
    changed = [replace(a, reward=0.5), replace(b, steps=b.steps[:-1]), replace(c, task_id="train/none/gone"), *others]
    store.save(out / "experts.parquet", changed, Trajectory)
    code, found, lines = checked(out, capsys)
    assert code == 1
    assert found["experts"] == len(changed)
    assert found["differences"] == [
        {"game": a.task_id, "step": len(a.steps), "expected": "reward 0.5", "got": "reward 1.0"},
        {"game": b.task_id, "step": len(b.steps) - 1, "expected": "reward 1.0", "got": "reward 0.0"},
    ]
    assert "the expert of train/none/gone cannot be played" in lines[0]
    assert len(lines) == 3


def test_each_game_of_a_folder_with_two_wordings_is_told_its_own(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start._wordings(load(None, [f"env.data={official}"]), get("alfworld", official))
    assert capsys.readouterr().err == ""
    for split in ("valid_seen", "valid_unseen"):
        for file in (official / split).rglob("game.tw-pddl"):
            new_wording(file)
    assert any("of two wordings" in m for m in pack(official, tmp_path / "out")["messages"])
    start._wordings(load(None, [f"env.data={official}"]), get("alfworld", official))
    assert "has games in other words in seen, unseen than in train" in capsys.readouterr().err
    spec = get("alfworld", official, shots=1)
    words = {"train": "put {o} in/on {r}", "seen": "move {o} to {r}", "unseen": "move {o} to {r}"}
    for split, put in words.items():
        own, other = (put.format(o="O", r="R"), *{w.format(o="O", r="R") for w in words.values() if w != put})

        def win(conversation: tuple[Message, ...], seed: int, expert: dict[str, Trajectory], n: int) -> str:
            said = conversation[n].content
            return expert[said].steps[(len(conversation) - n) // 2].action

        experts = {t.first_observation: t for t in map(spec.expert, spec.task_ids(split)[:3])}
        n = len(spec.told(spec.task_ids(split)[0]))
        policy = ScriptedPolicy(partial(win, expert=experts, n=n))
        played = play(spec, policy, [Job(Prefix(i)) for i in spec.task_ids(split)[:3]], Sampling())
        assert [t.reward for t in played] == [1.0] * 3
        for turn in (turn for batch in policy.batches for turn in batch):
            assert own in turn.conversation[0].content
            assert other not in turn.conversation[0].content
            example = " ".join(m.content for m in turn.conversation[1:n])
            assert reword(example, put) == example, "the example is of this wording too"
        rows = exports.messages(played, spec.told)
        assert all(own in row["messages"][0]["content"] for row in rows)
        back, lost = imports.load("messages", exports.write(rows, tmp_path / f"{split}.jsonl"), "alfworld", official)
        assert ([t.steps for t in back], lost) == ([t.steps for t in played], [])


def test_the_command(official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "import", "alfworld", str(official), "--out", str(tmp_path / "out"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["games"]["seen"] == 3
    assert "the official data has 140" in said.err


@pytest.mark.parametrize("what", ["nothing", "itself"])
def test_bad_folders_are_refused(what: str, official: Path, tmp_path: Path) -> None:
    folder, out = (tmp_path / "empty", tmp_path / "out") if what == "nothing" else (official, official)
    with pytest.raises(IprError, match=str(folder)):
        pack(folder, out)
    assert (official / "train").is_dir()


def test_the_real_part_is_packed(real: Path, tmp_path: Path) -> None:
    pack(real, tmp_path / "out")
    report = (tmp_path / "out/report.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in report] == ["train", "valid_seen", "valid_unseen"]  # counts only
    spec = get("alfworld", tmp_path / "out")
    assert sum(len(spec.task_ids(split)) for split in ("train", "dev", "seen", "unseen")) == 520
    assert len(store.load(tmp_path / "out/experts.parquet", Trajectory)) == len(spec.task_ids("train"))


def test_iprs_index_file_selects_the_games(official: Path, tmp_path: Path) -> None:
    """Of the splits that it names; beside the data or inside it, whatever folder its paths begin with."""
    spec = get("alfworld", official)
    whole = {split: spec.task_ids(split) for split in ("train", "dev", "seen", "unseen")}
    chosen = [*whole["train"][:5], *whole["dev"]]
    paths = [f"eval_agent/data/alfworld/json_2.1.1/{task_id}/game.tw-pddl" for task_id in chosen]
    for place in (official.parent, official):
        file = place / "alfworld_game_files.json"
        file.write_text(json.dumps(paths))
        spec = get("alfworld", official)
        assert spec.task_ids("train") == whole["train"][:5]
        assert [spec.task_ids(split) for split in ("dev", "seen", "unseen")] == [*whole.values()][1:]
        file.unlink()
    for other in ("data/json_2.1.1/{}", "{}/", "{}/game.tw-pddl"):  # as the trials of IPR's alfworld_sft.json are named
        file.write_text(json.dumps([other.format(task_id) for task_id in chosen]))
        assert get("alfworld", official).task_ids("train") == whole["train"][:5]
    for broken in ("[1]", "[]", '["json_2.1.1/train/x"]', '["a/b/c/game.tw-pddl"]'):
        file.write_text(broken)
        with pytest.raises(IprError, match=r"alfworld_game_files\.json: no index file"):
            get("alfworld", official)


def test_games_that_the_index_file_names_and_are_not_there_are_told(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = get("alfworld", official).task_ids("train")[:5]
    paths = [*chosen, *(f"{task_id}_gone" for task_id in chosen)]
    (official / "alfworld_game_files.json").write_text(json.dumps(paths))
    assert main(["env", "check", "alfworld", "--data", str(official)]) == 1
    told = f"alfworld_game_files.json: 5 of its games are not there ({min(chosen)}_gone, "
    assert f"problem: {told}" in capsys.readouterr().out
    assert Path(pack(official, tmp_path / "out")["report"]).read_text().startswith(told)
    (official / "alfworld_game_files.json").write_text(json.dumps(chosen))
    main(["env", "check", "alfworld", "--data", str(official)])
    assert "not there" not in capsys.readouterr().out


def test_a_broken_game_is_named_before_a_run(official: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = next((official / "train").glob("*/*"))
    for k in range(200):  # until one of them is of dev
        shutil.copytree(one, one.with_name(f"trial_{k}"))
        if get("alfworld", official).task_ids("dev"):
            break
    task_id = get("alfworld", official).task_ids("unseen")[-1]
    file = official / task_id / "game.tw-pddl"
    file.write_bytes(file.read_bytes()[:-50_000])
    assert main(["env", "check", "alfworld", "--data", str(official)]) == 1
    assert f"problem: {file} is not JSON" in capsys.readouterr().out
    keys = [f"env.data={official}", "env.tasks=2", "eval.dev_games=1", "eval.games=3"]
    with pytest.raises(IprError, match=re.escape(str(file))):
        start.check(load("smoke", keys, CONFIGS), model=False)


def test_games_that_cannot_be_opened_are_named(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link that leads nowhere was left out without a word, and a folder in a game's place was a traceback."""
    dead, folder, *_ = sorted(official.glob("train/*/*/game.tw-pddl"))
    for file in (dead, folder):
        file.unlink()
    dead.symlink_to("nowhere")
    folder.mkdir()
    told = [f"{dead}: No such file or directory; fetch it again", f"{folder}: Is a directory; fetch it again"]
    assert main(["env", "check", "alfworld", "--data", str(official), "--json"]) == 1
    messages = json.loads(capsys.readouterr().out)["messages"]
    assert all(any(message.startswith(line) for message in messages) for line in told)
    report = Path(pack(official, tmp_path / "out")["report"]).read_text()
    assert all(line in report for line in told)


@pytest.mark.parametrize("listed", ["[1]", '["json_2.1.1/train/x-1/trial_1/game.tw-pddl"]'])
def test_the_check_tells_of_an_index_file_that_a_run_refuses(
    listed: str, official: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there are transcripts, too, whose check was all that it said."""
    for place in ("valid_seen", "valid_unseen"):
        shutil.rmtree(official / place)
    game = next(official.rglob("game.tw-pddl"))
    game.with_name("gt_traj.json").write_text(json.dumps([{"from": "human", "value": "no first observation"}]))
    (official / "alfworld_game_files.json").write_text(listed)
    with pytest.raises(IprError) as refused:
        get("alfworld", official)
    assert "alfworld_game_files.json" in str(refused.value)
    assert main(["env", "check", "alfworld", "--data", str(official)]) == 1
    assert f"problem: {refused.value}" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_in_other_encodings_are_read(encoding: str, official: Path, capsys: pytest.CaptureFixture[str]) -> None:
    game = next(official.rglob("valid_seen/*/*/game.tw-pddl"))
    task_id = game.parent.relative_to(official).as_posix()
    index = official / "alfworld_game_files.json"
    index.write_text(json.dumps([task_id]), encoding=encoding)
    game.write_text(game.read_text(), encoding=encoding)
    first = get("alfworld", official).make().reset(task_id)
    said = f"-= Welcome to TextWorld, ALFRED! =-\n\n{first}"
    game.with_name("gt_traj.json").write_text(json.dumps([{"from": "human", "value": said}]), encoding=encoding)
    assert get("alfworld", official).task_ids("seen") == [task_id]
    main(["env", "check", "alfworld", "--data", str(official), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["observations"], found["equal"], found["broken"]) == (1, 1, 0)


# Wordings ------------------------------------------------------------------------------------------------------------


def new_wording(game: Path) -> None:
    """A game of data 2.1.1 as alfworld 0.4 words it."""
    data = json.loads(game.read_text())
    old = ("put {o} in/on {r}", "You put the {o.name} in/on the {r.name}.", "{lend.name}")
    new = ("move {o} to {r}", "You move the {o.name} to the {r.name}.", "{r.name}")
    for a, b in zip(old, new, strict=True):
        data["grammar"] = data["grammar"].replace(a, b)
    game.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Action: put mug 1 in/on desk 2", "Action: move mug 1 to desk 2"),
        ("You put the mug 1 in/on the desk 2.", "You move the mug 1 to the desk 2."),
    ],
)
def test_what_is_put_down_is_said_in_either_wording(old: str, new: str) -> None:
    for put, said in (("put {o} in/on {r}", old), ("move {o} to {r}", new)):
        assert reword(old, put) == reword(new, put) == said


@pytest.mark.parametrize("arrival", ["", "You arrive at loc 5. ", "You arrive at desk 2. "])
def test_the_arrival_is_dropped(arrival: str) -> None:
    assert reword(f"{arrival}On the desk 2, you see nothing.", "x") == "On the desk 2, you see nothing."


def test_other_words_stay() -> None:
    text = "Thought: I move on to the desk.\nAction: go to desk 1"
    assert reword(text, "move {o} to {r}") == text
