"""Pilots from the rollouts that trainers and evaluators dump, at any size."""

from rl2ml_core.pilot.rollouts.formats import FORMATS
from rl2ml_core.pilot.rollouts.read import read_rollouts
from rl2ml_core.pilot.rollouts.result import FileReport, Rollouts, Step

__all__ = ["FORMATS", "FileReport", "Rollouts", "Step", "read_rollouts"]
