"""The flow of a sweep, under the name by which a deployment finds it; `flowlab sweep` starts the same one.

A deployment gives it a sweep as its parameter: sections of a config, and a matrix of what is varied in them.
"""

from flowlab.engine.flows import sweep

__all__ = ["sweep"]
