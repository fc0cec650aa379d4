"""The compiled products compute in torch's threads, whatever else is loaded."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from lorica.models.compiled import products  # noqa: E402


@pytest.mark.skipif(products.openmp_parallel() is None, reason="no OpenMP library is loaded")
def test_the_threads_are_those_of_torch_whatever_else_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = products.openmp_parallel()
    if not hasattr(ctypes.CDLL(None), "GOMP_parallel"):
        pytest.skip("this torch keeps its OpenMP to itself")
    # pyarrow's, whose name only looks like OpenMP's, and scikit-learn's own.
    others = ["/lib/pyarrow/_compute.so", "/lib/scikit_learn.libs/libgomp.so.1", "/lib/torch/lib/libgomp.so.1"]
    maps = "".join(f"0-1 r--p 0 0 1 {path}\n" for path in others)
    monkeypatch.setattr(Path, "read_text", lambda *_: maps)
    assert products._openmp_libraries() == [others[2], others[0], others[1]]
    products.openmp_parallel.cache_clear()
    assert products.openmp_parallel() == expected
