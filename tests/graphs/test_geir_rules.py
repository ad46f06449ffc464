"""The checker of GE's rules: every planted defect is found, and the interpreter holds files to what they state."""

import pytest
import torch
from tests.graphs import zoo

from milepost.errors import GraphError
from milepost.graphs import geir
from milepost.graphs.geir.checker import problems
from milepost.graphs.geir.reader import parse
from milepost.graphs.geir.schema import message


@pytest.fixture(scope="module")
def good():
    net, inputs = zoo.make("resnet")
    return b"".join(geir.encode(net, inputs))


def op(graph, kind):
    return next(one for one in graph.op if one.type == kind)


def no_kind(graph):
    op(graph, "Conv2D").attr["strides"].list.val_type = 0


def scalar_without_shape(graph):
    op(graph, "Relu").output_desc[0].ClearField("shape")


def two_of_one_name(graph):
    graph.op[3].name = graph.op[2].name


def swapped(graph):
    first, last = graph.op[0].__deepcopy__(None), graph.op[-1].__deepcopy__(None)
    graph.op[0].CopyFrom(last)
    graph.op[-1].CopyFrom(first)


def truncated(graph):
    op(graph, "Const").attr["value"].t.data = b"123"


DEFECTS = {
    "has_out_attr is not set": lambda graph: op(graph, "Conv2D").ClearField("has_out_attr"),
    "a descriptor without has_out_attr": lambda graph: op(graph, "Conv2D").output_desc[0].ClearField("has_out_attr"),
    "does not say of what": no_kind,
    "a descriptor of element type": scalar_without_shape,
    "the layout 'NCWH'": lambda graph: setattr(op(graph, "Conv2D").output_desc[0], "layout", "NCWH"),
    "ops of one name": two_of_one_name,
    "comes from an op further down": swapped,
    "comes from nowhere": lambda graph: op(graph, "Relu").input.__setitem__(0, "nobody:0"),
    "differs from its producer's": lambda graph: op(graph, "Relu").input_desc[0].shape.dim.append(1),
    "edges for": lambda graph: op(graph, "Relu").input.pop(),
    "bytes instead of": truncated,
    "its tensor repeats": lambda graph: op(graph, "Const").attr["value"].t.desc.shape.dim.append(1),
    "the attribute strides is missing": lambda graph: op(graph, "Conv2D").attr.pop("strides"),
    "has no attribute depth": lambda graph: setattr(op(graph, "Conv2D").attr["depth"], "i", 1),
    "is not of kind b": lambda graph: setattr(op(graph, "BatchNorm").attr["is_training"], "i", 0),
    "has no value": lambda graph: op(graph, "Conv2D").attr["groups"].Clear(),
    "must not be written": lambda graph: setattr(op(graph, "Conv2D").attr["_ir_attr_names"], "s", b"x"),
    "_input_name says": lambda graph: op(graph, "Conv2D").attr.pop("_input_name_key"),
    "the results are": lambda graph: graph.ClearField("output"),
    "have the indices": lambda graph: setattr(op(graph, "Data").attr["index"], "i", 1),
    "two descriptors of an argument differ": lambda graph: op(graph, "Data").input_desc[0].shape.dim.append(1),
    "stand together": lambda graph: op(graph, "Conv2D").output_desc[0].attr.pop("origin_shape"),
    "no such operator": lambda graph: setattr(op(graph, "Relu"), "type", "ReLU"),
    "ids do not ascend": lambda graph: setattr(op(graph, "Data"), "id", 99999),
}


@pytest.mark.parametrize("told", DEFECTS)
def test_a_planted_defect_is_found(good, told):
    """And told by what is wrong, at its place."""
    assert problems(good) == []
    model = message("ModelDef").FromString(good)
    DEFECTS[told](model.graph[0])
    assert any(told in line for line in problems(model.SerializeToString()))


def test_an_operator_of_today_is_not_one_of_2020(good):
    """The pooling of a ResNet is."""
    assert any("MaxPoolV3): not in the operators of 2020" in line for line in problems(good, "2020"))


def test_the_interpreter_holds_an_op_to_its_descriptor(good):
    """A wrong shape inside is told by the op's name."""
    model = message("ModelDef").FromString(good)
    op(model.graph[0], "Relu").output_desc[0].shape.dim[1] = 9
    with pytest.raises(GraphError, match=r"'Relu' \(Relu\)"):
        geir.run(parse(model.SerializeToString(), "test"), (torch.zeros(2, 3, 32, 32),))


def test_ops_may_stand_in_any_order(good):
    """GE of 2020 wrote them so; a circle is told."""
    model = message("ModelDef").FromString(good)
    ops = list(model.graph[0].op)
    del model.graph[0].op[:]
    model.graph[0].op.extend(reversed(ops))
    x = torch.randn(2, 3, 32, 32)
    (forward,), (backward,) = (geir.run(parse(content, "test"), (x,)) for content in (good, model.SerializeToString()))
    assert torch.equal(forward, backward)
    op(model.graph[0], "Relu").input[0] = f"{op(model.graph[0], 'Relu').name}:0"
    with pytest.raises(GraphError, match="own result"):
        geir.run(parse(model.SerializeToString(), "test"), (x,))
