"""K affine maps composed into one: their products in a tree, the states between, and refinement.

Nothing here knows of SGD: a map is a matrix (q + T, q + T) that acts on `[s; 1]`, with the state s
of shape (q, T) and 1 the identity (T, T). Its last T rows are `[0, 1]`.
"""

import torch
from torch import Tensor

from trueline.workspace import Workspace

REFINED = 2.0**-26
"""A first correction below this share of the states leaves its square, the rounding of float64."""
MOST_REFINEMENTS = 4
"""Each leaves about the share that was wrong at first: four bring 1e-3 to float64's rounding."""


class Composed:
    """K maps, and their products over 2, 4, 8, … neighbours: the tree of a scan.

    Args:
        maps: Shape (K, q + T, q + T), in the order of the steps.
        workspace: Memory for their products.

    Example:
        >>> half_and_one = torch.tensor([[[0.5, 1.0], [0.0, 1.0]]]).double()
        >>> Composed(half_and_one.repeat(3, 1, 1)).states(torch.zeros(1, 1).double()).ravel()
        tensor([0.0000, 1.0000, 1.5000, 1.7500], dtype=torch.float64)
    """

    def __init__(self, maps: Tensor, workspace: Workspace | None = None) -> None:
        workspace = workspace or Workspace()
        self._levels = [maps]
        while (K := len(maps)) > 1:
            above = workspace(
                f"products of {2 ** len(self._levels)}", (-(-K // 2), *maps.shape[1:]), maps
            )
            torch.bmm(maps[1::2], maps[:-1:2], out=above[: K // 2])
            if K % 2:
                above[-1] = maps[-1]
            self._levels.append(maps := above)

    def end(self, start: Tensor) -> Tensor:
        """Return the state after the last step, from the product of all maps.

        Args:
            start: The state before the first step, shape (q, T).

        Returns:
            Shape (q, T).
        """
        return (self._levels[-1][0] @ _with_ones(start[None])[0])[: len(start)]

    def states(self, start: Tensor) -> Tensor:
        """Return the states before each step and after the last.

        From the top of the tree down: the state before a pair is that before the first of the two,
        whose map leads to that before the second.

        Args:
            start: The state before the first step, shape (q, T).

        Returns:
            Shape (K + 1, q, T).
        """
        before = _with_ones(start[None])
        for maps in reversed(self._levels[:-1]):
            before = _interleave(before, torch.bmm(maps[:-1:2], before[: len(maps) // 2]))
        states = torch.cat([before, torch.bmm(self._levels[0][-1:], before[-1:])])
        return states[:, : len(start)]

    def states_before(self, start: Tensor, steps: Tensor) -> Tensor:
        """Return the states before some steps, by way of the products above each of them.

        Args:
            start: The state before the first step, shape (q, T).
            steps: Their numbers, from 0 to K − 1, on the processor.

        Returns:
            Shape (len(steps), q, T).
        """
        before = _with_ones(start[None]).repeat(len(steps), 1, 1)
        for level in reversed(range(len(self._levels) - 1)):
            # Where the step lies in the right half, the left half comes before it.
            right = torch.nonzero((steps >> level) & 1)[:, 0]
            if len(right):
                left = ((steps[right] >> level) - 1).to(start.device)
                right = right.to(start.device)
                before[right] = torch.bmm(self._levels[level][left], before[right])
        return before[:, : len(start)]

    def responses(self, pushes: Tensor) -> Tensor:
        """Return how a push at each step, added after its map, is felt in the states after it.

        `e ← M·e + push` from e = 0, with M a map without what it adds. Up the tree the pushes of
        each pair become one; down it, they are felt as `states` has it.

        Args:
            pushes: Shape (K, q, T).

        Returns:
            e before each step and after the last, shape (K + 1, q, T).
        """
        q = pushes.shape[1]
        pushed = [pushes]
        for maps in self._levels[:-1]:
            below = pushed[-1]
            pairs = torch.baddbmm(below[1::2], maps[1::2, :q, :q], below[:-1:2])
            pushed.append(torch.cat([pairs, below[-1:]]) if len(below) % 2 else pairs)
        felt = torch.zeros_like(pushes[:1])
        for maps, own in zip(reversed(self._levels[:-1]), reversed(pushed[:-1]), strict=True):
            upper = felt[: len(maps) // 2]
            felt = _interleave(felt, torch.baddbmm(own[:-1:2], maps[:-1:2, :q, :q], upper))
        last = torch.baddbmm(pushes[-1:], self._levels[0][-1:, :q, :q], felt[-1:])
        return torch.cat([felt, last])

    def residuals(self, states: Tensor) -> Tensor:
        """Return by how much the map of each step misses the state after it.

        Args:
            states: Before each step and after the last, shape (K + 1, q, T).

        Returns:
            Shape (K, q, T).
        """
        q = states.shape[1]
        return torch.bmm(self._levels[0], _with_ones(states[:-1]))[:, :q] - states[1:]


class Repeated:
    """One map K times, by its powers 1, 2, 4, …: what `Composed` is for K equal maps.

    Args:
        matrix: The map, shape (q + T, q + T).
        steps: K.

    Example:
        >>> half_and_one = torch.tensor([[0.5, 1.0], [0.0, 1.0]]).double()
        >>> Repeated(half_and_one, 3).states(torch.zeros(1, 1).double()).ravel()
        tensor([0.0000, 1.0000, 1.5000, 1.7500], dtype=torch.float64)
    """

    def __init__(self, matrix: Tensor, steps: int) -> None:
        self.steps = steps
        self._powers = [matrix]
        while 2 ** len(self._powers) <= steps:
            self._powers.append(self._powers[-1] @ self._powers[-1])

    def states(self, start: Tensor) -> Tensor:
        """Return the states before each step and after the last.

        Of the first 2^j states, the power 2^j makes the next 2^j.

        Args:
            start: The state before the first step, shape (q, T).

        Returns:
            Shape (K + 1, q, T).
        """
        states = _with_ones(start[None])
        for power in self._powers:
            left = self.steps + 1 - len(states)
            states = torch.cat([states, power @ states[:left]])
        return states[:, : len(start)]

    def responses(self, pushes: Tensor) -> Tensor:
        """Return how a push at each step is felt in the states after it, see `Composed`.

        After round j each state has felt the 2^(j + 1) pushes before it.

        Args:
            pushes: Shape (K, q, T).

        Returns:
            Shape (K + 1, q, T).
        """
        q = pushes.shape[1]
        felt = torch.cat([torch.zeros_like(pushes[:1]), pushes])
        for j, power in enumerate(self._powers):
            earlier = power[:q, :q] @ felt[: -(2**j)]
            felt = torch.cat([felt[: 2**j], felt[2**j :] + earlier])
        return felt

    def residuals(self, states: Tensor) -> Tensor:
        """Return by how much the map of each step misses the state after it.

        Args:
            states: Before each step and after the last, shape (K + 1, q, T).

        Returns:
            Shape (K, q, T).
        """
        q = states.shape[1]
        return (self._powers[0] @ _with_ones(states[:-1]))[:, :q] - states[1:]


def polished(maps: Composed | Repeated, start: Tensor) -> Tensor:
    """Return the states of K steps, each right by itself to a few roundings.

    In a tree of products the roundings of many steps come together, and a state may miss what the
    map makes of the one before it by K of them. A refinement takes that back: what the steps miss
    is pushed through the same maps and added, as in the iterative refinement of a triangular
    system. Of an error it leaves about the share that the first one was of the states, so that one
    refinement is enough, but where maps come near to growing, as with the momentum that suits
    columns which nearly depend on others.

    Args:
        maps: Of the steps.
        start: The state before the first step, shape (q, T).

    Returns:
        The states before each step and after the last, shape (K + 1, q, T).

    References:
        Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 12.1.

    Example:
        >>> half_and_one = torch.tensor([[0.5, 1.0], [0.0, 1.0]]).double()
        >>> polished(Repeated(half_and_one, 3), torch.zeros(1, 1).double()).ravel()
        tensor([0.0000, 1.0000, 1.5000, 1.7500], dtype=torch.float64)
    """
    states = maps.states(start)
    for _ in range(MOST_REFINEMENTS):
        missed = maps.responses(maps.residuals(states))
        states = states + missed
        if bool((missed.abs().amax(0) <= REFINED * states.abs().amax(0)).all()):
            break
    return states


def _with_ones(states: Tensor) -> Tensor:
    """Append the identity to each state, shape (K, q, T), for what a map adds."""
    K, q, T = states.shape
    joint = states.new_zeros(K, q + T, T)
    joint[:, :q] = states
    joint[:, q:].diagonal(dim1=1, dim2=2).fill_(1)
    return joint


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    """Return even[0], odd[0], even[1], …; there may be one more of the even ones."""
    both = even.new_empty(len(even) + len(odd), *even.shape[1:])
    both[::2], both[1::2] = even, odd
    return both
