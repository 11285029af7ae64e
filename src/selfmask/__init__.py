"""selfmask: adapt a pretrained vision model to your images by learning which of its weights to switch off."""

from selfmask.maskfile.loading import load
from selfmask.maskfile.mask import Handle, Mask
from selfmask.masking.rules import Progressive, Threshold, TopK
from selfmask.masking.selection import LargestShare, RandomShare, Selection
from selfmask.maskset import MaskSet
from selfmask.tasks.hub import from_hub, push_to_hub
from selfmask.version import VERSION as __version__

__all__ = [
    "Handle",
    "LargestShare",
    "Mask",
    "MaskSet",
    "Progressive",
    "RandomShare",
    "Selection",
    "Threshold",
    "TopK",
    "__version__",
    "from_hub",
    "load",
    "push_to_hub",
]
