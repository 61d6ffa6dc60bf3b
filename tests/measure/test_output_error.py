"""Output error by hand, and of values that are no numbers."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.measure.output_error import OutputError, output_error


def test_it_is_what_it_is_by_hand() -> None:
    error = output_error(np.array([[3.0, 4.0]]), np.array([[3.0, 3.0]]))

    assert error
    assert error.max_abs_error == 1
    assert error.cosine_similarity == pytest.approx((9 + 12) / (5 * np.sqrt(18)))
    assert error.sqnr_db == pytest.approx(10 * np.log10(25))


def test_equal_outputs_have_none() -> None:
    assert output_error(np.ones((2, 3), np.float16), np.ones((2, 3), np.float32)) == OutputError(
        0, pytest.approx(1), None
    )
    assert output_error(np.zeros(3), np.zeros(3)) == OutputError(0, 1, None)
    assert output_error(np.zeros((0, 3)), np.zeros((0, 3))) == OutputError(0, 1, None)


def test_an_output_of_zeros_is_like_nothing_else() -> None:
    assert output_error(np.ones(3), np.zeros(3)) == OutputError(1, 0, None)
    assert output_error(np.zeros(3), np.ones(3)) == OutputError(1, 0, None)


def test_values_that_are_no_numbers_are_counted_and_left_out() -> None:
    original = np.array([3.0, 4.0, np.nan, np.inf, 1.0])

    assert output_error(original, np.array([3.0, 4.0, np.nan, np.inf, 1.0])) == OutputError(0, pytest.approx(1), None)
    error = output_error(original, np.array([3.0, 3.0, 0.0, -np.inf, np.nan]))
    assert error
    assert (error.max_abs_error, error.invalid) == (1, 3)
    assert output_error(np.ones(4), np.full(4, np.nan)) == OutputError(None, None, None, 4)


def test_other_shapes_cannot_be_compared() -> None:
    assert output_error(np.ones((2, 3)), np.ones((2, 4))) is None
