"""What is wrong with arrays as rows to train on, and with how they are to be served."""

import numpy as np

LARGEST = 1e140
"""Largest entry in magnitude. The product of its square with as many rows is within float64."""


def array_problems(
    features: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray | None,
    batch_size: int | None,
    seed: int,
) -> list[str]:
    """Say what is wrong with the rows and how they are to be served, each with its remedy.

    Args:
        features: That should be numbers of shape (n_samples, n_features).
        targets: The same, of shape (n_samples,) or (n_samples, n_targets).
        weights: The same, above 0, of shape (n_samples,); None for none.
        batch_size: Rows per optimizer step; None for all.
        seed: Of the orders of rows.
    """
    wrong = _number_problems("X", features) + _number_problems("y", targets)
    rows_agree = features.ndim == 2 and targets.shape[:1] == features.shape[:1]
    if not rows_agree or targets.ndim > 2 or 0 in features.shape + targets.shape:
        wrong.append(
            "expected X of shape (n_samples, n_features) and y of shape (n_samples,) or "
            f"(n_samples, n_targets), none empty; found {features.shape} and {targets.shape}"
        )
        batch_size = None  # there is nothing to compare it with
    wrong += serving_problems(batch_size, seed, len(features) if features.ndim else 0)
    return wrong if weights is None else wrong + _weight_problems(weights, features.shape[:1])


def serving_problems(batch_size: int | None, seed: int, n_samples: int | None = None) -> list[str]:
    """Say what is wrong with how rows are to be served, each with its remedy.

    Args:
        batch_size: Rows per optimizer step; None for all.
        seed: Of the orders of rows.
        n_samples: Number of rows that are trained on; None where none are, or not yet.
    """
    wrong = []
    if batch_size is not None and not 1 <= batch_size <= (n_samples or batch_size):
        most = "or more" if n_samples is None else f"to {n_samples}, the number of rows"
        wrong.append(
            f"batch_size: expected 1 {most}; found {batch_size}; leave it out for full batch"
        )
    if seed < 0:
        wrong.append(f"seed: expected 0 or more; found {seed}")
    return wrong


def _weight_problems(weights: np.ndarray, shape: tuple[int, ...]) -> list[str]:
    """Say what is wrong with the sample weights, each with its remedy."""
    wrong = _number_problems("sample_weight", weights)
    if weights.shape != shape:
        wrong.append(
            f"sample_weight: expected shape {shape}, one for each row; found {weights.shape}"
        )
    if not wrong and not (weights > 0).all():
        wrong.append(
            f"sample_weight: expected numbers above 0; found {weights.min()}; "
            "remove the rows that are not to count"
        )
    return wrong or [f"sample_weight: {p}" for p in weight_problems(float(weights.sum()))]


def weight_problems(total: float) -> list[str]:
    """Say what is wrong with the sum of sample weights, of which only proportions count.

    Example:
        >>> weight_problems(15.0), weight_problems(1e-320)
        ([], ['expected weights with a sum from 1e-140 to 1e+140; found 1e-320; scale them'])
    """
    if 1 / LARGEST <= total <= LARGEST:
        return []
    return [
        f"expected weights with a sum from {1 / LARGEST:g} to {LARGEST:g}; found {total:.2g}; "
        "scale them"
    ]


def _number_problems(name: str, array: np.ndarray) -> list[str]:
    if array.dtype.kind not in "biuf":
        return [f"{name}: expected real numbers; found dtype {array.dtype}"]
    if not np.isfinite(array).all():
        return [f"{name}: expected finite numbers; found nan or inf; remove those rows"]
    largest = max(float(array.max()), -float(array.min())) if array.size else 0.0
    if largest > LARGEST:
        return [
            f"{name}: expected numbers up to {LARGEST:g} in size, whose squares float64 holds; "
            f"found {largest:.2g}; scale them"
        ]
    return []
