"""A module and example inputs -> a graph with the checkpoint's names. Files are not known here."""

from __future__ import annotations

import importlib
import inspect
import io
import linecache
import logging
import re
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.graph_signature import ConstantArgument

from milepost.errors import GraphError, MilepostError, MissingExtraError, SettingError
from milepost.graphs.guard import hide_hooks

if TYPE_CHECKING:
    import onnx

BATCH = "batch"
"""The name of the free first dimension."""

OPSET = 20

"""The version of ONNX's operators that the graphs are written in."""

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_LIBRARIES = ("torch", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class Trace:
    """A traced module. Its weights stand beside the graph and are the module's own tensors, not copies.

    Args:
        model: The graph (`onnx_ir.Model`), with the weights as its last inputs.
        weights: Name of an entry in the checkpoint to its tensor (`onnx_ir.TensorProtocol`).
        kinds: Name of an entry to ``parameter`` or ``buffer``.
        hidden_hooks: The modules whose hooks are not in the graph.
        free: Of each input, its free dimensions by number, with what torch calls them.
    """

    model: Any
    weights: dict[str, Any]
    kinds: dict[str, str]
    hidden_hooks: list[str]
    free: list[dict[int, str]]

    def rename(self, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> None:
        """Give inputs and outputs the user's names; a value inside that has one of them gets another.

        Raises:
            SettingError: Too few or too many names, one twice, or one that a weight has.
        """
        graph = self.model.graph
        arguments = [value for value in graph.inputs if value.name not in self.weights]
        pairs = _paired("input_names", inputs, arguments) + _paired("output_names", outputs, graph.outputs)
        named = {id(value) for value, _ in pairs}
        everything = [*graph.inputs, *graph.initializers.values(), *_computed(graph)]
        taken = {value.name for value in everything if id(value) not in named}
        wanted = [name for _, name in pairs]
        kept = {value.name for value in (*graph.inputs, *graph.outputs) if id(value) not in named}
        if clashes := sorted({name for name in wanted if wanted.count(name) > 1 or name in kept}):
            raise SettingError(
                "input_names and output_names",
                found=f"{', '.join(clashes)} for two values, or for one that is a weight",
                expected="a name of its own for each",
                remedy="Choose other names.",
            )
        taken |= set(wanted)
        for value in everything:
            if id(value) not in named and value.name in wanted:
                value.name = _distinct(value.name, taken)
                taken.add(value.name)
        for value, name in pairs:
            value.name = name

    def proto(self) -> onnx.ModelProto:
        """The graph as an ONNX message, without what tells about the machine it was traced on."""
        from onnx_ir import serde

        proto = serde.serialize_model(self.model)
        _tidy(proto.graph)
        return proto


def need_onnx(purpose: str, *packages: str) -> None:
    """Raise `MissingExtraError` if one of the optional packages is missing."""
    try:
        for package in packages:
            importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError.of(purpose, extra="onnx", missing=package) from error


def as_inputs(net: nn.Module, inputs: object) -> tuple[Tensor, ...]:
    """Return the example inputs as tensors where the module is.

    Raises:
        GraphError: There are none, one is neither a tensor nor an array, or the module is compiled by TorchScript.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise GraphError(
            type(net).__name__,
            found="a TorchScript module",
            expected="a module in Python",
            remedy="Give the network that the script was made from.",
        )
    values = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    for position, value in enumerate(values):
        if not isinstance(value, Tensor | np.ndarray):
            raise GraphError(
                f"{type(net).__name__}, input {position}",
                found=f"a {type(value).__name__}",
                expected="a tensor or an array",
                remedy="Only networks whose forward takes tensors can be traced; wrap others in a module that does.",
            )
    if not values:
        raise GraphError(
            type(net).__name__,
            found="no example input",
            expected="one for each argument of forward",
            remedy="Give the tensors that you would call the network with.",
        )
    tensors = (value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.array(value)) for value in values)
    devices = {tensor.device for tensor in (*net.parameters(), *net.buffers())}
    if len(devices) != 1:  # several: the caller knows which input goes where
        return tuple(tensors)
    device = devices.pop()
    return tuple(tensor.to(device) for tensor in tensors)


def trace(net: nn.Module, inputs: tuple[Tensor, ...], dynamic_shapes: Any = None, opset: int = OPSET) -> Trace:
    """Trace `net`, which stands in `guard.untouched`, with a free batch dimension, or a fixed one where it must be.

    The module runs on tensors without values, so this costs no memory for weights, and time by the number of operators.

    Args:
        net: The module.
        inputs: Example tensors. The first dimension of the first one is the batch; it is free in every input whose
            first dimension is as long.
        dynamic_shapes: The free dimensions instead, as `torch.export.export` takes them; an empty one for none.
        opset: The version of ONNX's operators.

    Raises:
        GraphError: Something in the module cannot be expressed as a graph, or not in this opset.
    """
    hidden = hide_hooks(net)
    with telling(net, inputs):
        exported = exported_program(net, inputs, dynamic_shapes)
        # `optimize` would fold batch norms into convolutions: the weights would no longer be the checkpoint's.
        program = torch.onnx.export(exported, dynamo=True, optimize=False, verbose=False, opset_version=opset)
        assert program is not None
        kinds = _name_by_entries(program.model, net)
        weights = _take_weights(program.model.graph, kinds)
        _fold(program.model)
        _check_opset(net, program.model.opset_imports.get(""), opset)
    return Trace(program.model, weights, kinds, hidden, free_dimensions(exported))


def exported_program(
    net: nn.Module, inputs: tuple[Tensor, ...], dynamic_shapes: Any = None
) -> torch.export.ExportedProgram:
    """What torch.export makes of `net`; to be called in `telling`, with arguments as for `trace`."""
    net = _unwrapped(net)
    if dynamic_shapes is None:
        exported = _exported(net, inputs)
    else:
        exported = torch.export.export(net, inputs, dynamic_shapes=dynamic_shapes or None, strict=False)
    _check_results(net, exported)
    return exported


def free_dimensions(exported: torch.export.ExportedProgram) -> list[dict[int, str]]:
    """Of each input, its free dimensions by number, with what torch calls them (``s77``, ``2*s77``)."""
    values = {node.name: node.meta["val"] for node in exported.graph.nodes if node.op == "placeholder"}
    shapes = [getattr(values[str(name)], "shape", ()) for name in exported.graph_signature.user_inputs]
    return [{axis: str(size) for axis, size in enumerate(shape) if not isinstance(size, int)} for shape in shapes]


@contextmanager
def telling(net: nn.Module, inputs: tuple[Tensor, ...]) -> Iterator[None]:
    """Run `net` or trace it: without gradients and chatter, and with failures told in the user's terms."""
    with _quiet(), ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for device in {"cpu", *(tensor.device.type for tensor in inputs)}:
            if torch.amp.is_autocast_available(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        try:
            yield
        except MilepostError:
            raise
        except Exception as error:
            raise _told(net, error) from error


def _paired(field: str, names: Sequence[str] | None, values: Sequence[Any]) -> list[tuple[Any, str]]:
    if names is None:
        return []
    is_listed = isinstance(names, list | tuple) and all(isinstance(name, str) and name for name in names)
    if not is_listed or len(names) != len(values):
        raise SettingError(
            field,
            found=repr(names),
            expected=f"{len(values)} names, for " + ", ".join(value.name for value in values),
            remedy="Give a list with a name for each of them.",
        )
    return list(zip(values, names, strict=True))


def _check_opset(net: nn.Module, found: int | None, wanted: int) -> None:
    # The exporter only logs that it cannot convert its operators to the version asked for.
    if found != wanted:
        raise GraphError(
            type(net).__name__,
            found=f"a graph of opset {found}, for some operators cannot be converted",
            expected=f"one of opset {wanted}",
            remedy="Ask for opset 18 or newer.",
        )


def _exported(net: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(net, _at_least_two(inputs), dynamic_shapes=_free_batch(net, inputs), strict=False)
    except Exception:
        return torch.export.export(net, inputs, strict=False)


def _check_results(net: nn.Module, exported: torch.export.ExportedProgram) -> None:
    for spec in exported.graph_signature.output_specs:
        if isinstance(spec.arg, ConstantArgument) and spec.arg.value is not None:
            raise GraphError(
                type(net).__name__,
                found=f"{spec.arg.value!r} among the results of forward",
                expected="tensors",
                remedy="Leave out of the results what is not a tensor.",
            )


def _free_batch(net: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    batch = torch.export.Dim(BATCH)
    free = [{0: batch} if is_batched else {} for is_batched in _batched(inputs)]
    return dict(inspect.signature(net.forward).bind(*free).arguments)


def _at_least_two(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # torch.export takes a dimension of 1 for a constant.
    return tuple(
        torch.cat([tensor, tensor]) if is_batched and len(tensor) == 1 else tensor
        for tensor, is_batched in zip(inputs, _batched(inputs), strict=True)
    )


def _batched(inputs: tuple[Tensor, ...]) -> list[bool]:
    return [tensor.shape[:1] == inputs[0].shape[:1] != () for tensor in inputs]


def _unwrapped(net: nn.Module) -> nn.Module:
    """The module inside torch.compile and data parallelism: their own forward hides the names of the arguments."""
    while True:
        inner = net.module if isinstance(net, _PARALLEL) else getattr(net, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return net
        net = inner


def _name_by_entries(model: Any, net: nn.Module) -> dict[str, str]:
    """Give the initializers that are state the names of the checkpoint, and make all names distinct.

    Returns:
        The entries among the initializers, with their kind, ``parameter`` or ``buffer``.
    """
    from onnx_ir.convenience import replace_all_uses_with

    graph, entries = model.graph, _entries(net)
    places = {name: id(tensor) for name, tensor in _tensors(_unwrapped(net))}
    found: dict[str, Any] = {}
    constants = []
    for name, value in list(graph.initializers.items()):
        entry = entries.get(places.get(name, 0))
        del graph.initializers[name]
        if entry is None:
            constants.append(value)
        elif entry in found:  # tied weights are one entry
            replace_all_uses_with([value], [found[entry]])
        else:
            found[entry] = value
    taken = set(found)
    for entry, value in found.items():
        value.name = entry
    # torch gives a value its operator's name without looking whether a parameter is called `linear`, too.
    for value in (*graph.inputs, *constants, *_computed(graph)):
        value.name = _distinct(value.name, taken)
        taken.add(value.name)
    for value in (*found.values(), *constants):
        graph.initializers[value.name] = value
    parameters = {id(parameter) for parameter in net.parameters()}
    return {
        name: "parameter" if number in parameters else "buffer" for number, name in entries.items() if name in found
    }


def _take_weights(graph: Any, names: Iterable[str]) -> dict[str, Any]:
    weights = {}
    for name in names:
        value = graph.initializers.pop(name)
        weights[name], value.const_value = value.const_value, None
        graph.inputs.append(value)
    return weights


def _fold(model: Any) -> None:
    """Compute what depends on no input, such as the missing biases that the exporter makes from shapes of weights.

    To be called when the weights are inputs: else some of them would be computed with, and lose their names.
    """
    from onnxscript import optimizer

    optimizer.fold_constants(model, onnx_shape_inference=False)
    optimizer.remove_unused_nodes(model)


def _entries(net: nn.Module) -> dict[int, str]:
    """The name of each tensor in the checkpoint, by identity; of tied ones the first."""
    names: dict[int, str] = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            names.setdefault(id(tensor), name)
    return names


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from net.named_parameters(remove_duplicate=False)
    yield from net.named_buffers(remove_duplicate=False)


def _computed(graph: Any) -> Iterator[Any]:
    from onnx_ir.traversal import RecursiveGraphIterator

    for node in RecursiveGraphIterator(graph):
        yield from node.outputs


def _distinct(name: str, taken: set[str]) -> str:
    number, candidate = 0, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_value{number}"
    return candidate


def _tidy(graph: onnx.GraphProto) -> None:
    """Name the batch, and drop the exporter's notes: stack traces with paths of this machine, mostly."""
    symbols = {value.type.tensor_type.shape.dim[0].dim_param for value in graph.input if _rank(value)} - {""}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param and len(symbols) == 1:
                dim.dim_param = re.sub(rf"\b{re.escape(min(symbols))}\b", BATCH, dim.dim_param)
        del value.metadata_props[:]
    del graph.metadata_props[:]
    for node in graph.node:
        _tidy_node(node)


def _rank(value: onnx.ValueInfoProto) -> int:
    return len(value.type.tensor_type.shape.dim)


def _tidy_node(node: onnx.NodeProto) -> None:
    kept = [note for note in node.metadata_props if note.key == "namespace"]  # the path of the module it stands in
    del node.metadata_props[:]
    node.metadata_props.extend(kept)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
            _tidy(inner)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from printing, logging and warning about its own workings."""
    loggers = [logging.getLogger(name) for name in _chatty_loggers()]
    levels = [logger.level for logger in loggers]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
        # copyreg: torch copies its own deprecated LeafSpec. contextlib: "attribute was assigned during export", which
        # `guard.untouched` takes back. torch, onnxscript, onnx_ir: deprecations among themselves.
        for module in ("copyreg", "contextlib", *_LIBRARIES):
            warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _chatty_loggers() -> list[str]:
    # All of them, because one that has a level of its own does not follow its parent's.
    return [name for name in list(logging.Logger.manager.loggerDict) if name.split(".")[0] in _LIBRARIES]


def _told(net: nn.Module, error: Exception) -> GraphError:
    """The exporter's failure in the user's terms: which line of theirs, and what is wrong with it."""
    causes = list(_chain(error))
    place = next((place for cause in causes if (place := _user_line(cause))), "")
    if any("DataDependent" in type(cause).__name__ for cause in causes):
        found = "a decision that depends on a tensor's values"
        remedy = "Decide with torch.where or torch.cond, or by shapes, which are known beforehand."
    else:
        found = _first_line(causes[-1])
        remedy = "Change the network or the example input; checkpoints do not need the graph."
    return GraphError(
        type(net).__name__,
        found=found + place,
        expected="a network whose operations can be listed without running it, all of them known to ONNX",
        remedy=remedy,
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _user_line(error: BaseException) -> str:
    """The innermost line in a method of the user's modules, and of torch's modules below it."""
    users, torchs = "", ""
    for frame, line_number in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if not isinstance(owner, nn.Module):
            continue
        file = frame.f_code.co_filename
        line = linecache.getline(file, line_number).strip()
        place = f" in {type(owner).__name__}.{frame.f_code.co_name} ({Path(file).name}, line {line_number}: {line})"
        if not frame.f_globals.get("__name__", "").startswith("torch."):
            users, torchs = place, ""
        elif frame.f_code.co_name == "forward":
            torchs = place
    return users + torchs


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
