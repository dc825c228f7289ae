"""The drop-in for the tests of this folder: active while they run, gone with all its modules afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def dropin() -> Iterator[None]:
    import anymamba.dropin
    from anymamba.dropin import finder

    anymamba.dropin.install()
    yield
    anymamba.dropin.remove()
    for name in [name for name in sys.modules if name.split(".")[0] in finder.NAMES]:
        del sys.modules[name]
    finder.broken.clear()
