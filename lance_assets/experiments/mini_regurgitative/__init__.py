"""Gives the file beside it a type of its own: `dg check yaml` checks one file of each type."""

from lance_assets.assets.experiment import Experiment as Experiment
