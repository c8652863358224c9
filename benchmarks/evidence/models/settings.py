"""What is trained: tasks × strengths of the start × seeds × arms × step rules, and how much of everything.

Results name the version. Raise it with any change: runs of another version are not taken over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = [
    "ARMS",
    "FULL",
    "GRPO",
    "QUICK",
    "RLOO",
    "TUNING",
    "VERSION",
    "Arm",
    "Block",
    "Plan",
    "Rule",
    "Setting",
    "Size",
]

VERSION: Final = 1

PASS_AT_1, PASS_AT_8 = "pass@1", "pass@8"


@dataclass(frozen=True)
class Setting:
    """A task and the supervised start that reinforcement learning begins from.

    Args:
        task: a key of `tasks.TASKS`.
        strength: its name in results.
        pass_rate: mean success rate at which supervised training stops.
        supervised_rate: Adam's.
        most_steps: of supervised training; the start is what it is by then.
    """

    task: str
    strength: str
    pass_rate: float
    supervised_rate: float
    most_steps: int

    @property
    def name(self) -> str:
        return f"{self.task}-{self.strength}"


@dataclass(frozen=True)
class Arm:
    """What trains: `recommend` for a metric, the controller for a metric, a known trainer, or a γ.

    γ is the objective's parameter, not a discount factor. A γ has the baseline that `recommend` would give it, "bayes"
    from the pilot.

    Args:
        name: as results call it.
        kappa: what the recommendation knows of it: "default", or "measured" on the pilot's rollouts; where those are
            too few to tell it from 0, the default.
    """

    name: str
    recommended_for: str | None = None
    controlled_for: str | None = None
    trainer: str | None = None
    gamma: float | None = None
    kappa: str = "default"


@dataclass(frozen=True)
class Rule:
    """From a gradient to a step: "normalized", θ ← θ − size · g/‖g‖, or "adam" with the rate `size`."""

    name: str
    size: float


@dataclass(frozen=True)
class Size:
    """How much of everything; the model is the same everywhere."""

    width: int = 48  # of the transformer, two layers: 59,000 parameters
    supervised_batch: int = 64
    check_every: int = 5  # supervised steps between looks at the pass rate
    pilot_prompts: int = 64
    pilot_rollouts: int = 8
    steps: int = 120
    prompts_per_step: int = 16
    rollouts_per_prompt: int = 8
    steps_per_window: int = 12  # of the controller
    held_out_prompts: int = 256
    held_out_rollouts: int = 32


@dataclass(frozen=True)
class Block:
    """All runs that share a start: one process trains them one after another."""

    setting: Setting
    seed: int
    runs: tuple[tuple[Rule, Arm], ...]
    size: Size


@dataclass(frozen=True)
class Plan:
    """A list of blocks under a name, which is that of its folder."""

    name: str
    size: Size
    seeds: tuple[int, ...]
    settings: tuple[Setting, ...]
    #: By task: a rule, the strengths it is used on, and its arms.
    rules: dict[str, tuple[tuple[Rule, tuple[str, ...], tuple[Arm, ...]], ...]]

    def blocks(self) -> Iterator[Block]:
        """Seed by seed, so that an interrupted plan has whole seeds."""
        for seed in self.seeds:
            for setting in self.settings:
                runs = tuple(
                    (rule, arm)
                    for rule, strengths, arms in self.rules[setting.task]
                    if setting.strength in strengths
                    for arm in arms
                )
                yield Block(setting, seed, runs, self.size)


GRPO = Arm("GRPO", trainer="grpo")
RLOO = Arm("RLOO", trainer="rloo")
RECOMMENDED_8 = Arm("recommended for pass@8", recommended_for=PASS_AT_8)
RECOMMENDED_1 = Arm("recommended for pass@1", recommended_for=PASS_AT_1)
MEASURED_8 = Arm("recommended for pass@8, κ measured", recommended_for=PASS_AT_8, kappa="measured")
MEASURED_1 = Arm("recommended for pass@1, κ measured", recommended_for=PASS_AT_1, kappa="measured")
CONTROLLER = Arm("controller for pass@8", controlled_for=PASS_AT_8)
ARMS: Final = (
    GRPO,
    RLOO,
    RECOMMENDED_8,
    RECOMMENDED_1,
    MEASURED_8,
    MEASURED_1,
    CONTROLLER,
    Arm("γ = 0", gamma=0.0),
    Arm("γ = 0.25", gamma=0.25),
    Arm("γ = 1", gamma=1.0),
)
ADAM_ARMS: Final = (GRPO, RLOO, RECOMMENDED_8, RECOMMENDED_1, MEASURED_8, CONTROLLER)

# Supervised training stops at these rates. Targets of three and four numbers stay below .2 for long: many expressions
# lead to one, and examples show one at random.
WEAK, STRONG = "weak", "strong"
BOTH = (WEAK, STRONG)
SETTINGS: Final = (
    Setting("sorting", WEAK, 0.07, 4e-3, 400),
    Setting("sorting", STRONG, 0.30, 4e-3, 400),
    Setting("addition", WEAK, 0.07, 4e-3, 1500),
    Setting("addition", STRONG, 0.30, 4e-3, 1500),
    Setting("target", WEAK, 0.06, 4e-3, 1000),
    Setting("target", STRONG, 0.18, 4e-3, 1000),
)

# One size per task for all arms, chosen by GRPO's mean of pass@1 and pass@8 over both starts (Adam: the
# weak one) on TUNING's seed, which nothing else uses (`run.py --tune`).
LENGTHS: Final = {"sorting": 0.1, "addition": 0.025, "target": 0.05}
RATES: Final = {"sorting": 1e-3, "addition": 3e-4, "target": 3e-4}

FULL: Final = Plan(
    "full",
    Size(),
    tuple(range(8)),
    SETTINGS,
    {
        task: (
            (Rule("normalized", LENGTHS[task]), BOTH, ARMS),
            (Rule("adam", RATES[task]), (WEAK,), ADAM_ARMS),
        )
        for task in LENGTHS
    },
)

TUNING: Final = Plan(
    "tuning",
    Size(),
    (1000,),
    SETTINGS,
    {
        task: (
            *((Rule("normalized", length), BOTH, (GRPO,)) for length in (0.025, 0.05, 0.1, 0.2)),
            *((Rule("adam", rate), (WEAK,), (GRPO,)) for rate in (1e-4, 3e-4, 1e-3)),
        )
        for task in LENGTHS
    },
)

#: A check that it runs: its starts are hardly trained, and its numbers say nothing.
QUICK: Final = Plan(
    "quick",
    Size(
        width=32,
        supervised_batch=32,
        pilot_prompts=32,
        steps=4,
        prompts_per_step=8,
        steps_per_window=2,
        held_out_prompts=32,
        held_out_rollouts=8,
    ),
    (0, 1),
    tuple(Setting(task, WEAK, 0.01, 8e-3, 40) for task in LENGTHS),
    {
        task: (
            (Rule("normalized", LENGTHS[task]), (WEAK,), ARMS if task == "sorting" else (GRPO, RECOMMENDED_8)),
            *(((Rule("adam", RATES[task]), (WEAK,), (GRPO, RECOMMENDED_8)),) if task == "sorting" else ()),
        )
        for task in LENGTHS
    },
)
