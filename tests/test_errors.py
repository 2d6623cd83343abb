from __future__ import annotations

import pytest

from flowlab.errors import did_you_mean


@pytest.mark.parametrize(
    ("found", "known", "meant"),
    [
        ("arc_falt", ("motor_fault", "arc_fault"), "'arc_fault'"),
        ("ARC_FAULT", ("my_arc_fault", "arc_fault"), "'arc_fault'"),  # more letters alike than any part
        ("net_1k", ("net_1k_wide", "net_10k"), "'net_1k_wide'"),
        ("iteration", ("tolerance", "iterations"), "'iterations'"),
        ("qat", ("two_qat", "a_qat_long_name", "own_qat"), "'two_qat' or 'own_qat' or 'a_qat_long_name'"),
        ("wave", ("a_wave", "generic_wave_net"), "'generic_wave_net' or 'a_wave'"),
        ("fft", ("fft_9", "fft_8", "fft_7", "fft_6"), "'fft_9' or 'fft_8' or 'fft_7'"),
    ],
)
def test_a_suggestion_is_a_name_that_holds_the_word_and_else_the_most_alike(
    found: str, known: tuple[str, ...], meant: str
) -> None:
    assert did_you_mean(found, known) == f" Did you mean {meant}?"


@pytest.mark.parametrize("found", ["", "no", "zzz", "(", "_"])
def test_nothing_is_suggested_for_what_is_like_no_name(found: str) -> None:
    assert did_you_mean(found, ("no_wave", "generic_wave_net")) == ""
