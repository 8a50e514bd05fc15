"""Data: the order of rows as a function of (seed, epoch), and the DataModules that serve them."""

from trueline.data.datamodule import RegressionData
from trueline.data.dummy import DummyData

__all__ = ["DummyData", "RegressionData"]
