"""The flow that a deployment serves: ``prefect deploy flows/pipeline.py:pipeline``.

It is the flow that `flowlab run` starts; a deployment gives it the sections of a config as its parameter.
"""

from flowlab.engine.flows import pipeline

__all__ = ["pipeline"]
