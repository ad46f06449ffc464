"""The tutorial's optimizer and losses against numbers that real MindSpore computed, and against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from milepost.errors import SettingError, SettingTypeError, TrainingError
from milepost.nn import CrossEntropyLoss, Momentum, SoftmaxCrossEntropyWithLogits

LOGITS = [[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 1.0], [1.5, 1.5, -2.0]]
CLASSES = [0, 2, 1, 1]
PROBABILITIES = [[1.0, 0.0, 0.0], [0.0, 0.25, 0.75], [0.1, 0.8, 0.1], [0.5, 0.5, 0.0]]

# The numbers below were printed once by MindSpore 2.10.0 on CPU from the arrays above, float32 throughout:
# mindspore.nn.SoftmaxCrossEntropyWithLogits(sparse, reduction)(logits, labels), its mindspore.grad, and
# mindspore.nn.CrossEntropyLoss(**arguments)(logits, labels) with int32 class numbers.
SOFTMAX_LOSSES = [
    (True, "none", [0.241311327, 1.001942873, 0.049455538, 0.708133042]),
    (True, "mean", 0.500210643),
    (True, "sum", 2.00084281),
    (False, "none", [0.241311327, 1.026942849, 1.049455523, 0.708133042]),
    (False, "mean", 0.756460667),
    (False, "sum", 3.025842667),
]
SOFTMAX_GRADIENTS_OF_THE_MEAN = {
    True: [
        [-0.053600729, 0.009778135, 0.043822583],
        [0.075152397, 0.083056256, -0.158208638],
        [0.00021697, -0.012063131, 0.011846168],
        [0.123140737, -0.126859263, 0.003718525],
    ],
    False: [
        [-0.053600743, 0.009778143, 0.043822598],
        [0.075152397, 0.020556249, -0.095708653],
        [-0.02478303, 0.037936866, -0.013153821],
        [-0.001859263, -0.001859263, 0.003718528],
    ],
}
CROSS_ENTROPIES = [
    ({}, 0.500210583, 0.756460547),
    ({"reduction": "sum"}, 2.000842333, 3.02584219),
    ({"ignore_index": 1}, 0.621627092, None),
    ({"label_smoothing": 0.1}, 0.652710676, 0.88333571),
    ({"weight": [0.5, 2.0, 1.0]}, 0.479595631, 0.761199474),
    ({"weight": [0.5, 2.0, 1.0], "label_smoothing": 0.2}, 0.684318304, 1.022342086),
]
# mindspore.nn.Momentum over one parameter [1, -2, 3] named "weight", four updates with these gradients:
# learning rate, momentum, weight decay, the parameter, its momentum. (MindSpore ignores Nesterov on CPU.)
GRADIENTS = [[0.1, -0.2, 0.3], [0.05, 0.0, -0.4], [-0.3, 0.2, 0.1], [1.0, 1.0, -1.0]]
MOMENTUM_RUNS = [
    (0.1, 0.9, 0.0, [0.909060061, -2.069220066, 3.08623004], [0.843400002, 1.034200072, -1.015300035]),
    (0.01, 0.5, 0.0, [0.991750062, -2.009249926, 3.009875059], [0.875, 1.075000048, -1.012500048]),
    (0.1, 0.9, 0.01, [0.900104105, -2.051310301, 3.059253216], [0.877337277, 0.966445565, -0.912948728]),
    (0.05, 0.0, 0.1, [0.937674105, -2.010398388, 2.990498066], None),
]


def close(actual: torch.Tensor, expected: object) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), np.array(expected, np.float32), rtol=2e-6, atol=3e-7)


def labels(sparse: bool) -> torch.Tensor:
    return torch.tensor(CLASSES, dtype=torch.int32) if sparse else torch.tensor(PROBABILITIES)


@pytest.mark.parametrize(("sparse", "reduction", "expected"), SOFTMAX_LOSSES)
@pytest.mark.parametrize("is_told", [True, False])
def test_softmax_cross_entropy_equals_mindspore(sparse, reduction, expected, is_told):
    """The value is MindSpore's, whether the kind of label is told or seen from its shape."""
    loss = SoftmaxCrossEntropyWithLogits(sparse if is_told else None, reduction)
    close(loss(torch.tensor(LOGITS), labels(sparse)), expected)


@pytest.mark.parametrize("sparse", [True, False])
def test_softmax_cross_entropy_has_mindspores_gradient(sparse):
    """The gradient of the default reduction, the mean, is MindSpore's."""
    logits = torch.tensor(LOGITS, requires_grad=True)
    SoftmaxCrossEntropyWithLogits()(logits, labels(sparse)).backward()
    close(logits.grad, SOFTMAX_GRADIENTS_OF_THE_MEAN[sparse])


def test_softmax_cross_entropy_takes_integer_one_hot_labels():
    """One-hot labels may be integers, as data sets deliver them."""
    one_hot = torch.nn.functional.one_hot(torch.tensor(CLASSES), 3)
    close(SoftmaxCrossEntropyWithLogits()(torch.tensor(LOGITS), one_hot), 0.500210643)


@pytest.mark.parametrize(
    ("sparse", "target", "expected"),
    [
        (True, torch.tensor([0.0, 1.0, 2.0, 1.0]), "class numbers"),
        (None, torch.tensor([0.0, 1.0, 2.0, 1.0]), "class numbers"),
        (False, torch.tensor(CLASSES), r"the shape \(4, 3\)"),
    ],
)
def test_softmax_cross_entropy_refuses_the_other_kind_of_label(sparse, target, expected):
    """Labels that are not what `sparse` promises are refused with both shapes, not reinterpreted."""
    with pytest.raises(TrainingError, match=expected):
        SoftmaxCrossEntropyWithLogits(sparse)(torch.tensor(LOGITS), target)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"reduction": "max"}, "reduction"), ({"reduction": None}, "reduction"), ({"sparse": 2}, "sparse")],
)
def test_softmax_cross_entropy_refuses_impossible_settings(arguments, field):
    """A setting that cannot be meant is refused at construction, by its name."""
    with pytest.raises(SettingError, match=f"^{field}: "):
        SoftmaxCrossEntropyWithLogits(**arguments)


@pytest.mark.parametrize(("arguments", "sparse_value", "probability_value"), CROSS_ENTROPIES)
def test_cross_entropy_equals_mindspore(arguments, sparse_value, probability_value):
    """The value is MindSpore's, for class numbers (int32 included) and for probabilities."""
    if "weight" in arguments:
        arguments = {**arguments, "weight": torch.tensor(arguments["weight"])}
    loss = CrossEntropyLoss(**arguments)
    close(loss(torch.tensor(LOGITS), labels(sparse=True)), sparse_value)
    if probability_value is not None:
        close(loss(torch.tensor(LOGITS), labels(sparse=False)), probability_value)


def apply(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> None:
    for gradient in GRADIENTS:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()


@pytest.mark.parametrize(("learning_rate", "momentum", "weight_decay", "expected", "velocity"), MOMENTUM_RUNS)
def test_momentum_equals_mindspore(learning_rate, momentum, weight_decay, expected, velocity):
    """After four updates the parameter and its momentum are MindSpore's."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = Momentum([parameter], learning_rate, momentum, weight_decay)
    apply(optimizer, parameter)
    close(parameter, expected)
    if velocity is not None:
        close(optimizer.state[parameter]["momentum_buffer"], velocity)


def test_nesterov_momentum_follows_its_definition():
    """With Nesterov the update is gradient + momentum * v."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    apply(Momentum([parameter], 0.1, 0.9, use_nesterov=True), parameter)
    weight, velocity = np.array([1.0, -2.0, 3.0]), np.zeros(3)
    for gradient in np.array(GRADIENTS):
        velocity = 0.9 * velocity + gradient
        weight = weight - 0.1 * (gradient + 0.9 * velocity)
    close(parameter, weight)


def test_momentum_is_a_torch_optimizer_for_every_tool():
    """Schedulers drive it, and its state goes through state_dict() into a fresh one."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = Momentum([{"params": [parameter]}], learning_rate=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    apply(optimizer, parameter)
    scheduler.step()
    fresh = Momentum([parameter], learning_rate=1.0, momentum=0.0)
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.param_groups[0]["lr"] == 0.05
    assert torch.equal(fresh.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"])


@pytest.mark.parametrize(
    ("arguments", "kind", "field"),
    [
        ({"learning_rate": -0.1, "momentum": 0.9}, SettingError, "learning_rate"),
        ({"learning_rate": float("nan"), "momentum": 0.9}, SettingError, "learning_rate"),
        ({"learning_rate": [0.1, 0.01], "momentum": 0.9}, SettingTypeError, "learning_rate"),
        ({"learning_rate": True, "momentum": 0.9}, SettingTypeError, "learning_rate"),
        ({"learning_rate": 0.1, "momentum": -1}, SettingError, "momentum"),
        ({"learning_rate": 0.1, "momentum": "0.9"}, SettingTypeError, "momentum"),
        ({"learning_rate": 0.1, "momentum": 0.9, "weight_decay": -1e-4}, SettingError, "weight_decay"),
    ],
)
def test_momentum_refuses_impossible_numbers_by_name(arguments, kind, field):
    """A number of the wrong type or sign is refused at construction, with the field's name."""
    with pytest.raises(kind, match=f"^{field}: "):
        Momentum([torch.nn.Parameter(torch.ones(1))], **arguments)
