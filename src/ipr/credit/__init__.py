"""Step rewards: Monte Carlo by the scorer (`monte_carlo`), which samples it draws (`draws`), what runs have played
(`outcomes`), and how well step rewards order pairs (`quality`)."""

from ipr.credit.draws import Draws, sample_jobs
from ipr.credit.monte_carlo import estimate, known_outcomes
from ipr.credit.outcomes import Outcomes

__all__ = ["Draws", "Outcomes", "estimate", "known_outcomes", "sample_jobs"]
