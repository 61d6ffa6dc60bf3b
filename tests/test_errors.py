"""Every error says what happened and how to mend it, and survives the way back from a worker."""

import pickle

import pytest

from workbench import errors

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.WorkbenchError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_reads_as_message_and_remedy(cls: type[errors.WorkbenchError]) -> None:
    error = cls("The file is empty.", "Copy it again.")

    assert (error.message, error.remedy) == ("The file is empty.", "Copy it again.")
    assert str(error) == "The file is empty. Copy it again."


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_travels_between_processes(cls: type[errors.WorkbenchError]) -> None:
    error = pickle.loads(pickle.dumps(cls("The file is empty.", "Copy it again.")))

    assert type(error) is cls
    assert (error.message, error.remedy) == ("The file is empty.", "Copy it again.")


def test_the_details_of_a_broken_worker_travel_too() -> None:
    error = pickle.loads(pickle.dumps(errors.WorkerError("It broke.", "Try again.", "last words")))

    assert error.details == "last words"


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.ModelError, ValueError),
        (errors.OptionsError, ValueError),
        (errors.MissingDependencyError, ImportError),
        (errors.WorkspaceError, OSError),
        (errors.PluginError, LookupError),
        (errors.GateError, AssertionError),
    ],
)
def test_an_error_is_also_what_python_would_raise(cls: type[errors.WorkbenchError], builtin: type) -> None:
    with pytest.raises(builtin, match="Copy it again"):
        raise cls("The file is empty.", "Copy it again.")


def test_a_cancel_needs_no_words() -> None:
    assert str(errors.Cancelled()) == "Cancelled. Nothing unfinished was kept."
