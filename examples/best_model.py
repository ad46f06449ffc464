"""Train with a validation after each epoch, stop when it gets no better, and use the best network that there was."""

import argparse

import torch
from torch import nn

from digits import create_dataset
from milepost import CheckpointConfig, EarlyStopping, Model, ModelCheckpoint, load_checkpoint
from milepost.nn import CrossEntropyLoss


def network() -> nn.Module:
    """A small convolutional network for images of 32 x 32 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


def main(directory: str, epochs: int) -> float:
    """Train, and return the accuracy of the best network."""
    torch.manual_seed(1)
    train, valid = (create_dataset(None, 64, train=part) for part in (True, False))
    net = network()
    net(next(iter(train))[0])  # gives the last layer its size
    model = Model(net, CrossEntropyLoss(), torch.optim.Adam(net.parameters(), lr=3e-3))

    config = CheckpointConfig(save_checkpoint_steps=20, keep_checkpoint_max=2, monitor="accuracy", mode="max")
    saver = ModelCheckpoint("digits", directory, config)
    model.fit(epochs, train, valid, callbacks=[saver, EarlyStopping("accuracy", patience=3)], resume="auto")

    best = load_checkpoint(saver.best_ckpt_file_name or "", net=net)
    metrics = best.metadata["metrics"]
    print(f"the best: {saver.best_ckpt_file_name}, epoch {best.metadata['epoch']}, {metrics['accuracy']:.1%}")
    accuracy = model.eval(valid)["accuracy"]
    print(f"evaluated again: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default="runs/best_model")
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    main(arguments.directory, arguments.epochs)
