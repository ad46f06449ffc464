"""`CheckpointConfig(enc_key=, enc_mode=, crc_check=, append_info=)`: around, or in, every checkpoint of a run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from milepost import CheckpointConfig, CheckpointManager, load_checkpoint
from milepost.errors import DecryptionError, SettingError, SettingTypeError, UnsupportedStateError
from milepost.format import encryption
from milepost.interop.files import open_file

KEY = b"0123456789abcdef"


def trained(folder, steps, config, **options):
    """A training of so many steps in all, of which those that are done are not done again; its network."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    loader = [torch.full((1, 2), float(number)) for number in range(4)]
    with CheckpointManager(folder, net, optimizer, config=config, **options) as checkpoints:
        progress = checkpoints.resume()
        for _ in progress.epochs(3):
            for batch in progress.steps(loader):
                optimizer.zero_grad()
                net(batch).sum().backward()
                optimizer.step()
                checkpoints.step()
                if progress.global_step == steps:
                    return net
    return net


@pytest.mark.parametrize(
    "settings",
    [*({"enc_key": KEY, "enc_mode": mode} for mode in encryption.MODES), {"crc_check": True}],
    ids=lambda settings: settings.get("enc_mode", "crc"),
)
@pytest.mark.parametrize("async_save", [False, True, "lazy"])
def test_a_run_goes_on_from_what_is_around_its_checkpoints(settings, async_save, tmp_path):
    """To the bit, with its retention and its metrics: nothing else of it need know."""
    config = CheckpointConfig(keep_checkpoint_max=2, async_save=async_save, monitor="loss", **settings)
    straight = trained(tmp_path / "straight", 12, CheckpointConfig())
    trained(tmp_path / "sealed", 6, config)
    resumed = trained(tmp_path / "sealed", 12, config)
    assert all(torch.equal(value, straight.state_dict()[name]) for name, value in resumed.state_dict().items())
    names = sorted(path.name for path in (tmp_path / "sealed").glob("*.ckpt"))
    assert names == ["CKP-3_3.ckpt", "CKP-3_4.ckpt"]
    opening = {name.replace("enc", "dec"): value for name, value in settings.items() if name.startswith("enc")}
    content = (tmp_path / "sealed" / names[0]).read_bytes()
    assert (
        content.startswith(encryption.MODES[settings["enc_mode"]].magic) if opening else content[-17:-10] == b"crc_num"
    )
    with open_file(tmp_path / "sealed" / names[0], **opening) as file:
        file.verify()


def test_a_training_does_not_begin_anew_because_its_key_is_wrong(tmp_path):
    """Nor without a key; a single file that does not open is damaged, and passed over like any other."""
    config = CheckpointConfig(enc_key=KEY)
    trained(tmp_path, 6, config)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.ckpt")}
    for other in (CheckpointConfig(), CheckpointConfig(enc_key=KEY[::-1]), CheckpointConfig(crc_check=True)):
        with pytest.raises(DecryptionError, match=r"CKP-\d_\d\.ckpt"):
            trained(tmp_path, 6, other)
        assert {path.name: path.read_bytes() for path in tmp_path.glob("*.ckpt")} == before
    with pytest.raises(DecryptionError):
        load_checkpoint(tmp_path / "CKP-2_2.ckpt")
    (tmp_path / "CKP-2_2.ckpt").write_bytes(before["CKP-2_2.ckpt"][:-1] + b"x")
    with pytest.warns(UserWarning, match=r"passed over, and kept: .*CKP-2_2\.ckpt"):
        trained(tmp_path, 7, config)
    assert (tmp_path / "CKP_2-2_2.ckpt").exists()


def test_what_is_appended_stands_in_each_checkpoint(tmp_path):
    """By MindSpore's names; the step is counted over all epochs; the network is loaded as without."""
    config = CheckpointConfig(append_info=["epoch_num", "step_num", {"note": "warm", "scale": 0.5}])
    net = trained(tmp_path, 6, config)
    parameters = load_checkpoint(
        tmp_path / "CKP-2_2.ckpt", net=nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 1))
    )
    assert [parameters[name] for name in ("epoch_num", "step_num", "note", "scale")] == [2, 6, "warm", 0.5]
    assert parameters.kind("note") == "appended"
    assert torch.equal(parameters["0.weight"], net[0].weight)
    assert len(parameters.report.loaded) == 4
    trained(tmp_path, 12, config)


@pytest.mark.parametrize(
    ("settings", "kind", "says"),
    [
        ({"append_info": "epoch_num"}, SettingTypeError, "append_info"),
        ({"append_info": ["epoch"]}, SettingError, "append_info.*epoch_num"),
        ({"append_info": [3]}, SettingTypeError, "append_info"),
        ({"append_info": [{1: 2}]}, SettingTypeError, "append_info"),
        ({"append_info": [{}, {}]}, SettingError, "append_info.*one dict"),
        ({"enc_key": "text"}, SettingTypeError, "enc_key"),
        ({"enc_key": KEY, "crc_check": True}, SettingError, "enc_key"),
        ({"crc_check": 1}, SettingTypeError, "crc_check"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_where_they_are_given(settings, kind, says):
    """Not at the first save."""
    with pytest.raises(kind, match=says):
        CheckpointConfig(**settings)


def test_a_value_that_cannot_be_stored_is_refused_at_the_first_save(tmp_path):
    """By its name; and a key is never shown."""
    with pytest.raises(UnsupportedStateError, match="thing"):
        trained(tmp_path, 6, CheckpointConfig(append_info=[{"thing": object()}]))
    assert "0123" not in repr(CheckpointConfig(enc_key=KEY))


def test_the_best_has_its_second_name_where_that_takes_a_copy(tmp_path, monkeypatch):
    """The copy is of the same bytes: nothing goes around them a second time."""

    def refuse(*_, **__):
        raise PermissionError("this file system has no hard links")

    monkeypatch.setattr("os.link", refuse)
    net = nn.Linear(2, 2)
    with CheckpointManager(tmp_path, net, config=CheckpointConfig(monitor="accuracy", crc_check=True)) as checkpoints:
        checkpoints.start()
        checkpoints.step(accuracy=0.5)
        checkpoints.wait()
    with open_file(tmp_path / "CKP-best.ckpt") as file:
        file.verify()
