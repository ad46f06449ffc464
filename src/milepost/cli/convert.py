"""``milepost convert``: a file into one of another kind."""

from __future__ import annotations

import re
from pathlib import Path

import click

from milepost.cli.files import Key, key_options, read_key
from milepost.cli.output import UNITS, Screen, cell, emit, examples, json_option, progress, size
from milepost.errors import SettingError
from milepost.format.encryption import DEFAULT, MODES
from milepost.interop.files import open_file


@click.command(
    "convert",
    short_help="Write a file in another format.",
    epilog=examples(
        "milepost convert model.safetensors.index.json model.ckpt",
        "milepost convert runs/resnet50-3_32.ckpt model.safetensors --max-shard-size 5GB",
    ),
)
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--max-shard-size", metavar="SIZE", help="Cut safetensors into files of at most so much, e.g. 5GB.")
@click.option("--crc-check", is_flag=True, help="Add the CRC-32 that MindSpore checks.")
@click.option("--enc-key-file", type=click.Path(path_type=Path), help="Encrypt a .ckpt with the key in this file.")
@click.option(
    "--enc-mode", type=click.Choice(list(MODES)), default=DEFAULT, help=f"How to encrypt it (default: {DEFAULT})."
)
@key_options
@json_option
def command(
    source: Path,
    target: Path,
    max_shard_size: str | None,
    crc_check: bool,
    enc_key_file: Path | None,
    enc_mode: str,
    key: Key,
    as_json: bool,
) -> None:
    """Write what SOURCE holds into TARGET, bit for bit; how TARGET ends says what it is.

    .ckpt is Milepost's format and MindSpore's; .safetensors; .pt, .pth and .bin are a dict of tensors, by torch.save.
    What the target has no place for is kept beside the tensors, so that a file that is converted back has it again.
    """
    from milepost.interop.convert import convert

    limit = None if max_shard_size is None else _nbytes(max_shard_size)
    enc_key = None if enc_key_file is None else read_key(enc_key_file)
    dec_key = key.of(source)
    out = Screen()
    total = 0
    if out.is_interactive:  # nobody else needs to know how much there is
        with key.open_file(source) as file:
            total = sum(entry.nbytes for entry in file.index.entries.values())
    with progress(out, "converting", total) as on_read:
        path = convert(
            source, target, max_shard_nbytes=limit, dec_key=dec_key, dec_mode=key.mode, enc_key=enc_key,
            enc_mode=enc_mode, crc_check=crc_check, on_read=on_read,
        )  # fmt: skip
    with open_file(path, dec_key=enc_key, dec_mode=enc_mode) as file:
        container, entries, nbytes = file.container, len(file.index.entries), file.index.nbytes
    if as_json:
        facts = {"source": str(source), "target": str(path), "container": container}
        emit({**facts, "entries": entries, "nbytes": nbytes})
    else:
        out.print(cell(f"{path}: {container}, {size(nbytes)}, {entries:,} entries"))


def _nbytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kKMGTP]?B?)", text.strip())
    if match is None:
        raise SettingError(
            "--max-shard-size", found=repr(text), expected="a size", remedy="Write it like 5GB, 500MB or 1000000."
        )
    units = [unit.rstrip("B").upper() for unit in UNITS]
    nbytes = float(match[1]) * 1000 ** units.index(match[2].rstrip("B").upper())
    return int(min(nbytes, 2.0**62))  # more is no limit
