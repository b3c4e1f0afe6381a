"""Hypothesis draws the same inputs on every machine, and no test depends on time."""

import os

from hypothesis import settings

# TONSOR_FUZZ asks for inputs that nobody has seen yet
settings.register_profile("tonsor", deadline=None, derandomize="TONSOR_FUZZ" not in os.environ)
settings.load_profile("tonsor")
