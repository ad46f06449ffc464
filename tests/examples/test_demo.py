"""The demo, told to the end by real processes: the exit code and every step of its story."""

from __future__ import annotations

import re

import pytest

STORY = [
    r"^1\. Training in a process of its own",
    r"^Epoch 1/2: 8/8 steps, loss \d.*accuracy",
    r"^Killed by signal 9 \(SIGKILL\) in epoch 2, after step [67] of 8\.",
    r"^2\. Starting again",
    r"^The newest checkpoint is resnet50{run}-2_4\.ckpt: epoch 2, step 4\.",
    r"^Going on in epoch 2 after step 4\.",
    r"^Epoch 2/2: 8/8 steps",
    r"^3\. Evaluating",
    r"^Accuracy: \d",
    r"^4\. Inference: resnet50{run}-2_8\.ckpt",
    r"^ResNet50: 320 loaded",
    r"^true      ( \d)+\npredicted ( \d)+",
    r"^5\. Fine-tuning",
    r"^ResNet50: 318 loaded\n  missing \(2\)\n    fc\.weight\n    fc\.bias",
    r"^Accuracy after one epoch",
    r"^6\. The files",
    r"^resnet50{run}-2_4\.ckpt +188\.\d MB  network, optimizer, progress and random state: epoch 2, step 4",
    r"^resnet50{run}-finetuned\.ckpt +94\.\d MB  the fine-tuned network",
    r"^All of it held",
]


@pytest.mark.slow
def test_the_story_holds_and_so_does_a_second_telling(told_twice):
    """Each step says what it shows, in order; a second demo is the folder's second run and leaves the first's files."""
    folder, tellings = told_twice
    for run, told in zip(("", "_2"), tellings, strict=True):
        assert told.returncode == 0, told.stderr
        assert told.stderr == ""
        story = "(?ms)" + ".*?".join(STORY).replace("{run}", run)
        assert re.search(story, told.stdout), told.stdout
    assert (folder / "resnet50-2_8.ckpt").is_file()


@pytest.mark.slow
def test_a_story_that_does_not_hold_is_a_failure(tell, tmp_path):
    """Too low an accuracy ends the demo with a reason and an exit code."""
    told = tell("--directory", tmp_path, "--images=256", "--epochs=2", "--accuracy=1")
    assert told.returncode == 1
    assert "The story does not hold: an accuracy of at least 100.0% was expected" in told.stderr
    assert "4. Inference" not in told.stdout


@pytest.mark.parametrize("arguments", [["--epochs=1"], ["--images=255"]])
def test_a_training_too_short_to_kill_is_refused(tell, tmp_path, arguments):
    """The demo says so before it trains."""
    told = tell("--directory", tmp_path, *arguments)
    assert told.returncode == 2
    assert "too short a training to kill in its middle" in told.stderr


def test_a_folder_without_mnist_is_refused(tell, tmp_path):
    """The file that is missing is named, before anything is trained."""
    told = tell("--directory", tmp_path / "runs", "--mnist", tmp_path)
    assert told.returncode == 1
    assert "found none of train-images-idx3-ubyte," in told.stderr
    assert told.stdout == ""
