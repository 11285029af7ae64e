"""The two streams that all coded bits of a file go to: an entropy-coded one, and one of plain bits.

The entropy coder is constriction's ANS coder (64-bit state, 32-bit words, 24-bit probabilities). Every table is made
from integers (`GapModel.table`), so what is coded on one machine decodes on any other; docs/format.md writes the coder
out, and the tests hold it against a second decoder in plain Python.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import constriction
import numpy as np

from selfmask.errors import MaskFileError

_stream = cast(Any, constriction).stream  # built in Rust, without type stubs, and not importable as a package


@dataclass
class Writer:
    """Collects symbols and bits in reading order; `finish` codes them."""

    _symbols: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    _bits: list[np.ndarray] = field(default_factory=list)

    def symbols(self, values: np.ndarray, weights: np.ndarray) -> None:
        """Add int32 symbols, each the index of one of `weights` (int64, summing to 2^28)."""
        if len(weights) > 1:
            self._symbols.append((values, weights))

    def bits(self, values: np.ndarray) -> None:
        """Add bits: uint8 or bool, 0 or 1 each."""
        self._bits.append(values.astype(np.uint8, copy=False).reshape(-1))

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """The entropy-coded words (uint32) and the packed bits (uint8; bit i is bit i mod 8 of byte i // 8)."""
        coder = _stream.stack.AnsCoder()
        for values, weights in reversed(self._symbols):
            coder.encode_reverse(values, _model(weights))
        words = np.asarray(coder.get_compressed(), dtype=np.uint32)
        bits = np.concatenate(self._bits) if self._bits else np.zeros(0, np.uint8)
        return words, np.packbits(bits, bitorder="little")


class Reader:
    """Reads what a `Writer` has written, in the same order. Raises `MaskFileError` where the streams run out."""

    def __init__(self, words: np.ndarray, packed: np.ndarray) -> None:
        if len(words) and words[-1] == 0:
            raise MaskFileError("the entropy-coded stream ends in a zero word: the file is damaged")
        self._coder = (
            _stream.stack.AnsCoder(np.array(words, np.uint32)) if len(words) else _stream.stack.AnsCoder()
        )
        self._packed = packed
        self._at = 0

    def symbols(self, amount: int, weights: np.ndarray) -> np.ndarray:
        """The next `amount` symbols, int32. Where only one symbol is possible, nothing is stored."""
        if len(weights) == 1:
            return np.zeros(amount, np.int32)
        return np.asarray(self._coder.decode(_model(weights), amount), dtype=np.int32)

    def bits(self, amount: int) -> np.ndarray:
        """The next `amount` bits, uint8 of 0 and 1."""
        begin, end = self._at, self._at + amount
        if end > 8 * len(self._packed):
            raise MaskFileError("the stream of plain bits is too short: the file is damaged")
        self._at = end
        first = begin // 8
        return np.unpackbits(self._packed[first : (end + 7) // 8], bitorder="little")[begin - 8 * first :][
            :amount
        ]

    def finish(self) -> None:
        """Check that both streams are used up."""
        if not self._coder.is_empty():
            raise MaskFileError(
                "the entropy-coded stream does not end where its masks do: the file is damaged"
            )
        if (self._at + 7) // 8 != len(self._packed):
            raise MaskFileError(
                "the stream of plain bits does not end where its masks do: the file is damaged"
            )


def _model(weights: np.ndarray) -> Any:
    # perfect=False is the variant that is plain integer arithmetic for integer weights that sum to a power of 2.
    return _stream.model.Categorical(weights.astype(np.float64), perfect=False)
