"""The report: what a page holds, that no text of an episode becomes HTML, and that plots say how sure they are."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ipr import store
from ipr.evaluate import metrics, wilson
from ipr.runs import plots, viewer
from ipr.runs.episodes import Episodes
from ipr.runs.report import write_html
from ipr.runs.run import Run
from ipr.types import Trajectory
from tests.runs.laid import HOSTILE, lay


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two iterations, every word of which would break a page."""
    return lay(tmp_path_factory.mktemp("runs") / "hostile", words=["lamp", HOSTILE])


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return write_html(run.folder).read_text()


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_every_episode_is_in_the_page_as_it_was_played(run: Run, page: str) -> None:
    index = unpacked(re.findall(r'id="index">([^<]*)<', page)[0])
    blocks = [unpacked(text) for text in re.findall(r'id="block-\d+">([^<]*)<', page)]
    every = Episodes(run).all
    assert len(index["rows"]) == len(every) == 6 + 4 * 24 + 2 * 30
    for row, episode in zip(index["rows"], every, strict=True):
        played, content = episode.trajectory, blocks[row[-2]][row[-1]]
        steps, first = content["steps"], content.get("first")
        if "expert" in content:  # what the expert had done, too, is told once
            place = index["rows"][content["expert"]]
            expert = blocks[place[-2]][place[-1]]
            steps, first = expert["steps"][: content["same"]] + steps, expert["first"]
            assert content["same"] >= played.start
        assert (first, [tuple(s) for s in steps]) == (
            played.first_observation,
            [(s.action, s.observation) for s in played.steps],
        )
        assert index["names"]["stage"][row[0]] == episode.stage
        assert len(content["pairs"]) == len(episode.pairs)
        assert content["seed"] == str(played.seed)
        if episode.kind == "explored":  # the action that was compared has its step reward, with the samples
            reward = content["rewards"][str(played.start)][0]
            assert reward["n"] == len(reward["samples"]) == 5
    explored = [e for e in every if e.kind == "explored" and e.pairs]
    assert explored
    assert all(p.task_id == e.trajectory.task_id and p.t == e.trajectory.start for e in explored for p in e.pairs)


def test_no_text_of_an_episode_is_html(page: str) -> None:
    assert "onerror" not in page
    assert "innerHTML" not in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)  # nothing from elsewhere
    assert "<details><summary>Config" in page
    assert [i for i in re.findall(r'<a href="#([a-z]+)"', page) if f'id="{i}"' not in page] == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
def test_a_browser_shows_expert_and_agent_side_by_side(run: Run, page: str) -> None:
    every = Episodes(run).all
    place, agent = next((i, e) for i, e in enumerate(every) if e.pairs and e.trajectory.start and e.kind == "explored")
    asked = f"{(run.folder / 'report.html').as_uri()}#episode-{place}"
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=9000", "--dump-dom"]
    done = subprocess.run([*command, asked], capture_output=True, text=True, timeout=120, check=True)
    shown = done.stdout.partition('<div class="episode"')[2].partition("<script")[0]
    start = agent.trajectory.start
    assert f"expert, step {start + 1}<" in shown
    assert f"iteration-1, step {start + 1}<" in shown
    assert f"Step pair at step {start + 1} of iteration-1" in shown
    assert shown.count("n = 5<") >= 2
    assert "&lt;/script&gt;&lt;img src=x onerror" in shown
    assert "<img" not in done.stdout
    assert f"<title>{run.name}</title>" in done.stdout  # no script of an episode ran


def test_of_a_large_run_whole_problems_are_drawn(run: Run) -> None:
    episodes = Episodes(run)
    found = viewer.packed(episodes, most=100)
    assert found == viewer.packed(Episodes(run), most=100)
    assert found["total"] == {"episodes": 162, "problems": 30}
    assert 80 < found["shown"]["episodes"] <= 100
    index = unpacked(found["index"])
    problems = {index["names"]["task"][row[3]] for row in index["rows"]}
    assert found["shown"]["problems"] == len(problems)
    kept = [e for e in episodes.all if e.trajectory.task_id in problems]
    assert len(kept) == found["shown"]["episodes"]


def test_one_sample_is_not_drawn_as_certain() -> None:
    assert wilson(1.0, 1) == pytest.approx([0.2065, 1], abs=1e-3)
    assert wilson(0.0, 1) == pytest.approx([0, 0.7935], abs=1e-3)
    assert wilson(0.5, 100) == pytest.approx([0.4038, 0.5962], abs=1e-3)
    assert wilson(-0.1, 4)[0] == 0  # InterCodeSQL's rewards can be slightly below 0
    lost = [Trajectory(str(k), "", (), 0.0, "truncated") for k in range(16)]
    figures = metrics(lost, task_type=str)
    assert figures["reward_interval"] == figures["success_interval"] == wilson(0.0, 16)


def test_the_plot_of_step_rewards_has_all_iterations_with_n_and_intervals(run: Run) -> None:
    figure = plots.step_rewards(store.read_json(run.folder / "summary.json"))
    assert figure is not None
    first, second = figure.axes
    assert [axes.get_title() for axes in (first, second)] == ["iteration-1: n = 6", "iteration-2: n = 6"]
    assert first.get_ylim() == second.get_ylim()
    for axes in (first, second):
        assert [text.get_text() for text in axes.texts] == ["6"] * 5
        bars = {c.get_label(): c for c in axes.containers}
        assert list(bars) == ["expert", "agent"]
        assert all(bar.has_yerr for bar in bars.values())  # pyright: ignore[reportAttributeAccessIssue]
    markers = [line.get_marker() for line in first.lines if line.get_marker() in ("D", "^")]
    assert markers == ["D", "^"]  # not by colour alone


def test_a_method_without_pairs_shows_its_own_successes(run: Run) -> None:
    summary = store.read_json(run.folder / "summary.json")
    assert plots.learning(summary).axes[1].get_title() == "Pairs that were kept"
    for stage, own in zip(summary["stages"][2:], (3, 5), strict=True):
        stage["pairs"] = {"outcome": 0, "step": 0, "demonstrations": 6 + own, "own": own}
        stage["step_reward"] = None
    axes = plots.learning(summary).axes[1]
    assert axes.get_title() == "Own successes that were imitated"
    assert [patch.get_height() for patch in axes.patches] == [3, 5]  # pyright: ignore[reportAttributeAccessIssue]
    assert [c.get_label() for c in axes.containers] == ["own successes"]
    assert plots.step_rewards(summary) is None


def test_curves_of_losses_and_margins(run: Run, page: str) -> None:
    figure = plots.training({"sft": [{"loss": 1.0}] * 3, "iteration-1": [dict.fromkeys(MEASURED, 0.5)] * 1000})
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes][1:3] == [
        "Loss of preferences",
        "Margin: beta (chosen - rejected)",
    ]
    assert len(list(figure.axes[1].lines[0].get_xdata())) == plots.POINTS  # type: ignore[arg-type]
    assert plots.training({}) is None
    for name in ("learning", "step_rewards", "training"):
        assert (run.folder / "plots" / f"{name}.png").is_file()
    assert page.count("<svg") == 3


MEASURED = ("loss", "reward_margin", "accuracy")


def test_a_report_needs_no_environment(run: Run, tmp_path: Path) -> None:
    """That of a package that is gone, say: the types of the problems are left out."""
    other = Run(shutil.copytree(run.folder, tmp_path / "other"))
    config = (other.folder / "config.yaml").read_text().replace("name: alfworld", "name: gone")
    store.write_text(other.folder / "config.yaml", config)
    assert Episodes(Run(other.folder)).types == {}
    assert "Episodes" in write_html(other.folder).read_text()
