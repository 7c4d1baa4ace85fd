"""One tiny compiled network for all tests of bundles."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundle.making import Tiny, compile_tiny, make_bundle


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return compile_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def bundle(tiny: Tiny, tmp_path: Path) -> Path:
    return make_bundle(tiny, tmp_path / "bundle")
