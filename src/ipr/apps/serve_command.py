"""`ipr serve`, from the command line."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

from ipr import models
from ipr.apps import guard, serve
from ipr.apps.chosen_model import OF_PLAYING, folder_of, only
from ipr.config import RunConfig, load
from ipr.policies import local
from ipr.policies.chat import ChatPolicy
from ipr.types import IprError


def run(options: Namespace) -> None:
    """Serve a model through the chat protocol until stopped."""
    config = load(None, options.overrides)
    only("in ipr serve", options.overrides, *OF_PLAYING, "env.name", "env.data")
    path = folder_of(options.model, config)
    may = guard.limits(options.host, options.allow_host, options.max_body, options.max_tokens, options.max_requests)
    if options.adapters and not options.adapters.is_dir():
        raise IprError(f"--adapters {options.adapters} is no folder; name the one that the adapters are in")
    listening = serve.listen(options.host, options.port)
    name = options.name or options.model
    bring = partial(adapter, base=path, config=config, inside=options.adapters) if options.adapters else None
    server = serve.server(local.load(path, name, config), name, models.resolve(path), bring, may)
    host, port = listening.getsockname()[:2]
    print(f"model '{name}' at http://{host}:{port}/v1", flush=True)
    server.run(sockets=[listening])


def adapter(folder: str, base: str, config: RunConfig, inside: Path) -> ChatPolicy:
    """What a client asks for: an adapter on the model that is served, in a folder inside of `inside`.

    Raises IprError where it is elsewhere (links are followed), another model's, or of a rank over `model.lora.rank`
    where one is set, as vLLM's --max-lora-rank. Nothing is looked for on the hub.
    """
    root = inside.resolve()
    try:
        place = (root / folder).resolve()
        if not (place.is_relative_to(root) and (place / "adapter_config.json").is_file()):
            raise ValueError
    except (OSError, ValueError):  # also a name that no file system takes
        raise serve.NoAdapter(
            f"No adapter found for '{folder}' in the folder that adapters are loaded from (ipr serve --adapters)"
        ) from None
    on = models.adapter(place)
    if on is None or models.model_hash(on[0]) != models.model_hash(base):
        raise IprError(f"'{folder}' is no adapter on the model that is served")
    if config.model.lora.rank and on[1] > config.model.lora.rank:
        raise IprError(f"LoRA rank {on[1]} is greater than {config.model.lora.rank} (model.lora.rank)")
    models.check_model(place)
    return local.load(str(place), str(place), config)
