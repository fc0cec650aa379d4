from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lorica.data.digest import file_digest
from lorica.errors import DataError


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    content = bytes(range(256)) * 5000
    path.write_bytes(content)
    assert file_digest(path) == "sha256:" + hashlib.sha256(content).hexdigest()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        file_digest(tmp_path / "f")
