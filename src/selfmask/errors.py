"""The errors that selfmask raises on purpose.

Each says what was given, what was expected and what to do. The command line prints the message of a
`SelfmaskError` as one line and exits with status 2; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations


class SelfmaskError(Exception):
    """Anything that a user can mend: every error below is one.

    >>> from selfmask import SelfmaskError, TopK
    >>> try:
    ...     TopK(50)
    ... except SelfmaskError as error:
    ...     print(error)
    TopK: a density is a share in (0, 1], got 50; 50 % is 0.5
    """


class SettingsError(SelfmaskError, ValueError):
    """A setting is out of range or contradicts another."""


class SelectionError(SelfmaskError, ValueError):
    """No weights, unknown weights or the same weights twice were selected for masking."""


class MaskFileError(SelfmaskError, ValueError):
    """A mask file is damaged, hostile, or of a version that this program cannot read."""


class WrongBaseError(MaskFileError):
    """A mask was given a model that is not the base that it was learnt on."""


class ArchitectureWarning(UserWarning):
    """A mask's base and the model have the same tensors and yet are not built alike: outputs may differ."""


class EmptyMaskWarning(UserWarning):
    """A mask was trained and yet no weight is off: it changes nothing."""


class BackboneError(SelfmaskError):
    """A backbone could not be found, built or given its weights."""


class DataError(SelfmaskError):
    """Images, labels or splits are missing, unreadable or contradict each other."""


class RunError(SelfmaskError):
    """A run folder is not empty, not a run, or was made with other settings; or a run has gone wrong."""


class StoppedError(RunError):
    """A signal came while something was trained that a run is compared with."""


class DivergedError(RunError):
    """A loss or its gradients are no longer finite numbers, as after too high a learning rate."""


class MissingExtraError(SelfmaskError, ImportError):
    """A feature needs an optional package: the message names the extra to install."""


class HubError(SelfmaskError):
    """A hub cannot be reached, refuses, or does not have what was asked for."""
