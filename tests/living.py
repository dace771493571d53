"""Whether a process lives that is not this one's child."""

from __future__ import annotations

import psutil


def alive(process: psutil.Process) -> bool:
    """One that has ended stays a zombie until init, whose child it is by then, asks for it: it does not live."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
