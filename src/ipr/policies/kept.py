"""Run a command until whoever started this is gone: `python kept.py COMMAND ...`, by its path, as ipr takes time.

Decided here: stdin is a pipe that ends with the process at its other end, however that ends (SIGKILL too); so nothing
that was started stays, and no later start has to look for it. It leads a session of its own, so that Ctrl-C reaches it
through its starter alone, and ends all that is left in it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

PATIENCE = 20
"""Seconds that the command has to end by itself."""


def main() -> None:
    os.setsid()
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

    def watch() -> None:
        sys.stdin.buffer.read()
        command.terminate()
        try:
            command.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            command.kill()

    threading.Thread(target=watch, daemon=True).start()
    command.wait()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
