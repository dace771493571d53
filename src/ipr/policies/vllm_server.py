"""vLLM's server as a process of the run (`rollout.vllm`), in an environment of its own: its pins clash with ours.

Decided here: it is started when it is first needed, on a free port of this machine, with a key of its own; it stays for
all stages on one base, and ends with the process that started it, however that ends (`kept`). On a GPU it sleeps while
something else wants the memory. Its output is a file that is named where it dies, and removed where it ends well.
Left out: a choice of vLLM's other flags; a script that ends with `exec vllm "$@" --flag` is an executable too.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ipr import models
from ipr.policies import kept
from ipr.types import IprError

log = logging.getLogger("ipr")

SHARE = 0.9
"""Of a GPU's memory, what a server that the run starts takes while it is awake."""
_PATIENCE = 3600.0
"""Seconds in which it has to answer: large weights may come over a network."""
_DYING = 10.0
"""Seconds in which it ends after it has answered that its engine is dead."""
_SAID = re.compile(r"^(?:.*\] )?((?:[\w.]+(?:Error|Exception)|[\w ]+: error): .*)$")
"""A line that tells what is wrong: the end of a traceback, with vLLM's prefix or without, or of argparse."""
_NO_SLEEP = "Sleep mode is not supported"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Past the environment's proxies, which know nothing of this machine's own ports."""


class VllmProcess:
    """A server that runs; raises IprError where it does not start."""

    def __init__(self, executable: Sequence[str], flags: Sequence[str], *, sleeps: bool, gpu: int | None = None):
        """`executable` as `find` has it; `flags` of `vllm serve`, but host and port. It `sleeps` on a GPU: on that of
        this number, where one is given."""
        self.key = secrets.token_hex(16)
        self._sleeps, self._awake, self._failed = sleeps, True, False
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        number, name = tempfile.mkstemp(prefix="ipr-vllm-", suffix=".log")
        self._log = Path(name)
        more = ["--host", "127.0.0.1", "--port", str(port), *(["--enable-sleep-mode"] if sleeps else [])]
        models.free_gpu()
        with open(number, "wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, kept.__file__, *executable, "serve", *flags, *more],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(executable, self.key, sleeps, gpu),
            )
        atexit.register(self.stop)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        log.info("vLLM starts; its output: %s", self._log)
        begun = time.monotonic()
        while not self._answers():
            if self.ended():
                raise self.failure("did not start")
            if time.monotonic() - begun > _PATIENCE:
                raise self.failure(f"did not answer within {_PATIENCE:.0f} s")
            time.sleep(0.3)
        log.info("vLLM answers after %.0f s", time.monotonic() - begun)

    def _answers(self) -> bool:
        try:
            with self._ask("health", timeout=10):
                return True
        except OSError:
            return False

    def ended(self, within: float = 0.0) -> bool:
        """Whether it has ended, or does so within some seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within)
        return self._process.poll() is not None

    def died(self) -> IprError | None:
        """After a request that went wrong: why it is gone, if it is."""
        return self.failure("has ended") if self.ended(within=_DYING) else None

    def failure(self, what: str) -> IprError:
        """What its output says, in one line; the file stays."""
        self._failed = True
        lines = self._log.read_text(errors="replace").splitlines()
        if any(_NO_SLEEP in line for line in lines):
            return IprError(
                "rollout.vllm: vLLM has no sleep mode on this platform, so it cannot leave the GPU to the training;"
                " start a server on another GPU (rollout.endpoint)"
            )
        return IprError(f"rollout.vllm: vLLM {what} ({cause(lines)}); its output: {self._log}")

    def rest(self) -> None:
        """Leave the GPU's memory to others: weights go to the CPU's memory, key-values are dropped."""
        if self._sleeps and self._awake and not self.ended():
            self._tell("sleep?level=1")
            self._awake = False

    def wake(self) -> None:
        if not self._awake:
            models.free_gpu()
            self._tell("wake_up")
            self._awake = True

    def _tell(self, what: str) -> None:
        try:
            with self._ask(what, method="POST", timeout=600):
                pass
        except OSError as error:
            raise self.died() or IprError(f"rollout.vllm: vLLM does not {what.partition('?')[0]} ({error})") from None

    def _ask(self, what: str, method: str = "GET", *, timeout: float) -> Any:
        headers = {"Authorization": f"Bearer {self.key}"}
        asked = urllib.request.Request(f"{self.url}/{what}", headers=headers, method=method)
        return _DIRECT.open(asked, timeout=timeout)

    def stop(self) -> None:
        """End it; it may have ended."""
        atexit.unregister(self.stop)
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()
        if not self._failed:
            self._log.unlink(missing_ok=True)


def find(path: str) -> list[str]:
    """How `vllm` is called, from the path of that command or of its environment's python. Raises IprError."""
    found = shutil.which(path)
    if found is None:
        raise IprError(
            f"rollout.vllm={path} is no executable; name the `vllm` of the environment that it is installed in"
            " (docs/gpu.md)"
        )
    # Not resolved: an environment's python is a link, which says where the environment is.
    whole = str(Path(found).absolute())
    return [whole, "-m", "vllm.entrypoints.cli.main"] if Path(path).name.startswith("python") else [whole]


def cause(lines: Sequence[str]) -> str:
    """The first error in vLLM's output, else the last line: what comes later is mostly told of the first one."""
    for number, line in enumerate(lines):
        if told := _SAID.match(line):
            text = told[1]
            if "validation error" in text and number + 1 < len(lines):
                text = f"{text}: {lines[number + 1].strip()}"
            return text[:400]
    return next((line.strip()[:400] for line in reversed(lines) if line.strip()), "it said nothing")


def _environment(executable: Sequence[str], key: str, sleeps: bool, gpu: int | None = None) -> dict[str, str]:
    """Of this process, but for what would lead Python to our packages."""
    found = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    found["PATH"] = f"{Path(executable[0]).parent}{os.pathsep}{found.get('PATH', os.defpath)}"
    found |= {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1"}
    if gpu is not None:  # counted among those that this process sees, as torch does
        seen = found.get("CUDA_VISIBLE_DEVICES")
        names = seen.split(",") if seen else []
        if names and gpu >= len(names):
            raise IprError(f"model.device=cuda:{gpu}, but CUDA_VISIBLE_DEVICES={seen} names {len(names)} GPUs")
        found["CUDA_VISIBLE_DEVICES"] = names[gpu] if names else str(gpu)
    return found | ({"VLLM_SERVER_DEV_MODE": "1"} if sleeps else {})  # it has the routes to sleep and to wake up
