"""Whether an exported graph computes what its module does. How either is made, and where it goes, is not known here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from milepost.errors import GraphError
from milepost.graphs.guard import untouched
from milepost.graphs.trace import telling

TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 1e-2, torch.float32: 1e-4, torch.float64: 1e-4}
"""How far an exported model's result may be from the module's, relative to the largest value of that result; for dtypes
not listed, it must be equal. Two runtimes add in different orders: on float32, 1e-6
is usual, and 1e-5 for very deep networks."""

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]


def judge(
    net: nn.Module, run: Run, inputs: tuple[Tensor, ...], free: list[dict[int, str]], hidden_hooks: list[str]
) -> None:
    """Run both on the example and on random values, in another size where one is free.

    Args:
        net: The module.
        run: The exported graph.
        inputs: The example.
        free: Of each input, its free dimensions by number, with their names.
        hidden_hooks: The modules whose hooks are not in the graph.

    Raises:
        GraphError: The results differ by more than `TOLERANCES`, or one of the two does not run.
    """
    for batch in (inputs, _another(inputs, free)):
        with untouched(net), telling(net, batch):
            results = net(*(tensor.clone() for tensor in batch))  # forward may work in place
        expected = [leaf for leaf in pytree.tree_leaves(results) if isinstance(leaf, Tensor)]
        _compare(net, run(batch), expected, hidden_hooks)


def _another(inputs: tuple[Tensor, ...], free: list[dict[int, str]]) -> tuple[Tensor, ...]:
    """Random values of the example's kind, with other sizes of the free dimensions."""
    generator = torch.Generator().manual_seed(0)
    names = {name for dimensions in free for name in dimensions.values()}
    is_plain = all(name.isidentifier() for name in names)  # 2*s77 has to follow s77
    others = []
    for tensor, dimensions in zip(inputs, free, strict=True):
        sizes = [_other(n) if is_plain and axis in dimensions else n for axis, n in enumerate(tensor.shape)]
        others.append(_random(tensor.cpu(), sizes, generator).to(tensor.device))
    return tuple(others)


def _other(size: int) -> int:
    return size - 1 if size > 2 else size + 1  # rather fewer: of positions, say, there may be no more


def _random(like: Tensor, sizes: list[int], generator: torch.Generator) -> Tensor:
    if like.is_floating_point():
        low, high = (float(value) for value in like.aminmax()) if like.numel() else (0.0, 0.0)
        if low < high < float("inf") and low > -float("inf"):
            return (low + (high - low) * torch.rand(sizes, generator=generator)).to(like.dtype)
        return torch.randn(sizes, generator=generator).to(like.dtype)
    # Values that stand in the example are tokens, classes and positions that there are.
    values = like.flatten() if like.numel() else torch.zeros(1, dtype=like.dtype)
    return values[torch.randint(len(values), sizes, generator=generator)]


def _compare(net: nn.Module, actual: Sequence[Tensor], expected: list[Tensor], hidden_hooks: list[str]) -> None:
    for position, (found, wanted) in enumerate(zip(actual, expected, strict=True)):
        difference = _difference(found, wanted.detach().cpu())
        if difference is None:
            continue
        hooks = f" Hooks are not exported, and {', '.join(hidden_hooks)} has some." if hidden_hooks else ""
        raise GraphError(
            type(net).__name__,
            found=f"that result {position} of the exported graph is not the module's: {difference}",
            expected=f"a difference of at most {TOLERANCES.get(wanted.dtype, 0):g} of the largest value",
            remedy="Nothing was written; report the network, or try another version of torch." + hooks,
        )


def _difference(found: Tensor, wanted: Tensor) -> str | None:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return f"{found.dtype} {tuple(found.shape)} instead of {wanted.dtype} {tuple(wanted.shape)}"
    tolerance = TOLERANCES.get(wanted.dtype)
    if tolerance is None:
        return None if torch.equal(found, wanted) else "some values differ"
    found, wanted = found.double(), wanted.double()
    finite = wanted[wanted.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    if torch.allclose(found, wanted, rtol=0, atol=tolerance * scale, equal_nan=True):
        return None
    distance = float((found - wanted).abs().nan_to_num(float("inf")).max())
    return f"off by {distance:.3g}, the largest value being {scale:.3g}"
