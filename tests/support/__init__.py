"""Fakes, factories and genuine samples that several tests share."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
