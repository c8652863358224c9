"""What is run: every environment × difficulty × N × step rule, and the third of it on which nothing may be tuned.

Change anything here or in what a setting means, and `VERSION` goes up: results of different versions never mix.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import product

from benchmarks.evidence.arms import ARMS
from benchmarks.evidence.difficulties import REAL, SYNTHETIC
from benchmarks.evidence.environments import ENVIRONMENTS
from benchmarks.evidence.steps import SGD_RATES, STEPS

VERSION = 1

NUM_ROLLOUTS = (4, 8, 16)
DIFFICULTIES = (*SYNTHETIC, *REAL)

#: Size of a step: its length, or its rate (of rms and sgd: GRPO's). The same for all arms, difficulties and N of an
#: environment; sgd tries `SGD_RATES` times its own for each arm. Chosen by `python -m benchmarks.evidence.sizes`.
STEP_SIZES = {
    "bernoulli": {"normalized": 0.5, "rms": 5.0, "adam": 0.05, "sgd": 5.0},
    "softmax": {"normalized": 0.5, "rms": 10.0, "adam": 0.02, "sgd": 10.0},
    "linear_weak": {"normalized": 0.5, "rms": 5.0, "adam": 0.05, "sgd": 5.0},
    "linear_strong": {"normalized": 0.1, "rms": 1.0, "adam": 0.05, "sgd": 1.0},
    "noise_10": {"normalized": 1.0, "rms": 10.0, "adam": 0.05, "sgd": 10.0},
    "noise_100": {"normalized": 2.0, "rms": 5.0, "adam": 0.1, "sgd": 5.0},
    "linear_graded": {"normalized": 0.5, "rms": 5.0, "adam": 0.02, "sgd": 5.0},
}
#: Added when the first full run had been seen; its held-out pairs come on top of the others.
ADDED = ("linear_graded",)

#: Environment × difficulty pairs on which nothing is tuned. Of every difficulty a third of the environments, by hash
#: (`held_out_by_hash`; a test checks it). All N and step rules go with a pair, as they share its prompts.
HELD_OUT = frozenset(
    {
        ("linear_strong", "bimodal"),
        ("linear_strong", "hard"),
        ("linear_strong", "very_hard"),
        ("noise_10", "lcb_codegen"),
        ("noise_10", "very_hard"),
        ("noise_100", "bimodal"),
        ("noise_100", "deepscaler"),
        ("noise_100", "dsr1209"),
        ("noise_100", "easy"),
        ("noise_100", "lcb_codegen"),
        ("softmax", "deepscaler"),
        ("softmax", "dsr1209"),
        ("softmax", "easy"),
        ("softmax", "hard"),
        ("linear_graded", "deepscaler"),
        ("linear_graded", "very_hard"),
    }
)


@dataclass(frozen=True)
class Design:
    """How long and how often every setting is run."""

    name: str
    seeds: int = 32  # even ones choose what is best, odd ones score it, and the other way round
    num_train: int = 128
    num_held_out: int = 128
    batch: int = 16
    checkpoints: tuple[int, ...] = (10, 30, 100)
    pilot: tuple[int, int] = (64, 8)  # prompts × rollouts that the baselines know
    one_step_draws: int = 16  # gradients per seed behind a realized one-step gain


FULL = Design("full")
QUICK = Design("quick", seeds=8, checkpoints=(10, 30), one_step_draws=8)


@dataclass(frozen=True)
class Question:
    """What a rule is asked: it does not know how steps are made."""

    environment: str
    difficulty: str
    num_rollouts: int

    @property
    def cluster(self) -> tuple[str, str]:
        """What is resampled and held out together."""
        return self.environment, self.difficulty

    @property
    def held_out(self) -> bool:
        """Whether nothing may be tuned on it."""
        return self.cluster in HELD_OUT

    @property
    def name(self) -> str:
        """Readable and unique."""
        return f"{self.environment}-{self.difficulty}-N{self.num_rollouts}"


@dataclass(frozen=True)
class Setting(Question):
    """A question with the step rule that trains."""

    step: str

    @property
    def name(self) -> str:
        return f"{super().name}-{self.step}"

    @property
    def size(self) -> float:
        """The step's size."""
        return STEP_SIZES[self.environment][self.step]


SETTINGS = tuple(
    Setting(environment, difficulty, n, step)
    for environment, difficulty, n, step in product(ENVIRONMENTS, DIFFICULTIES, NUM_ROLLOUTS, STEPS)
)

#: One or more of every step rule, noise and real pilots.
QUICK_SETTINGS = (
    Setting("bernoulli", "hard", 8, "normalized"),
    Setting("softmax", "bimodal", 4, "rms"),
    Setting("linear_weak", "dsr1209", 8, "adam"),
    Setting("linear_strong", "very_hard", 8, "sgd"),
    Setting("noise_10", "easy", 16, "normalized"),
    Setting("noise_100", "hard", 8, "normalized"),
)


def questions(settings: Iterable[Setting]) -> tuple[Question, ...]:
    """The different questions behind settings, in order."""
    return tuple(dict.fromkeys(Question(s.environment, s.difficulty, s.num_rollouts) for s in settings))


def held_out_by_hash() -> frozenset[tuple[str, str]]:
    """Of every difficulty the third of the environments with the smallest SHA-256 of their names.

    Of environments that were added, the third of the difficulties.
    """

    def digest(pair: tuple[str, str]) -> bytes:
        return hashlib.sha256("held out 1: {} {}".format(*pair).encode()).digest()

    first = [environment for environment in ENVIRONMENTS if environment not in ADDED]
    by_hash = [sorted(product(first, [difficulty]), key=digest) for difficulty in DIFFICULTIES]
    by_hash += [sorted(product([environment], DIFFICULTIES), key=digest) for environment in ADDED]
    return frozenset(pair for pairs in by_hash for pair in pairs[: len(pairs) // 3])


def fingerprint(question: Question, design: Design) -> str:
    """Eight hexadecimal digits that change with anything a result depends on by this file."""
    described = {
        "version": VERSION,
        "question": asdict(question),
        "design": asdict(design),
        "size": question.size if isinstance(question, Setting) else None,
        # Fields that came later count where they are used, so that earlier results stay what they are.
        "environment": {k: v for k, v in asdict(ENVIRONMENTS[question.environment]).items() if k != "graded" or v},
        "difficulty": SYNTHETIC.get(question.difficulty, REAL.get(question.difficulty)),
        "arms": [arm.name for arm in ARMS],
        "rates": SGD_RATES,
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]
