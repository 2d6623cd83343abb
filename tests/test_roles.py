from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from flowlab.roles import ROLES, role_digest

FILES = st.dictionaries(st.text(min_size=1), st.binary().map(lambda data: hashlib.sha256(data).hexdigest()))


def test_every_role_says_what_it_is() -> None:
    for name, role in ROLES.items():
        assert role.name == name
        assert "/" in role.media
        assert role.meaning and not role.meaning.endswith(".")


def test_copies_for_people_stay_inside_the_run_folder() -> None:
    for role in ROLES.values():
        assert role.tree is None or not role.tree.startswith(("/", "."))


def test_people_find_the_chapters_tree() -> None:
    trees = {name: role.tree for name, role in ROLES.items() if role.tree is not None}
    assert trees == {
        "float_model": "training/base",
        "float_onnx": "training/base",
        "quantized_onnx": "training/quantization",
        "int8_onnx": "training/quantization",
        "quantization_config": "training/quantization",
        "quantized_weights": "training/quantization",
        "program": "compilation",
        "report": "",
        "layers": "",
    }


@given(FILES, FILES)
def test_two_roles_have_one_digest_only_if_they_have_the_same_files(one: dict[str, str], two: dict[str, str]) -> None:
    assert (role_digest(one) == role_digest(two)) == (one == two)


@given(FILES)
def test_the_order_of_the_files_does_not_count(files: dict[str, str]) -> None:
    assert role_digest(dict(reversed(files.items()))) == role_digest(files)


def test_a_name_cannot_imitate_two_files() -> None:
    sha = hashlib.sha256(b"").hexdigest()
    assert role_digest({f"a\n{sha}  1 b": sha}) != role_digest({"a": sha, "b": sha})
