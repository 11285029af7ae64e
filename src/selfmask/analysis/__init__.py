"""See what was learnt: densities, magnitudes, similarities, embeddings, and one report page."""

from selfmask.analysis.before_after import BeforeAfter, Strip, base_of, look, same_class_share, strips
from selfmask.analysis.charts.chart import Chart, DataTable
from selfmask.analysis.density import (
    FilterShares,
    Layer,
    SeriesPoint,
    filter_shares,
    grouped,
    layers,
    series,
    total_density,
)
from selfmask.analysis.embedding import aligned, embed, nearest
from selfmask.analysis.gather import gather
from selfmask.analysis.magnitude import MagnitudeProfile, magnitude_profile
from selfmask.analysis.places import Place, locate
from selfmask.analysis.report import Material, Report, build_report
from selfmask.analysis.run_folder import RunFolder, read_run
from selfmask.analysis.similarity import Similarity, pack, similarity
from selfmask.analysis.study import Study, study
from selfmask.analysis.subjects import Subject, find_masks, read_subjects
from selfmask.analysis.training_log import TrainingLog, read_log

__all__ = [
    "BeforeAfter",
    "Chart",
    "DataTable",
    "FilterShares",
    "Layer",
    "MagnitudeProfile",
    "Material",
    "Place",
    "Report",
    "RunFolder",
    "SeriesPoint",
    "Similarity",
    "Strip",
    "Study",
    "Subject",
    "TrainingLog",
    "aligned",
    "base_of",
    "build_report",
    "embed",
    "filter_shares",
    "find_masks",
    "gather",
    "grouped",
    "layers",
    "locate",
    "look",
    "magnitude_profile",
    "nearest",
    "pack",
    "read_log",
    "read_run",
    "read_subjects",
    "same_class_share",
    "series",
    "similarity",
    "strips",
    "study",
    "total_density",
]
