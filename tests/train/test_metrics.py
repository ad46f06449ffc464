"""Metrics by name have the values of their definitions, and own metrics are taken as they are."""

from __future__ import annotations

import sys

import pytest
import torch
import torchmetrics

from milepost.errors import MissingExtraError, SettingError, SettingTypeError, TrainingError
from milepost.nn import CrossEntropyLoss, SoftmaxCrossEntropyWithLogits
from milepost.train.metrics import METRICS, hits
from milepost.train.model import Model


class Fixed(torch.nn.Module):
    """Predicts what it is given."""

    def forward(self, predictions):
        return predictions


def evaluate(batches, loss_fn, metrics=None):
    return Model(Fixed(), loss_fn, metrics=metrics, device="cpu").eval(batches)


def scores(*classes: int) -> torch.Tensor:
    """Logits that predict `classes`, of three."""
    return 5.0 * torch.nn.functional.one_hot(torch.tensor(classes), 3)


# Two batches, by hand. Predicted: 0 twice, 1 three times, 2 twice; true: 0 three times, 1 once, 2 three times.
# Right: 0 twice, 1 once, 2 twice. Precision 2/2, 1/3, 2/2; recall 2/3, 1/1, 2/3; F1 4/5, 2/4, 4/5.
PREDICTED, TRUE = ((0, 0, 1, 1, 2), (1, 2)), ((0, 0, 0, 1, 2), (2, 2))
BY_HAND = {
    "accuracy": 5 / 7,
    "acc": 5 / 7,
    "top_1_accuracy": 5 / 7,
    "top_5_accuracy": 1.0,
    "precision": (1 + 1 / 3 + 1) / 3,
    "recall": (2 / 3 + 1 + 2 / 3) / 3,
    "F1": (4 / 5 + 1 / 2 + 4 / 5) / 3,
}


def batches(one_hot: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
    def labels(classes):
        numbers = torch.tensor(classes)
        return torch.nn.functional.one_hot(numbers, 3).float() if one_hot else numbers

    return [(scores(*predicted), labels(true)) for predicted, true in zip(PREDICTED, TRUE, strict=True)]


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize(("name", "expected"), BY_HAND.items())
def test_metrics_about_classes_have_the_values_counted_by_hand(name, expected, one_hot):
    """Over batches of different size, for class numbers and for one-hot labels."""
    result = evaluate(batches(one_hot), SoftmaxCrossEntropyWithLogits(), {name})
    assert set(result) == {"loss", name}
    assert result[name] == pytest.approx(expected)


def test_top_5_accuracy_counts_labels_among_the_five_highest():
    """Of ten classes, a label among the five highest logits is a hit."""
    ranked = torch.arange(10.0).flip(0).repeat(4, 1)
    assert evaluate([(ranked, torch.tensor([0, 4, 5, 9]))], CrossEntropyLoss(), ["top_5_accuracy"])[
        "top_5_accuracy"
    ] == pytest.approx(0.5)


@pytest.mark.parametrize(("name", "expected"), [("mae", (1 + 2 + 0) / 3), ("mse", (1 + 4 + 0) / 3)])
def test_metrics_about_numbers_have_the_values_computed_by_hand(name, expected):
    """For a regression, over batches of different size, also where memory is not in order."""
    first = (torch.tensor([[1.0, 9.0], [2.0, 9.0]])[:, :1], torch.tensor([[2.0], [4.0]]))
    second = (torch.tensor([[3.0]]), torch.tensor([[3.0]]))
    assert evaluate([first, second], torch.nn.MSELoss(), {name})[name] == pytest.approx(expected)


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropyLoss(),
        SoftmaxCrossEntropyWithLogits(),
        torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        torch.nn.NLLLoss(),
        torch.nn.functional.cross_entropy,
        torch.nn.functional.nll_loss,
    ],
)
def test_a_classification_loss_brings_accuracy(loss):
    """Without metrics, `eval` reports loss and accuracy."""
    assert evaluate(batches(), loss)["accuracy"] == pytest.approx(5 / 7)


@pytest.mark.parametrize(
    ("loss", "to_prediction"),
    [(torch.nn.BCEWithLogitsLoss(), lambda logit: logit), (torch.nn.BCELoss(), torch.sigmoid)],
)
def test_a_binary_loss_is_about_class_one(loss, to_prediction):
    """The threshold is the loss's own: small logits are no probabilities, and 0.3 is a 1 as logit."""
    predictions = to_prediction(torch.tensor([[0.3], [0.2], [-0.1], [-4.0]]))
    labels = torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    assert evaluate([(predictions, labels)], loss)["accuracy"] == pytest.approx(0.5)
    result = evaluate([(predictions[:3], labels[:3])], loss, {"precision", "recall", "top_5_accuracy"})
    assert (result["precision"], result["recall"]) == (0.5, 0.5)


def test_other_losses_bring_no_metric():
    """A regression reports its loss alone."""
    assert set(evaluate([(torch.ones(2, 3), torch.ones(2, 3))], torch.nn.MSELoss())) == {"loss"}


def test_labels_that_the_loss_leaves_out_do_not_count():
    """`ignore_index` of the loss holds for accuracy as well, here over a map of labels."""
    logits = scores(0, 1, 2, 0).T.reshape(1, 3, 2, 2)
    labels = torch.tensor([[[0, 1], [-100, 1]]])
    assert evaluate([(logits, labels)], CrossEntropyLoss())["accuracy"] == pytest.approx(2 / 3)
    assert hits(logits, labels, CrossEntropyLoss()).tolist() == [True, True, False]


def test_results_come_in_one_order():
    """A set has no order, so the table's is used: loss first."""
    result = evaluate(batches(), CrossEntropyLoss(), {"F1", "recall", "precision", "accuracy", "loss"})
    assert list(result) == ["loss", "accuracy", "precision", "recall", "F1"]


def test_each_evaluation_begins_anew():
    """A second call forgets the first, also for the user's own metric."""
    model = Model(Fixed(), CrossEntropyLoss(), metrics={"own": torchmetrics.MeanMetric()}, device="cpu")
    model._metrics["own"].update(100.0)
    seen = [model.eval([(scores(0), torch.tensor([1]))])["own"] for _ in range(2)]
    assert seen == pytest.approx([5 / 3, 5 / 3])


def test_metrics_of_torchmetrics_and_of_ones_own_are_taken_under_their_names():
    """Anything with reset, update and compute is a metric."""

    class Count:
        def reset(self):
            self.count = 0

        def update(self, predictions, labels):
            self.count += len(labels)

        def compute(self):
            return self.count

    own = {"cohen": torchmetrics.CohenKappa(task="multiclass", num_classes=3), "count": Count()}
    result = evaluate(batches(), CrossEntropyLoss(), own)
    assert list(result) == ["loss", "cohen", "count"]
    assert result["count"] == 7.0
    observed, by_chance = 5 / 7, (2 * 3 + 3 * 1 + 2 * 3) / 49
    assert result["cohen"] == pytest.approx((observed - by_chance) / (1 - by_chance))


def test_a_figure_that_is_not_one_number_is_refused():
    """`eval` promises numbers; a matrix is none."""
    own = {"matrix": torchmetrics.ConfusionMatrix(task="multiclass", num_classes=3)}
    with pytest.raises(TrainingError, match=r"the metric 'matrix': found torch.int64 \(3, 3\); expected one number"):
        evaluate(batches(), CrossEntropyLoss(), own)


@pytest.mark.parametrize(
    ("predictions", "labels", "loss", "name"),
    [
        (scores(0, 1), torch.tensor([0.0, 1.0]), lambda p, y: p.sum(), "accuracy"),
        (scores(0, 1), torch.tensor([0, 1, 2]), lambda p, y: p.sum(), "accuracy"),
        (torch.ones(2), torch.ones(2), lambda p, y: p.sum(), "accuracy"),
        (scores(0, 1), ["cat", "dog"], lambda p, y: p.sum(), "accuracy"),
        (torch.ones(2, 1), torch.ones(2), lambda p, y: p.sum(), "mae"),
    ],
)
def test_predictions_and_labels_that_do_not_fit_a_metric_are_described(predictions, labels, loss, name):
    """The message has both kinds and shapes, and what would fit."""
    with pytest.raises(TrainingError, match=r"as predictions, .* as labels; expected (logits|two tensors)"):
        evaluate([(predictions, labels)], loss, {name})


@pytest.mark.parametrize(
    ("metrics", "kind", "message"),
    [
        ({"acuracy"}, SettingError, "found 'acuracy'; expected one of loss, accuracy"),
        ([1], SettingError, "found 1; expected one of"),
        ("accuracy", SettingTypeError, "expected a set of names"),
        (torchmetrics.MeanMetric(), SettingTypeError, "expected a set of names"),
        ({"own": torchmetrics.MeanMetric}, SettingTypeError, r"metrics\['own'\]"),
        ({"own": "accuracy"}, SettingTypeError, r"metrics\['own'\]"),
        ({"loss": torchmetrics.MeanMetric()}, SettingError, "another text than 'loss'"),
    ],
)
def test_impossible_metrics_are_refused_at_construction(metrics, kind, message):
    """A name that is not known is answered with those that are."""
    with pytest.raises(kind, match=message):
        Model(Fixed(), CrossEntropyLoss(), metrics=metrics)


def test_metrics_without_a_loss_function_are_refused():
    """A network that returns its loss shows no predictions to measure."""
    with pytest.raises(SettingError, match="found accuracy without a loss_fn"):
        Model(Fixed(), metrics={"accuracy"})


def test_without_torchmetrics_the_extra_is_named(monkeypatch):
    """Metrics by name need the extra, and say so before the first batch; the loss alone does not."""
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(MissingExtraError, match=r"milepost\[metrics\]"):
        evaluate(iter([]), CrossEntropyLoss())
    assert set(evaluate(batches(), CrossEntropyLoss(), {"loss"})) == {"loss"}


@pytest.mark.parametrize("name", METRICS)
def test_every_name_of_the_table_gives_a_number(name):
    """No name is promised that cannot be computed."""
    about_classes = METRICS[name].is_about_classes
    batch = (scores(0, 1), torch.tensor([0, 1])) if about_classes else (torch.ones(2), torch.zeros(2))
    assert evaluate([batch], CrossEntropyLoss() if about_classes else torch.nn.MSELoss(), {name})[name] == 1.0
