"""Tiny models, none of whose tokens ends a text: one of each family, and a Llama."""

from collections.abc import Callable

import pytest
from support.tiny import FAMILIES

from neurosteer_cli.models.engine import Engine


@pytest.fixture(params=FAMILIES)
def engine(request: pytest.FixtureRequest, endless_engines: Callable[[str], Engine]) -> Engine:
    return endless_engines(request.param)


@pytest.fixture
def llama(endless_engines: Callable[[str], Engine]) -> Engine:
    return endless_engines("llama")
