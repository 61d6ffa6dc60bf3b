"""The errors that the workbench raises: each says what happened and where, and how to mend it."""

from __future__ import annotations

from typing import Any

TRUST = "trust=True (--trust on the command line, the checkbox in the panel)"  # how a file is said to be the user's own


class WorkbenchError(Exception):
    """Base of every error that a user can mend.

    Args:
        message: What happened and where, in one or two sentences.
        remedy: What to do next, in one sentence.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()

    def __reduce__(self) -> tuple[Any, ...]:  # errors travel from the worker process to the caller
        return type(self), (self.message, self.remedy)


class ModelError(WorkbenchError, ValueError):
    """A model file that cannot be used."""


class DetailedError(WorkbenchError):
    """An error behind which another program stands; `details` holds what that said."""

    def __init__(self, message: str, remedy: str = "", details: str = "") -> None:
        super().__init__(message, remedy)
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.remedy, self.details)


class ConversionError(DetailedError, ModelError):
    """A model that cannot become ONNX, or computes something else there."""


class BuildError(DetailedError, ModelError):
    """A model of which a backend cannot make an engine; `details` holds all that it said."""


class DatasetError(WorkbenchError, ValueError):
    """Samples or labels that do not fit the model."""


class OptionsError(WorkbenchError, ValueError):
    """An option that does not exist or has a value it cannot have."""


class RecipeError(WorkbenchError, ValueError):
    """A recipe that cannot be followed."""


class TransformError(WorkbenchError, RuntimeError):
    """A transform that could not be applied to this model."""


class ExportError(WorkbenchError, RuntimeError):
    """A package that could not be written or does not answer."""


class ServiceError(WorkbenchError, OSError):
    """A running service that does not answer, or answers something that cannot be used."""


class ProviderError(WorkbenchError, RuntimeError):
    """The provider that would really run is not the one asked for."""


class EngineError(WorkbenchError, RuntimeError):
    """An engine that cannot be used here: damaged, or built for another GPU or version."""


class MissingDependencyError(WorkbenchError, ImportError):
    """A package that this step needs is not installed."""


class PluginError(WorkbenchError, LookupError):
    """No plugin of that name exists."""


class WorkspaceError(WorkbenchError, OSError):
    """A place on disk that cannot be written."""


class WorkerError(DetailedError, RuntimeError):
    """The subprocess that did the work broke; `details` holds what it said last."""


class GateError(WorkbenchError, AssertionError):
    """A result misses a limit that the recipe sets."""


class Cancelled(WorkbenchError):
    """The caller stopped the work; nothing unfinished was kept."""

    def __init__(self, message: str = "Cancelled.", remedy: str = "Nothing unfinished was kept.") -> None:
        super().__init__(message, remedy)
