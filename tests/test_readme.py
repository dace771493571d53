"""README and docs are true where a test can tell: the example, the commands, the links, the tree, and their length."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from flows import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:ipr|.*python -m flows\.cli|accelerate launch .*-m flows\.cli) (.+)", re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The arguments of every `ipr ...` in code, inline or a line of a block; [brackets] of optional parts left out."""
    fenced = "".join(block for _, block in FENCED.findall(text))
    prose = FENCED.sub("", text)
    indented = "".join(line + "\n" for line in prose.splitlines() if line.startswith("    "))
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    lines = (fenced + indented).replace("\\\n", " ").splitlines()
    found = []
    for line in [*lines, *spans]:
        for part in line.split("&&"):
            if match := COMMAND.fullmatch(part.strip()):
                found.append(shlex.split(re.sub(r"[\[\]]|\.\.\.", "", match[1]), comments=True))
    return found


def parses(words: list[str]) -> bool:
    """Whether the command line takes these words, or they only name a command (`ipr data import`)."""
    parser = cli._parser()
    if all(re.fullmatch("[a-z]+", word) for word in words):
        words = [*words, "--help"]
    try:
        _, rest = parser.parse_known_args(words)
    except SystemExit as stop:
        return not stop.code
    return all("=" in word and not word.startswith("-") for word in rest)


def test_the_environment_in_readme_is_the_file() -> None:
    code = [block for language, block in FENCED.findall(README) if language == "python"]
    assert code == [(ROOT / "docs/example-environment/ipr_guess.py").read_text()]


def test_readme_is_short() -> None:
    before, heading, _ = README.partition("\n## Reference\n")
    assert heading
    assert sum(bool(re.search(r"\w", word)) for word in FENCED.sub("", before).split()) <= 600


def test_the_tree_in_readme_is_there() -> None:
    tree = next(block for _, block in FENCED.findall(README) if block.startswith("flows/"))
    folder = ROOT
    for line in tree.splitlines():
        name = line.split()[0].rstrip("/")
        if not line.startswith(" "):
            folder = ROOT / name
        place = folder / name if line.startswith(" ") else folder
        assert place.exists() or place.with_suffix(".py").exists(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages(page: Path) -> None:
    text = page.read_text()
    assert [line for line in text.splitlines() if len(line) > 120] == []
    targets = re.findall(r"\]\(([^)#]+)", FENCED.sub("", text))
    assert [t for t in targets if "://" not in t and not (page.parent / t).exists()] == []
    if page.name != "CHANGELOG.md":  # which may name commands of old
        assert [words for words in commands(text) if not parses(words)] == []


def test_a_wrong_command_is_found() -> None:
    text = "`ipr run quick`, `ipr evil`, `ipr data import`\n\n    ipr status RUN --no-such  # but\n"
    assert [parses(words) for words in commands(text)] == [False, True, False, True]


def test_a_package_has_every_file_that_is_read() -> None:
    """What is no code comes along by pyproject.toml's patterns alone: presets, bench plans, base models, pages."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    places = {"ipr": ROOT / "src/ipr", "flows": ROOT / "flows", "tasks": ROOT / "tasks"}
    for name, folder in places.items():
        files = {p for p in folder.rglob("*.*") if p.is_file() and p.suffix not in (".py", ".md")}
        files = {p for p in files if p.parent.name != "__pycache__"}
        taken = {path for pattern in tools["package-data"].get(name, []) for path in folder.glob(pattern)}
        assert files - taken == set()
