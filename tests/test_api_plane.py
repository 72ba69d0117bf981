"""The public API on poses in an image: two numbers a joint, or three with the score."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny
from own_data import HEIGHT, WIDTH, write_coco

import hiclr_fast
from hiclr_fast.data.convert import Conversion
from hiclr_fast.data.formats.pyskl import Annotations
from hiclr_fast.data.formats.synthetic import synthetic_sequences
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.prepare import AUTO, Pyskl
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.start import start


@pytest.mark.parametrize("how", [dict(third="score"), dict(scale="image", center="none")])
def test_poses_are_fed_as_they_were_trained(tmp_path, how):
    actors = synthetic_sequences(subjects=3, repeats=1, views=1, two_person=False, seed=0)
    file = write_coco(tmp_path / "coco.pkl", actors, every=3)
    Pyskl(file, tmp_path / "set", replace(AUTO, frames=20, **how), Conversion(workers=1)).run()
    data = open_packed(tmp_path / "set")
    assert train(start(tiny(data=tmp_path / "set", epochs=1), data, tmp_path / "run"), tmp_path / "run")
    encoder, found = hiclr_fast.load_encoder(tmp_path / "run"), Annotations(file, None, None)
    assert encoder.contract.space == data.space and encoder.contract.how.third == how.get("third", "zero")
    rows = dict(zip(data["train"].name.tolist(), data["train"].x[:], strict=True))
    recordings = [found.read(i)[0] for i in range(len(found))]
    recordings = [r for r in recordings if r.name in rows]
    x = [np.concatenate([r.frames, r.score[:, :, None]], axis=2)[..., :1] for r in recordings]  # one body, its scores third
    want = np.stack([rows[r.name] for r in recordings])
    image = dict(image=(WIDTH, HEIGHT)) if how.get("scale") == "image" else {}
    np.testing.assert_array_equal(encoder.rows(x, "coco17", **image), want)
    features = encoder.features(x, **image)
    np.testing.assert_array_equal(encoder.features(want, preprocessed=True), features)
    if not image:
        np.testing.assert_array_equal(encoder.features(want), features)
    with pytest.raises(hiclr_fast.InputError, match=r"expected \(frames, 17 joints of coco17, 2 or 3\)"):
        encoder.features([np.ones((4, 17, 4))])
    if image:
        with pytest.raises(hiclr_fast.InputError, match="the size of its image is not known"):
            encoder.features(x)
