"""`Model` trains, evaluates and applies, leaves the network as it found it, and refuses what it cannot do."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch

from milepost.errors import SettingError, SettingTypeError, TrainingError
from milepost.nn import CrossEntropyLoss, Momentum, SoftmaxCrossEntropyWithLogits
from milepost.train.callback import Callback
from milepost.train.devices import move_state_to_parameters
from milepost.train.model import Model


@pytest.fixture
def network(make_network):
    return make_network()


@pytest.fixture
def model(network):
    return Model(network, CrossEntropyLoss(), Momentum(network.parameters(), 0.1, 0.9))


def parameters(network: torch.nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in network.state_dict().values()]


class Steps(Callback):
    """Notes epoch, step, step in epoch and loss after every step."""

    def __init__(self, stop_at=None):
        self.seen, self.losses, self.stop_at = [], [], stop_at

    def step_end(self, run_context):
        params = run_context.original_args()
        self.seen.append((params.cur_epoch_num, params.cur_step_num, params.cur_step_in_epoch))
        self.losses.append(params.net_outputs.item())
        if params.cur_step_num == self.stop_at:
            run_context.request_stop()


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), SoftmaxCrossEntropyWithLogits(), torch.nn.CrossEntropyLoss()])
def test_training_learns(make_network, blobs, loss):
    """A few epochs bring accuracy from chance to nearly all."""
    network = make_network()
    model = Model(network, loss, Momentum(network.parameters(), 0.1, 0.9))
    before = model.eval(blobs)
    model.train(5, blobs)
    after = model.eval(blobs)
    assert before["accuracy"] < 0.7
    assert after["accuracy"] > 0.95
    assert after["loss"] < before["loss"] / 2


def test_training_is_the_plain_loop_to_the_bit(make_network, blobs):
    """The parameters are those of the loop everybody writes by hand."""
    network, by_hand = make_network(), make_network()
    torch.manual_seed(5)
    Model(network, CrossEntropyLoss(), Momentum(network.parameters(), 0.1, 0.9)).train(2, blobs)
    torch.manual_seed(5)
    optimizer, loss = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9), torch.nn.CrossEntropyLoss()
    for _ in range(2):
        for points, labels in blobs:
            optimizer.zero_grad()
            loss(by_hand(points), labels).backward()
            optimizer.step()
    assert all(map(torch.equal, parameters(network), parameters(by_hand)))


def test_evaluation_changes_nothing_and_computes_no_gradients(model, network, blobs):
    """Weights, running statistics and gradients are untouched, and no output hangs on a graph."""
    outputs = []
    network.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    before = parameters(network)
    model.eval(blobs)
    assert all(map(torch.equal, before, parameters(network)))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(output.requires_grad for output in outputs)


def test_loss_is_the_mean_over_samples(network, blobs):
    """A smaller last batch weighs less: the loss is that of the whole data set at once."""
    points, labels = (torch.cat(parts) for parts in zip(*blobs, strict=True))
    network.eval()
    expected = torch.nn.functional.cross_entropy(network(points), labels).item()
    assert Model(network, CrossEntropyLoss()).eval(blobs)["loss"] == pytest.approx(expected, rel=1e-6)


def test_predict_gives_the_evaluation_mode_output(model, network):
    """`predict` takes tensors and NumPy arrays, without dropout and without gradients."""
    points = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    predicted = model.predict(points)
    assert torch.equal(predicted, model.predict(torch.from_numpy(points)))
    assert not predicted.requires_grad
    assert torch.equal(predicted, network.eval()(torch.from_numpy(points)))


@pytest.mark.parametrize("call", ["train", "eval", "predict"])
@pytest.mark.parametrize("fails", [False, True])
def test_modes_are_set_for_the_call_and_restored_for_each_submodule(model, network, blobs, call, fails):
    """Whatever mode a submodule was in, it is in again afterwards, also after an error."""
    network.eval()
    network[1].train()
    network[4].train()
    before = [module.training for module in network.modules()]
    during = []

    def watch(module, inputs):
        during.append({each.training for each in network.modules()})
        if fails:
            raise RuntimeError("planned")

    network.register_forward_pre_hook(watch)
    arguments = {"train": (1, blobs), "eval": (blobs,), "predict": (blobs[0][0],)}[call]
    if fails:
        with pytest.raises(RuntimeError, match="planned"):
            getattr(model, call)(*arguments)
    else:
        getattr(model, call)(*arguments)
    assert all(modes == {call == "train"} for modes in during)
    assert [module.training for module in network.modules()] == before
    assert torch.is_grad_enabled()


def test_training_computes_gradients_also_where_the_caller_has_switched_them_off(model, network, blobs):
    """A caller's no_grad() does not turn training into nothing."""
    before = parameters(network)
    with torch.no_grad():
        model.train(1, blobs)
        assert not torch.is_grad_enabled()
    assert not torch.equal(before[0], parameters(network)[0])


def test_evaluation_within_training_hands_the_training_mode_back(model, network, blobs):
    """A callback may evaluate the model that is being trained."""

    class Evaluate(Callback):
        def epoch_end(self, run_context):
            self.result = model.eval(blobs)
            self.was_training = network.training

    evaluate = Evaluate()
    model.train(2, blobs, evaluate)
    assert evaluate.was_training
    assert set(evaluate.result) == {"loss", "accuracy"}


Pair = namedtuple("Pair", ["points", "label"])


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: Pair(x, y),
        lambda x, y: ((x,), y),
        lambda x, y: [[x], y],
        lambda x, y: (x.numpy(), y.numpy()),
        lambda x, y: (x.numpy()[::-1], y.numpy().astype(np.int32)[::-1]),
    ],
    ids=["tuple", "list", "namedtuple", "tuple of inputs", "list of inputs", "arrays", "reversed int32 arrays"],
)
def test_batches_may_come_in_the_usual_forms(model, blobs, change):
    """Pairs of tensors or arrays, with one input or several."""
    batches = [change(points, labels) for points, labels in blobs]
    expected = model.eval(blobs)
    assert model.eval(batches) == pytest.approx(expected, rel=1e-6)
    model.train(1, batches)


def test_read_only_arrays_are_taken_without_a_warning(model, blobs):
    """Arrays of a memory map cannot be written, and need not be."""
    points, labels = blobs[0]
    array = points.numpy().copy()
    array.flags.writeable = False
    model.train(1, [(array, labels)])


def test_a_network_of_several_inputs_gets_them_as_arguments(blobs):
    """A tuple of inputs is spread over forward's arguments."""

    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)

        def forward(self, left, right):
            return self.linear(left + right)

    network = Sum()
    model = Model(network, CrossEntropyLoss(), Momentum(network.parameters(), 0.1, 0.9))
    model.train(1, [((points, points), labels) for points, labels in blobs])
    assert model.predict(blobs[0][0], blobs[0][0]).shape == (8, 3)


def test_without_loss_fn_the_network_returns_the_loss(blobs):
    """The network takes the whole batch; evaluation reports the loss alone."""

    class WithLoss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 3)

        def forward(self, points, labels):
            return torch.nn.functional.cross_entropy(self.linear(points), labels)

    network = WithLoss()
    model = Model(network, optimizer=Momentum(network.parameters(), 0.1, 0.9))
    before = model.eval(blobs)
    model.train(3, blobs)
    after = model.eval(blobs)
    assert set(after) == {"loss"}
    assert after["loss"] < before["loss"] / 2


def test_optimizers_that_evaluate_several_times_per_step_work(blobs):
    """LBFGS gets its closure; the step's loss is the one before the update, as with every other optimizer."""
    points, labels = (torch.cat(parts) for parts in zip(*blobs, strict=True))
    network = torch.nn.Linear(4, 3)
    model = Model(network, CrossEntropyLoss(), torch.optim.LBFGS(network.parameters(), line_search_fn="strong_wolfe"))
    before = model.eval([(points, labels)])
    steps = Steps()
    model.train(2, [(points, labels)], steps)
    assert steps.losses[0] == pytest.approx(before["loss"], rel=1e-6)
    assert model.eval([(points, labels)])["loss"] < before["loss"] / 5


@pytest.mark.parametrize(
    "build", [torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.Rprop]
)
def test_torchs_optimizers_train(make_network, blobs, build):
    """Each of torch's optimizers lowers the loss."""
    network = make_network()
    model = Model(network, CrossEntropyLoss(), build(network.parameters(), lr=0.01))
    before = model.eval(blobs)["loss"]
    model.train(3, blobs)
    assert model.eval(blobs)["loss"] < before


def test_epochs_and_steps_are_counted_from_one(model, blobs):
    """Steps go on over the epochs, steps in the epoch begin anew."""
    steps = Steps()
    model.train(2, blobs[:2], steps)
    assert steps.seen == [(1, 1, 1), (1, 2, 2), (2, 3, 1), (2, 4, 2)]


def test_initial_epoch_continues_the_count_of_epochs(model, blobs):
    """Epochs that are behind are not trained again."""
    steps = Steps()
    model.train(4, blobs[:1], steps, initial_epoch=2)
    assert [epoch for epoch, _, _ in steps.seen] == [3, 4]


def test_a_stop_ends_the_training_after_the_step(model, blobs):
    """No further step, no further epoch."""
    steps = Steps(stop_at=2)
    model.train(3, blobs, steps)
    assert steps.seen[-1] == (1, 2, 2)


def test_streams_without_a_length_are_trained(model, blobs):
    """The number of batches need not be known."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            for points, labels in blobs:
                yield from zip(points, labels, strict=True)

    lengths = []

    class Length(Callback):
        def begin(self, run_context):
            lengths.append(run_context.original_args().batch_num)

    model.train(2, torch.utils.data.DataLoader(Stream(), batch_size=8), Length())
    model.train(1, blobs, Length())
    assert lengths == [None, 12]


def test_an_iterator_that_is_used_up_is_explained(model, blobs):
    """A generator has batches for one epoch; the second says so."""
    with pytest.raises(TrainingError, match=r"used up.*Give a list, a DataLoader"):
        model.train(2, (batch for batch in blobs))
    model.train(1, (batch for batch in blobs))


@pytest.mark.parametrize("call", [lambda model: model.train(1, []), lambda model: model.eval([])])
def test_an_empty_data_set_is_refused(model, call):
    """Training on nothing, or evaluating on nothing, is no success."""
    with pytest.raises(TrainingError, match="found no batch"):
        call(model)


@pytest.mark.parametrize(
    ("arguments", "kind", "field"),
    [
        ((0, []), SettingError, "epoch"),
        ((-1, []), SettingError, "epoch"),
        ((1.0, []), SettingTypeError, "epoch"),
        ((True, []), SettingTypeError, "epoch"),
        (("2", []), SettingTypeError, "epoch"),
        ((1, [], None, 1), SettingError, "initial_epoch"),
        ((1, [], None, -1), SettingError, "initial_epoch"),
        ((1, None), SettingTypeError, "train_dataset"),
        ((1, 3), SettingTypeError, "train_dataset"),
        ((1, [], "LossMonitor"), SettingTypeError, "callbacks"),
        ((1, [], [Callback]), SettingTypeError, "callbacks"),
        ((1, [], [None]), SettingTypeError, "callbacks"),
    ],
)
def test_impossible_arguments_of_train_are_refused_by_name(model, arguments, kind, field):
    """What cannot be meant is refused before anything happens."""
    initial = {"initial_epoch": arguments[3]} if len(arguments) > 3 else {}
    with pytest.raises(kind, match=f"^{field}: "):
        model.train(*arguments[:3], **initial)


def test_impossible_arguments_of_model_are_refused_by_name(network):
    """An argument of another kind, often one in another's place, is named."""
    loss, optimizer = CrossEntropyLoss(), Momentum(network.parameters(), 0.1, 0.9)
    for arguments, field in [
        (("resnet50",), "network"),
        ((network, optimizer, loss), "loss_fn"),
        ((network, CrossEntropyLoss), "loss_fn"),
        ((network, "cross_entropy"), "loss_fn"),
        ((network, loss, loss), "optimizer"),
        ((network, loss, Momentum), "optimizer"),
    ]:
        with pytest.raises(SettingTypeError, match=f"^{field}: "):
            Model(*arguments)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "", object()])
def test_a_device_that_is_not_there_is_refused_at_construction(network, device):
    """The message names the field, not a kernel."""
    with pytest.raises(SettingError, match=r"^device: "):
        Model(network, device=device)


def test_training_without_an_optimizer_is_refused(network, blobs):
    """Without an optimizer nothing would be learned."""
    with pytest.raises(TrainingError, match=r"^optimizer: found none"):
        Model(network, CrossEntropyLoss()).train(1, blobs)


def test_an_optimizer_of_another_network_is_refused(make_network, blobs):
    """An optimizer that would update something else would look like training."""
    model = Model(make_network(), CrossEntropyLoss(), Momentum(make_network().parameters(), 0.1, 0.9))
    with pytest.raises(TrainingError, match="not one of the network's parameters"):
        model.train(1, blobs)


def test_a_loss_with_parameters_of_its_own_may_be_what_is_optimized(network, blobs):
    """A learned loss over a frozen network is a training."""

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, predictions, labels):
            return self.scale * torch.nn.functional.cross_entropy(predictions, labels)

    loss = Scaled()
    Model(network, loss, Momentum(loss.parameters(), 0.01, 0.0)).train(1, blobs)
    assert loss.scale.item() != 1.0


def test_losses_that_cannot_be_trained_are_explained(network, blobs):
    """A loss must be one number that depends on the parameters."""
    optimizer = Momentum(network.parameters(), 0.1, 0.9)
    with pytest.raises(TrainingError, match=r'shape \(8,\); expected a tensor with one number.*reduction="mean"'):
        Model(network, SoftmaxCrossEntropyWithLogits(reduction="none"), optimizer).train(1, blobs)
    with pytest.raises(TrainingError, match="found float"):
        Model(network, lambda predictions, labels: 1.0, optimizer).train(1, blobs)
    with pytest.raises(TrainingError, match="depends on no parameter"):
        Model(network, lambda predictions, labels: predictions.detach().sum(), optimizer).train(1, blobs)


@pytest.mark.parametrize("batch", [torch.ones(8, 4), (torch.ones(8, 4),), (1, 2, 3), {"x": 1}, "text"])
def test_batches_that_are_no_pair_are_refused(model, batch):
    """With a loss function a batch is a pair of inputs and labels."""
    with pytest.raises(TrainingError, match=r"expected a pair \(inputs, labels\)"):
        model.train(1, [batch])


def test_an_optimizer_that_ignores_its_closure_is_refused(network, blobs):
    """A step without gradients would look like training."""

    class Ignoring(torch.optim.SGD):
        def step(self, closure=None):
            return None

    model = Model(network, CrossEntropyLoss(), Ignoring(network.parameters(), lr=0.1))
    with pytest.raises(TrainingError, match="does not call its closure"):
        model.train(1, blobs)


def test_the_device_is_the_cpu_where_it_is_given(network, blobs):
    """A device can be given; network and batches are then there."""
    model = Model(network, CrossEntropyLoss(), device="cpu")
    model.eval(blobs)
    assert model.device == torch.device("cpu")
    assert {parameter.device for parameter in network.parameters()} == {torch.device("cpu")}


@pytest.mark.parametrize(("flags", "step_device"), [({}, "cpu"), ({"capturable": True}, "meta")])
def test_optimizer_state_follows_its_parameters(flags, step_device):
    """State goes to its parameter's device; the count of steps only where torch wants it there."""
    parameter = torch.nn.Parameter(torch.ones(2, device="meta"))  # a second device that every machine has
    optimizer = torch.optim.Adam([parameter], **flags)
    optimizer.state[parameter] = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "kept": [torch.ones(2)]}
    move_state_to_parameters(optimizer)
    state = optimizer.state[parameter]
    assert state["exp_avg"].device.type == state["kept"][0].device.type == "meta"
    assert state["step"].device.type == step_device
