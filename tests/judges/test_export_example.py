"""The example that exports ResNet-50 in every format, with MindSpore as one of its judges."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def test_every_judge_computes_what_the_network_does(tmp_path, mindspore_python, monkeypatch, capsys):
    """To 1e-5 of the largest logit, and the table says so."""
    import export_resnet50

    monkeypatch.setattr(export_resnet50, "MINDSPORE", mindspore_python)
    rows = export_resnet50.main(tmp_path, steps=2)
    assert [row.format for row in rows] == ["ONNX", "GEIR", "MINDIR", "PT2", "META"]
    assert all(row.difference < 1e-5 for row in rows)
    assert all(row.file.is_file() for row in rows)
    lines = capsys.readouterr().out.splitlines()[-6:]
    assert lines[0].split() == ["format", "file", "size", "judge", "largest", "relative", "difference"]
    assert lines[3].split()[:2] == ["MINDIR", "resnet50-1_2.mindir"]
    assert lines[3].split()[4] == "MindSpore"
