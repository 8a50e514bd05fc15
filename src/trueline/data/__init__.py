"""Data: the order of rows as a function of (seed, epoch), and the DataModules that serve them."""

from trueline.data.datamodule import RegressionData
from trueline.data.dummy import DummyData
from trueline.data.synthetic import SyntheticData
from trueline.data.table import TableData

__all__ = ["DummyData", "RegressionData", "SyntheticData", "TableData"]
