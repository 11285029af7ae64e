"""selfmask: adapt a pretrained vision model to your images by learning which of its weights to switch off."""

from selfmask.artifact import Handle, Mask, from_hub, load, push_to_hub
from selfmask.masking import LargestShare, MaskSet, Progressive, RandomShare, Selection, Threshold, TopK
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
