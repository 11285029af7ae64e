"""How many processes a cluster has room for, and what each of them takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfmask.errors import SettingsError


@dataclass(frozen=True)
class Processes:
    """`count` processes with `threads` cores each, and a GPU each where `device` is cuda."""

    count: int
    threads: int
    device: str

    @classmethod
    def fitting(cls, ray: Any, count: int | None, threads: int | None, device: str) -> Processes:
        """`count` of them (None: as many as there is room for) with `threads` (None: 1).

        device: auto is cuda where the cluster has GPUs. Raises `SettingsError` where there is no room for so many.
        """
        there, threads = ray.cluster_resources(), threads or 1
        if device == "auto":
            device = "cuda" if there.get("GPU") else "cpu"
        room = int(there.get("CPU", 0)) // threads
        if device == "cuda":
            room = min(room, int(there.get("GPU", 0)))
        if room < (count or 1):
            raise SettingsError(
                f"the cluster has {there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs, too few for "
                f"{count or 1} processes on {device} with --threads {threads}"
            )
        return cls(count or room, threads, device)

    @property
    def options(self) -> dict[str, Any]:
        """What one takes, in Ray's words."""
        return {"num_cpus": self.threads, "num_gpus": int(self.device == "cuda")}
