"""The mask file: exactly what it takes to make the adapted network from its base (docs/format.md)."""

from selfmask.artifact.baking import baked_module, baked_state, export, save_baked
from selfmask.artifact.comparison import Comparison, Overlap, compare
from selfmask.artifact.derived import Operation, combine, save_derived
from selfmask.artifact.explain import model_name
from selfmask.artifact.fingerprint import base_fingerprint, base_tensors
from selfmask.artifact.heads import HeadDtype, head_as
from selfmask.artifact.hub import Published, commit_of, from_hub, push_to_hub, save_from_hub
from selfmask.artifact.mask import Handle, Mask
from selfmask.artifact.reading import load
from selfmask.artifact.save import save_mask

__all__ = [
    "Comparison",
    "Handle",
    "HeadDtype",
    "Mask",
    "Operation",
    "Overlap",
    "Published",
    "baked_module",
    "baked_state",
    "base_fingerprint",
    "base_tensors",
    "combine",
    "commit_of",
    "compare",
    "export",
    "from_hub",
    "head_as",
    "load",
    "model_name",
    "push_to_hub",
    "save_baked",
    "save_derived",
    "save_from_hub",
    "save_mask",
]
