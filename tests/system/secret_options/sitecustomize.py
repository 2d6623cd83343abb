"""With this folder in PYTHONPATH the generic PTQ of every process has options that hold secrets, a stranger's would.

Each value that its stage gets is a line in the file that SECRETS_LOG names: the proof that secrets came through.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if "SECRETS_LOG" in os.environ:
    from flowlab_generic.quantizers import PostTraining

    @dataclass(frozen=True)
    class Account:
        """Of an imagined service; nothing calls it."""

        api_token: str = ""
        webhook: str = ""

    _quantize = PostTraining.quantize

    def _noted(self: Any, job: Any, options: Any) -> Any:
        with Path(os.environ["SECRETS_LOG"]).open("a") as log:
            log.write(f"{options.api_token}\n{options.webhook}\n")
        return _quantize(self, job, options)

    PostTraining.Options = Account
    PostTraining.quantize = _noted
