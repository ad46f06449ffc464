"""Any object with `state_dict` and `load_state_dict` <-> JSON and named tensors. What it does is not known here.

Learning-rate schedulers, `torch.amp.GradScaler`, torchdata's `StatefulDataLoader`, and whatever a user makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from milepost.errors import LoadError, NothingLoadedError, SettingTypeError
from milepost.state.report import LoadReport, Prepared
from milepost.state.snapshot import Snapshot
from milepost.state.values import unpack

OBJECTS = "objects"
"""Where the JSON of a checkpoint keeps them, by name."""


class Stateful(Protocol):
    """What an object must have to be saved."""

    def state_dict(self) -> Any:
        """Return the state: what `milepost.state.values.pack` takes."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Take a state that `state_dict` returned."""


def check(name: str, obj: object) -> None:
    """Refuse an object that cannot be saved, where it is given.

    Args:
        name: What it is called in messages.
        obj: The object.

    Raises:
        SettingTypeError: It lacks `state_dict` or `load_state_dict`.
    """
    lacking = [method for method in ("state_dict", "load_state_dict") if not callable(getattr(obj, method, None))]
    if lacking:
        raise SettingTypeError(
            name,
            found=f"a {type(obj).__name__} without {' and '.join(lacking)}",
            expected="an object with state_dict() and load_state_dict(state)",
            remedy="Give it these two methods, or leave it out.",
        )


def take(name: str, obj: Stateful, snapshot: Snapshot) -> None:
    """Add the object's state to the snapshot.

    Args:
        name: What it is found by again, and what the names of its tensors begin with.
        obj: The object.
        snapshot: Where to.

    Raises:
        UnsupportedStateError: Something in the state cannot be stored; the message has its path.

    Example:
        >>> snapshot = Snapshot()
        >>> take("scaler", torch.amp.GradScaler("cpu", init_scale=8.0), snapshot)
        >>> saved = snapshot.state["objects"]["scaler"]
        >>> saved["class"], saved["state"]["scale"]
        ('GradScaler', 8.0)
    """
    snapshot.state.setdefault(OBJECTS, {})[name] = {
        "class": type(obj).__name__,
        "state": snapshot.pack(obj.state_dict(), name, "extra"),
    }


def prepare(
    name: str,
    obj: Stateful,
    saved: dict[str, Any] | None,
    fetch: Callable[[str], torch.Tensor],
    where: str,
) -> Prepared:
    """Read everything that the object is restored from; it changes when that is applied.

    Its tensors are on the CPU. What the object then finds wrong is its own affair: it may be changed in part when the
    `LoadError` comes.

    Args:
        name: What it was saved as.
        obj: The target.
        saved: What `take` stored under that name, or None where there is none.
        fetch: Gives the tensor of an entry.
        where: The checkpoint, for messages.

    Raises:
        NothingLoadedError: The checkpoint has no state of this name.
        LoadError: The state is of an object of another class.

    Example:
        >>> snapshot, scaler = Snapshot(), torch.amp.GradScaler("cpu")
        >>> take("scaler", torch.amp.GradScaler("cpu", init_scale=8.0), snapshot)
        >>> prepared = prepare("scaler", scaler, snapshot.state["objects"]["scaler"], {}.__getitem__, "x.ckpt")
        >>> prepared.apply()
        >>> print(prepared.report, scaler.get_scale())
        scaler (GradScaler): 1 loaded 8.0
    """
    own = type(obj).__name__
    target = f"{name} ({own})"
    where = f"{where} into {target}"
    if saved is None:
        raise NothingLoadedError(
            where,
            found=f"no state of {name!r}",
            expected="a checkpoint of a training that had it",
            remedy="Leave the object out, or start from the weights alone.",
        )
    if saved["class"] != own:
        raise LoadError(
            where,
            found=f"the state of a {saved['class']}",
            expected=f"the state of a {own}",
            remedy="Build the object that was saved, or start this one afresh.",
        )
    state = unpack(saved["state"], fetch)

    def apply() -> None:
        try:
            obj.load_state_dict(state)
        except Exception as error:
            if isinstance(error, MemoryError | torch.OutOfMemoryError):
                raise
            raise LoadError(
                where,
                found=f"a state that the object does not take ({type(error).__name__}: {error})",
                expected="what its state_dict returns now",
                remedy="Load it with the code that saved it, or start the object afresh.",
            ) from error

    return Prepared(LoadReport(target, loaded=(name,)), apply)
