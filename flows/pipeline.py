"""The flow that a deployment serves, under the name by which ``flows/prefect.yaml`` and the package know it.

It is the flow that `flowlab run` starts; a deployment gives it the sections of a config as its parameter.
`flowlab deploy` needs neither this file nor ``prefect.yaml``: the installed package is enough.
"""

from flowlab.engine.flows import pipeline

__all__ = ["pipeline"]
