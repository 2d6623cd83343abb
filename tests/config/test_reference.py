from __future__ import annotations

from flowlab.config.reference import AS_UPSTREAM, rows
from flowlab.config.sections import EXCEPTIONS
from flowlab.config.unread import NOT_BUILT, WITHOUT_EFFECT


def test_a_key_with_another_default_also_says_that_it_is_not_built_or_changes_nothing() -> None:
    said = {f"{row.section}.{row.key}": row.differs for row in rows()}
    assert said["training.training_device"].startswith("another default: 'cpu' by default")
    assert said["training.training_device"].endswith("; not built yet: training on a GPU")
    assert "; changes nothing: " in said["training.num_gpus"]
    assert said["dataset.enable"] == AS_UPSTREAM


def test_every_note_about_a_key_is_in_its_row() -> None:
    said = {f"{row.section}.{row.key}": row.differs for row in rows()}
    assert all(f"another default: {why}" in said[place] for place, why in EXCEPTIONS.items())
    for table, word in ((NOT_BUILT, "not built yet"), (WITHOUT_EFFECT, "changes nothing")):
        for section, notes in table.items():
            assert all(f"{word}: {why}" in said[f"{section}.{key}"] for key, why in notes.items())
