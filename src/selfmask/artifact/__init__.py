"""The mask file: exactly what it takes to make the adapted network from its base (docs/format.md)."""

from selfmask.artifact.explain import model_name
from selfmask.artifact.fingerprint import base_fingerprint, base_tensors
from selfmask.artifact.mask import Handle, Mask
from selfmask.artifact.reading import load
from selfmask.artifact.save import save_mask

__all__ = ["Handle", "Mask", "base_fingerprint", "base_tensors", "load", "model_name", "save_mask"]
