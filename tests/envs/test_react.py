import pytest

from ipr.envs.react import action_of, compose, one_line
from tests.envs.thoughts import thought_of


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("Thought: I look.\nAction: go to desk 1", "go to desk 1"),
        ("Action: go to desk 1", "go to desk 1"),
        ("thought: x\nACTION :  go to desk 1  \n", "go to desk 1"),
        ("Action: look\nThought: no.\nAction: inventory", "inventory"),
        ("Thought: my reaction: none", None),
        ("go to desk 1", None),
        ("Action:", None),
        ("", None),
        ("Action:\n```sql\nSELECT 1\n```", "```sql\nSELECT 1\n```"),
    ],
)
def test_the_action_is_what_follows_the_last_action_mark(text: str, action: str | None) -> None:
    assert action_of(text) == action


def test_compose_and_the_two_readers_agree() -> None:
    turn = compose("I look there.", "go to desk 1")
    assert turn == "Thought: I look there.\nAction: go to desk 1"
    assert (thought_of(turn), action_of(turn)) == ("I look there.", "go to desk 1")
    assert thought_of("go to desk 1") == ""


@pytest.mark.parametrize(
    ("action", "read"),
    [
        ("Go to  Desk 1.", "go to desk 1"),
        ('"look"', "look"),
        ("`take mug 1 from desk 1`!", "take mug 1 from desk 1"),
        ("go to desk 1\nObservation: On the desk 1, you see nothing.", "go to desk 1"),
        ("put mug 1 in/on desk 1", "put mug 1 in/on desk 1"),
        ("   ", ""),
    ],
)
def test_one_line(action: str, read: str) -> None:
    assert one_line(action) == read
