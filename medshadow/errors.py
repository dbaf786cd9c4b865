"""What MedShadow raises when a file, a row or a setting is not what it must be."""

from __future__ import annotations


class MedShadowError(Exception):
    """Base of every error that MedShadow raises about its users' files and settings."""


class DataError(MedShadowError, ValueError):
    """A data set, table or split is not what it must be; the message names file, row or column."""


class ImageReadError(MedShadowError, OSError):
    """An image file cannot be read; the message names the file and what was found."""


class ImageTooLargeError(ImageReadError):
    """An image has more pixels or bytes than are decoded; it was refused before decoding."""


class ModelFolderError(MedShadowError, ValueError):
    """A model folder is missing a file, damaged, or of another format."""


class NonFiniteLossError(MedShadowError, ArithmeticError):
    """Training met a loss that is not finite; the message names the cases of the batch."""


class OnnxExportError(MedShadowError, RuntimeError):
    """A network cannot be exported to ONNX, or gives other vectors there than in PyTorch."""


class TrackingError(MedShadowError, ConnectionError):
    """The MLflow tracking server cannot be reached or refuses the run."""


class StoreError(MedShadowError, ValueError):
    """A case store refuses what it was given: another model's vectors, a case id used twice."""


class StoreUnavailableError(MedShadowError, OSError):
    """The database of a case store cannot be read or written now: full, locked, read-only, gone."""


class OptionalDependencyError(MedShadowError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""
