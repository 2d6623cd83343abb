from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flowlab.config import load
from flowlab.errors import ConfigError
from flowlab.plugins import Catalogue
from tests.config.conftest import WHOLE

Write = Callable[..., Path]


def test_a_file_that_lost_its_indentation_gets_each_key_its_section(write: Write, catalogue: Catalogue) -> None:
    flat = "".join(line.lstrip() + "\n" for line in WHOLE.splitlines() if line.strip())
    with pytest.raises(ConfigError) as caught:
        load([write(flat)], [], catalogue)
    message = str(caught.value)
    assert "arc.yaml: keys stand at the top level" in message
    assert "indent 'model_name' under 'training:' (line 10)" in message
    assert "indent 'enable' under 'testing:' (line 18)" in message
    assert "indent 'enable' under 'compilation:' (line 20)" in message  # no talk of a repeated key
    assert "indent 'preset_name' under 'compilation:' (line 21)" in message


def test_one_key_at_the_top_level_is_sent_to_the_section_above(write: Write, catalogue: Catalogue) -> None:
    part = "training:\n  batch_size: 3\n\n\n\n\nmodel_name: 'CLS_4k_NPU'\n"
    with pytest.raises(ConfigError, match=r"indent 'model_name' under 'training:' \(line 7\)"):
        load([write(WHOLE), write(part, "part.yaml")], [], catalogue)


def test_a_key_before_any_section_is_sent_to_the_one_that_knows_it(write: Write, catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match=r"indent 'training_epochs' under 'training:' \(line 1\)"):
        load([write("training_epochs: 3\n")], [], catalogue)


def test_an_unread_key_counts_too(write: Write, catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match=r"indent 'max_num_files' under 'dataset:' \(line 2\)"):
        load([write("dataset:\nmax_num_files: 3\n")], [], catalogue)
