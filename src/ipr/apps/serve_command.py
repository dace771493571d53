"""`ipr serve`, from the command line."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from ipr import models
from ipr.apps import serve
from ipr.apps.chosen_model import folder_of
from ipr.config import RunConfig, load
from ipr.policies import local
from ipr.policies.chat import ChatPolicy
from ipr.types import IprError


def run(options: Namespace) -> None:
    """Serve a model through the chat protocol until stopped."""
    config = load(None, options.overrides)
    path = folder_of(options.model, config)
    listening = serve.listen(options.host, options.port)
    name = options.name or options.model
    bring = partial(adapter, base=path, config=config) if options.adapters else None
    server = serve.server(local.load(path, name, config), name, models.resolve(path), bring)
    host, port = listening.getsockname()[:2]
    print(f"model '{name}' at http://{host}:{port}/v1", flush=True)
    server.run(sockets=[listening])


def adapter(folder: str, base: str, config: RunConfig) -> ChatPolicy:
    """What a client asks for: an adapter on the model that is served. Raises IprError where it is another's."""
    models.check_model(folder)
    on = models.adapter(folder)
    if on is None or models.model_hash(on[0]) != models.model_hash(base):
        raise IprError(f"{folder} is no adapter on the model that is served ({base})")
    return local.load(folder, folder, config)
