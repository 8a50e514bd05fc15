"""The trials of a sweep, as Optuna keeps them in a file: what was tried, and what to try next."""

from pathlib import Path
from typing import Any

import optuna
from numpy.random import SeedSequence
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from trueline.errors import RequestError
from trueline.sweep.swept import Range, Swept, Values, grid

NAME = "sweep"
JOURNAL = "study.log"
FACTS = "facts"
"""The attribute of a trial that holds what it came to."""
MOST_DRAWS = 10
"""Until one comes that has not been tried."""
ENDED = (TrialState.COMPLETE, TrialState.FAIL)

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Study:
    """A sweep's trials.

    A grid is gone through in order. From ranges the first trials are drawn at random, and later
    ones where the best so far lie: by the tree-structured Parzen estimator, Optuna's own choice,
    seeded by the number of the trial. With one process, a sweep that is stopped and goes on tries
    what it would have tried.

    Args:
        folder: Of the sweep.
        swept: What it goes over.
        trials: How many there are to be.
        seed: Of what is drawn.

    Attributes:
        stopped: Trials that were at work when the sweep was stopped, by their numbers.

    References:
        Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011).
    """

    def __init__(self, folder: Path, swept: list[Swept], trials: int, seed: int) -> None:
        self.swept, self.trials, self.seed = swept, trials, seed
        self._grid = grid(swept)
        storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        self._study = optuna.create_study(storage=storage, study_name=NAME, load_if_exists=True)
        # What was at work when the sweep was stopped is done anew.
        self.stopped = [trial.number for trial in self._running()]
        self._again = [self.options(trial) for trial in self._running()]
        for number in self.stopped:  # which the estimator then does not learn from
            self._study.tell(number, state=TrialState.FAIL)

    def ended(self) -> list[FrozenTrial]:
        """Return the trials that have ended by themselves, well or not."""
        return [
            trial for trial in self._study.get_trials(states=ENDED) if FACTS in trial.user_attrs
        ]

    def left(self) -> int:
        """Return how many trials are still to be begun."""
        return self.trials - self._begun()

    def ask(self) -> Trial:
        """Begin a trial, and say by its `params` what it is to try."""
        begun = [self.options(trial) for trial in [*self.ended(), *self._running()]]
        tried = {_key(options) for options in begun}
        if self._again:
            self._study.enqueue_trial(self._again.pop(0))
        elif self._grid is not None:
            self._study.enqueue_trial(next(each for each in self._grid if _key(each) not in tried))
        for attempt in range(MOST_DRAWS):
            # Of this trial's own: those of seed 1 are not those of seed 0, one later.
            key = self.seed, self._begun(), attempt
            seed = int(SeedSequence(key).generate_state(1)[0])
            self._study.sampler = optuna.samplers.TPESampler(seed=seed)
            trial = self._study.ask({one.name: _distribution(one) for one in self.swept})
            if _key(self.options(trial)) not in tried or attempt == MOST_DRAWS - 1:
                break
            self._study.tell(trial, state=TrialState.FAIL)  # a few whole numbers are soon all drawn
        return trial

    def tell(self, trial: Trial, value: float | None, facts: dict[str, Any]) -> None:
        """End a trial.

        Args:
            trial: That was asked for.
            value: Of what is minimised; None of a trial that failed.
            facts: What is known of it, as plain values.
        """
        trial.set_user_attr(FACTS, facts)
        if value is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, value)

    def _begun(self) -> int:
        return len(self.ended()) + len(self._running())

    def _running(self) -> list[FrozenTrial]:
        running: list[FrozenTrial] = self._study.get_trials(states=(TrialState.RUNNING,))
        return running

    def options(self, trial: FrozenTrial | Trial) -> dict[str, Any]:
        """Return what a trial tries, by option."""
        return {one.name: trial.params[one.name] for one in self.swept if one.name in trial.params}


def _key(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return options in a form in which they are looked up at once."""
    return tuple(sorted(options.items()))


def _distribution(swept: Swept) -> BaseDistribution:
    if isinstance(swept, Values):
        return CategoricalDistribution(swept.values)
    assert isinstance(swept, Range)
    if swept.whole:
        return IntDistribution(int(swept.low), int(swept.high), log=swept.log)
    return FloatDistribution(swept.low, swept.high, log=swept.log)


def check_journal(folder: Path) -> None:
    """Refuse a folder that holds no sweep.

    Raises:
        RequestError: Saying what does.
    """
    if not (folder / JOURNAL).is_file():
        raise RequestError(
            f"--resume {folder}: expected the folder of a sweep, such as lightning_logs/sweep_0, "
            "found none"
        )
