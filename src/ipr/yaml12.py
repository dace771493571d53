"""YAML 1.2's core schema, as DVC reads it: 3e-4 is a number, 010 is ten; yes, on and 1:30 are texts.

By PyYAML, which knows 1.1 alone but is wherever transformers is (a library of 1.2 is not, on a GPU machine).
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

UNREADABLE = (yaml.YAMLError, ValueError)
"""What `loads` raises."""

_CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", "<<", ["<"]),  # of 1.1, which everybody reads still
)
"""Kind, pattern and first letters of what is no text (YAML 1.2.2, section 10.3.2)."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar = {}  # type: ignore[override]

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, yaml.ScalarNode] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and first.setdefault(key.value, key) is not key:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' stands twice", key.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version would not read as a text."""


for _kind, _pattern, _letters in _CORE:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), _letters)
_Loader.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)
)


def loads(text: str) -> Any:
    return yaml.load(text, _Loader)


def words(error: Exception) -> str:
    """What is wrong with a text, and in which line."""
    mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
    return f"line {mark.line + 1}: {problem}" if mark and problem else " ".join(str(error).split())


def dumps(tree: Any) -> str:
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)
