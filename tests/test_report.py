"""The pictures are made, hold every frame and view, and say what was drawn."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import packed
from hiclr_kernels.augment.draw import ROW, ViewStrength, draw_rows

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.drawing import animation, contact_sheet
from hiclr_fast.errors import InputError
from hiclr_fast.views.augment import AugmentConfig, make_views
from hiclr_fast.views.pictures import describe, pictures

pytest.importorskip("matplotlib")


@pytest.fixture
def data(tmp_path):
    return open_packed(packed(tmp_path / "set", bodies=2))


def test_pictures_show_what_the_loop_makes(data):
    config = AugmentConfig()
    found = pictures(data, "train", 5, "bone", config, seed=3)
    assert [p.title for p in found] == ["raw", "basic", "normal", "strong", "key (basic)"]
    x = torch.from_numpy(np.array(data["train"].x))
    draw = dict(seed=3, step=torch.tensor(0), stream="bone")
    row, kinds = torch.tensor([5]), ("basic", "normal", "strong", "basic")
    views = make_views(x, row, row, kinds, config, data.layout, **draw)
    for picture, view in zip(found[1:], views, strict=True):
        np.testing.assert_array_equal(picture.x, view[0].numpy())
    assert (found[3].masked.sum(1) == 2).all() and not found[3].x[:, found[3].masked].any()
    assert found[0].drawn.startswith(data.classes[data["train"].label[5]])
    with pytest.raises(InputError, match=r"index 32: .* has 32 train samples, 0 to 31"):
        pictures(data, "train", 32, "joint", config, seed=0)


def test_draws_in_words():
    ids, step = torch.arange(1), torch.tensor(0)
    everything = ViewStrength(4, 0.5, 1, 30, 1, 0.01, 1, (1, 2), 1, False, 1, 1)
    words = describe(draw_rows([everything], ids, step, 0)[0, 0].numpy()).splitlines()
    assert words[0].startswith("crop ") and words[1:4] == ["flipped", "time reversed", "noise 10 mm"]
    assert words[4].startswith("blur, gain ") and words[5] in ("x hidden", "y hidden", "z hidden")
    identity = np.zeros(ROW, np.float32)
    identity[[0, 4, 8]] = 1
    assert describe(identity) == "crop +0 frames"


def test_the_command(data, tmp_path, monkeypatch, capsys):
    from PIL import Image

    out = tmp_path / "pictures"
    monkeypatch.setattr(sys, "argv", ["report.py", "views", "--data", str(data.path), "--index", "2", "--out", str(out)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "report.py"), run_name="__main__")
    assert stop.value.code == 0
    with Image.open(out / "views_train_2_joint.gif") as gif:
        assert gif.n_frames == data.shape[1]
    with Image.open(out / "views_train_2_joint.png") as png:
        assert png.size[0] > 800 and len(png.convert("RGB").getcolors(1 << 24)) > 50
    assert "views_train_2_joint.png" in capsys.readouterr().out


def test_a_dollar_in_a_name_is_no_formula(data, tmp_path):
    raw = replace(pictures(data, "train", 0, "joint", AugmentConfig(), seed=0)[0], title=r"$\frac{$", drawn=r"$x_$")
    contact_sheet([raw], data.layout.bones, tmp_path / "sheet.png", columns=1)
    animation([replace(raw, x=raw.x[:, :1], masked=raw.masked[:1])], data.layout.bones, tmp_path / "moving.gif")
    with pytest.raises(InputError, match="they mix two"):
        pictures(data, "train", 0, "joint", AugmentConfig(adain="sequence"), seed=0)
