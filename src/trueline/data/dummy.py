"""The article's dummy data: 15 points, as integers."""

from trueline.data.datamodule import RegressionData
from trueline.reference import article


class DummyData(RegressionData):
    """The article's 15 points, one feature each, nearly on a line.

    Args:
        batch_size: Rows per optimizer step, from 1 to 15; full batch unless given.
        shuffle: Whether each epoch visits the rows in an order of its own.
        seed: Seed of those orders, ≥ 0.

    Example:
        >>> data = DummyData(batch_size=5)
        >>> data.n_samples, data.n_features, data.steps_per_epoch
        (15, 1, 3)
    """

    def __init__(self, batch_size: int | None = None, shuffle: bool = False, seed: int = 0) -> None:
        super().__init__(article.X, article.y, batch_size, shuffle, seed)
