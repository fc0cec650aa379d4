"""Scratch memory of a pass: frames, what does not fit, threads."""

from __future__ import annotations

import threading

import pytest

torch = pytest.importorskip("torch")

from lorica.models.cpu import scratch  # noqa: E402

MANY = 1000


def test_what_a_frame_gave_is_given_again_behind_it() -> None:
    with scratch.frame(MANY):
        outer = scratch.empty(3, 5, dtype=torch.float32).fill_(1)
        with scratch.frame(MANY):
            first = scratch.empty(7, dtype=torch.bfloat16)
            second = scratch.empty(2, 2, dtype=torch.float32).fill_(2)
            assert len({tensor.data_ptr() for tensor in (outer, first, second)}) == 3
            assert all(tensor.data_ptr() % 64 == 0 and tensor.is_contiguous() for tensor in (outer, first, second))
        again = scratch.empty(7, dtype=torch.bfloat16).fill_(3)
        assert again.data_ptr() == first.data_ptr()
        assert (outer.shape, outer.dtype) == ((3, 5), torch.float32)
        assert (outer == 1).all()
    with scratch.frame(MANY):
        scratch.empty(3, 5, dtype=torch.float32).fill_(4)
    assert (outer == 1).all(), "another pass has another mapping"


def test_an_error_closes_the_frames() -> None:
    def run_out_of_memory() -> None:
        with scratch.frame(MANY), scratch.frame(MANY):
            scratch.empty(4, dtype=torch.float32)
            raise MemoryError

    with pytest.raises(MemoryError):
        run_out_of_memory()
    separate = [scratch.empty(4, dtype=torch.float32) for _ in range(2)]
    assert not any(tensor._is_view() for tensor in separate)


def test_what_does_not_fit_or_is_of_few_rows_is_allocated() -> None:
    with scratch.frame(MANY):
        assert scratch.empty(4, dtype=torch.float32)._is_view()
        large = scratch.empty(scratch._MAPPED_BYTES // 4, dtype=torch.float32)
        assert not large._is_view()
        assert large.shape == (scratch._MAPPED_BYTES // 4,)
    with scratch.frame(1):
        assert not scratch.empty(4, dtype=torch.float32)._is_view()


def test_without_a_mapping_all_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmap.mmap", lambda *_: (_ for _ in ()).throw(OSError("no addresses")))
    with scratch.frame(MANY):
        tensors = [scratch.empty(4, dtype=torch.float32).fill_(value) for value in (1, 2)]
    assert [tensor[0].item() for tensor in tensors] == [1, 2]


def test_each_thread_has_its_own() -> None:
    both_open = threading.Barrier(2, timeout=10)
    addresses, intact = set(), []

    def cut(value: int) -> None:
        with scratch.frame(MANY):
            tensor = scratch.empty(64, dtype=torch.float32).fill_(value)
            both_open.wait()
            addresses.add(tensor.data_ptr())
            intact.append(bool((tensor == value).all()))

    threads = [threading.Thread(target=cut, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(addresses) == 2
    assert intact == [True, True]


def test_numbers_of_the_wanted_dtype_are_not_copied() -> None:
    x = torch.randn(3, 4)
    assert scratch.convert(x, torch.float32) is x
    assert torch.equal(scratch.convert(x.t(), torch.float32), x.t())
    assert torch.equal(scratch.convert(x.t(), torch.bfloat16), x.t().to(torch.bfloat16))
