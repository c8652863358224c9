"""From counts to a distribution of pass rates: never raw k/n, unless asked by name."""

from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.population import BetaPrior, Population
from rl2ml_core.pilot.histogram import PilotHistogram

__all__ = ["BetaPrior", "posterior"]


def posterior(pilot: PilotHistogram, prior: BetaPrior | str) -> Population:
    """The population of a pilot under a prior.

    Args:
        pilot: the histogram.
        prior: a `BetaPrior`, exact conjugate posteriors; or "plug_in", point masses at k/n.

    Raises:
        InvalidInput: another prior.
    """
    if isinstance(prior, BetaPrior):
        return pilot.population(prior)
    if prior == "plug_in":
        return pilot.population(None)
    raise InvalidInput(f"prior must be a BetaPrior(alpha, beta) or 'plug_in'; got {prior!r:.60}", field="prior")
