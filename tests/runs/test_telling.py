"""What only tells of a run may fail; any name makes a key that Prefect takes."""

from __future__ import annotations

import re

import pytest

from ipr.runs.telling import may_fail, slug


def test_a_failure_is_one_line_and_the_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    done = []
    with may_fail("the plot"):
        done.append("begun")
        raise ValueError("no\nfont")
    done.append("after")
    assert done == ["begun", "after"]
    assert caplog.messages == ["the plot failed (ValueError: no font); the run goes on"]


def test_who_stops_the_run_stops_it() -> None:
    with pytest.raises(KeyboardInterrupt), may_fail("the plot"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["lr=1e-4", "LR=1e-4", "über uns", "uber uns", "a_b", "a.b", "日本", "é", "x" * 300])
def test_any_name_is_a_key(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug(name))
    assert len(slug(name)) <= 80


def test_names_that_differ_have_keys_that_differ() -> None:
    names = ["a-b", "a_b", "a.b", "A-b", "ä-b", "日", "本", "x" * 100, "x" * 101]
    assert len({slug(name) for name in names}) == len(names)
    assert slug("quick-2") == "quick-2"
