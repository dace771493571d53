"""A tiny agent to be served."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ipr.policies import local
from ipr.policies.chat import ChatPolicy
from tests import toy


@pytest.fixture(scope="module")
def policy() -> Iterator[ChatPolicy]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield local.policy(toy.model(), toy.tokenizer(), "tiny", max_length=200, slots=8)
    torch.set_num_threads(before)
