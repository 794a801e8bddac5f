"""Tensors that say they are on Apple's MPS, and refuse what MPS refuses; they compute on the CPU.

It knows that MPS has no float64, and that tensors of two devices do not mix. It does not know which operations and
kernels PyTorch has for MPS: that takes a Mac.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

MPS, CPU = torch.device("mps", 0), torch.device("cpu")
_TOO_WIDE = (torch.float64, torch.complex128)


class OnMPS(torch.Tensor):
    """Wraps a tensor of the CPU."""

    @staticmethod
    def __new__(cls: type, inner: torch.Tensor) -> "OnMPS":
        if inner.dtype in _TOO_WIDE:
            raise TypeError(f"Cannot convert a MPS Tensor to {inner.dtype}: the MPS framework does not support it.")
        shape = torch.empty_strided(inner.size(), inner.stride(), dtype=inner.dtype, device="meta")
        return torch.Tensor._make_subclass(cls, shape, inner.requires_grad)

    def __init__(self, inner: torch.Tensor) -> None:
        self.wrapped = inner

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where Python code takes it to be; PyTorch takes it to be on the meta device."""
        return MPS

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnMPS({self.wrapped})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it without its class
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    wrapped = [one for one in tensors if isinstance(one, OnMPS)]
    plain = [one for one in tensors if not isinstance(one, OnMPS)]
    name = str(func)
    copies = name.startswith(("aten._to_copy", "aten.copy_", "aten.index", "aten._index_put"))
    if wrapped and any(one.dim() for one in plain) and not copies:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found mps and cpu.")
    device = kwargs.get("device", next((one for one in args if isinstance(one, torch.device)), None))
    asked = device is not None and torch.device(device).type in ("mps", "meta")  # meta is what PyTorch sees
    if asked:  # in inference mode devices may be among the arguments
        args = tuple(CPU if isinstance(one, torch.device) else one for one in args)
    kept = kwargs | {"device": CPU} if asked and "device" in kwargs else kwargs
    inner_args, inner_kwargs = tree_map(lambda one: one.wrapped if isinstance(one, OnMPS) else one, (args, kept))
    out = func(*inner_args, **inner_kwargs)
    on_mps = bool(wrapped) if device is None else asked
    if name.startswith("aten.copy_") and not isinstance(args[0], OnMPS):
        on_mps = False
    if not on_mps:
        return out
    out = tree_map(lambda one: OnMPS(one) if isinstance(one, torch.Tensor) else one, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if wrapped else out


class _Factories(TorchDispatchMode):
    """Makes new tensors on MPS where that is asked for."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return run(func, args, kwargs or {})


def to_mps(value: Any) -> Any:
    """Put a tensor, the tensors of a batch, or the weights of a module on the device."""
    if isinstance(value, torch.nn.Module):
        for module in value.modules():
            if hasattr(module, "_device"):
                vars(module)["_device"] = MPS  # as Lightning's and torchmetrics' modules remember it
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(OnMPS(parameter.detach()), parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = OnMPS(buffer)
        return value
    return tree_map(lambda one: OnMPS(one) if isinstance(one, torch.Tensor) else one, value)


@contextmanager
def fake_mps() -> Iterator[None]:
    """Have tensors made on MPS."""
    with _Factories():
        yield
