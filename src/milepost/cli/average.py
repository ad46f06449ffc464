"""``milepost average``: one network from several."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click

from milepost.cli.files import Key, key_options
from milepost.cli.output import Screen, cell, emit, examples, json_option, progress
from milepost.folding import groups


@click.command(
    "average",
    short_help="Average the weights of several files.",
    epilog=examples("milepost average runs/net-8_500.ckpt runs/net-9_500.ckpt runs/net-10_500.ckpt -o soup.ckpt"),
)
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The file to write, a .ckpt.")
@key_options
@json_option
def command(files: tuple[Path, ...], output: Path, key: Key, as_json: bool) -> None:
    """Write the average of the weights of two or more FILES of one architecture (a "model soup").

    Real numbers are averaged, in double precision; whole numbers, such as counters, are the last file's. Optimizer and
    random state are left out. The running statistics of batch normalization are averages too: take them anew from data
    where the files are far apart.
    """
    from milepost.averaging import LEFT_OUT, average

    out = Screen()
    with ExitStack() as stack:
        readers = [stack.enter_context(key.open_file(file)) for file in files]
        total = sum(entry.nbytes for entry in readers[-1].index.entries.values() if entry.kind not in LEFT_OUT)
        with progress(out, "averaging", total) as on_written:
            done = average(readers, output, on_written)
    if as_json:
        emit(
            {
                "files": [str(file) for file in files],
                "output": str(done.path),
                "averaged": list(done.averaged),
                "taken": list(done.taken),
                "left_out": list(done.left_out),
            }
        )
        return
    out.print(cell(f"{done.path}: the average of {len(files)} files", "bold"))
    for names, what in (
        (done.averaged, "averaged"),
        (done.taken, f"differ and cannot be averaged, so they are those of {files[-1]}"),
    ):
        if names:
            some = [pattern for pattern, _ in groups(names)]
            out.print(cell(f"  {len(names):,} {what}: {', '.join(some[:4])}{', ...' if len(some) > 4 else ''}"))
    if done.left_out:
        out.print(f"  {len(done.left_out):,} left out: optimizer and random state")
