"""A plain PyTorch loop with checkpoints in three lines. Kill it, and run it again: it goes on exactly."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader

from digits import create_dataset
from milepost import CheckpointConfig, CheckpointManager


def main(directory: str, epochs: int) -> float:
    """Train, and return the accuracy on digits that the training did not see."""
    torch.manual_seed(1)
    loader, unseen = (create_dataset(None, 64, train=train) for train in (True, False))
    net = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    config = CheckpointConfig(save_checkpoint_steps=10, keep_checkpoint_max=3)

    with CheckpointManager(directory, net, optimizer, scheduler=scheduler, config=config) as checkpoints:
        progress = checkpoints.resume()
        print(f"from {progress.where or 'the start'}")
        for epoch in progress.epochs(epochs):
            for images, labels in progress.steps(loader):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(net(images), labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                checkpoints.step(loss=loss)
            scheduler.step()
            checkpoints.report(accuracy=accuracy(net, unseen))
            print(f"epoch {epoch}: accuracy {progress.history[-1].metrics['accuracy']:.1%}")
    return progress.history[-1].metrics["accuracy"]


def accuracy(net: nn.Module, loader: DataLoader[tuple[torch.Tensor, ...]]) -> float:
    """The share of right answers."""
    net.eval()
    with torch.no_grad():
        hits = [(net(images).argmax(1) == labels).float().mean() for images, labels in loader]
    net.train()
    return float(torch.stack(hits).mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default="runs/plain_loop")
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    main(arguments.directory, arguments.epochs)
