"""`python -m trueline.reference`: train the article's 15 points in NumPy alone."""

import numpy as np

from trueline.reference import SGD, article, train
from trueline.reference.solve import least_squares

EPOCHS = 50_000
SHOWN = (0, 1, 10, 100, 1_000, 10_000, EPOCHS)

generator = np.random.default_rng(0)
weight, bias = generator.standard_normal(1), generator.standard_normal()
trace = train(article.X, article.y, weight, bias, SGD(lr=0.001), EPOCHS)
best = least_squares(article.X, article.y)

print(f"{'epoch':>11}{'loss':>16}{'weight':>12}{'bias':>12}")
for epoch in SHOWN:
    print(
        f"{epoch:>11,}{trace.loss[epoch]:>16.6f}"
        f"{trace.weight[epoch, 0]:>12.6f}{trace.bias[epoch]:>12.6f}"
    )
residual = article.y - (article.X @ best.weight + best.bias)
print(f"{'closed form':>11}{np.mean(residual**2):>16.6f}{best.weight[0]:>12.6f}{best.bias:>12.6f}")
