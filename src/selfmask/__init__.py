"""selfmask: adapt a pretrained vision model to your images by learning which of its weights to switch off."""

from selfmask.masking import MaskSet, Progressive, Selection, Threshold, TopK
from selfmask.version import VERSION as __version__

__all__ = ["MaskSet", "Progressive", "Selection", "Threshold", "TopK", "__version__"]
