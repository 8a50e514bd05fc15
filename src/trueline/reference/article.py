"""The article's 15 points, as it gives them: integers."""

import numpy as np

X = np.array([1, 2, 4, 6, 8, 10, 12, 13, 14, 16, 16, 18, 20, 22, 24]).reshape(-1, 1)
y = np.array([39, 42, 43, 46, 47, 56, 60, 59, 64, 66, 68, 72, 71, 75, 80])
