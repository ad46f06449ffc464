"""Records: which files are whose, which is newest, which run comes next."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.catalog import ledger
from milepost.catalog.ledger import Report
from milepost.catalog.names import BREAKPOINT, CheckpointName, graph_name
from milepost.catalog.records import Record, Unreadable, newest_first, next_run, records, runs
from milepost.errors import DamagedCheckpointError, NotACheckpointError
from milepost.format import strict_json
from milepost.storage.base import Storage, StoredFile
from milepost.storage.local import LocalStorage
from milepost.storage.memory import MemoryStorage

STARTED = 1_790_000_000.0


def newest(storage, prefix, *on_unreadable):
    """What a resume would take."""
    return next(newest_first(storage, prefix, *on_unreadable), None)


class Folder:
    """A folder to be filled with one line per file."""

    def __init__(self, storage: Storage, write_checkpoint) -> None:
        self.storage = storage
        self._write_checkpoint = write_checkpoint

    def save(self, prefix: str, run: int, epoch: int, step: int, suffix: str = "", **facts: object) -> CheckpointName:
        """A checkpoint as a run of Milepost leaves it, with ten steps an epoch."""
        name = CheckpointName(prefix, run, epoch, step, suffix)
        global_step = 10 * (epoch - 1) + step
        metadata = {
            "run": {"prefix": prefix, "ordinal": run},
            "epoch": epoch,
            "step": step,
            "global_step": global_step,
            "time": STARTED + global_step,
            "metrics": {"loss": 1 / global_step},
        }
        self.put(name.text, {**metadata, **facts})
        return name

    def put(self, name: str, metadata: dict[str, object]) -> None:
        """A checkpoint with any metadata."""
        self._write_checkpoint(self.storage, name, metadata)

    def put_bytes(self, name: str, content: bytes) -> None:
        with self.storage.create(name, len(content)) as file:
            file.write(content)
            file.commit()


# A file as MindSpore writes it: one entry "w", dims [1], Int8, one byte.
MINDSPORE = b"\x0a\x10\x0a\x01w\x12\x0b\x08\x01\x12\x04Int8\x1a\x01\x07"


@pytest.fixture
def folder(write_checkpoint) -> Folder:
    return Folder(MemoryStorage(), write_checkpoint)


def steps(found: list[Record]) -> list[tuple[int, int]]:
    return [(record.name.epoch, record.name.step) for record in found]


def test_a_record_says_what_the_file_records(folder):
    """Name, time, size, step and metrics come from the file."""
    name = folder.save("resnet50", 3, 2, 7)
    (stat,) = folder.storage.list()
    assert records(folder.storage, "resnet50", 3) == [Record(name, STARTED + 17, stat.nbytes, 17, {"loss": 1 / 17})]


def test_what_was_measured_later_counts_for_the_checkpoint_of_its_step(folder):
    """The ledger goes before the file, and of two reports the later; other steps and other runs are untouched."""
    for run in (1, 2):
        for step in (1, 2, 3):
            folder.save("a", run, 1, step, metrics={"loss": 0.5})
    folder.put_bytes("a-9_9.ckpt", MINDSPORE)
    reports = [(2, {"loss": 0.4, "acc": 0.8}), (3, {"acc": 0.9}), (2, {"acc": 0.7}), (8, {"acc": 1.0})]
    ledger.write(folder.storage, "a", 1, [Report(1, step, step, STARTED, metrics) for step, metrics in reports])
    expected = [{}, {"loss": 0.5}, {"loss": 0.4, "acc": 0.7}, {"loss": 0.5, "acc": 0.9}]
    assert [each.metrics for each in records(folder.storage, "a", 1)] == expected
    found = list(newest_first(folder.storage, "a"))
    assert [each.metrics for each in found] == [{"loss": 0.5}] * 3 + expected[::-1]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"run":{"prefix":"a","ordinal":1},"reports":[1]}'])
def test_a_damaged_ledger_keeps_nothing_from_being_found(folder, content):
    """The checkpoints are listed as if there were none."""
    folder.save("a", 1, 1, 1)
    before = records(folder.storage, "a", 1)
    folder.put_bytes("a-metrics.json", content)
    told: list[Unreadable] = []
    assert records(folder.storage, "a", 1, told.append) == before
    assert newest(folder.storage, "a", told.append) == before[0]
    assert told == []


def test_a_diverged_metric_is_still_told(folder):
    """JSON has no number for it, so the file spells it as a text."""
    folder.save("a", 1, 1, 1, metrics={"loss": "nan", "norm": "inf", "accuracy": 1, "bound": "-inf"})
    (record,) = records(folder.storage, "a", 1)
    assert str(record.metrics) == "{'loss': nan, 'norm': inf, 'accuracy': 1.0, 'bound': -inf}"


def test_records_are_those_of_one_run_oldest_first(folder):
    """Order is that of the training, which neither the listing's nor the names' text is."""
    for epoch, step in [(10, 1), (2, 10), (2, 9), (1, 10)]:
        folder.save("a", 1, epoch, step)
    folder.save("a", 2, 5, 5)
    assert steps(records(folder.storage, "a", 1)) == [(1, 10), (2, 9), (2, 10), (10, 1)]
    assert steps(records(folder.storage, "a", 2)) == [(5, 5)]
    assert records(folder.storage, "a", 3) == []


def test_the_steps_since_the_beginning_decide_over_the_name(folder):
    """A resumed loop that counts its epochs from one again is still the newer one."""
    folder.save("a", 1, 3, 1)
    folder.save("a", 1, 1, 1, global_step=40)
    assert steps(records(folder.storage, "a", 1)) == [(3, 1), (1, 1)]


def test_of_one_step_the_later_file_is_newer(folder):
    """Time decides between a checkpoint and a breakpoint of the same step."""
    folder.save("a", 1, 1, 5, BREAKPOINT, time=STARTED + 1)
    folder.save("a", 1, 1, 5, time=STARTED + 2)
    folder.save("b", 1, 1, 5, BREAKPOINT, time=STARTED + 2)
    folder.save("b", 1, 1, 5, time=STARTED + 1)
    assert [record.name.suffix for record in records(folder.storage, "a", 1)] == [BREAKPOINT, ""]
    assert [record.name.suffix for record in records(folder.storage, "b", 1)] == ["", BREAKPOINT]


@pytest.mark.parametrize(
    ("facts", "may_expire"),
    [({}, True), ({"suffix": BREAKPOINT}, False), ({"suffix": "mine"}, False), ({"global_step": None}, False)],
)
def test_only_ordinary_checkpoints_of_a_run_may_expire(folder, facts, may_expire):
    """A breakpoint, a copy under a name of the user's, a file that records no progress: not ours to remove."""
    folder.save("a", 1, 1, 5, **facts)
    (record,) = records(folder.storage, "a", 1)
    assert record.may_expire is may_expire


def test_a_file_of_mindspore_belongs_by_its_name(folder):
    """It records nothing: its time is the file's, its order the name's, and it is older than what went on from it."""
    for name in ("a-2_9.ckpt", "a-2_10.ckpt", "a-1_10.ckpt"):
        folder.put_bytes(name, MINDSPORE)
    folder.save("a", 1, 1, 1, global_step=30)
    found = records(folder.storage, "a", 1)
    assert steps(found) == [(1, 10), (2, 9), (2, 10), (1, 1)]
    modified = {stat.name: stat.modified for stat in folder.storage.list()}
    assert [(each.created, each.global_step, each.metrics, each.may_expire) for each in found[:3]] == [
        (modified[each.name.text], None, {}, False) for each in found[:3]
    ]


@pytest.mark.parametrize(("prefix", "other"), [("resnet50", "resnet50v2"), ("a", "a-b"), ("a", "a_2"), ("a", "a2")])
def test_prefixes_that_begin_alike_are_never_mixed(folder, prefix, other):
    """Each sees its own runs and nothing of the other's."""
    for epoch, each in ((1, prefix), (2, other)):
        folder.save(each, 1, epoch, 1)
        folder.save(each, 2, epoch, 1)
    for epoch, each in ((1, prefix), (2, other)):
        assert runs(folder.storage, each) == [1, 2]
        assert steps(records(folder.storage, each, 1) + records(folder.storage, each, 2)) == [(epoch, 1)] * 2
        assert newest(folder.storage, each).name == CheckpointName(each, 2, epoch, 1)


@pytest.mark.parametrize(
    ("metadata", "of_a", "of_a_2"),
    [
        ({"run": {"prefix": "a", "ordinal": 2}}, [2], []),
        ({"run": {"prefix": "a_2", "ordinal": 1}}, [], [1]),
        ({"run": {"prefix": "a", "ordinal": 1}}, [], []),  # copied from another run
        ({"run": {"prefix": "c", "ordinal": 1}}, [], []),  # ... or from another training
        ({}, [2], [1]),
        ({"run": {}}, [2], [1]),
        ({"run": None}, [2], [1]),
    ],
)
def test_the_file_decides_whose_an_ambiguous_name_is(folder, metadata, of_a, of_a_2):
    """``a_2-1_5.ckpt`` is of ``a`` or of ``a_2``, as it says; where it says nothing it counts for both."""
    folder.put("a_2-1_5.ckpt", metadata)
    assert runs(folder.storage, "a") == of_a
    assert runs(folder.storage, "a_2") == of_a_2
    assert [record.name.run for record in records(folder.storage, "a", 2)] == of_a


@pytest.mark.parametrize(
    ("content", "error"),
    [(b"", NotACheckpointError), (b"not a checkpoint at all", NotACheckpointError), ("cut", DamagedCheckpointError)],
)
def test_a_file_that_cannot_be_read_is_no_record(folder, content, error):
    """It is passed over, and the caller can say which one and why."""
    folder.save("a", 1, 1, 1)
    name = folder.save("a", 1, 1, 2)
    if content == "cut":
        with folder.storage.open(name.text) as file:
            content = file.read(0, file.nbytes - 1)
    folder.put_bytes(name.text, content)
    assert steps(records(folder.storage, "a", 1)) == [(1, 1)]

    told: list[Unreadable] = []
    assert steps(records(folder.storage, "a", 1, told.append)) == [(1, 1)]
    assert [each.name for each in told] == [name]
    assert isinstance(told[0].error, error)
    assert name.text in str(told[0].error)


@pytest.mark.parametrize(
    "facts",
    [
        *({"global_step": value} for value in (-1, 1.5, True, "17", [17])),
        *({"time": value} for value in (True, "now", [1])),
        *(
            {"metrics": value}
            for value in ([], "loss", 1, {"loss": "0.1"}, {"loss": None}, {"loss": True}, {"loss": "much"})
        ),
        *({"run": value} for value in ([], "a", 2)),
    ],
)
def test_metadata_of_another_making_is_not_trusted(folder, facts):
    """A fact of the wrong type makes the file unreadable, not the program fail; the error names it."""
    name = CheckpointName("a", 1, 1, 1)
    folder.put(name.text, facts)
    told: list[Unreadable] = []
    assert records(folder.storage, "a", 1, told.append) == []
    assert [each.name for each in told] == [name]
    assert next(iter(facts)) in str(told[0].error)


@pytest.mark.parametrize("number", ["1e999", "9" * 400])
@pytest.mark.parametrize("facts", ['{"time": %s}', '{"metrics": {"loss": %s}}'])
def test_a_number_that_no_float_holds_is_not_trusted(folder, monkeypatch, facts, number):
    """Our writer refuses it, another may write it."""
    monkeypatch.setattr(strict_json, "encode", lambda text, where: text.encode())
    folder.put("a-1_1.ckpt", facts % number)
    told: list[Unreadable] = []
    assert records(folder.storage, "a", 1, told.append) == []
    assert len(told) == 1


def test_the_newest_is_of_the_highest_run(folder):
    """A later run goes before an earlier one, however far that came; a breakpoint counts."""
    assert newest(folder.storage, "a") is None
    folder.save("a", 1, 9, 9)
    folder.save("a", 2, 1, 1)
    assert newest(folder.storage, "a").name == CheckpointName("a", 2, 1, 1)
    name = folder.save("a", 2, 1, 2, BREAKPOINT)
    assert newest(folder.storage, "a").name == name


def test_the_newest_is_the_newest_that_can_be_read(folder):
    """Damaged files are passed over one by one, and at last their run, and each of them is told."""
    first = folder.save("a", 1, 1, 1)
    good, bad = folder.save("a", 2, 1, 1), folder.save("a", 2, 1, 2)
    told: list[Unreadable] = []
    folder.put_bytes(bad.text, b"?")
    assert newest(folder.storage, "a", told.append).name == good
    assert [each.name for each in told] == [bad]

    told.clear()
    folder.put_bytes(good.text, b"?")
    assert newest(folder.storage, "a", told.append).name == first
    assert {each.name for each in told} == {good, bad}

    folder.put_bytes(first.text, b"?")
    assert newest(folder.storage, "a") is None


@pytest.mark.parametrize(
    ("names", "run"),
    [
        ([], 1),
        (["a-1_5.ckpt"], 2),
        (["a-1_5.ckpt", "a_2-1_5.ckpt"], 3),
        (["a_7-1_5.ckpt"], 8),
        (["a-1_5_breakpoint.ckpt"], 2),
        (["a-graph.meta"], 2),
        (["a_2-graph.meta"], 1),
        (["a-1_5.ckpt", "a_2-graph.meta"], 3),
        (["a-1_5.ckpt", "a_2-graph.meta", "a_3-graph.meta"], 4),
        # Of other prefixes, or no checkpoints at all.
        (["a-b-1_5.ckpt", "a-b-graph.meta", "a2-1_5.ckpt", "a_b-1_5.ckpt", "ab_3-1_5.ckpt", "a_2_3-1_5.ckpt"], 1),
        (["a-best.ckpt"], 2),
        (["a-metrics.json"], 2),
        (["a-1_5.ckpt", "a_2-best.ckpt", "a_3-metrics.json"], 4),
        (
            [
                "a_best.ckpt",
                "a-b-best.ckpt",
                "a-b-metrics.json",
                "a_3.ckpt",
                "a_1-1_5.ckpt",
                "a_07-1_5.ckpt",
                "a_²-1_5.ckpt",
                "a.ckpt",
            ],
            1,
        ),
    ],
)
def test_the_next_run_is_one_more_than_the_highest_found(folder, names, run):
    """And its names are free: a graph alone keeps its stem taken."""
    for name in names:
        folder.put_bytes(name, MINDSPORE)
    assert next_run(folder.storage, "a") == run


def test_a_stem_that_another_prefix_uses_is_not_taken_again(folder):
    """The first run of ``a_2`` is no run of ``a``, but no run of ``a`` may write to its names."""
    folder.save("a_2", 1, 1, 5)
    assert runs(folder.storage, "a") == []
    assert next_run(folder.storage, "a") == 1
    folder.save("a", 1, 1, 5)
    assert next_run(folder.storage, "a") == 3


def test_a_damaged_file_keeps_its_run_taken(folder):
    """What cannot be read is never written over."""
    folder.put_bytes("a_4-1_5.ckpt", b"?")
    assert runs(folder.storage, "a") == [4]
    assert next_run(folder.storage, "a") == 5


@given(
    started=st.lists(st.sampled_from(["a", "a_2", "a_2_2", "a-b", "a2"]), max_size=8),
    has_graph=st.booleans(),
)
def test_trainings_in_one_folder_never_share_a_name(write_checkpoint, started, has_graph):
    """Whoever starts in whatever order, each run gets names of its own and finds exactly its own files."""
    folder = Folder(MemoryStorage(), write_checkpoint)
    count = 0
    for prefix in started:
        run = next_run(folder.storage, prefix)
        before = {stat.name for stat in folder.storage.list()}
        name = folder.save(prefix, run, 1, 5)
        assert name.text not in before
        assert graph_name(prefix, run) not in before
        if has_graph:
            folder.put_bytes(graph_name(prefix, run), b"graph")
        count += 1
        assert newest(folder.storage, prefix).name == name
    found = {
        record.name.text
        for prefix in set(started)
        for run in runs(folder.storage, prefix)
        for record in records(folder.storage, prefix, run)
    }
    assert len(found) == count


class Counting:
    """A storage that remembers what was opened, and what vanishes before it is."""

    def __init__(self, storage: Storage, gone: str = "") -> None:
        self._storage = storage
        self._gone = gone
        self.opened: list[str] = []

    def __getattr__(self, verb: str) -> object:
        return getattr(self._storage, verb)

    def open(self, name: str) -> StoredFile:
        self.opened.append(name)
        if name == self._gone:
            self._storage.remove(name)
        return self._storage.open(name)


def test_only_files_whose_name_could_matter_are_opened(folder):
    """Other prefixes and other runs are told by their names, and one file proves a run."""
    for prefix in ("a", "a-b", "resnet50v2"):
        for run in (1, 2):
            for step in (1, 2, 3):
                folder.save(prefix, run, 1, step)
    storage = Counting(folder.storage)
    records(storage, "a", 2)
    assert sorted(storage.opened) == [*(f"a_2-1_{step}.ckpt" for step in (1, 2, 3)), "a_2-metrics.json"]
    storage.opened.clear()
    newest(storage, "a")
    assert sorted(storage.opened) == [*(f"a_2-1_{step}.ckpt" for step in (1, 2, 3)), "a_2-metrics.json"]
    storage.opened.clear()
    runs(storage, "a")
    assert sorted(name[:3] for name in storage.opened) == ["a-1", "a_2"]


def test_a_file_removed_meanwhile_is_no_record(folder):
    """Another process may remove files between the listing and the reading."""
    folder.save("a", 1, 1, 1)
    folder.save("a", 1, 1, 2)
    told: list[Unreadable] = []
    assert steps(records(Counting(folder.storage, gone="a-1_2.ckpt"), "a", 1, told.append)) == [(1, 1)]
    assert told == []


def test_a_folder_on_disk_is_a_storage_like_another(tmp_path: Path, write_checkpoint):
    """The same on a real folder, where links, folders and unfinished files lie about."""
    folder = Folder(LocalStorage(tmp_path), write_checkpoint)
    assert (runs(folder.storage, "a"), next_run(folder.storage, "a"), newest(folder.storage, "a")) == ([], 1, None)
    name = folder.save("a", 1, 1, 1)
    (tmp_path / "a_8-1_1.ckpt").mkdir()
    (tmp_path / "a_9-1_1.ckpt").symlink_to(tmp_path / "nowhere")
    (tmp_path / ".a_4-1_1.ckpt.1-0.tmp").write_bytes(b"")
    assert runs(folder.storage, "a") == [1]
    assert newest(folder.storage, "a").name == name
    assert next_run(folder.storage, "a") == 2


def test_records_are_values():
    """They compare, hash and cannot be changed."""
    record = Record(CheckpointName("a", 1, 1, 1), STARTED, 1, 1, {"loss": 1.0})
    assert {record, dataclasses.replace(record)} == {record}
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.nbytes = 2
