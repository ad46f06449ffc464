"""The example of fine-tuning, run as a reader would."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("sklearn")


def test_the_body_comes_along_and_the_head_is_learned_anew(capsys, tmp_path):
    """The report names what was renamed and what was left out; ten digits are read by the features of five."""
    import fine_tune

    fine_tune.main(tmp_path)
    told = capsys.readouterr().out
    assert re.search(r"Five digits: (9\d|100)\.\d%\nSequential: 4 loaded\n  mismatched \(2\)\n    head\.weight: ", told)
    assert "    features.*.weight -> body.*.weight (2)\n" in told
    assert re.search(r"Ten digits, with the body of five: [89]\d\.\d%", told)
