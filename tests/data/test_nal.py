"""Frames that no other refers to: what x264 says of them, found again in the packets."""

import av
import pytest

from mvit_train.data.nal import unreferenced_test

NO_PYRAMID = "b-adapt=0:scenecut=0:b-pyramid=none"
PYRAMID = "b-adapt=0:scenecut=0:b-pyramid=normal"


def kinds(path):
    """One letter for each packet as it is stored: K key frame, r referred to, - not."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        test = unreferenced_test(stream.codec_context.name, stream.codec_context.extradata)
        assert test is not None
        letters = [(packet.is_keyframe, test(bytes(packet))) for packet in container.demux(stream) if packet.size]
    assert not any(key and unreferenced for key, unreferenced in letters)
    return "".join("K" if key else "-" if unreferenced else "r" for key, unreferenced in letters)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv"])
@pytest.mark.parametrize(
    ("options", "group"),
    [
        ({"bf": "0", "x264-params": NO_PYRAMID}, "rrrr"),
        ({"bf": "1", "x264-params": NO_PYRAMID}, "r-r-"),
        ({"bf": "3", "x264-params": NO_PYRAMID}, "r---"),
        ({"bf": "3", "x264-params": PYRAMID}, "rr--"),
        ({"bf": "3", "x264-params": PYRAMID + ":slices=2"}, "rr--"),
    ],
)
def test_x264_leaves_out_what_its_b_pyramid_says(name, options, group, video):
    found = kinds(video(name, 48, options={"g": "24", **options}))
    assert len(found) == 48
    first = found[1 : found.index("K", 1)]
    assert first[:16] == 4 * group


def test_the_leading_frames_of_an_open_group_of_pictures_are_told_apart_too(video):
    found = kinds(video("a.mp4", 60, options={"g": "12", "bf": "2", "x264-params": NO_PYRAMID + ":open-gop=1"}))
    assert "K--r--r" in found


AVCC = bytes([1, 100, 0, 31, 0xFF, 0xE1, 0, 0])  # lengths of 4 bytes


@pytest.mark.parametrize(
    ("units", "unreferenced"),
    [
        ([b"\x01\x9a"], True),
        ([b"\x09\xf0", b"\x06\x05\x80", b"\x01\x9a", b"\x01\x9a"], True),
        ([b"\x01\x9a", b"\x41\x9a"], False),  # one slice is referred to
        ([b"\x67\x64", b"\x01\x9a"], False),  # with a parameter set
        ([b"\x02\x9a", b"\x03\x9a", b"\x04\x9a"], False),  # partitioned data
        ([b"\x06\x05"], False),  # no slice at all
        ([b"\x01"], False),
        ([], False),
    ],
)
def test_only_packets_of_nothing_but_unreferenced_slices_count(units, unreferenced):
    with_lengths, with_codes = unreferenced_test("h264", AVCC), unreferenced_test("h264", b"")
    assert with_lengths is not None
    assert with_codes is not None
    assert with_lengths(b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)) is unreferenced
    assert with_codes(b"".join(b"\0\0\1" + unit + b"\x11" * 3 for unit in units if len(unit) > 1)) is unreferenced


@pytest.mark.parametrize(
    "data", [b"", b"\0\0", b"\0\0\0\x09\x01\x9a", b"\xff\xff\xff\xff\x01\x9a", b"\0\0\0\0\x01\x9a"]
)
def test_lengths_that_do_not_add_up_count_as_referred_to(data):
    test = unreferenced_test("h264", AVCC)
    assert test is not None
    assert not test(data)


@pytest.mark.parametrize(("codec", "extradata"), [("vp9", None), ("hevc", AVCC), ("h264", AVCC[:4])])
def test_there_is_no_telling_for_other_codecs_and_broken_headers(codec, extradata):
    assert unreferenced_test(codec, extradata) is None
