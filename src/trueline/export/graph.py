"""The line as ONNX: a graph from the columns of a table, as they are, to predictions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import trueline
from trueline.errors import RequestError
from trueline.export.trained import Trained
from trueline.statistics.span import Span

OUTPUT = "prediction"
OPSET, OPSET_WITH_TEXTS = 13, 19
"""The oldest whose Unsqueeze and ReduceSum take their axes as here, and in which Equal knows
texts."""


def graph(trained: Trained) -> bytes:
    """Write a line as ONNX.

    Features are scaled in the graph, as in the training: a column far from 0, such as a time, would
    lose digits to coefficients in its own units. A category is compared with all of its levels; of
    a text that is none of them the prediction is NaN, and not that of the base.

    Args:
        trained: The line.

    Returns:
        An ONNX model. Its inputs are named as the columns, each of shape (n_samples,): float64, or
        texts for a category; where columns have no names there is one, `X`, of shape (n_samples,
        n_features). Its output is `prediction`, (n_samples,) or (n_samples, n_targets), float64.

    Raises:
        RequestError: When onnx is not installed, or a column has a name that no input can have.
    """
    onnx = _onnx()
    graph = _Graph(onnx, trained)
    opset = OPSET_WITH_TEXTS if any(f.levels for f, _ in trained.features) else OPSET
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(
        graph.build(),
        opset_imports=opsets,
        # The oldest with these operators: older runtimes refuse that of the newest onnx.
        ir_version=onnx.helper.find_min_ir_version_for(opsets),
        producer_name="trueline",
        producer_version=trueline.__version__,
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def predict(content: bytes, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Predict from the model alone, by the evaluator that onnx has in NumPy.

    Args:
        content: What `graph` has written.
        columns: Numbers or texts by the name of their column.

    Returns:
        Predictions, shape (n_samples, n_targets).
    """
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(_onnx().load_from_string(content))
    (found,) = evaluator.run(None, {name: columns[name] for name in evaluator.input_names})
    return np.asarray(found).reshape(len(found), -1)


def _onnx() -> Any:
    """Return the package.

    Raises:
        RequestError: When it is not installed.
    """
    try:
        import onnx
        import onnx.checker
        import onnx.helper
    except ImportError as error:
        raise RequestError(
            "--format onnx: expected the package onnx, found none; install it with "
            "pip install onnx, or export json"
        ) from error
    return onnx


class _Graph:
    """A graph in the making.

    Args:
        onnx: The package.
        trained: The line.
    """

    def __init__(self, onnx: Any, trained: Trained) -> None:
        self._onnx, self._trained = onnx, trained
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        names = [feature.name for feature, _ in trained.features]
        if wrong := [name for name in names if name in ("", OUTPUT)]:
            raise RequestError(
                f"--format onnx: expected columns with names other than {OUTPUT!r}, which is the "
                f"output; found {wrong[0]!r}; rename it and train again, or export json"
            )
        self._prefix = "_"  # of what is neither input nor output, and no column begins with
        while any(name.startswith(self._prefix) for name in names):
            self._prefix += "_"
        weight, bias = trained.line
        single = weight.shape[1] == 1
        self._weight = weight[:, 0] if single else weight
        self._bias = bias[0] if single else bias

    def build(self) -> Any:
        """Return the graph."""
        helper, types = self._onnx.helper, self._onnx.TensorProto
        inputs, numbers, of_numbers, parts, raw = [], [], [], [], []
        span = self._trained.span
        for feature, part in self._trained.features:
            if feature.levels is None:
                inputs.append(helper.make_tensor_value_info(feature.name, types.DOUBLE, ["n"]))
                numbers.append(self._node("Unsqueeze", feature.name, self._constant([1])))
                of_numbers.append(part.start)
                raw.append(numbers[-1])
            else:
                said = "one of " + ", ".join(map(repr, feature.levels))
                inputs.append(
                    helper.make_tensor_value_info(feature.name, types.STRING, ["n"], said)
                )
                found = self._levels(feature.name, feature.levels)
                parts.append(self._category(found, len(feature.levels), part))
                if span is not None and part.stop > part.start:
                    columns = self._constant(np.arange(1, len(feature.levels)))
                    raw.append(self._node("Gather", found, columns, axis=1))
        if self._trained.learned is None:
            of_numbers = list(range(len(self._weight)))
            shape = ["n", len(of_numbers)]
            inputs.append(helper.make_tensor_value_info("X", types.DOUBLE, shape))
            parts.append(self._numbers("X", of_numbers))
        elif numbers:
            parts.append(self._numbers(self._node("Concat", *numbers, axis=1), of_numbers))
        total = parts[0]
        for added in parts[1:]:
            total = self._node("Add", total, added)
        kind, last = "Add", [total, self._constant(self._bias)]
        if span is not None:
            rows = "X" if self._trained.learned is None else self._node("Concat", *raw, axis=1)
            off = self._is_off(span, rows)
            kind, last = "Where", [off, self._constant(np.nan), self._node("Add", *last)]
        self._nodes.append(helper.make_node(kind, last, [OUTPUT]))
        shape = ["n", *self._weight.shape[1:]]
        output = helper.make_tensor_value_info(OUTPUT, types.DOUBLE, shape)
        return helper.make_graph(self._nodes, "line", inputs, [output], self._constants)

    def _numbers(self, name: str, places: list[int]) -> str:
        """Return what columns of numbers add to the prediction: `((x − mean) / scale)·weight`."""
        mean, scale = (self._constant(array[places]) for array in self._trained.scaling)
        scaled = self._node("Div", self._node("Sub", name, mean), scale)
        return self._node("MatMul", scaled, self._constant(self._weight[places]))

    def _levels(self, name: str, levels: tuple[str, ...]) -> str:
        """Return for each row and level of a category whether the row has the level, 1 or 0."""
        column = self._node("Unsqueeze", name, self._constant([1]))
        texts = self._constant(np.array([levels], dtype=object))
        double = self._onnx.TensorProto.DOUBLE
        return self._node("Cast", self._node("Equal", column, texts), to=double)

    def _category(self, found: str, n_levels: int, part: slice) -> str:
        """Return what a category adds to the prediction, one number for each level; else NaN."""
        mean, scale = (array[part] for array in self._trained.scaling)
        indicators = np.eye(n_levels)[:, 1:]
        by_level = ((indicators - mean) / scale) @ self._weight[part]
        added = self._node("MatMul", found, self._constant(by_level))
        return self._node("Where", self._is_any(found), added, self._constant(np.nan))

    def _is_off(self, span: Span, rows: str) -> str:
        """Return which rows lie off the span of the training rows, as `Span.is_off` finds them."""
        own = self._node("Gather", rows, self._constant(span.left_out), axis=1)
        others = self._node("Gather", rows, self._constant(span.kept), axis=1)
        shares = self._node("MatMul", others, self._constant(span.shares))
        left = self._node("Sub", self._node("Sub", own, shares), self._constant(span.constant))
        size = self._node(
            "Add",
            self._node("Abs", own),
            self._node("MatMul", self._node("Abs", others), self._constant(np.abs(span.shares))),
        )
        relative = self._node("Mul", size, self._constant(span.tolerance))
        allowed = self._node("Add", relative, self._constant(span.allowance))
        broken = self._node("Greater", self._node("Abs", left), allowed)
        return self._is_any(self._node("Cast", broken, to=self._onnx.TensorProto.DOUBLE))

    def _is_any(self, found: str) -> str:
        """Return whether any number of a row is above 0; a column if y is a matrix."""
        several = int(self._weight.ndim > 1)
        count = self._node("ReduceSum", found, self._constant([1]), keepdims=several)
        return self._node("Cast", count, to=self._onnx.TensorProto.BOOL)

    def _constant(self, value: Any) -> str:
        name = f"{self._prefix}constant_{len(self._constants)}"
        array = np.asarray(value)
        self._constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self._prefix}{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name
