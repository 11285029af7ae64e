"""One look for every figure: sober, safe for colour-blind readers, legible in print and on a phone.

The series colours are Okabe and Ito's, darkened where they were too pale for thin lines on white, and always
come with a marker, so that no figure needs colour to be read. Each colour has a partner for dark pages: an
SVG made by `Chart.svg` refers to them by name, and the page's style sheet says which one is meant.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Ink(NamedTuple):
    """A named colour: its value on a light page, and the partner on a dark one (both `#rrggbb`)."""

    name: str
    light: str
    dark: str


TEXT = Ink("text", "#1c2127", "#e8eaed")
MUTED = Ink("muted", "#5b6470", "#a3acb8")
GRID = Ink("grid", "#dde1e6", "#3a414b")
FRAME = Ink("frame", "#9aa3ad", "#6d7682")
PAPER = Ink("paper", "#fefefe", "#1b1f25")

BLUE = Ink("blue", "#0b6aa8", "#63b3ed")
ORANGE = Ink("orange", "#c8500a", "#ff9d5c")
GREEN = Ink("green", "#08745a", "#4fcfa4")
PURPLE = Ink("purple", "#8e4d90", "#dba0de")
SKY = Ink("sky", "#4da3d9", "#a4d8f8")
OCHRE = Ink("ochre", "#997404", "#e6c14d")
ROSE = Ink("rose", "#b8336a", "#f78fb3")
SLATE = Ink("slate", "#566173", "#aeb8c6")
MOSS = Ink("moss", "#24501a", "#8cc152")
INDIGO = Ink("indigo", "#33209c", "#8c87ff")
MAGENTA = Ink("magenta", "#d400d4", "#ff4dff")
BROWN = Ink("brown", "#6e2c0a", "#c08060")

SERIES = (BLUE, ORANGE, GREEN, PURPLE, OCHRE, SKY, ROSE, SLATE, MAGENTA, MOSS, INDIGO, BROWN)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h")
"""A colour and a marker for each of twelve series: more cannot be told apart, with markers or without."""

INKS = (TEXT, MUTED, GRID, FRAME, PAPER, *SERIES)

ROW_INKS = {
    "pretrained": SLATE,
    "statistics only": OCHRE,
    "masked": BLUE,
    "full fine-tuning": ORANGE,
    "norm weights alone": MAGENTA,
    "self-masked": BLUE,
    "conditional": GREEN,
    "unconditional": PURPLE,
}
"""The colour of each row of the result table, the same in every figure."""

PIXELS_PER_INCH = 72
"""matplotlib's points: a figure of W / 72 inches is W pixels wide on the page, and a 12-point label 12 px high."""

# matplotlib types the keys as an enumeration of its own, which no plain dictionary satisfies.
RC: Any = {
    "figure.facecolor": PAPER.light,
    "figure.dpi": PIXELS_PER_INCH,
    "savefig.facecolor": PAPER.light,
    "axes.facecolor": "none",
    "axes.edgecolor": FRAME.light,
    "axes.labelcolor": MUTED.light,
    "axes.titlecolor": TEXT.light,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "axes.labelsize": 12,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID.light,
    "grid.linewidth": 0.8,
    "font.family": ["DejaVu Sans"],
    "font.size": 12,
    "text.color": TEXT.light,
    "xtick.color": FRAME.light,
    "ytick.color": FRAME.light,
    "xtick.labelcolor": MUTED.light,
    "ytick.labelcolor": MUTED.light,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.4,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "svg.fonttype": "none",  # text stays text: it can be read out, searched and enlarged
    "svg.hashsalt": "selfmask",  # the same figure gives the same file
    "axes.unicode_minus": True,
    "text.parse_math": False,  # a name may have a $ in it
}
