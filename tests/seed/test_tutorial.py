"""Each block of MindSpore's tutorial "Saving and Loading Model Parameters" (r0.6), with only the package renamed.

What the tutorial leaves open is given here: the network's class, the data set, and how its `Momentum()` is built.
Source: mindspore/docs, branch r0.6, tutorials/source_en/use/saving_and_loading_model_parameters.md.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

import milepost.nn
from milepost import Model
from milepost.graphs import geir
from milepost.nn import CrossEntropyLoss, SoftmaxCrossEntropyWithLogits
from milepost.train.serialization import load_checkpoint, load_param_into_net

without_graph = pytest.mark.filterwarnings("ignore:.*-graph.meta was not written")


def model_of(net) -> Model:
    return Model(net, SoftmaxCrossEntropyWithLogits(), milepost.nn.Momentum(net.parameters(), 0.01, 0.9))


def checkpoints(folder) -> list[str]:
    """The names in the order of their numbers."""
    return sorted((p.name for p in folder.glob("*.ckpt")), key=lambda name: [int(n) for n in re.findall(r"\d+", name)])


@pytest.fixture(scope="module")
def block_2(tmp_path_factory):
    """Runs the second block, once for each network: gives the network, and the folder with its files."""
    runs = {}

    def run(ResNet50, dataset):
        if ResNet50 not in runs:
            folder = tmp_path_factory.mktemp("block_2")
            os.chdir(folder)
            resnet = ResNet50()
            model, epoch_num = model_of(resnet), 2

            from milepost.train.callback import CheckpointConfig, ModelCheckpoint

            config_ck = CheckpointConfig(save_checkpoint_steps=32, keep_checkpoint_max=10)
            ckpoint_cb = ModelCheckpoint(prefix="resnet50", directory=None, config=config_ck)
            model.train(epoch_num, dataset, callbacks=ckpoint_cb)
            runs[ResNet50] = resnet, folder
        return runs[ResNet50]

    return run


@pytest.fixture
def trained(block_2, ResNet50, dataset, folder):
    """The second block has run: the network, whose `resnet50-2_32.ckpt` is in the folder."""
    resnet, files = block_2(ResNet50, dataset)
    os.chdir(folder)
    shutil.copytree(files, folder, dirs_exist_ok=True)
    return copy.deepcopy(resnet)


def test_block_1_default_policies(ResNet50, dataset, folder):
    """Every step is saved, the last five files are kept."""
    model, epoch_num = model_of(ResNet50()), 1

    from milepost.train.callback import ModelCheckpoint

    ckpoint_cb = ModelCheckpoint()
    model.train(epoch_num, dataset, callbacks=ckpoint_cb)

    assert checkpoints(folder) == ["CKP-1_28.ckpt", "CKP-1_29.ckpt", "CKP-1_30.ckpt", "CKP-1_31.ckpt", "CKP-1_32.ckpt"]


def test_block_2_configured_policies(trained, folder):
    """One file per 32 steps, named by epoch and step, and the graph beside them."""
    assert sorted(path.name for path in folder.iterdir()) == [
        "resnet50-1_32.ckpt",
        "resnet50-2_32.ckpt",
        "resnet50-graph.meta",
    ]


@without_graph
def test_block_2_run_three_times(small_net, dataset, folder):
    """`resnet50_3-2_32.ckpt` is step 32 of epoch 2 of the third run."""
    from milepost.train.callback import CheckpointConfig, ModelCheckpoint

    for _ in range(3):
        config_ck = CheckpointConfig(save_checkpoint_steps=32, keep_checkpoint_max=10)
        ckpoint_cb = ModelCheckpoint(prefix="resnet50", directory=None, config=config_ck)
        model_of(small_net()).train(2, dataset, callbacks=ckpoint_cb)

    assert {path.name for path in folder.glob("*-2_32.ckpt")} == {
        "resnet50-2_32.ckpt",
        "resnet50_2-2_32.ckpt",
        "resnet50_3-2_32.ckpt",
    }


def test_block_3_inference_validation(trained, ResNet50, dataset):
    """The loaded network evaluates as the trained one does."""
    dataset_eval = dataset

    resnet = ResNet50()
    load_checkpoint("resnet50-2_32.ckpt", net=resnet)
    loss = CrossEntropyLoss()
    model = Model(resnet, loss)
    acc = model.eval(dataset_eval)

    assert acc == Model(trained, loss).eval(dataset_eval)
    assert set(acc) == {"loss", "accuracy"}


def test_block_4_retraining(trained, ResNet50, dataset):
    """Network and optimizer go on from the file: one more epoch gives the same parameters as one without a break."""
    straight = ResNet50()
    torch.manual_seed(0)
    resnet = ResNet50()
    epoch = 1

    def Momentum():
        return milepost.nn.Momentum(resnet.parameters(), 0.5, 0.0)  # both options come from the file

    # return a parameter dict for model
    param_dict = load_checkpoint("resnet50-2_32.ckpt")
    opt = Momentum()
    # load the parameter into net
    load_param_into_net(resnet, param_dict)
    # load the parameter into operator
    load_param_into_net(opt, param_dict)
    loss = SoftmaxCrossEntropyWithLogits()
    model = Model(resnet, loss, opt)
    model.train(epoch, dataset)

    load_checkpoint("resnet50-1_32.ckpt", net=straight)
    straight_opt = milepost.nn.Momentum(straight.parameters(), 0.5, 0.0)
    load_param_into_net(straight_opt, load_checkpoint("resnet50-1_32.ckpt"))
    Model(straight, loss, straight_opt).train(2, dataset)
    for (name, a), b in zip(straight.state_dict().items(), resnet.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def assert_same_but_for_rounding(output, expected):
    """What is summed up to a small number from large ones is as uncertain as these."""
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_block_5_export(trained, ResNet50):
    """The GEIR file computes what the network computes, and has the name that was given."""
    size = [2, 1, 32, 32]

    from milepost.train.serialization import export

    resnet = ResNet50()
    # return a parameter dict for model
    param_dict = load_checkpoint("resnet50-2_32.ckpt")
    # load the parameter into net
    load_param_into_net(resnet, param_dict)
    input = np.random.uniform(0.0, 1.0, size=size).astype(np.float32)
    with pytest.warns(UserWarning, match=r"tools know GEIR files by the suffix \.air"):
        export(resnet, Tensor(input), file_name="resnet50-2_32.pb", file_format="GEIR")

    assert sorted(Path().glob("resnet50-2_32.*")) == [Path("resnet50-2_32.ckpt"), Path("resnet50-2_32.pb")]
    (output,) = geir.run(geir.load("resnet50-2_32.pb"), [Tensor(input)])
    assert_same_but_for_rounding(output, Model(resnet).predict(Tensor(input)).numpy())


def test_block_5_with_onnx(trained, ResNet50):
    """If you want the ONNX model, you only need file_format = 'ONNX'."""
    from milepost.train.serialization import export

    resnet = ResNet50()
    load_param_into_net(resnet, load_checkpoint("resnet50-2_32.ckpt"))
    input = np.random.uniform(0.0, 1.0, size=[2, 1, 32, 32]).astype(np.float32)
    export(resnet, Tensor(input), file_name="resnet50-2_32.onnx", file_format="ONNX")

    session = onnxruntime.InferenceSession("resnet50-2_32.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: input})
    assert_same_but_for_rounding(output, Model(resnet).predict(Tensor(input)).numpy())
