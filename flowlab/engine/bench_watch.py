"""Looking on while a quantizer works: how long it takes, and how long its first epoch does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowlab.contracts import NumberFormat, Quantized, QuantizeJob, Quantizer


class EnoughError(Exception):
    """The first epoch is over: it was all that is timed."""


class Watch:
    """Looks on while a quantizer works, and stops it behind the first epoch where that is all that is asked."""

    def __init__(self, first_epoch: bool = False) -> None:
        self.first_epoch, self.seconds, self.epoch_s, self._start = first_epoch, 0.0, 0.0, 0.0

    def over(self, plugins: Mapping[str, tuple[Any, Any]]) -> Quantizer:
        """The quantizer with this watch over it."""
        return _Watched(plugins["quantizer"][0], self)

    def run(self, module: Any, fit: Callable[[Any], Any]) -> None:
        """Train a module until this watch has seen enough."""
        try:
            self.fit(fit)(module)
        except EnoughError:
            return

    def fit(self, fit: Callable[..., Any]) -> Callable[..., Any]:
        """A training that tells this watch when its first epoch begins."""

        def watched(module: Any, *args: Any, **kwargs: Any) -> Any:
            begin = getattr(module, "begin_epoch", None)

            def begun(epoch: int, epochs: int) -> None:
                if callable(begin):
                    begin(epoch, epochs)
                self._start = time.process_time()

            if self.first_epoch:
                module.begin_epoch = begun
            return fit(module, *args, **kwargs)

        return watched

    def progress(self, what: str, done: float) -> None:
        """Behind each epoch."""
        if self.first_epoch and self._start:
            self.epoch_s = time.process_time() - self._start
            raise EnoughError


class _Watched(Quantizer):
    """A quantizer that is timed."""

    def __init__(self, inner: Quantizer, watch: Watch) -> None:
        self.inner, self.watch = inner, watch
        self.name, self.format, self.trains, self.mixed = inner.name, inner.format, inner.trains, inner.mixed

    def check(self, graph: Any, format: NumberFormat, options: Any) -> Sequence[str]:
        """The inner one's."""
        return self.inner.check(graph, format, options)

    def quantize(self, job: QuantizeJob, options: Any) -> Quantized:
        """The inner one's, timed."""
        start = time.process_time()
        try:
            return self.inner.quantize(replace(job, fit=self.watch.fit(job.fit)), options)
        finally:
            self.watch.seconds = time.process_time() - start
