"""`TrainingState`: the objects of a training by name, gathered and restored together. No files, no policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from milepost.checkpoint.loading import prepare
from milepost.errors import LoadError, SettingError, SettingTypeError
from milepost.format.dialect import DIALECT
from milepost.interop.mindspore.writing import speak
from milepost.moment import EPOCH_START, LOADER, RANDOM
from milepost.parameters import Parameters, sound
from milepost.state import modules, objects, optimizers
from milepost.state.report import LoadReport, Prepared
from milepost.state.snapshot import Snapshot

_TAKEN = {objects.OBJECTS, modules.EXTRA, optimizers.OPTIMIZER, RANDOM, EPOCH_START, LOADER}


class TrainingState:
    """Everything of a training that a checkpoint holds beside its progress.

    Args:
        net: The network, or None.
        optimizer: Its optimizer, or None.
        others: Further modules, optimizers and objects with ``state_dict`` and ``load_state_dict``, by name.
    """

    def __init__(self, net: nn.Module | None, optimizer: Optimizer | None, others: Mapping[str, Any]) -> None:
        _check("net", net, nn.Module, "a torch.nn.Module")
        _check("optimizer", optimizer, Optimizer, "a torch.optim.Optimizer")
        self.net = net
        given = {name: value for name, value in others.items() if value is not None}
        for name in given.keys() & _TAKEN:
            raise SettingError(name, found="an object of this name", expected="another", remedy="Choose another name.")
        self._modules = {name: value for name, value in given.items() if isinstance(value, nn.Module)}
        self._optimizers = {name: value for name, value in given.items() if isinstance(value, Optimizer)}
        if optimizer is not None:
            self._optimizers[optimizers.OPTIMIZER] = optimizer
        self._objects = {
            name: value for name, value in given.items() if name not in self._modules and name not in self._optimizers
        }
        for name, value in self._objects.items():
            objects.check(name, value)

    def optimizers(self) -> list[Optimizer]:
        """The optimizers."""
        return list(self._optimizers.values())

    def take(self, snapshot: Snapshot) -> None:
        """Gather everything."""
        if self.net is not None:
            modules.take(self.net, snapshot)
        for name, module in self._modules.items():
            modules.take(module, snapshot, f"{name}.")
        names = self._parameter_names()
        for name, optimizer in self._optimizers.items():
            optimizers.take(optimizer, names, snapshot, name)
        for name, value in self._objects.items():
            objects.take(name, value, snapshot)

    def speak(self, snapshot: Snapshot, dialect: str, global_step: int) -> dict[str, Any]:
        """Give what was gathered the names and shapes of another framework; return what undoes that, as metadata.

        Raises:
            SettingError: There is no network, whose modules say what is called what.
            UnsupportedStateError: The other framework has nothing like it.
        """
        if self.net is None:
            raise SettingError(
                "dialect", found="no network", expected="one", remedy="Give the manager the network, or no dialect."
            )
        optimizer = self._optimizers.get(optimizers.OPTIMIZER)
        return {DIALECT: speak(snapshot, dialect, self.net, optimizer, self._parameter_names(), global_step)}

    def prepare(self, parameters: Parameters, *, strict: bool) -> list[Prepared]:
        """Read and check everything; nothing changes until the result is applied.

        Raises:
            LoadError: Something does not fit, or, if `strict`, only one of both sides has an object of a name.
        """
        with sound(parameters.where):
            saved = parameters.metadata.get("state", {}).get(objects.OBJECTS, {})
            there = {*parameters.parts(), *parameters.optimizer_keys(), *saved}
        own = {**self._modules, **self._optimizers, **self._objects}
        missing, left = sorted(own.keys() - there), sorted(there - own.keys())
        if strict and (missing or left):
            raise LoadError(
                parameters.where,
                found=f"the state of {', '.join(sorted(there)) or 'no further object'}",
                expected=f"the state of {', '.join(sorted(own)) or 'no further object'}",
                remedy="Give the manager the objects that were saved, by the same names; or resume with strict=False.",
            )
        names = self._parameter_names()
        loads = [] if self.net is None else [prepare(self.net, parameters, strict=strict)]
        loads += [
            prepare(module, parameters, strict=strict, part=name)
            for name, module in self._modules.items()
            if name in there
        ]
        loads += [
            prepare(optimizer, parameters, strict=strict, names=names, part=name)
            for name, optimizer in self._optimizers.items()
            if name in there
        ]
        with sound(parameters.where):
            loads += [
                objects.prepare(name, value, saved[name], parameters.referred(), parameters.where)
                for name, value in self._objects.items()
                if name in saved
            ]
        if missing or left:
            report = LoadReport("the training's objects", missing=tuple(missing), unexpected=tuple(left))
            loads.append(Prepared(report, lambda: None))
        return loads

    def _parameter_names(self) -> dict[int, str]:
        names = {} if self.net is None else modules.parameter_names(self.net)
        for name, module in self._modules.items():
            names = modules.parameter_names(module, f"{name}.") | names
        return names


def apply(loads: Sequence[Prepared]) -> None:
    """Change what was prepared: the network last, because only what comes before it can still refuse."""
    for load in reversed(loads):
        load.apply()


def _check(name: str, value: object, kind: type, expected: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise SettingTypeError(
            name, found=f"a {type(value).__name__}", expected=expected, remedy="Give other objects by a name."
        )
