"""How fast Trueline trains on a GPU, beside PyTorch's loop, with CUDA graphs too.

    python benchmarks/gpu_speed.py [--rows 100000000] [--rounds 3] [--device cuda] [--out FILE]

An epoch in order over rows that lie on the device. The floor is to read them once, at the bandwidth
that a copy within the device's memory reaches. Where there is no GPU it says so. `--device cpu`
with few rows tries the code out. The report is Markdown.
"""

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ours import draw, trueline
from peers import LR, straight_on
from peers import torch_loop as loop_without_waiting
from reports import machine, number, publish
from torch import Tensor

from trueline.data import RegressionData

BATCH_SIZES = (32, 256, 4096)
FEW, MANY = 200, 2_000
"""Batches of a slow peer, from which its epoch is taken on in a straight line."""


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def wall(work: Callable[[], object], device: torch.device) -> float:
    """Return how many seconds a call takes, to the end of what it starts on the device."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def fit(data: RegressionData, device: torch.device, crosscheck: str, epochs: int) -> float:
    """Return the seconds of `trueline fit` without validation, to the end of the last step."""
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    options: dict[str, Any] = {"accelerator": accelerator, "devices": 1}
    return trueline(lambda: data, epochs, crosscheck=crosscheck, **options)[0]


def epoch_more(data: RegressionData, device: torch.device, crosscheck: str) -> float:
    """Return the seconds of an epoch once the rows are on the device: the difference two make."""
    one, three = (fit(data, device, crosscheck, epochs) for epochs in (1, 3))
    return (three - one) / 2


def graph_loop(X: Tensor, y: Tensor, batch_size: int, steps: int) -> None:
    """Train as PyTorch's loop does, with a step captured once and replayed."""
    model = torch.nn.Linear(X.shape[1], 1, device=X.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    loss = torch.nn.MSELoss()
    x, t = X[:batch_size].clone(), y[:batch_size, None].clone()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model(x), t).backward()
        optimizer.step()

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        step()
    whole = len(X) // batch_size
    for k in range(steps):
        part = slice(k % whole * batch_size, (k % whole + 1) * batch_size)
        x.copy_(X[part])
        t.copy_(y[part, None])
        graph.replay()


def floor(X: Tensor, y: Tensor) -> float:
    """Return the seconds of reading all bytes once; a copy reads and writes each."""
    copy = torch.empty_like(X)
    copy.copy_(X)  # first use
    seconds = statistics.median(wall(lambda: copy.copy_(X), X.device) for _ in range(5))
    return seconds / (2 * X.nbytes) * (X.nbytes + y.nbytes)


def measure(data: RegressionData, device: torch.device, rounds: int) -> list[str]:
    """Return the lines of the table for one batch size."""
    X, y = data.X.contiguous().to(device), data.y.contiguous().to(device)
    batch_size = data.batch_size or len(X)
    steps = data.steps_per_epoch

    def straight(train: Callable[[int], object]) -> float:
        return straight_on(lambda n: wall(partial(train, n), device), FEW, MANY, steps)

    peers: dict[str, Callable[[], float]] = {
        "Trueline, first epoch, from the call of fit": lambda: fit(data, device, "raise", 1),
        "Trueline, an epoch more": lambda: epoch_more(data, device, "raise"),
        "Trueline, an epoch more, cross-check off": lambda: epoch_more(data, device, "off"),
        "PyTorch loop": lambda: straight(partial(loop_without_waiting, X, y, batch_size, False)),
    }
    if device.type == "cuda":
        peers["PyTorch with CUDA graphs"] = lambda: straight(partial(graph_loop, X, y, batch_size))
    peers["reading the rows once"] = lambda: floor(X, y)
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for k in range(rounds):
        for name in reversed(peers) if k % 2 else peers:
            seconds[name].append(peers[name]())
    ours = seconds["Trueline, an epoch more"]
    lines = []
    for name, found in seconds.items():
        ratios = [b / a for a, b in zip(ours, found, strict=True)]
        rate = number(len(X) / statistics.median(found) / 1e6)
        spread = f"{number(min(ratios))} to {number(max(ratios))}"
        ratio = f"{number(statistics.median(ratios))} ({spread})"
        lines.append(f"| {batch_size:,} | {name} | {rate} | {ratio} |")
    return lines


def run() -> None:
    """Measure in turns, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try it out")
    parser.add_argument("--out", type=Path, help="where to write the report")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no GPU here, nothing measured; --device cpu --rows 200000 tries the code out")
        return
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    X, y = draw(arguments.rows)
    fit(RegressionData(X[:1000], y[:1000], 32), device, "raise", 1)  # imports and first uses
    lines = [
        "| batch | who | million rows/s | its time beside Trueline's of an epoch more |",
        "|---|---|---|---|",
    ]
    for batch_size in BATCH_SIZES:
        lines += measure(RegressionData(X, y, batch_size), device, arguments.rounds)
        print(f"batches of {batch_size:,} done", file=sys.stderr)
    about = (
        f"{where}; {machine('torch', 'lightning')}. {arguments.rows:,} x {X.shape[1]} float32 in "
        f"order, lr {LR}; medians of rounds in turns, of which there were {arguments.rounds}; a "
        "ratio is the median of theirs, with its range.\n\n"
        "Trueline has on what `trueline fit` has on, but for validation. An epoch more is half of "
        "what three take longer than one, when the rows are on the device. PyTorch's loops run "
        f"{MANY:,} batches, and their time goes on from there in a straight line."
    )
    publish("How fast it trains on a GPU", about, lines, arguments.out)


if __name__ == "__main__":
    run()
