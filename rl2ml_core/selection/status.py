"""What kind of answer it is, with the sentence that explains it: statuses are outcomes, never exceptions."""

from rl2ml_core.pilot.diagnostics import Diagnostic, set_by_prior
from rl2ml_core.selection.problem import Problem, Solution

__all__ = ["FLAT_LOSS", "caution_of", "regime_of", "status_of"]

#: A share of the criterion below which a difference does not matter.
FLAT_LOSS = 0.01


def status_of(problem: Problem, solution: Solution, diagnostics: list[Diagnostic]) -> str:
    """The status; the diagnostic that explains it is appended to `diagnostics`."""
    scale = abs(solution.value) or 1.0
    loss_at_zero, loss_at_one = ((solution.value - solution.values[name]) / scale for name in ("rl", "maxrl"))
    if problem.num_rollouts == 1:
        diagnostics.append(Diagnostic("single_rollout", "info", "With one rollout per prompt every γ is plain RL."))
        return "flat"
    if problem.pilot is not None and problem.population.prior is not None:
        why = set_by_prior(problem.pilot)
        if why is not None:
            detail = f"The prior shapes this answer: {why}."
            diagnostics.append(Diagnostic("prior_dominated", "warning", detail))
            return "prior_dominated"
    # Outside the range they may also be better than anything inside it: that is no flat criterion.
    if max(abs(loss_at_zero), abs(loss_at_one)) <= FLAT_LOSS:
        detail = "γ = 0 and γ = 1 are each within 1 % of the best: keep what you have."
        diagnostics.append(Diagnostic("flat", "info", detail))
        return "flat"
    if problem.gamma_min == problem.gamma_max:
        detail = f"γ = {problem.gamma_min:g} was the only one to choose from."
        diagnostics.append(Diagnostic("single_gamma", "info", detail))
        return "at_lower_bound"
    for side, gamma in (("lower", problem.gamma_min), ("upper", problem.gamma_max)):
        if solution.gamma == gamma:
            slope = solution.interpolant.slope(gamma) / scale
            staying = f"lose {loss_at_one:.1%}" if loss_at_one >= 0 else f"gain {-loss_at_one:.1%}"
            detail = (
                f"The best γ is the {side} bound {gamma:g}; the criterion changes by {slope:+.1%} per unit of γ there, "
                f"and staying at γ = 1 would {staying}."
            )
            diagnostics.append(Diagnostic(f"at_{side}_bound", "info", detail))
            return f"at_{side}_bound"
    return "interior"


def caution_of(status: str) -> str:
    """What a summary adds to an answer of this status, with a space before it; mostly nothing."""
    return " The pilot says little: the prior shapes this answer." if status == "prior_dominated" else ""


def regime_of(gamma: float) -> str:
    """How the update scales run: see `update_scales`."""
    if gamma == 0:
        return "rl"
    if gamma == 1:
        return "maxrl_boundary"
    return "subcritical" if gamma < 1 else "supercritical"
