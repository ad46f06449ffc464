"""Names: one grammar, and text and value say the same."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from milepost.catalog.names import (
    BREAKPOINT,
    MAX_PREFIX_NBYTES,
    CheckpointName,
    beside,
    best_name,
    check_prefix,
    graph_name,
    is_of,
    metrics_name,
    parse,
)
from milepost.errors import SettingError, SettingTypeError

PREFIXES = st.one_of(
    st.from_regex(r"[ab2_-][ab12_.-]{0,6}", fullmatch=True),  # close to the grammar's own characters
    st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters='/\\:*?"<>|'), min_size=1, max_size=32),
).filter(lambda prefix: not prefix.startswith("."))
NUMBERS = st.integers(0, 10**18 - 1)
NAMES = st.builds(
    CheckpointName, PREFIXES, NUMBERS.filter(bool), NUMBERS, NUMBERS, st.sampled_from(["", BREAKPOINT, "best"])
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (CheckpointName("resnet50", 1, 2, 32), "resnet50-2_32.ckpt"),
        (CheckpointName("resnet50", 2, 2, 32), "resnet50_2-2_32.ckpt"),
        (CheckpointName("resnet50", 3, 2, 32), "resnet50_3-2_32.ckpt"),
        (CheckpointName("resnet50", 10, 2, 32), "resnet50_10-2_32.ckpt"),
        (CheckpointName("resnet50", 3, 2, 32, BREAKPOINT), "resnet50_3-2_32_breakpoint.ckpt"),
        (CheckpointName("a", 1, 0, 0), "a-0_0.ckpt"),
        (CheckpointName("数字-1_5.ckpt", 1, 1, 5), "数字-1_5.ckpt-1_5.ckpt"),
    ],
)
def test_a_name_has_one_text(name, text):
    """Only runs from the second on are numbered."""
    assert name.text == text
    assert parse(text, name.prefix) == name


@given(NAMES)
def test_a_text_parses_to_its_name(name):
    """Every name comes back from its text."""
    assert parse(name.text, name.prefix) == name
    assert name.text.startswith(name.stem + "-")


@given(st.from_regex(r"(a|a_2|a-1)?[_-]?[0-9]{0,2}[_-][0-9]{1,2}[_-][0-9]{1,2}(_[a-z]{1,3})?(\.ckpt)?\n?"), PREFIXES)
@example("a_2-1_5.ckpt", "a")
@example("a_1-1_5.ckpt", "a")
@example("a-1_5.ckpt\n", "a")
def test_what_parses_is_exactly_its_text(text, prefix):
    """No two texts mean one name."""
    for candidate in (prefix, "a", "a_2", "a-1"):
        name = parse(text, candidate)
        assert name is None or name.text == text


@pytest.mark.parametrize(
    "text",
    [
        "resnet50_1-1_5.ckpt",  # the first run has no number
        "resnet50_0-1_5.ckpt",
        "resnet50_02-1_5.ckpt",
        "resnet50_²-1_5.ckpt",
        "resnet50_٣-1_5.ckpt",
        "resnet50-٣_5.ckpt",
        "resnet50-01_5.ckpt",
        "resnet50-1_05.ckpt",
        "resnet50--1_5.ckpt",
        "resnet50-1_+5.ckpt",
        "resnet50-1_5",
        "resnet50-1_5.ckpt\n",
        "resnet50-1_5.ckpt.tmp",
        "resnet50-1_5.CKPT",
        "resnet50-1_5_.ckpt",
        "resnet50-1_5_BREAKPOINT.ckpt",
        "resnet50-1_5_2.ckpt",
        "resnet50-1.ckpt",
        "resnet50-graph.meta",
        "resnet50_best.ckpt",
        "resnet50_3.ckpt",
        "resnet50.ckpt",
        "resnet50",
        "xresnet50-1_5.ckpt",
        "Resnet50-1_5.ckpt",
        "resnet50v2-1_5.ckpt",
        "resnet50-v2-1_5.ckpt",
        "resnet50_v2-1_5.ckpt",
        "resnet50_2_3-1_5.ckpt",
        "resnet502-1_5.ckpt",
        "resnet50-" + "9" * 5000 + "_5.ckpt",
    ],
)
def test_anything_else_is_no_name(text):
    """The grammar is anchored at both ends, and strict about digits."""
    assert parse(text, "resnet50") is None


@pytest.mark.parametrize(
    ("text", "meanings"),
    [
        ("a-1_5.ckpt", {"a": 1}),
        ("a-b-1_5.ckpt", {"a-b": 1}),
        ("a2-1_5.ckpt", {"a2": 1}),
        ("a_2-1_5.ckpt", {"a": 2, "a_2": 1}),
        ("a_2_3-1_5.ckpt", {"a_2": 3, "a_2_3": 1}),
    ],
)
def test_prefixes_that_begin_alike_are_told_apart(text, meanings):
    """Only the number of a run leaves room for two meanings."""
    names = {prefix: parse(text, prefix) for prefix in ("a", "a-b", "a_2", "a2", "a_2_3")}
    assert {prefix: name.run for prefix, name in names.items() if name} == meanings


@pytest.mark.parametrize("characters", [".*", "a.c", "a+", "(a)", "[a]", "$", "^", "a{2}"])
def test_a_prefix_is_no_pattern(characters):
    """What has a meaning in a regular expression has none in a prefix."""
    assert parse("abc-1_5.ckpt", characters) is None


def test_a_graph_is_named_after_its_run():
    """The graph's name follows the checkpoints'."""
    assert [graph_name("resnet50", run) for run in (1, 3)] == ["resnet50-graph.meta", "resnet50_3-graph.meta"]


def test_the_other_files_are_named_after_their_run():
    """Their names follow the checkpoints', and none of them can be a checkpoint's."""
    assert [best_name("resnet50", run) for run in (1, 3)] == ["resnet50-best.ckpt", "resnet50_3-best.ckpt"]
    assert [metrics_name("resnet50", run) for run in (1, 3)] == ["resnet50-metrics.json", "resnet50_3-metrics.json"]
    assert beside("a", 2) == {"a_2-graph.meta", "a_2-best.ckpt", "a_2-metrics.json"}


@given(PREFIXES, NUMBERS.filter(bool))
def test_the_other_files_of_a_run_are_its_own(prefix, run):
    """Each is known as one of the prefix, and is no checkpoint of it."""
    for text in beside(prefix, run):
        assert is_of(text, prefix)
        assert parse(text, prefix) is None
        assert not is_of(f"{text}x", prefix)


@pytest.mark.parametrize(
    "parts",
    [(0, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1), (1, 1, 1.0), (1, 1, 10**18), (1, 1, 1, "Best"), (1, 1, 1, "a/b")],
)
def test_a_name_that_could_not_be_read_back_is_refused(parts):
    """A part with no place in the grammar is refused where the name is made."""
    with pytest.raises(SettingError, match="checkpoint name"):
        CheckpointName("a", *parts)


@pytest.mark.parametrize("prefix", ["CKP", "a", "a-b", "a_2", "a b", "-a", "v1.5", "数字", "x" * MAX_PREFIX_NBYTES])
def test_a_plain_prefix_is_taken(prefix):
    """What every common file system takes is taken."""
    assert check_prefix(prefix) == prefix


@pytest.mark.parametrize(
    "prefix",
    [
        *("", ".", "..", ".a", "a/b", "/a", "a\\b", "a\0", "a\n", "a\x7f", "a\u2028b", "a\u200bb", "\ud800"),
        *("a:b", "a*", "a?", 'a"', "a<", "a>", "a|", "x" * (MAX_PREFIX_NBYTES + 1), "数" * 43),
    ],
)
def test_a_prefix_that_breaks_a_file_system_is_refused(prefix):
    """The error names the field."""
    with pytest.raises(SettingError, match=r"^prefix: ") as caught:
        check_prefix(prefix)
    assert not isinstance(caught.value, SettingTypeError)


@pytest.mark.parametrize("prefix", [None, 1, b"a", ["a"], True])
def test_a_prefix_that_is_no_text_is_refused(prefix):
    """The error names the field, and is a TypeError."""
    with pytest.raises(SettingTypeError, match=r"^prefix: "):
        check_prefix(prefix)


def test_the_longest_name_leaves_room_for_a_temporary_one():
    """Prefix, numbers and suffix at their longest stay well below a file system's 255 bytes."""
    name = CheckpointName("x" * MAX_PREFIX_NBYTES, *[10**18 - 1] * 3, suffix="z" * 16)
    assert len(name.text) <= 255 - len(".") - len(".1234567890-abcdef01.tmp")


@pytest.mark.parametrize("prefix", ["", "a/b", ".a", None])
def test_no_name_has_a_prefix_that_is_refused(prefix):
    """A name that exists can be a file."""
    with pytest.raises(SettingError, match=r"^prefix: "):
        CheckpointName(prefix, 1, 1, 1)
