"""Health checks: each a code, a level and one sentence."""

from dataclasses import asdict, dataclass

from rl2ml_core.pilot.histogram import PilotHistogram

__all__ = ["LEAST_PROMPTS", "Diagnostic", "pilot_diagnostics", "set_by_prior"]

#: 64 prompts × 8 rollouts already reach the floor that model error sets (docs/decisions.md).
_ENOUGH_PROMPTS = 64


#: With less weight than this, resampling prompts means nothing: no intervals are given.
LEAST_PROMPTS = 2.0


@dataclass(frozen=True)
class Diagnostic:
    """A finding: `code` is stable, `level` is info, warning or error, `detail` is for people."""

    code: str
    level: str
    detail: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def pilot_diagnostics(pilot: PilotHistogram) -> list[Diagnostic]:
    """What a pilot itself shows, whatever the metric."""
    found = []
    prompts = pilot.total_prompts
    if prompts < _ENOUGH_PROMPTS:
        found.append(
            Diagnostic("small_pilot", "warning", f"{prompts:g} prompts; {_ENOUGH_PROMPTS} or more are recommended.")
        )
    all_fail = 1 - pilot.prompts_with_success / prompts
    all_pass = 1 - pilot.prompts_with_failure / prompts
    if all_fail > 0.5:
        detail = f"{all_fail:.0%} of the prompts have no success; more rollouts per prompt would place them."
        found.append(Diagnostic("mostly_all_fail", "warning", detail))
    if all_pass > 0.5:
        detail = f"{all_pass:.0%} of the prompts have no failure: little is left to learn from them."
        found.append(Diagnostic("mostly_all_pass", "warning", detail))
    return found


def set_by_prior(pilot: PilotHistogram) -> str | None:
    """Why the prior, not the data, shapes this pilot's distribution of pass rates; None where it does not."""
    if pilot.num_cells == 1:
        return "every prompt has the same counts"
    if int(pilot.num_rollouts.max()) == 1:
        return "one rollout per prompt shows no spread of pass rates"
    if pilot.total_prompts < LEAST_PROMPTS:
        return f"it stands for {pilot.total_prompts:g} prompts"
    if pilot.prompts_with_both == 0:
        return "no prompt has both successes and failures"
    if pilot.prompts_with_success <= 1:
        return "at most one prompt has a success"
    if pilot.prompts_with_failure <= 1:
        return "at most one prompt has a failure"
    return None
