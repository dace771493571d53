"""Requests that a server of vLLM's protocol refuses, and how: what vLLM answered lies in `answers.json`.

`python -m tests.vllm.bad_requests URL KEY FOLDER` plays them (FOLDER: what `agents.make` made) and prints the answers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.vllm import agents

ANSWERS = Path(__file__).with_name("answers.json")
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def requests(model: str, folder: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """What is asked, the route and the body, in this order: an adapter is loaded once for those after it."""
    long, ask = agents.MODEL.max_length, {"model": model, "prompt": [5, 6], "max_tokens": 3}
    hello = [{"role": "user", "content": "You are in a room."}]

    def adapter(name: str, place: str) -> dict[str, str]:
        return {"lora_name": name, "lora_path": str(folder / place)}

    return [
        ("a prompt", COMPLETIONS, ask),
        ("no model named", COMPLETIONS, {"prompt": [5, 6], "max_tokens": 3}),
        ("an unknown model", COMPLETIONS, ask | {"model": "nobody"}),
        ("an unknown model, in chat", CHAT, {"model": "nobody", "messages": hello}),
        ("no prompt", COMPLETIONS, {"model": model}),
        ("an empty prompt", COMPLETIONS, ask | {"prompt": []}),
        ("a prompt as long as the context", COMPLETIONS, ask | {"prompt": [5] * long}),
        ("a longer prompt", COMPLETIONS, ask | {"prompt": [5] * (long + 1)}),
        ("more asked than there is room for", COMPLETIONS, ask | {"prompt": [5] * (long - 1)}),
        ("a chat that is too long", CHAT, {"model": model, "messages": [hello[0] | {"content": "long " * long}]}),
        ("a token that is none", COMPLETIONS, ask | {"prompt": [10**6]}),
        ("a negative token", COMPLETIONS, ask | {"prompt": [-1]}),
        ("a word among tokens", COMPLETIONS, ask | {"prompt": [5, "a"]}),
        ("a negative temperature", COMPLETIONS, ask | {"temperature": -1}),
        ("a temperature in words", COMPLETIONS, ask | {"temperature": "hot"}),
        ("no tokens", COMPLETIONS, ask | {"max_tokens": 0}),
        ("no samples", COMPLETIONS, ask | {"n": 0}),
        ("a seed in words", COMPLETIONS, ask | {"seed": "x"}),
        ("a seed of 64 bits", COMPLETIONS, ask | {"seed": 2**63}),
        ("no messages", CHAT, {"model": model}),
        ("empty messages", CHAT, {"model": model, "messages": []}),
        ("an unknown route", "/v1/nowhere", {}),
        ("an adapter without a name", LOAD, {"lora_name": "", "lora_path": ""}),
        ("an adapter without a path", LOAD, {"lora_name": "a"}),
        ("an adapter in no folder", LOAD, adapter("a", "nowhere")),
        ("a base as an adapter", LOAD, adapter("a", "base")),
        ("an adapter of a rank over the maximum", LOAD, adapter("a", "large")),
        ("an adapter with the base's name", LOAD, adapter(model, "sft")),
        ("an adapter that is not loaded", COMPLETIONS, ask | {"model": "a"}),
        ("an adapter", LOAD, adapter("a", "sft")),
        ("an adapter twice", LOAD, adapter("a", "sft")),
        ("a prompt for the adapter", COMPLETIONS, ask | {"model": "a"}),
        ("unloading it", UNLOAD, {"lora_name": "a"}),
        ("unloading it twice", UNLOAD, {"lora_name": "a"}),
        ("unloading nothing", UNLOAD, {"lora_name": ""}),
        ("unloading the base", UNLOAD, {"lora_name": model}),
        ("an adapter that was unloaded", COMPLETIONS, ask | {"model": "a"}),
    ]


def played(url: str, key: str, model: str, folder: Path) -> dict[str, Any]:
    """By what was asked: the status, and the error without its words; of other bodies the names of their fields."""
    found = {}
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=300) as client:
        for name, route, body in requests(model, folder):
            answer = client.post(route, json=body)
            found[name] = {"status": answer.status_code} | told(answer)
    return found


def told(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_success:
        return {}
    body = answer.json()
    if set(body) != {"error"}:
        return body
    assert body["error"].pop("message")
    return body


if __name__ == "__main__":
    place = Path(sys.argv[3])
    print(json.dumps(played(sys.argv[1], sys.argv[2], str(place / "base"), place), indent=2))
