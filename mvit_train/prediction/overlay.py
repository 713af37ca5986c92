"""The answer burnt into the video: the likeliest classes with bars, or of a timeline the segment that is on."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mvit_train.data.stream import DecodeError
from mvit_train.mp4 import write_mp4
from mvit_train.prediction.predictor import Prediction
from mvit_train.prediction.timeline import Segment

MIN_SIDE = 320  # pixels; smaller videos are enlarged, or text would cover them
LINES_PER_SIDE = 20  # of text, on the shorter side
PANEL, TEXT, OUTLINE = (0, 0, 0, 150), (255, 255, 255, 255), (0, 0, 0, 255)
COLOURS = ("#3b7dd8", "#d8703b", "#3fa66a", "#b04fc4", "#c9a227", "#d64b6a", "#2aa5b5", "#7a8b2e", "#8a6bd8", "#a8603a")

Row = tuple[str, float]
Frame = tuple[float, np.ndarray]  # seconds from the first one, (H, W, 3) uint8


def write_overlay(target: Path, frames: Iterator[Frame], prediction: Prediction, rows: Sequence[Row]) -> str:
    """Writes the frames of a video as an mp4 with the answer in them, without sound.

    rows: (class, probability) to show; a prediction with segments shows those instead, and where they lie.
    Returns why the frames ended before the video, "" if they did not. DecodeError: there is no frame at all.
    """
    first = next(frames)
    ended: list[str] = []

    def readable() -> Iterator[Frame]:
        try:
            yield from frames
        except DecodeError as error:
            ended.append(error.reason)

    drawn = drawer(enlarged(first[1]).shape[:2], prediction.segments, rows)
    write_mp4(target, ((time_sec, drawn(time_sec, enlarged(image))) for time_sec, image in chain([first], readable())))
    return "".join(ended)


def enlarged(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, a whole number of times as large if its shorter side has fewer than MIN_SIDE pixels."""
    height, width, _ = image.shape
    factor = -(-MIN_SIDE // min(height, width))
    if factor == 1:
        return image
    return np.asarray(Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.BICUBIC))


def drawer(
    size: tuple[int, int], segments: Sequence[Segment], rows: Sequence[Row]
) -> Callable[[float, np.ndarray], np.ndarray]:
    """A function (seconds, frame of `size` (H, W)) -> a copy of the frame with the answer in it."""
    line = max(min(size) // LINES_PER_SIDE, 8)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(s.class_name for s in segments))}

    @cache
    def panel_of(number: int) -> Image.Image:
        if not segments:
            return panel(size, line, rows, [COLOURS[0]] * len(rows))
        segment = segments[number]
        return panel(size, line, [(segment.class_name, segment.probability)], [colours[segment.class_name]])

    def drawn(time_sec: float, image: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(image)
        number = next((i for i, segment in enumerate(segments) if time_sec < segment.end_sec), len(segments) - 1)
        answer = panel_of(max(number, 0))
        picture.paste(answer, (line // 2, line // 2), answer)
        if segments:
            _draw_bar(picture, line, segments, colours, time_sec)
        return np.asarray(picture)

    return drawn


def panel(size: tuple[int, int], line: int, rows: Sequence[Row], colours: Sequence[str]) -> Image.Image:
    """The rows as text on bars as long as their probabilities, on a dark ground: an RGBA image, no larger than fits."""
    height, width = size
    font = ImageFont.load_default(line)
    step, pad = round(1.5 * line), max(line // 3, 2)
    rows = list(rows)[: max((height - line) * 2 // 3 // step, 1)] or [("no class reaches the threshold", 0.0)]
    share = ["" if not name else f"{100 * value:.0f} %" for name, value in rows]
    share_width = font.getlength("100 %")
    longest = max(font.getlength(name) for name, _ in rows)
    panel_width = int(min(max(longest + share_width + 4 * pad, width // 3), width - line))
    image = Image.new("RGBA", (panel_width, step * len(rows)), PANEL)
    draw = ImageDraw.Draw(image)
    for i, ((name, value), text, colour) in enumerate(zip(rows, share, colours or COLOURS[:1], strict=False)):
        top, middle = i * step, i * step + step // 2
        draw.rectangle((0, top + 1, round(value * (panel_width - 1)), top + step - 2), fill=colour)
        style = {"font": font, "fill": TEXT, "stroke_width": max(line // 12, 1), "stroke_fill": OUTLINE}
        draw.text((pad, middle), _fitting(name, font, panel_width - share_width - 4 * pad), anchor="lm", **style)
        draw.text((panel_width - pad, middle), text, anchor="rm", **style)
    return image


def _fitting(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The name, or as much of it as fits, with dots at its end."""
    if font.getlength(name) <= width:
        return name
    length = next((n for n in range(len(name) - 1, 0, -1) if font.getlength(f"{name[:n]}...") <= width), 1)
    return f"{name[:length]}..."


def _draw_bar(
    picture: Image.Image, line: int, segments: Sequence[Segment], colours: dict[str, str], time_sec: float
) -> None:
    """The segments along the bottom edge, and where the video is."""
    draw, (width, height) = ImageDraw.Draw(picture), picture.size
    total, top = segments[-1].end_sec or 1.0, height - line
    draw.rectangle((0, top - 2, width, height), fill=OUTLINE[:3])
    for segment in segments:
        left, right = (round(width * edge / total) for edge in (segment.start_sec, segment.end_sec))
        draw.rectangle((left, top, max(right - 2, left), height - 2), fill=colours[segment.class_name])
    place, half = min(round(width * time_sec / total), width - 1), max(line // 8, 1)
    draw.rectangle((place - 2 * half, top - half - 2, place + 2 * half, height), fill=OUTLINE[:3])
    draw.rectangle((place - half, top - 2, place + half, height), fill=TEXT[:3])
