"""Memory for tensors that is used again."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Workspace:
    """Memory for tensors that are worked out again and again, and that stays in the caches.

    Fresh memory costs more than most of what is written into it here: the system hands it out a
    page at a time. A tensor from here is good until its name is asked for again.

    Example:
        >>> workspace = Workspace()
        >>> one = workspace("sums", (2, 3), torch.zeros(0))
        >>> workspace("sums", (3, 2), torch.zeros(0)).data_ptr() == one.data_ptr()
        True
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __call__(
        self, name: str, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return a tensor of any content.

        Args:
            name: What it is for; whatever had this name before is overwritten.
            shape: Of the tensor.
            like: A tensor on the same device, and of the same dtype unless another is given.
            dtype: Of the tensor.
        """
        dtype, numbers = dtype or like.dtype, math.prod(shape)
        held = self._held.get(name)
        fits = held is not None and held.dtype == dtype and held.device == like.device
        if held is None or not fits or held.numel() < numbers:
            held = self._held[name] = torch.empty(numbers, dtype=dtype, device=like.device)
        return held[:numbers].view(shape)
