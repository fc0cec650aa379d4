"""A GPU that is none: tensors which say that they are on a device of their own, and are computed on the CPU.

What a GPU would refuse is refused: operations on tensors of both sides, and waiting for a result while a graph is
captured. A graph repeats its operations on the memory it was captured with. torch's flash kernel for sequences laid end
to end, which exists on GPUs alone, is computed as its documentation says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from lorica.engines.native.attention import varlen
from lorica.engines.native.executor import Executor
from lorica.models.decoder import Decoder

NAME = "emulated"
"""The device's type: torch built for CPUs knows no `cuda`, but leaves one place for others."""
_aten: Any = torch.ops.aten
_ACROSS = (_aten.copy_.default, _aten._to_copy.default)
_WAITING = (_aten._local_scalar_dense.default, _aten.nonzero.default, _aten.masked_select.default)


class GpuTensor(torch.Tensor):
    """held: the same numbers, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> GpuTensor:
        made: GpuTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _compute(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Numbers on the CPU, which waits for the GPU."""
        _wait("tolist")
        return self.held.tolist()


class EmulatedGpu(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it tensors can be made on `emulated`. flash_precisions: what the flash kernel takes."""

    flash_precisions: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)
    calls: Counter[str] = Counter()  # noqa: RUF012 - of the machine, which there is one of
    """How often each operator was called on the GPU."""
    captured: list[Graph] = []  # noqa: RUF012
    """All graphs."""
    capturing: Graph | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._can_decompose():  # in inference mode operators come whole
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return _compute(func, args, kwargs or {})


class Graph:
    """`torch.cuda.CUDAGraph`: what was called while it was captured, with which tensors, and what came out."""

    def __init__(self) -> None:
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def record(self, kernel: Any, args: Any, kwargs: Any, found: Any) -> None:
        """One call that is to be repeated."""
        self._calls.append((kernel, args, kwargs, found))

    def replay(self) -> None:
        """Everything again, into the same memory."""
        self.replays += 1
        for kernel, args, kwargs, found in self._calls:
            again = kernel(*args, **kwargs)
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextmanager
def _capturing(graph: Graph) -> Iterator[None]:
    EmulatedGpu.capturing = graph
    EmulatedGpu.captured.append(graph)
    try:
        yield
    finally:
        EmulatedGpu.capturing = None


class _Stream:
    def wait_stream(self, other: _Stream) -> None:
        """Nothing runs beside anything else here."""


@contextmanager
def emulated_gpu() -> Iterator[EmulatedGpu]:
    """A machine with a GPU, as far as torch's tensors and Lorica are concerned."""
    _register()
    with (
        patch.object(varlen, "GPU", NAME),
        # Tensors of a class of their own cannot be changed in place there.
        patch.object(torch, "inference_mode", torch.no_grad),
        patch.object(Executor, "run", torch.no_grad()(Executor.run.__wrapped__)),  # type: ignore[attr-defined]
        patch.object(torch.cuda, "Stream", _Stream),
        patch.object(torch.cuda, "current_stream", _Stream),
        patch.object(torch.cuda, "stream", lambda stream: nullcontext()),
        patch.object(torch.cuda, "CUDAGraph", Graph),
        patch.object(torch.cuda, "graph", _capturing),
        EmulatedGpu() as mode,  # type: ignore[no-untyped-call]
    ):
        EmulatedGpu.calls, EmulatedGpu.captured = Counter(), []
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor` makes them on the CPU, then moves them
        try:
            yield mode
        finally:
            torch._C._set_only_lift_cpu_tensors(before)


@cache
def _register() -> None:
    _setup_privateuseone_for_python_backend(NAME)


def to_gpu(module: Decoder) -> Decoder:
    """Move all weights there; what two layers share stays shared."""
    moved: dict[int, torch.nn.Parameter] = {}
    for owner in module.modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            if id(parameter) not in moved:
                moved[id(parameter)] = torch.nn.Parameter(GpuTensor(parameter.detach()), requires_grad=False)
            setattr(owner, name, moved[id(parameter)])
    return module


def _compute(func: Any, args: Any, kwargs: Any) -> Any:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    mine = [each for each in tensors if isinstance(each, GpuTensor)]
    named = kwargs.get("device")
    if func is _aten.copy_.default:
        there = isinstance(args[0], GpuTensor)
    else:
        there = bool(mine) if named is None else torch.device(named).type == NAME
    strangers = [each for each in tensors if not isinstance(each, GpuTensor) and each.dim()]
    if mine and strangers and func not in _ACROSS:
        raise RuntimeError(f"Expected all tensors to be on the same device: {func}")
    if mine:
        EmulatedGpu.calls[str(func)] += 1
    if (mine and not there) or (strangers and there) or func in _WAITING:
        _wait(str(func))
    if named is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    held = {id(each.held): each for each in mine}
    kernel = _varlen if str(func) == "torch_attn._varlen_attn.default" else func
    plain_args, plain_kwargs = tree_map(_inside, (args, kwargs))
    found = kernel(*plain_args, **plain_kwargs)
    if EmulatedGpu.capturing is not None:
        EmulatedGpu.capturing.record(kernel, plain_args, plain_kwargs, found)
    for each in mine:
        assert each.shape == each.held.shape, f"{func} changes a shape in place, which is not emulated"

    def outside(one: Any) -> Any:
        if not isinstance(one, Tensor) or not there:
            return one
        return held.get(id(one)) if id(one) in held else GpuTensor(one)

    return tree_map(outside, found)


def _wait(what: str) -> None:
    if EmulatedGpu.capturing is not None:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {what}")


def _inside(one: Any) -> Any:
    return one.held if isinstance(one, GpuTensor) else one


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    window_size: list[int] | None = None,
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """https://docs.pytorch.org/docs/main/nn.attention.varlen.html, with a log-sum-exp [H, T] as torch 2.13 gives it."""
    if query.dtype not in EmulatedGpu.flash_precisions:
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    assert query.shape[-1] % 8 == 0
    assert query.shape[-1] <= 256
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert scale is None
    assert block_table is None, "FA2 does not know it"
    assert window_size in ([-1, -1], [-1, 0])
    assert is_causal == (window_size == [-1, 0])
    assert enable_gqa or query.shape[1] == key.shape[1]
    repeat = query.shape[1] // key.shape[1]
    output, total = torch.empty_like(query), torch.empty(query.shape[1], len(query))
    for number in range(len(cu_seq_q) - 1):
        a, b = int(cu_seq_q[number]), int(cu_seq_q[number + 1])
        c, d = int(cu_seq_k[number]), int(cu_seq_k[number + 1])
        assert b - a <= max_q
        assert d - c <= max_k
        if seqused_k is not None:
            assert seqused_k.dtype == torch.int32
            assert int(seqused_k[number]) <= d - c
            d = c + int(seqused_k[number])
        q = query[a:b].float().transpose(0, 1)
        k, v = (x[c:d].float().transpose(0, 1).repeat_interleave(repeat, 0) for x in (key, value))
        scores = q @ k.transpose(1, 2) * query.shape[-1] ** -0.5
        if is_causal:  # aligned to the last key
            row, column = torch.arange(b - a)[:, None], torch.arange(d - c)[None, :]
            scores = scores.masked_fill(column > row + (d - c) - (b - a), -torch.inf)
        total[:, a:b] = scores.logsumexp(-1) if d > c else torch.inf  # the kernel's answer where there is no key
        output[a:b] = (scores.softmax(-1) @ v).transpose(0, 1).to(query.dtype)
    return output, total, torch.zeros(2, dtype=torch.uint64)
