"""One file read outside a data set is what the evaluation scores."""

from fractions import Fraction

import pytest
import torch

from mvit_train.data.clip import read_views
from mvit_train.data.dataset import TestViews
from mvit_train.data.manifest import Manifest
from mvit_train.data.stream import DecodeError
from mvit_train.data.transforms import TestCrops
from mvit_train.data.views import UniformClips
from mvit_train.labels import Labels


def test_views_of_a_file_are_those_of_the_evaluation_normalised(video):
    path = video("a.mp4", 60)
    views = read_views(path, views="2x3", num_frames=4, sampling_rate=4, crop_size=42, std=(0.5, 0.25, 0.125))
    assert (views.shape, views.dtype) == ((6, 3, 4, 42, 42), torch.float32)
    manifest = Manifest.of(path.parent, [(path.name, 0)], Labels(("a", "b")))
    clips = UniformClips(Fraction(16, 30), 2)
    expected = TestViews(manifest, clip_sampler=clips, num_frames=4, transform=TestCrops(42, 3))[0]["video"]
    for channel, std in enumerate((0.5, 0.25, 0.125)):
        torch.testing.assert_close(views[:, channel] * std + 0.45, expected[:, channel] / 255)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(DecodeError, match=r"empty\.mp4: empty file"):
        read_views(tmp_path / "empty.mp4")
