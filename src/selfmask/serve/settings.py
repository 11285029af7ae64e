"""What can be said to `selfmask serve`, and the limits that a request is held to."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from pathlib import Path

from selfmask._common.units import byte_count
from selfmask.errors import SettingsError

BASE = "base"
"""The name of the untouched backbone in addresses."""


@dataclass(frozen=True)
class ServeSettings:
    """Serve masks over HTTP: many specialists, one backbone in memory. See docs/serve.md."""

    masks: Path
    """A folder of masks, which is watched for new ones; or a mask file, or a run's folder."""
    backbone: str | None = None
    """The backbone of all of them. Default: the one that the first mask file names."""
    weights: Path | None = None
    """The backbone's file of weights, if it had one."""
    download: bool = False
    """Fetch the backbone that the mask file names where it is not on this machine; without it no host is contacted."""
    host: str = "127.0.0.1"
    """The address to listen at. Any but this machine's own needs a token."""
    port: int = 8000
    """The port; 0 takes a free one."""
    token_file: Path | None = None
    """A file with the token that callers must show. Or set SELFMASK_TOKEN."""
    gallery: tuple[Path, ...] = ()
    """Files that selfmask embed wrote, to search in: each by the mask that made it."""
    memory: str = "1 GB"
    """For decoded masks; the least recently used are forgotten."""
    watch: float = 5.0
    """Seconds between two looks at the folder of masks."""
    max_body: str = "32 MB"
    """The largest request."""
    max_images: int = 64
    """Images a request may bring."""
    max_pixels: int = 2**26
    """Pixels an image may have."""
    queue: int = 1024
    """Images that may wait; who comes then is told to come again (429)."""
    batch: int = 64
    """Images that go through the network at a time."""
    patience: float = 0.25
    """Seconds after which a request goes before others whose mask is on."""
    timeout: float = 30.0
    """Seconds that a client has to send its request, the service to answer, and the client to take the answer."""
    threads: int | None = None
    """CPU threads. Default: all cores."""
    device: str = "auto"
    """auto (cuda if there is one, else cpu), cpu, cuda, mps."""
    ray: str | None = None
    """Serve by several processes or machines: local, or the address of a Ray cluster (see docs/cluster.md)."""
    replicas: int | None = None
    """With --ray: processes, of --threads cores each (1 by default). Default: all that there is room for."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise SettingsError(f"--port is 0 to 65535, got {self.port}")
        for name in ("max_images", "max_pixels", "queue", "batch"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name.replace('_', '-')} is 1 or more, got {getattr(self, name)}")
        for name in ("watch", "timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"--{name} is a number of seconds above 0, got {getattr(self, name)}")
        if not 0 <= self.patience < math.inf:
            raise SettingsError(f"--patience is a number of seconds, 0 or more, got {self.patience}")
        if self.replicas is not None and (self.ray is None or self.replicas < 1):
            raise SettingsError(f"--replicas {self.replicas}: how many processes --ray uses, 1 or more")
        byte_count(self.max_body, "--max-body")
        byte_count(self.memory, "--memory", least=0)
        if self.max_images > self.queue:
            raise SettingsError(
                f"--max-images {self.max_images} is more than may wait (--queue {self.queue}): such a request could "
                "never be taken"
            )

    @property
    def body_bytes(self) -> int:
        """--max-body as a number."""
        return byte_count(self.max_body, "--max-body")

    @property
    def cores(self) -> int | None:
        """Cores that --ray takes; None: all that there are."""
        return None if self.replicas is None else self.replicas * (self.threads or 1)

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the address."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address without a port, means this machine to itself."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
