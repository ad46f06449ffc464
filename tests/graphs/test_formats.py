import os

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from milepost.errors import GraphError, MissingExtraError, SaveError, SettingError
from milepost.graphs import export


def test_an_onnx_file_computes_what_the_module_computes(networks, assert_computes, tmp_path):
    """With its weights, for other batches than the example's, in one file."""
    net = networks["settle"](networks["lenet"](), (torch.randn(4, 1, 8, 8),))
    path = export(net, np.zeros((2, 1, 8, 8), np.float32), file_name=tmp_path / "lenet.onnx", file_format="ONNX")
    assert os.listdir(tmp_path) == ["lenet.onnx"]
    proto = onnx.load(path)
    assert_computes(proto, net, torch.randn(5, 1, 8, 8))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(weights[name], tensor)


def test_the_module_is_as_before_an_export(networks, tmp_path):
    """Training mode, and the buffers that a call changes."""
    net = networks["tied"]().train()
    export(net, torch.randint(11, (2, 5)), file_name=str(tmp_path / "tied"), file_format="ONNX")
    assert net.training
    assert net.calls == 0


def test_an_input_that_forward_overwrites_is_left_alone(tmp_path):
    """The example belongs to the caller."""
    x = torch.full((2, 3), -1.0)
    export(nn.ReLU(inplace=True), x, file_name=tmp_path / "relu.onnx", file_format="ONNX")
    assert torch.equal(x, torch.full((2, 3), -1.0))


@pytest.mark.parametrize(("given", "written"), [("net", "net.onnx"), ("net-1_2", "net-1_2.onnx"), ("net.onnx",) * 2])
def test_the_file_gets_its_name_and_a_missing_suffix(tmp_path, given, written):
    """The path that was written is returned."""
    assert export(nn.ReLU(), torch.zeros(1, 2), file_name=tmp_path / given, file_format="ONNX") == tmp_path / written
    assert os.listdir(tmp_path) == [written]


def test_another_suffix_is_kept_with_a_hint(tmp_path):
    """The name is the user's; tools may want another."""
    with pytest.warns(UserWarning, match=r"net\.pb: tools know ONNX files by the suffix \.onnx"):
        path = export(nn.ReLU(), torch.zeros(1, 2), file_name=tmp_path / "net.pb", file_format="ONNX")
    assert path == tmp_path / "net.pb"
    assert path.is_file()


@pytest.mark.parametrize("chosen", [{}, {"file_format": "AIR"}, {"file_format": "MINDIR"}, {"file_format": "onnx"}])
def test_formats_that_this_version_does_not_write_are_refused(tmp_path, chosen):
    """GEIR, the default, among them; those it writes are listed."""
    with pytest.raises(SettingError, match=r"expected one of .*: ONNX\. .*not available in this version"):
        export(nn.ReLU(), torch.zeros(1, 2), file_name=tmp_path / "net", **chosen)
    assert os.listdir(tmp_path) == []


def test_a_file_that_would_compute_something_else_is_not_written(tmp_path):
    """A hook that changes the result is not in the graph; the check finds out."""
    net = nn.Sequential(nn.Linear(3, 2))
    net[0].register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(GraphError, match=r"result 0 .* Hooks are not exported, and 0 has some"):
        export(net, torch.zeros(1, 3), file_name=tmp_path / "net.onnx", file_format="ONNX")
    assert os.listdir(tmp_path) == []


def test_a_file_that_onnxruntime_cannot_run_is_not_written(tmp_path):
    """bfloat16 has no kernels there."""
    with pytest.raises(GraphError, match="onnxruntime does not run"):
        export(
            nn.Linear(3, 2).bfloat16(),
            torch.zeros(1, 3).bfloat16(),
            file_name=tmp_path / "net.onnx",
            file_format="ONNX",
        )
    assert os.listdir(tmp_path) == []


def test_a_network_of_which_no_file_could_be_written_is_refused(tmp_path, monkeypatch):
    """One protobuf message ends at 2 GiB."""
    monkeypatch.setattr("milepost.graphs.formats.PROTOBUF_LIMIT", 31)
    with pytest.raises(GraphError, match="found 32 bytes of weights"):
        export(nn.Linear(3, 2), torch.zeros(1, 3), file_name=tmp_path / "net.onnx", file_format="ONNX")


def test_an_existing_file_is_replaced_only_by_a_whole_one(tmp_path):
    """A failure leaves it as it was."""
    path = tmp_path / "net.onnx"
    path.write_bytes(b"before")
    with pytest.raises(GraphError):
        export(nn.Linear(3, 2), None, file_name=path, file_format="ONNX")
    assert path.read_bytes() == b"before"
    export(nn.Linear(3, 2), torch.zeros(1, 3), file_name=path, file_format="ONNX")
    onnx.checker.check_model(onnx.load(path))


def test_a_place_that_cannot_be_written_is_a_save_error(tmp_path):
    """With the reason of the system."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SaveError):
        export(nn.ReLU(), torch.zeros(1, 2), file_name=tmp_path / "file" / "net.onnx", file_format="ONNX")


def test_a_missing_runtime_names_the_extra(tmp_path, monkeypatch):
    """An unchecked file is not written."""
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"no package 'onnxruntime'.*milepost\[onnx\]"):
        export(nn.ReLU(), torch.zeros(1, 2), file_name=tmp_path / "net.onnx", file_format="ONNX")
