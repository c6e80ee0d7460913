"""Torch tensors as plain bytes: torch's own pickle holds an address, so that no two processes would agree on it."""

from __future__ import annotations

import sys
from typing import Any


def reduce_tensor(obj: Any) -> Any:
    """Reduce a dense CPU tensor to dtype, shape and bytes; NotImplemented for anything else. Never imports torch."""
    torch = sys.modules.get("torch")
    if torch is None or type(obj) is not torch.Tensor or obj.device.type != "cpu" or obj.layout != torch.strided:
        return NotImplemented
    if obj.is_quantized or obj.grad_fn is not None or obj.is_conj() or obj.is_neg():
        return NotImplemented
    raw = obj.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if obj.numel() else b""
    return restore_tensor, (str(obj.dtype).removeprefix("torch."), tuple(obj.shape), raw, obj.requires_grad)


def restore_tensor(dtype: str, shape: tuple[int, ...], raw: bytes, requires_grad: bool) -> Any:
    """Undo `reduce_tensor`; runs where the package is loaded."""
    import torch  # noqa: PLC0415 - the client itself must not need torch

    kind = getattr(torch, dtype)
    if not raw:
        return torch.empty(shape, dtype=kind, requires_grad=requires_grad)
    return torch.frombuffer(bytearray(raw), dtype=kind).reshape(shape).requires_grad_(requires_grad)
