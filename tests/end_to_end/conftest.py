"""A browser for the tests of pages."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.browser import launched


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver = launched(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
