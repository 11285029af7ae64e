"""Images: folders, lists and named data sets; splits and label budgets; views and batches."""

from selfmask.data.augment import augment
from selfmask.data.batches import Batches, RawBatch, batch_indices, steps_per_epoch
from selfmask.data.catalogue import CATALOGUE, NamedData
from selfmask.data.decode import UnreadableImage, decode
from selfmask.data.evaluation_view import evaluation_view
from selfmask.data.image_set import UNLABELLED, ImageSet
from selfmask.data.named import data_root, get_named, overview
from selfmask.data.opening import open_data
from selfmask.data.sources import Reading, Skipped
from selfmask.data.splits import Splits, label_budget, stratified
from selfmask.data.views import Augment, light, multi_crop

__all__ = [
    "CATALOGUE",
    "UNLABELLED",
    "Augment",
    "Batches",
    "ImageSet",
    "NamedData",
    "RawBatch",
    "Reading",
    "Skipped",
    "Splits",
    "UnreadableImage",
    "augment",
    "batch_indices",
    "data_root",
    "decode",
    "evaluation_view",
    "get_named",
    "label_budget",
    "light",
    "multi_crop",
    "open_data",
    "overview",
    "steps_per_epoch",
    "stratified",
]
