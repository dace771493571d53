"""What only tells of a run (reports, plots, trackers, artifacts, alerts, publishing) may fail; the run goes on.

Decided here: one way to say so, around every such act. What fails is one warning that names the act. Bad input is
refused before a run starts, so nothing of it ends up here.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import unicodedata
from collections.abc import Iterator

log = logging.getLogger("ipr")


@contextlib.contextmanager
def may_fail(what: str) -> Iterator[None]:
    """Whatever goes wrong inside is a warning, and the code after the block goes on. Ctrl-C still ends the run."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        log.warning("%s failed (%s: %s); the run goes on", what, type(error).__name__, said)
        log.debug("%s", what, exc_info=True)


def slug(name: str) -> str:
    """Any name in lower-case letters, digits and dashes, which is all that Prefect takes as an artifact's key.

    At most 80 characters. A name that had to be changed ends with a digest, so that two names never share a key.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    found = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:70].strip("-")
    if found == name:
        return found
    return f"{found}-{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:8]}".strip("-")
