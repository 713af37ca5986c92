"""Which compressed frames no other frame refers to, read from the NAL units of H.264 packets.

They can be left out without changing a pixel of any other frame: their `nal_ref_idc` is 0 (ITU-T Rec. H.264, 7.4.1),
and decoders themselves rely on it. That is not so for H.265, whose frames name their references whatever those say of
themselves: one damaged byte would go unnoticed. What is not understood counts as referred to.
"""

from collections.abc import Callable

START_CODE = b"\0\0\1"
SLICE, HARMLESS = 1, (6, 9, 12)  # beside slices SEI, access unit delimiter and filler may go, parameter sets may not


def unreferenced_test(codec: str, extradata: bytes | None) -> Callable[[bytes], bool] | None:
    """A function that tells whether a packet holds nothing but a frame that no other one refers to.

    codec: FFmpeg's name. extradata: of the stream, `avcC` where packets have length prefixes in place of start codes.
    None for other codecs, and where it is cut off.
    """
    extradata = extradata or b""
    has_lengths = extradata[:1] == b"\1"
    if codec != "h264" or (has_lengths and len(extradata) < 7):
        return None
    length_size = (extradata[4] & 3) + 1 if has_lengths else None
    return lambda data: _is_unreferenced(data, length_size)


def _is_unreferenced(data: bytes, length_size: int | None) -> bool:
    slices = 0
    for start in _units(data, length_size):
        kind = data[start] & 31
        if kind == SLICE and data[start] & 0b01100000 == 0:  # nal_ref_idc
            slices += 1
        elif kind not in HARMLESS:
            return False
    return slices > 0


def _units(data: bytes, length_size: int | None) -> list[int]:
    """Where each NAL unit begins; [] if the lengths do not add up."""
    starts, place = [], 0
    if length_size is None:
        while 0 <= (place := data.find(START_CODE, place)) < len(data) - 4:
            place += len(START_CODE)
            starts.append(place)
        return starts
    while place < len(data):
        start = place + length_size
        place = start + int.from_bytes(data[place:start], "big")
        starts.append(start)
        if place < start + 2:
            return []
    return starts if place == len(data) else []
