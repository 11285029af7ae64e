"""The mask file: exactly what it takes to make the adapted network from its base (docs/format.md)."""

from selfmask.artifact.baking import baked_module, baked_state, export, save_baked
from selfmask.artifact.comparison import Comparison, Overlap, compare
from selfmask.artifact.derived import Operation, combine, save_derived
from selfmask.artifact.explain import model_name
from selfmask.artifact.fingerprint import base_fingerprint, base_tensors
from selfmask.artifact.mask import Handle, Mask
from selfmask.artifact.reading import load
from selfmask.artifact.save import save_mask

__all__ = [
    "Comparison",
    "Handle",
    "Mask",
    "Operation",
    "Overlap",
    "baked_module",
    "baked_state",
    "base_fingerprint",
    "base_tensors",
    "combine",
    "compare",
    "export",
    "load",
    "model_name",
    "save_baked",
    "save_derived",
    "save_mask",
]
