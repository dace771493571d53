"""Functions in several processes that train together, as `accelerate launch` starts them, but without its imports."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["ipr.training.reward_model", "torch.distributed.fsdp", "accelerate", "peft", "pandas"])


def launch(world: int, folder: Path, function: Callable[..., Any], *arguments: Any) -> list[Any] | None:
    """What `function(*arguments)` returns in each of `world` processes, by rank; None where one of them died.

    As of the launcher's, the others are ended then. `folder` is for what they exchange.
    """
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    processes = [
        _CONTEXT.Process(target=_rank, args=(rank, world, meeting, function, arguments)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    while running:
        for sentinel in wait(list(running)):
            running.pop(sentinel).join()  # type: ignore[arg-type]
        if any(process.exitcode for process in processes):
            for process in running.values():
                process.kill()
    if any(process.exitcode for process in processes):
        return None
    return [torch.load(_result(meeting, rank), weights_only=False) for rank in range(world)]


def _rank(rank: int, world: int, meeting: Path, function: Callable[..., Any], arguments: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    torch.save(function(*arguments), _result(meeting, rank))
    torch.distributed.destroy_process_group()


def _result(meeting: Path, rank: int) -> Path:
    return meeting.with_name(f"{meeting.name}-{rank}.pt")
