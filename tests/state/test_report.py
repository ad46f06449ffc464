"""What a load did, as a person reads it."""

from __future__ import annotations

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
    ]


def test_numbered_names_fold_and_the_rest_is_counted():
    """Patterns stand for names, and the list ends."""
    assert fold(f"layer{i}.0.conv{k}.weight" for i in range(4) for k in range(3)) == ["layer*.0.conv*.weight (12)"]
    assert fold("abcdefghijkl")[-1] == "... and 4 more"
