"""Torch tensors as plain bytes: torch's own pickle holds an address, so that no two processes would agree on it."""

from __future__ import annotations

import sys
from typing import Any


def reduce_tensor(obj: Any) -> Any:
    """Reduce a dense CPU tensor to dtype, shape and bytes; NotImplemented for anything else. Never imports torch.

    Parameters, subclasses, quantized tensors and the like reduce themselves to storages, and these to bytes.
    """
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "UntypedStorage"):
        return NotImplemented
    if type(obj) in (torch.UntypedStorage, torch.storage.TypedStorage) and obj.device.type == "cpu":
        return _reduce_storage(obj, torch)
    if type(obj) is not torch.Tensor or obj.device.type != "cpu" or obj.layout != torch.strided:
        return NotImplemented
    if obj.is_quantized or obj.grad_fn is not None or obj.is_conj() or obj.is_neg():
        return NotImplemented
    raw = obj.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if obj.numel() else b""
    return restore_tensor, (str(obj.dtype).removeprefix("torch."), tuple(obj.shape), raw, obj.requires_grad)


def _reduce_storage(obj: Any, torch: Any) -> Any:
    is_typed = type(obj) is not torch.UntypedStorage
    untyped = obj._untyped_storage if is_typed else obj  # noqa: SLF001 - the public `untyped()` warns
    raw = torch.empty(0, dtype=torch.uint8).set_(untyped).numpy().tobytes()
    return restore_storage, (str(obj.dtype).removeprefix("torch.") if is_typed else "", raw)


def restore_storage(dtype: str, raw: bytes) -> Any:
    """Undo `reduce_tensor` for a storage; without a dtype it is an UntypedStorage."""
    import torch  # noqa: PLC0415 - the client itself must not need torch

    bare = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
    untyped = bare.untyped_storage()
    if not dtype:
        return untyped
    make: Any = torch.storage.TypedStorage
    return make(wrap_storage=untyped, dtype=getattr(torch, dtype), _internal=True)


def restore_tensor(dtype: str, shape: tuple[int, ...], raw: bytes, requires_grad: bool) -> Any:
    """Undo `reduce_tensor`; runs where the package is loaded."""
    import torch  # noqa: PLC0415 - the client itself must not need torch

    kind = getattr(torch, dtype)
    if not raw:
        return torch.empty(shape, dtype=kind, requires_grad=requires_grad)
    return torch.frombuffer(bytearray(raw), dtype=kind).reshape(shape).requires_grad_(requires_grad)
