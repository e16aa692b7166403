"""Keyword spotting on a stream: synthesized words, log-mel features, and a small LSTM that `train_keywords` trains on them.

There are no recordings: a word is a sequence of phonemes, each three formants (peaks of the spectrum) and a share of noise, between which
the synthesizer glides, at random pitch, speed, level and background noise. The figures are those of an easy task; what they show is time
per frame, and what few bits change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import ROOT
from ulp import nn

Floats = npt.NDArray[np.float32]

RATE, HOP, WINDOW, BINS, MELS = 16000, 160, 400, 512, 40
SECONDS = 1.0
FRAMES = 98
HIDDEN = 64
FILE = ROOT / "bench" / "trained" / "keyword_lstm.npz"

# First three formants in Hz, and the share of noise.
PHONEMES: dict[str, tuple[float, float, float, float]] = {
    "a": (730, 1090, 2440, 0.0),
    "e": (530, 1840, 2480, 0.0),
    "i": (270, 2290, 3010, 0.0),
    "o": (570, 840, 2410, 0.0),
    "u": (300, 870, 2240, 0.0),
    "m": (250, 1100, 2200, 0.0),
    "l": (360, 1300, 2700, 0.0),
    "s": (3500, 5000, 6500, 1.0),
    "f": (1500, 4000, 6800, 1.0),
    "z": (300, 4200, 6000, 0.6),
}
WORDS = ("mas", "lif", "sou", "zem", "fal", "iso", "umi", "ela", "osef", "ziul")
CLASSES = (*WORDS, "other")


def word(rng: np.random.Generator, text: str) -> Floats:
    """One second of sound, float32 (16000,)."""
    count = int(RATE * SECONDS)
    length = rng.uniform(0.4, 0.75) * count
    begin = rng.uniform(0.02, 0.98 * (1 - length / count)) * count
    edges = begin + length * np.cumsum([0, *rng.dirichlet(np.full(len(text), 20.0))])
    middles = (edges[:-1] + edges[1:]) / 2
    t = np.arange(count)
    shift = rng.uniform(0.88, 1.14)  # the length of a vocal tract
    table = np.array([PHONEMES[p] for p in text])
    formants = [np.interp(t, middles, table[:, i] * shift) for i in range(3)]
    noise_share = np.interp(t, middles, table[:, 3])
    pitch = rng.uniform(90, 240) * np.exp(np.interp(t, [0, count], rng.uniform(-0.15, 0.15, 2)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voiced, hiss = np.zeros(count), np.zeros(count)
    for k in range(1, 26):
        at = k * pitch
        voiced += _envelope(at, formants) * np.sin(k * phase) * (at < RATE / 2)
    for at in rng.uniform(1200, 7500, 20):
        hiss += _envelope(np.full(count, at), formants) * np.sin(2 * np.pi * at * t / RATE + rng.uniform(0, 6.3))
    loud = np.clip(np.minimum(t - edges[0], edges[-1] - t) / (0.03 * RATE), 0, 1)
    sound = loud * ((1 - noise_share) * voiced + 0.5 * noise_share * hiss)
    sound *= rng.uniform(0.1, 0.5) / (np.abs(sound).max() + 1e-9)
    return np.asarray(sound + rng.normal(0, 10 ** rng.uniform(-3.5, -2), count), np.float32)


def _envelope(at: Any, formants: list[Any]) -> Any:
    """The height of the spectrum at a frequency: three resonances."""
    return np.sum([weight / (1 + ((at - f) / (60 + 0.06 * f)) ** 2) for f, weight in zip(formants, (1.0, 0.6, 0.3), strict=True)], axis=0)


def samples(seed: int, count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Features (count, 98, 40) and classes of random words; one in eleven is of random phonemes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), count)
    names = list(PHONEMES)
    made = []
    for label in labels:
        text = "".join(rng.choice(names, rng.integers(2, 5))) if label == len(WORDS) else WORDS[label]
        made.append(features(word(rng, text)))
    return np.stack(made), labels.astype(np.int64)


def _mel_matrix() -> Floats:
    """(257, 40): triangles at equal distances of mel from 60 to 7600 Hz."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in (60, 7600))
    edges = 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)
    bins = np.arange(BINS // 2 + 1)[:, None] * RATE / BINS
    rise, fall = (bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]
    return np.asarray(np.maximum(0, np.minimum(rise, fall)), np.float32)


_MEL = _mel_matrix()
_TAPER = np.hanning(WINDOW).astype(np.float32)


def features(sound: Floats) -> Floats:
    """Log-mel energies, float32 (..., frames, 40) of sound (..., samples): windows of 25 ms every 10 ms."""
    windows = np.lib.stride_tricks.sliding_window_view(sound, WINDOW, axis=-1)[..., ::HOP, :]
    power = np.abs(np.fft.rfft(windows * _TAPER, BINS)) ** 2
    mels = power.astype(np.float32) @ _MEL
    return np.asarray((np.log(mels + 1e-4) + 4) * 0.25, np.float32)


def weights(path: Path = FILE) -> dict[str, Floats]:
    """The trained network's, under torch's names."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


class Spotter(nn.Module):
    """An LSTM over frames and a score of each class per frame: (N, T, 40) and states to (N, T, 11) and states."""

    def __init__(self, bits: int, act_bits: int = 8) -> None:
        self.rnn = nn.LSTM(MELS, HIDDEN, batch_first=True, bits=bits, act_bits=act_bits)
        self.head = nn.Linear(HIDDEN, len(CLASSES), bits=bits, act_bits=act_bits, dynamic=False)

    def forward(self, x: Any, h: Any, c: Any) -> Any:
        """The scores of each frame, and the states behind the last one."""
        y, (h, c) = self.rnn(x, (h, c))
        return self.head(y), h, c


def spotter(bits: int, calibration: Floats) -> Spotter:
    """The trained network at so many bits of weights, its head's range from some features."""
    made = Spotter(bits)
    made.load_state_dict(weights())
    made.head.calibrate([made.rnn(calibration)[0]])
    return made


def decided(scores: Floats) -> npt.NDArray[np.int64]:
    """The class of each sequence of scores (N, T, classes): the largest mean of the last 30 frames."""
    return np.asarray(scores[:, -30:].mean(axis=1).argmax(axis=1))
