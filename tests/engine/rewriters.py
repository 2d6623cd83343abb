"""Stages that rewrite the imagined network."""

from flowlab.contracts import StageJob, StageResult


def upper(job: StageJob) -> StageResult:
    """Append one byte."""
    target = job.out / "best_model.pt"
    target.write_bytes(job.input("float_model").read_bytes() + b"!")
    return StageResult({"float_model": {target.name: target}})


def rename(job: StageJob) -> StageResult:
    """Break the contract."""
    target = job.out / "other"
    target.write_bytes(b"")
    return StageResult({"float_model": {"other": target}})
