"""The table of the strongest places, against windows and orders worked by hand."""

import torch
from torch import Tensor

from neurosteer_cli.saes.peaks import Peak, Peaks, Strengths

IDS = torch.tensor([[10, 11, 12, 13], [20, 21, 22, -1]])


def add(peaks: Peaks, row: int, position: int, *activations: float) -> None:
    peaks.add(torch.tensor([activations]), torch.tensor([[row, position]]), IDS)


def test_a_peak_remembers_the_window_at_the_highest_activation() -> None:
    peaks = Peaks(3, before=2, after=1)
    peaks.add(torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.5, 0.0]]), torch.tensor([[0, 1], [0, 2]]), IDS)
    add(peaks, 1, 1, 2.0, 4.0, 0.0)
    assert peaks.heights.tolist() == [[3.0], [4.0], [0.0]]
    assert peaks.windows.tolist() == [[[10, 11, 12, 13]], [[-1, 20, 21, 22]], [[-1] * 4]]
    assert list(peaks.of(0)) == [Peak(3.0, [10, 11], 12, [13])]
    assert list(peaks.of(1)) == [Peak(4.0, [20], 21, [22])]


def test_a_window_ends_with_the_text_and_with_the_batch() -> None:
    peaks = Peaks(1, 2, before=1, after=2)
    add(peaks, 1, 2, 1.0)
    add(peaks, 0, 3, 2.0)
    assert list(peaks.of(0)) == [Peak(2.0, [12], 13, []), Peak(1.0, [21], 22, [])]


def test_a_latent_that_never_fires_has_no_peak() -> None:
    peaks = Peaks(1, before=2, after=1)
    peaks.add(torch.zeros(4, 1), torch.tensor([[0, n] for n in range(4)]), IDS)
    assert peaks.windows.tolist() == [[[-1] * 4]]
    assert list(peaks.of(0)) == []


def test_an_equal_activation_later_does_not_take_the_peak() -> None:
    peaks = Peaks(1, before=0, after=0)
    add(peaks, 0, 1, 2.0)
    add(peaks, 0, 2, 2.0)
    assert list(peaks.of(0)) == [Peak(2.0, [], 11, [])]


def test_the_weakest_of_several_peaks_makes_room_and_the_strongest_comes_first() -> None:
    peaks = Peaks(1, 2, before=0, after=0)
    for position, activation in enumerate((2.0, 1.0, 3.0, 0.5)):
        add(peaks, 0, position, activation)
    assert list(peaks.of(0)) == [Peak(3.0, [], 12, []), Peak(2.0, [], 10, [])]


def test_of_what_is_taken_in_together_only_the_strongest_is_kept() -> None:
    peaks = Peaks(1, 2, before=0, after=0)
    activations: Tensor = torch.tensor([[1.0], [3.0], [2.0]])
    peaks.add(activations, torch.tensor([[0, 0], [0, 1], [0, 2]]), IDS)
    assert list(peaks.of(0)) == [Peak(3.0, [], 11, [])]


def test_strengths_are_counted_in_half_octaves_up_to_the_strongest() -> None:
    strengths = Strengths(3)
    strengths.add(torch.tensor([[8.0, 0.0, 1e-9], [7.0, 0.0, 0.0]]))
    strengths.add(torch.tensor([[4.0, -1.0, 1e30], [0.1, 0.0, 0.0]]))
    assert strengths.of(0, 4) == [1, 1, 1, 1]  # 0.1 (and up to 4), 4, 7 (from 5.7 up), 8
    assert strengths.of(1, 4) == [0, 0, 0, 0]
    assert strengths.of(2, 4) == [1, 0, 0, 1]  # beyond the ends: in the last steps
    assert strengths.counts.sum(1).tolist() == [4, 0, 2]
