"""CheckpointConfig: what is in force, what is refused, what is warned of."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest

from milepost.config import CheckpointConfig
from milepost.errors import SettingError, SettingTypeError
from milepost.policy.keep import KeepAll, KeepBest, KeepEither, KeepEvery, KeepLast, KeepOnePer
from milepost.policy.save import EveryEpochs, EverySeconds, EverySteps, Never

STEPS, SECONDS = "save_checkpoint_steps", "save_checkpoint_seconds"
COUNT, MINUTES = "keep_checkpoint_max", "keep_checkpoint_per_n_minutes"


@pytest.mark.parametrize(
    ("settings", "save", "keep"),
    [
        ({}, EverySteps(1), KeepLast(5)),
        ({STEPS: 32, COUNT: 10}, EverySteps(32), KeepLast(10)),
        # A default gives way to what is set.
        ({SECONDS: 60}, EverySeconds(60), KeepLast(5)),
        ({SECONDS: 0.5}, EverySeconds(0.5), KeepLast(5)),
        ({MINUTES: 10}, EverySteps(1), KeepOnePer(10)),
        ({SECONDS: 60, MINUTES: 10}, EverySeconds(60), KeepOnePer(10)),
        # None and 0 cancel, and a default beside them stays.
        ({STEPS: None}, Never(), KeepLast(5)),
        ({STEPS: 0}, Never(), KeepLast(5)),
        ({STEPS: None, SECONDS: 60}, EverySeconds(60), KeepLast(5)),
        ({STEPS: 32, SECONDS: None}, EverySteps(32), KeepLast(5)),
        ({SECONDS: 0}, EverySteps(1), KeepLast(5)),
        ({SECONDS: None}, EverySteps(1), KeepLast(5)),
        ({SECONDS: 0.0}, EverySteps(1), KeepLast(5)),
        ({STEPS: 0, SECONDS: 0}, Never(), KeepLast(5)),
        ({COUNT: None}, EverySteps(1), KeepAll()),
        ({COUNT: 0, MINUTES: 0}, EverySteps(1), KeepAll()),
        ({COUNT: 0, MINUTES: 3}, EverySteps(1), KeepOnePer(3)),
        ({MINUTES: None}, EverySteps(1), KeepLast(5)),
        ({STEPS: None, COUNT: None, MINUTES: 3}, Never(), KeepOnePer(3)),
        # Numbers of numpy are numbers.
        ({STEPS: np.int64(4), COUNT: np.uint8(2)}, EverySteps(4), KeepLast(2)),
        ({SECONDS: np.float32(0.5), MINUTES: Fraction(1, 2)}, EverySeconds(0.5), KeepOnePer(0.5)),
        # A policy stands in for its pair, at its default or cancelled.
        ({"save": EveryEpochs()}, EveryEpochs(), KeepLast(5)),
        ({"save": EveryEpochs(), STEPS: None, COUNT: 2}, EveryEpochs(), KeepLast(2)),
        ({"save": EveryEpochs(), STEPS: 0, SECONDS: 0, COUNT: 0, MINUTES: 0}, EveryEpochs(), KeepAll()),
        ({"keep": KeepEvery(9)}, EverySteps(1), KeepEvery(9)),
        ({"keep": KeepLast(2) | KeepEvery(9), SECONDS: 3}, EverySeconds(3), KeepEither(KeepLast(2), KeepEvery(9))),
        # The best are kept too, unless all are.
        ({"monitor": "acc"}, EverySteps(1), KeepLast(5) | KeepBest("acc")),
        ({"monitor": "acc", MINUTES: 3}, EverySteps(1), KeepOnePer(3) | KeepBest("acc")),
        ({"monitor": "loss", "mode": "min", "keep_best": 3}, EverySteps(1), KeepLast(5) | KeepBest("loss", "min", 3)),
        ({"monitor": "acc", "keep": KeepEvery(9)}, EverySteps(1), KeepEvery(9) | KeepBest("acc")),
        ({"monitor": "acc", COUNT: None}, EverySteps(1), KeepAll()),
        ({"monitor": "acc", "keep": KeepAll()}, EverySteps(1), KeepAll()),
    ],
)
def test_settings_become_policies(settings, save, keep):
    """Each pair of settings puts one policy in force."""
    config = CheckpointConfig(**settings)
    assert (config.save_policy(), config.keep_policy()) == (save, keep)


def test_settings_may_be_given_by_position():
    """The order is that of the signature, whose defaults can be read off it."""
    assert CheckpointConfig(None, 60, None, 10) == CheckpointConfig(save_checkpoint_seconds=60, **{MINUTES: 10})
    parameters = inspect.signature(CheckpointConfig).parameters
    assert {name: str(each.default) for name, each in parameters.items()} == {
        STEPS: "1",
        SECONDS: "0",
        COUNT: "5",
        MINUTES: "0",
        "on_error": "raise",
        "exception_save": "False",
        "save_on_signal": "False",
        "async_save": "False",
        "when_busy": "wait",
        "check_snapshots": "False",
        "monitor": "None",
        "mode": "max",
        "keep_best": "1",
        "append_info": "None",
        "enc_key": "None",
        "enc_mode": "AES-GCM",
        "crc_check": "False",
        "dialect": "None",
        "save": "None",
        "keep": "None",
    }


@pytest.mark.parametrize(
    ("settings", "ignored", "winner", "save", "keep"),
    [
        ({STEPS: 32, SECONDS: 60}, SECONDS, STEPS, EverySteps(32), KeepLast(5)),
        ({STEPS: 1, SECONDS: 60}, SECONDS, STEPS, EverySteps(1), KeepLast(5)),  # set, though to its default
        ({COUNT: 5, MINUTES: 10}, MINUTES, COUNT, EverySteps(1), KeepLast(5)),
    ],
)
def test_an_ignored_setting_is_named_once(settings, ignored, winner, save, keep):
    """Where both of a pair are set the iteration policy wins, and the warning points at the line that set them."""
    with pytest.warns(UserWarning, match=f"^{ignored}=.* is ignored: {winner}=") as caught:
        config = CheckpointConfig(**settings)
    assert [warning.filename for warning in caught] == [__file__]
    assert (config.save_policy(), config.keep_policy()) == (save, keep)
    assert getattr(config, ignored) == 0
    dataclasses.replace(config)  # a second warning would be an error here


@pytest.mark.parametrize("name", [STEPS, SECONDS, COUNT, MINUTES])
@pytest.mark.parametrize("value", [True, False, np.True_, "1", "", b"1", [1], (), 1j, object()])
def test_a_setting_of_the_wrong_type_is_refused(name, value):
    """The error names the field, and is a TypeError."""
    with pytest.raises(SettingTypeError, match=f"^{name}: found .*expected an int"):
        CheckpointConfig(**{name: value})


@pytest.mark.parametrize("name", [STEPS, COUNT])
@pytest.mark.parametrize("value", [1.0, 0.0, 1.5, np.float64(2), Fraction(2)])
def test_a_count_is_whole(name, value):
    """Counts take no float, not even a whole or an empty one."""
    with pytest.raises(SettingTypeError, match=f"^{name}: "):
        CheckpointConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in (STEPS, SECONDS, COUNT, MINUTES) for value in (-1, np.int64(-7), 10**400)),
        *((name, value) for name in (SECONDS, MINUTES) for value in (-0.5, float("nan"), float("inf"))),
    ],
)
def test_a_setting_out_of_range_is_refused(name, value):
    """The error names the field, and is a ValueError."""
    with pytest.raises(SettingError, match=f"^{name}: ") as caught:
        CheckpointConfig(**{name: value})
    assert not isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "settings",
    [(None, None, None, None), (0, 0, 0, 0), (0, None, 0, None), (0, 0.0, 0, 0.0)],
)
def test_cancelling_all_four_is_refused(settings):
    """A configuration without any policy cannot be meant, and all four fields are named."""
    with pytest.raises(SettingError, match=f"{STEPS}, {SECONDS}, {COUNT} and {MINUTES}"):
        CheckpointConfig(*settings)


def test_a_config_shows_what_is_in_force():
    """The fields, the repr and equality speak of what is in force, not of what gave way."""
    config = CheckpointConfig(save_checkpoint_seconds=60, keep_checkpoint_max=None)
    assert repr(config).startswith(f"CheckpointConfig({STEPS}=0, {SECONDS}=60, {COUNT}=0, {MINUTES}=0, ")
    assert config == CheckpointConfig(0, 60, 0, 0)
    assert config != CheckpointConfig(keep_checkpoint_max=None)
    assert hash(config) == hash(CheckpointConfig(0, 60, 0, 0))


@pytest.mark.parametrize(
    "config",
    [
        CheckpointConfig(),
        CheckpointConfig(save_checkpoint_seconds=60),
        CheckpointConfig(monitor="loss", mode="min", keep_best=2),
        CheckpointConfig(save=EveryEpochs(2)),
    ],
)
def test_a_config_survives_copying(config):
    """Copies mean the same, and a default still gives way in a changed copy."""
    assert [copy.deepcopy(config), pickle.loads(pickle.dumps(config)), eval(repr(config))] == [config] * 3
    changed = dataclasses.replace(config, keep_checkpoint_per_n_minutes=10)
    assert changed.keep_checkpoint_per_n_minutes == 10
    assert changed.keep_checkpoint_max == 0


def test_a_config_cannot_be_changed():
    """What was checked stays."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        CheckpointConfig().save_checkpoint_steps = -1


@pytest.mark.parametrize(
    ("field", "value"),
    [("on_error", "ignore"), ("on_error", None), ("exception_save", 1), ("save_on_signal", "SIGTERM")],
)
def test_what_happens_on_trouble_is_chosen_from_what_exists(field, value):
    """The field's name stands first."""
    with pytest.raises(SettingError, match=f"^{field}"):
        CheckpointConfig(**{field: value})


@pytest.mark.parametrize(
    ("settings", "best"),
    [
        ({}, None),
        ({"keep": KeepBest("acc")}, None),  # keeping is not marking
        ({"monitor": "acc"}, KeepBest("acc", "max", 1)),
        ({"monitor": "loss", "mode": "min", "keep_best": 2, COUNT: None}, KeepBest("loss", "min", 2)),
        ({"monitor": "acc", "keep_best": np.int64(3)}, KeepBest("acc", "max", 3)),
    ],
)
def test_a_monitor_says_which_is_the_best(settings, best):
    """Without one, none is."""
    assert CheckpointConfig(**settings).best_policy() == best


@pytest.mark.parametrize(
    ("policy", "setting"),
    [
        ({"save": EveryEpochs()}, {STEPS: 1}),
        ({"save": EverySteps(1)}, {SECONDS: 0.5}),
        ({"keep": KeepAll()}, {COUNT: 5}),
        ({"keep": KeepEvery(9)}, {MINUTES: 2}),
    ],
)
def test_a_policy_beside_a_setting_of_its_pair_is_refused(policy, setting):
    """Only one of them can be meant, and the error names both."""
    ((name, _),), ((field, _),) = policy.items(), setting.items()
    with pytest.raises(SettingError, match=f"^{name}: found a policy and {field}="):
        CheckpointConfig(**policy, **setting)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"check_snapshots": True}, 'check_snapshots: found True and async_save=False; expected async_save="lazy"'),
        ({"check_snapshots": True, "async_save": "copied"}, "check_snapshots: found True and async_save='copied'"),
        ({"when_busy": "skip"}, "when_busy: found 'skip' and async_save=False; expected async_save=True"),
        ({"enc_mode": "AES-CBC"}, "enc_mode: found 'AES-CBC' and no enc_key; expected the key"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(settings, message):
    """Who gives it believes that it does something; the error names what is missing beside it."""
    with pytest.raises(SettingError, match=f"^{re.escape(message)}"):
        CheckpointConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "field", "error"),
    [
        ({"save": 3}, "save", SettingTypeError),
        ({"save": EveryEpochs}, "save", SettingTypeError),
        ({"save": KeepLast(3)}, "save", SettingTypeError),
        ({"keep": EverySteps(3)}, "keep", SettingTypeError),
        ({"keep": 0}, "keep", SettingTypeError),
        ({"monitor": 1}, "monitor", SettingTypeError),
        ({"monitor": ""}, "monitor", SettingError),
        ({"monitor": "acc", "mode": "best"}, "mode", SettingError),
        ({"mode": "best"}, "mode", SettingError),
        ({"mode": "min"}, "mode", SettingError),
        ({"keep_best": 2}, "keep_best", SettingError),
        ({"monitor": "acc", "keep_best": 0}, "keep_best", SettingError),
        ({"monitor": "acc", "keep_best": None}, "keep_best", SettingTypeError),
        ({"monitor": "acc", "keep_best": True}, "keep_best", SettingTypeError),
        ({"monitor": "acc", "keep_best": 1.0}, "keep_best", SettingTypeError),
    ],
)
def test_what_cannot_be_the_best_or_a_policy_is_refused(settings, field, error):
    """The field's name stands first; how to choose the best means nothing without a monitor."""
    with pytest.raises(error, match=f"^{field}: "):
        CheckpointConfig(**settings)
