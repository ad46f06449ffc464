"""``milepost export``: a network with its weights as a file that other tools run."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from milepost.cli.files import Key, key_options
from milepost.cli.output import Screen, cell, emit, examples, json_option, size, working
from milepost.errors import LoadError, SettingError

FORMATS = ("ONNX", "GEIR", "AIR", "MINDIR", "PT2")
"""As `milepost.graphs.formats.FORMATS` has them, which imports torch."""


@click.command(
    "export",
    short_help="Write a network with its weights for other tools.",
    epilog=examples(
        "milepost export runs/resnet50-graph.meta runs/resnet50-3_32.ckpt -o resnet50.onnx",
        "milepost export my_model:example runs/resnet50-3_32.ckpt -o resnet50.mindir",
    ),
)
@click.argument("model")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option("--format", "file_format", type=click.Choice(FORMATS, case_sensitive=False),
              help="Its format; by default what its suffix says.")  # fmt: skip
@key_options
@json_option
def command(model: str, checkpoint: Path, output: Path, file_format: str | None, key: Key, as_json: bool) -> None:
    """Write the network MODEL with the weights of CHECKPOINT, checked to compute the same before it is written.

    MODEL is a run's -graph.meta, from which ONNX is written and no Python code is needed; or MODULE:FUNCTION, a
    function in a module of the current folder or of the environment, which is called without arguments and returns the
    network and its example inputs: `return net, torch.zeros(1, 3, 224, 224)`.
    """
    out = Screen()
    with working(out, "exporting"):
        from milepost.graphs import export

        if Path(model).suffix == ".meta" or ":" not in model:
            path = export(
                model, checkpoint, file_name=output, file_format=file_format,
                dec_key=key.of(checkpoint), dec_mode=key.mode,
            )  # fmt: skip
        else:
            net, inputs = _example(model)
            _load(net, checkpoint, key)
            path = export(net, *inputs, file_name=output, file_format=file_format)
    nbytes = path.stat().st_size
    if as_json:
        emit({"model": model, "checkpoint": str(checkpoint), "output": str(path), "nbytes": nbytes})
    else:
        out.print(cell(f"{path}: {size(nbytes)}, from {model} and {checkpoint}"))


def _example(model: str) -> tuple[Any, tuple[Any, ...]]:
    """Call ``module:function``, which is the user's code and may raise anything."""
    module, _, function = model.partition(":")
    sys.path.insert(0, "")
    try:
        found = getattr(import_module(module), function)()
    except Exception as error:
        raise _unusable(model, f"{type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")
    if not isinstance(found, tuple) or len(found) < 2:
        raise _unusable(model, f"a function that returns {type(found).__name__}")
    return found[0], found[1:]


def _unusable(model: str, found: str) -> SettingError:
    return SettingError(
        model,
        found=found,
        expected="a function without arguments that returns a torch.nn.Module and example inputs",
        remedy="Write e.g. `def example(): return Net(), torch.zeros(1, 3, 224, 224)` into my_model.py, and give "
        "my_model:example.",
    )


def _load(net: Any, checkpoint: Path, key: Key) -> None:
    from milepost.checkpoint.loading import load_checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what was not loaded is an error here
        parameters = load_checkpoint(checkpoint, net=net, dec_key=key.of(checkpoint), dec_mode=key.mode)
    parameters.close()
    report = parameters.report
    if report is not None and report.missing:
        raise LoadError(
            checkpoint,
            found=f"nothing for {', '.join(report.missing[:4])}{', ...' if len(report.missing) > 4 else ''}",
            expected="a value for every entry of the network",
            remedy="Give the checkpoint of this network, or one of its architecture.",
        )
