"""The nine stages, one file each: a light declaration ``STAGE``, and the function that does the work."""

from __future__ import annotations

from flowlab.contracts import Stage
from flowlab.stages.compile import STAGE as COMPILE
from flowlab.stages.extract import STAGE as EXTRACT
from flowlab.stages.ingest import STAGE as INGEST
from flowlab.stages.inspect import STAGE as INSPECT
from flowlab.stages.quantize import STAGE as QUANTIZE
from flowlab.stages.report import STAGE as REPORT
from flowlab.stages.simulate import STAGE as SIMULATE
from flowlab.stages.train import STAGE as TRAIN
from flowlab.stages.validate import STAGE as VALIDATE

STAGES: tuple[Stage, ...] = (INGEST, EXTRACT, INSPECT, TRAIN, QUANTIZE, VALIDATE, COMPILE, SIMULATE, REPORT)
