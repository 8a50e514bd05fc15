"""`reference.running_error`: what a dtype holds, against torch's own casts."""

from typing import Any

import numpy as np
import pytest
import torch

from test_reference_bounded import FLOAT16, to_numpy
from trueline.reference.rounding import BFLOAT16, FLOAT32, FLOAT64, Arithmetic
from trueline.reference.running_error import converted


@pytest.mark.parametrize(
    ("dtype", "arithmetic"),
    [
        (torch.float16, FLOAT16),
        (torch.bfloat16, BFLOAT16),
        (torch.float32, FLOAT32),
        (torch.float64, FLOAT64),
    ],
)
def test_converted_knows_what_a_dtype_holds(dtype: Any, arithmetic: Arithmetic) -> None:
    rng = np.random.default_rng(0)
    lowest, largest = np.log2(arithmetic.smallest) - 2, np.log2(arithmetic.largest)
    wide = rng.choice([-1, 1], 4000) * 2.0 ** rng.uniform(lowest, largest - 2, 4000)
    x = np.concatenate([wide, to_numpy(torch.tensor(wide), dtype), [0.0, np.inf, -np.inf]])
    # As many digits as the dtype has, of which its subnormal numbers hold only a few.
    x = np.concatenate([to_numpy(torch.tensor(rng.normal(size=99)), dtype) * 2.0**lowest * 32, x])
    # Halfway between two numbers of the dtype, one digit more than it has.
    x = np.concatenate([x, np.nextafter(1, 2) * x[:-2], (1 + arithmetic.stored) * x[4000:8000]])
    cast, found = to_numpy(torch.tensor(x), dtype), converted(arithmetic, x)
    held = cast == x
    assert held.sum() >= 4000
    assert dtype == torch.float64 or held.sum() < len(x) - 4000
    np.testing.assert_array_equal(found.error == 0, held)
    lost = x[~held]
    assert (np.abs(cast[~held] - lost) <= found.error[~held]).all()
    assert (
        found.error[~held] <= 1.01 * (arithmetic.stored * np.abs(lost) + arithmetic.smallest)
    ).all()
