"""selfmask: adapt a pretrained vision model to your images by learning which of its weights to switch off.

The public names are those of `__all__`, listed once in `__init__.pyi`. Every module below is private: its names may
change without notice. A name is imported when it is first asked for, so `import selfmask` is quick.
"""

import lazy_loader

from selfmask.version import VERSION as __version__  # noqa: F401

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
