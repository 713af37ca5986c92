"""What the file of an experiment says of itself: the accuracy to expect, and what its weights should come from."""

import re
from dataclasses import dataclass

from mvit_train.config import conf_dir


@dataclass(frozen=True)
class Header:
    """The facts in the comment of conf/experiment/<name>.yaml and its `weights`; None for what it does not state."""

    expected: str | None = None
    starts_from: str | None = None

    @classmethod
    def read(cls, name: str) -> "Header":
        """Empty if there is no such file."""
        file = conf_dir() / "experiment" / f"{name}.yaml"
        if not file.is_file():
            return cls()
        text = file.read_text(encoding="utf-8")
        comment = " ".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))
        expected = re.search(r"Expected: (.*?)\.(?= [A-Z0-9]|$)", comment)  # one sentence; 78.4 does not end it
        weights = re.search(r"^weights: <(.*)>$", text, re.MULTILINE)
        return cls(expected and expected[1], weights and weights[1])

    def band(self, number: str, views: str) -> tuple[float, float] | None:
        """What the text expects of `number` ("top-1", "mAP") with these views, in percent; None if it states no band.

        "96 to 99.5 % top-1 with 5x1 views (...)" -> (96.0, 99.5) for "top-1" and "5x1"
        """
        stated = re.match(r"([\d.]+) to ([\d.]+) % (\S+) with (\d+x\d+) views\b", self.expected or "")
        if stated is None or stated.groups()[2:] != (number, views):
            return None
        return float(stated[1]), float(stated[2])
