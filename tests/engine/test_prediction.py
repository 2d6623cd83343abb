"""What is said of recordings, for people and for programs."""

from __future__ import annotations

from flowlab.engine.prediction import Prediction, Said, Window, runs_of


def windows(labels: str, length: int = 10) -> tuple[Window, ...]:
    return tuple(Window(i * length, (i + 1) * length, label, 3, (1, 4)) for i, label in enumerate(labels))


def prediction(rate: float | None, samples: int = 60) -> Prediction:
    said = Said("one.csv", samples, windows("aabbba"), {"a": 3, "b": 3}, "a", True, ("one.csv: mended",))
    return Prediction("run1", "tones", "device", "simulator", ("a", "b"), rate, (said,))


def test_windows_of_one_class_that_follow_each_other_are_one_line() -> None:
    assert [(run[0].label, len(run)) for run in runs_of(windows("aabbba"))] == [("a", 2), ("b", 3), ("a", 1)]
    assert prediction(None).lines() == (
        "run run1 of tones: its program for device, run by: simulator",
        "",
        "one.csv: a (3 of 6 windows, a tie; a 3, b 3)",
        "   samples 0-19  a (2 windows)",
        "  samples 20-49  b (3 windows)",
        "  samples 50-59  a (1 window)",
        "  mended: one.csv: mended",
    )


def test_times_are_in_seconds_where_the_rate_is_known() -> None:
    assert prediction(100).lines()[3:6] == (
        "  0.000-0.200 s  a (2 windows)",
        "  0.200-0.500 s  b (3 windows)",
        "  0.500-0.600 s  a (1 window)",
    )


def test_samples_after_the_last_window_are_said() -> None:
    assert "  the last 3 samples fill no window" in prediction(None, samples=63).lines()


def test_the_json_says_seconds_only_where_the_rate_is_known() -> None:
    with_rate, without = (prediction(rate).to_json()["recordings"][0]["windows"][2] for rate in (100.0, None))
    assert (with_rate["start"], with_rate["start_s"], with_rate["stop_s"]) == (20, 0.2, 0.3)
    assert (without["start"], without["start_s"], without["stop_s"]) == (20, None, None)
