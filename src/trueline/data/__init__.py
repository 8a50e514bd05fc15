"""Data: the order of rows as a function of (seed, epoch), and the DataModules that serve them.

The DataModules are imported when they are asked for: the order of rows needs neither torch nor
Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trueline.data.datamodule import RegressionData
    from trueline.data.dummy import DummyData
    from trueline.data.synthetic import SyntheticData
    from trueline.data.table import TableData

__all__ = ["DummyData", "RegressionData", "SyntheticData", "TableData"]

_MODULES = {
    "DummyData": "dummy",
    "RegressionData": "datamodule",
    "SyntheticData": "synthetic",
    "TableData": "table",
}


def __getattr__(name: str) -> Any:
    """Import a DataModule."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
