"""Every network of the zoo in every format, and from its graph and a checkpoint alone."""

import onnxruntime
import pytest
import torch
from tests.graphs import zoo

from milepost import load_model, save_checkpoint
from milepost.graphs import export, geir, graph_meta, mindir
from milepost.graphs.formats import FORMATS

pytestmark = pytest.mark.slow


def run_onnx(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feed = {value.name: tensor.numpy() for value, tensor in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(result) for result in session.run(None, feed)]


def run_pt2(path, inputs):
    results = torch.export.load(path).module()(*inputs)
    return results if isinstance(results, tuple) else (results,)


RUN = {
    "ONNX": run_onnx,
    "GEIR": lambda path, inputs: geir.run(geir.load(path), inputs),
    "MINDIR": lambda path, inputs: mindir.run(mindir.parse(path.read_bytes(), path.name), inputs),
    "PT2": run_pt2,
}


def assert_computes(found, net, inputs):
    """The results are those of the network in eval mode, to 1e-5 of the largest value."""
    with torch.no_grad():
        wanted = net.eval()(*inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=0, atol=1e-5 * float(other.abs().max()))


def test_every_format_is_in_the_matrix():
    """AIR is another name of GEIR."""
    assert RUN.keys() == FORMATS.keys() - {"AIR"}


@pytest.mark.filterwarnings("ignore:.* ViT works for one size of batch only")
@pytest.mark.parametrize("file_format", RUN)
@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_file_computes_what_the_network_does(name, file_format, tmp_path):
    """On other values than the example's, read back from the disk."""
    net, inputs = zoo.make(name)
    path = export(net, *inputs, file_name=tmp_path / "net", file_format=file_format)
    assert path.name == "net" + FORMATS[file_format].suffix
    other = tuple(tensor.flip(0) for tensor in inputs)
    assert_computes(RUN[file_format](path, other), net, other)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_graph_and_any_later_checkpoint_are_the_network(name, tmp_path):
    """Without its class: to call, and as an ONNX file; the graph was written before the training went on."""
    net, inputs = zoo.make(name)
    graph = tmp_path / "net-graph.meta"
    graph.write_bytes(graph_meta(net, inputs))
    before = None
    for step in range(2):
        checkpoint = save_checkpoint(net, tmp_path / f"net-1_{step}.ckpt")
        results = load_model(graph, checkpoint)(*inputs)
        results = results if isinstance(results, tuple) else (results,)
        assert_computes(results, net, inputs)
        assert before is None or not torch.allclose(before, results[0], rtol=1e-3)
        before = results[0]
        train(net, inputs)
    path = export(graph, checkpoint, file_name=tmp_path / "net.onnx")
    torch.testing.assert_close(run_onnx(path, inputs)[0], before)


def train(net, inputs):
    """Some steps, with dropout and batch statistics."""
    optimizer = torch.optim.SGD(net.parameters(), 0.02)
    for _ in range(3):
        optimizer.zero_grad()
        results = net.train()(*inputs)
        for result in results if isinstance(results, tuple) else (results,):
            (result[..., 0] - 1).square().mean().backward(retain_graph=True)
        optimizer.step()
