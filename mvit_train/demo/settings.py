"""Where the demo page is found and what it accepts."""

import ipaddress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where the page is found and what it accepts.

    Args:
        host: the address to listen at; 127.0.0.1 is reached from this machine alone, 0.0.0.0 from every network.
        port: 0 takes any that is free.
        max_megabytes: of an upload, in 10^6 bytes.
        max_seconds: of a video; longer ones are refused.
        timeout_sec: for an upload, for each reading of the video, and for all computing on it.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    max_megabytes: float = 64
    max_seconds: float = 30
    timeout_sec: float = 60

    @classmethod
    def check_arguments(cls, arguments: dict[str, Any]) -> dict[str, str]:
        """Mistakes that types do not show; see `config.check`."""
        limits = ("max_megabytes", "max_seconds", "timeout_sec")
        mistakes = {name: "must be more than 0" for name in limits if arguments.get(name, 1) <= 0}
        if not 0 <= arguments.get("port", 0) <= 65535:
            mistakes["port"] = "is a number from 0 to 65535"
        return mistakes

    @property
    def is_private(self) -> bool:
        """Whether only this machine reaches the page."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name
            return False
