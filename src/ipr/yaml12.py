"""YAML 1.2, as DVC reads it: 3e-4 is a number, 010 is ten, and yes, on and 1:30 are texts."""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

UNREADABLE = (YAMLError, ValueError)
"""What `loads` raises; the latter for a date that does not exist."""


def loads(text: str) -> Any:
    return _yaml().load(text)


def words(error: Exception) -> str:
    """What is wrong with a text, and in which line."""
    mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
    return f"line {mark.line + 1}: {problem}" if mark and problem else " ".join(str(error).split())


def dumps(tree: Any) -> str:
    out = StringIO()
    _yaml().dump(tree, out)
    return out.getvalue()


def _yaml() -> YAML:
    found = YAML(typ="safe", pure=True)  # libyaml's is 1.1
    found.default_flow_style = False
    found.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # it is declared as None
    return found
