# The one list of public names.

from .backbones.backbone import Backbone
from .backbones.from_module import from_module
from .backbones.preprocessing import Preprocessing
from .backbones.spec import backbone_of, build
from .bank.bank import Bank
from .errors import SelfmaskError
from .images.image_set import ImageSet
from .images.opening import open_data
from .maskfile.loading import load
from .maskfile.mask import Handle, Mask
from .masking.rules import Progressive, Threshold, TopK
from .masking.selection import LargestShare, RandomShare, Selection
from .masking.tensor_adam import TensorAdam
from .maskset import MaskSet
from .objectives.base import Batch, Job, Objective
from .objectives.registry import register
from .tasks.adapt import adapt
from .tasks.analyze import analyze
from .tasks.apply import apply
from .tasks.cascade import cascade
from .tasks.combine import combine
from .tasks.compact import compact
from .tasks.compare import compare
from .tasks.embed import embed
from .tasks.evaluate import evaluate
from .tasks.export import export
from .tasks.hub import from_hub, push_to_hub
from .tasks.inspect import inspect
from .tasks.predict import predict
from .tasks.report import report
from .tasks.search import search

__version__: str

__all__ = [
    "Backbone",
    "Bank",
    "Batch",
    "Handle",
    "ImageSet",
    "Job",
    "LargestShare",
    "Mask",
    "MaskSet",
    "Objective",
    "Preprocessing",
    "Progressive",
    "RandomShare",
    "Selection",
    "SelfmaskError",
    "TensorAdam",
    "Threshold",
    "TopK",
    "adapt",
    "analyze",
    "apply",
    "backbone_of",
    "build",
    "cascade",
    "combine",
    "compact",
    "compare",
    "embed",
    "evaluate",
    "export",
    "from_hub",
    "from_module",
    "inspect",
    "load",
    "open_data",
    "predict",
    "push_to_hub",
    "register",
    "report",
    "search",
]
