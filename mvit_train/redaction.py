"""Text on its way to a terminal, a log or W&B: without secrets, and without characters that steer a terminal."""

import logging
import os
import re

LEAST = 8  # characters of a secret; shorter values of variables occur everywhere
NAME = r"(?:key|token|secret|password|passwd|passphrase|credentials?)"
SECRET_VARIABLE = re.compile(rf"(?:^|_){NAME}$", re.IGNORECASE)
PASSWORD_IN_URL = re.compile(r"(?<=:/)(/?[^/\s:@]*:)[^/\s@]+(?=@)")
ASSIGNED = re.compile(rf"([\w.+-]*{NAME}\s*=\s*)(?:\"[^\"]*\"|'[^']*'|[^\s:,]+)", re.IGNORECASE)
STEERING = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
MASK = "***"


def clean(text: str) -> str:
    """`text` with secrets as ***, and control characters but for line ends and tabs as \\x1b.

    Secrets are the values of variables named like HF_TOKEN or WANDB_API_KEY, passwords in URLs, and what is assigned to
    such a name: "token=abc" -> "token=***".
    """
    for value in sorted(secrets().values(), key=len, reverse=True):
        text = text.replace(value, MASK)
    text = ASSIGNED.sub(rf"\1{MASK}", PASSWORD_IN_URL.sub(rf"\1{MASK}", text))
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def find_secret(text: str) -> str | None:
    """Which secret a text holds, in words that do not tell it; None: none that is known."""
    for name, value in secrets().items():
        if value in text:
            return f"the value of ${name}"
    return "a password in a URL" if PASSWORD_IN_URL.search(text) else None


def secrets() -> dict[str, str]:
    """The variables of the environment that hold a secret, by their names."""
    return {name: value for name, value in os.environ.items() if SECRET_VARIABLE.search(name) and len(value) >= LEAST}


class CleanFormatter(logging.Formatter):
    """Log records, cleaned."""

    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record))
