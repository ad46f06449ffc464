"""What a load did, as a person reads it."""

from __future__ import annotations

import pytest

from milepost.state.report import LoadReport, Mismatch, fold


def test_a_report_prints_as_a_short_table():
    """However many names there are, it can be read in ten seconds."""
    report = LoadReport(
        "ResNet50",
        loaded=tuple(f"layer1.{i}.weight" for i in range(100)),
        missing=("fc.weight", "fc.bias"),
        unexpected=tuple(f"head.{i}.weight" for i in range(50)),
        mismatched=(Mismatch("conv1.weight", "(64, 3, 7, 7)", "(64, 1, 7, 7)"),),
    )
    assert str(report).splitlines() == [
        "ResNet50: 100 loaded",
        "  missing (2)",
        "    fc.weight",
        "    fc.bias",
        "  unexpected (50)",
        "    head.*.weight (50)",
        "  mismatched (1)",
        "    conv1.weight: (64, 3, 7, 7) in the checkpoint, (64, 1, 7, 7) in the target",
        "  loaded: layer1.*.weight (100)",
    ]


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        ([f"layer{i}.0.conv{k}.weight" for i in range(4) for k in range(3)], ["layer*.0.conv*.weight (12)"]),
        ([f"rnn.weight_ih_l{i}" for i in range(3)], ["rnn.weight_ih_l* (3)"]),
        ([f"{i}.weight" for i in range(3)], ["*.weight (3)"]),
        ([f"heads.{i}" for i in range(12)], ["heads.* (12)"]),
        ([f"module.l{i}.w -> l{i}.w" for i in range(2)], ["module.l*.w -> l*.w (2)"]),
        ([f"0.w{i} -> {i}.w" for i in range(2)], ["0.w* -> *.w (2)"]),
        (
            ["a: torch.float32 -> torch.float16", "a: torch.float64 -> torch.float16"],
            ["a: torch.float32 -> torch.float16", "a: torch.float64 -> torch.float16"],
        ),
        (["l1: (3, 1)", "l2: (4, 1)", "l3: (4, 1)"], ["l1: (3, 1)", "l*: (4, 1) (2)"]),
    ],
    ids=lambda value: value[0],
)
def test_numbers_in_names_fold_and_those_of_shapes_and_dtypes_do_not(names, folded):
    """A pattern stands for names; what was found and expected is told in full."""
    assert fold(names) == folded


def test_the_list_of_patterns_ends():
    """The rest is counted."""
    assert fold("abcdefghijkl")[-1] == "... and 4 more"
    report = LoadReport("Net", loaded=tuple("abcdefghijkl"))
    assert str(report) == "Net: 12 loaded\n  loaded: a, b, c, d, ... and 8 more"
