"""Trained float models with data to calibrate and to judge them by, all of it from packages: what `python -m bench quantize` quantizes.

- resnet, mobilenet, keyword: bench.subjects.float_networks on digits that they were not trained on.
- ocr: the recognition model of rapidocr-onnxruntime on lines of words that Pillow renders with matplotlib's fonts.
- detector: nudenet's detector on pictures of scikit-image and scikit-learn, against the boxes that it finds in floats.
- espcn: qonnx's super-resolution network on pictures of scikit-learn.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import ROOT

from .wheels import model_file

F32 = npt.NDArray[np.float32]
Run = Callable[[F32], Any]
"""What gives the model's only output for a batch."""


@dataclass(frozen=True)
class Task:
    """model: the bytes of an ONNX file. calibrate: float32 batches. score: what a network is worth by `metric`, higher is better.

    select: the same on other inputs, by which bits are chosen: calibration, choice and score have no input in common.
    example: what is timed. module: the model as a torch.nn.Module, where it is one.
    """

    name: str
    model: bytes
    calibrate: list[F32]
    example: F32
    metric: str
    score: Callable[[Run], float]
    select: Callable[[Run], float]
    module: Any = None


CACHE = ROOT / "build" / "models"


def digits(name: str) -> Task:
    """A network of `float_networks`."""
    import torch

    from . import float_networks

    _, side = float_networks.NETWORKS[name]
    network = float_networks.trained(name)
    fit_x, fit_y, x, y = float_networks.digits(side)
    file = io.BytesIO()
    torch.onnx.export(network, (torch.from_numpy(x[:2]),), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "N"}})

    def score(run: Run) -> float:
        return float_networks.percent_right(run(x), y)

    def select(run: Run) -> float:
        return float_networks.percent_right(run(fit_x[512:]), fit_y[512:])

    calibrate = [fit_x[i : i + 64] for i in range(0, 512, 64)]
    return Task(name, file.getvalue(), calibrate, x[:1], "digits right, %", score, select, network)


# ------------------------------------------------------------------------------------------------------------------------------- text

_TEXT = """
about above accept across action address against almost already animal answer around autumn balance basket because before bicycle bridge
bright building button camera carbon castle center change circle clever climate coffee common copper corner cotton country cousin create
daughter decide degree desert dinner doctor dollar double dragon during eastern effort either energy engine enough evening example father
figure finger finish flower forest forget former garden gentle golden ground growth hammer harbor height history honest hundred island
jacket journey jungle kettle kitchen ladder language laptop leather letter library liquid listen little machine magnet market matter
meadow member middle minute mirror modern moment mother mountain muscle narrow nature needle nickel nothing number object ocean office
orange oxygen palace parent pencil people pepper picture planet pocket poetry police potato powder pretty prince puzzle quarter quick
rabbit random reason record result ribbon river rocket saddle salmon season second secret shadow silver simple single sister smooth
spring square station stream street student summer sunday switch system teacher temple thirty thunder ticket tomato tunnel turtle
twelve uncle under update valley velvet village violin volume wallet water weather window winter wonder yellow zebra
2026 1984 365 42 7500 3.14 100% $250 #17 A4 B2 X9
"""
_WORDS = _TEXT.split()
_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Bold", "STIXGeneral",
    "STIXGeneralItalic", "STIXGeneralBol", "cmr10", "cmss10", "cmtt10",
)  # fmt: skip
HEIGHT, WIDTH = 48, 320


def lines(count: int, seed: int) -> tuple[F32, list[str]]:
    """Images (count, 3, 48, 320) of -1 .. 1, as the model reads them, and their texts: two to three words, ink, paper and noise vary."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    rng = np.random.default_rng(seed)
    images: list[F32] = []
    texts: list[str] = []
    while len(texts) < count:
        words = [str(word) for word in rng.choice(_WORDS, rng.integers(2, 4))]
        words = [word.capitalize() if rng.random() < 0.3 else word for word in words]
        text = " ".join(words)
        font = ImageFont.truetype(str(folder / f"{rng.choice(_FONTS)}.ttf"), int(rng.integers(20, 34)))
        left, top, right, bottom = font.getbbox(text)
        width, height = right - left + 20, bottom - top + int(rng.integers(6, 18))
        if round(width * HEIGHT / height) > WIDTH:
            continue
        paper, ink = int(rng.integers(170, 256)), int(rng.integers(0, 90))
        picture = Image.new("RGB", (int(width), int(height)), (paper, paper, int(paper * rng.uniform(0.85, 1))))
        ImageDraw.Draw(picture).text((10 - left, (height - bottom + top) / 2 - top), text, (ink, ink, int(ink * rng.uniform(0.5, 1))), font)
        picture = picture.rotate(float(rng.uniform(-1, 1)), Image.Resampling.BILINEAR, fillcolor=picture.getpixel((0, 0)))
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.2))))
        picture = picture.resize((round(width * HEIGHT / height), HEIGHT), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, np.float32)[:, :, ::-1] + rng.normal(0, rng.uniform(0, 12), (HEIGHT, picture.width, 1))
        image = np.zeros((3, HEIGHT, WIDTH), np.float32)
        image[:, :, : picture.width] = np.clip(pixels, 0, 255).transpose(2, 0, 1) / 127.5 - 1
        images.append(image)
        texts.append(text)
    return np.stack(images), texts


def _decoded(probabilities: F32, characters: Sequence[str]) -> list[str]:
    """The text of each line: the best class of each step, repetitions once, without the blank (0)."""
    found = []
    for best in probabilities.argmax(axis=2):
        kept = best[(best != 0) & (best != np.concatenate(([-1], best[:-1])))]
        found.append("".join(characters[i] for i in kept))
    return found


def ocr() -> Task:
    """rapidocr's recognition model: the share of words that are read without a mistake."""
    import onnx

    model = onnx.load(model_file("rapidocr-onnxruntime", "1.4.4", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", CACHE))
    characters = ["", *next(p.value for p in model.metadata_props if p.key == "character").splitlines(), " "]
    fit_x, _ = lines(32, seed=1)  # 64 take twice as long, and W8A8 and W4A8 read no more words (2,758 words of 1,280 lines)
    tests = lines(640, seed=2)

    def right(run: Run, images: F32, texts: list[str]) -> float:
        read = [text for i in range(0, len(images), 16) for text in _decoded(run(images[i : i + 16]), characters)]
        words = [(word, got.split()) for text, got in zip(texts, read, strict=True) for word in text.split()]
        return 100 * sum(word in got for word, got in words) / len(words)

    def score(run: Run) -> float:
        return right(run, *tests)

    def select(run: Run) -> float:
        return right(run, *choosing)

    choosing = lines(96, seed=3)
    calibrate = [fit_x[i : i + 16] for i in range(0, 32, 16)]
    return Task("ocr", model.SerializeToString(), calibrate, tests[0][:1], "words right, %", score, select)


# --------------------------------------------------------------------------------------------------------------------------- pictures


def pictures() -> list[npt.NDArray[np.uint8]]:
    """RGB pictures (height, width, 3) that scikit-learn carries, and scikit-image where it is installed."""
    from sklearn.datasets import load_sample_images

    found = list(load_sample_images().images)
    try:
        from skimage import data
    except ImportError:
        return found
    return [*found, *(getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket"))]


def _crop(rng: np.random.Generator, picture: npt.NDArray[np.uint8], side: int, size: int) -> npt.NDArray[np.uint8]:
    """A square of `side` pixels from anywhere in the picture, as `size` pixels."""
    from PIL import Image

    side = min(side, *picture.shape[:2])
    top, left = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
    image = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def espcn() -> Task:
    """Enlarging 2x what was reduced to a half: the peak signal-to-noise ratio of the pixels."""
    import qonnx

    path = Path(qonnx.__path__[0]) / "data" / "onnx" / "bsd300x3-espcn" / "nn_resize" / "float_model.onnx"
    rng = np.random.default_rng(0)
    from PIL import Image

    # Calibration, choice and score have a third of each picture for themselves: no pixel is in two of them.
    thirds = [np.array_split(picture, 3, axis=1) for picture in pictures()[:2]]
    large = [_crop(rng, thirds[i % 2][min(i // 4, 2)], 320, 256) for i in range(16)]
    small = [np.asarray(Image.fromarray(image).resize((128, 128), Image.Resampling.BICUBIC)) for image in large]
    x = np.stack(small).transpose(0, 3, 1, 2).astype(np.float32) / 255
    y = np.stack(large).transpose(0, 3, 1, 2).astype(np.float32) / 255

    def psnr(run: Run, begin: int, end: int) -> float:
        made = np.concatenate([np.asarray(run(x[i : i + 1])) for i in range(begin, end)])
        error = np.square(np.clip(made, 0, 1) - y[begin:end], dtype=np.float64).mean()
        return float(-10 * np.log10(error))

    def score(run: Run) -> float:
        return psnr(run, 8, len(x))

    def select(run: Run) -> float:
        return psnr(run, 4, 8)

    calibrate = [x[i : i + 1] for i in range(4)]
    return Task("espcn", _without_weights_as_inputs(path.read_bytes()), calibrate, x[8:9], "PSNR, dB", score, select)


def _without_weights_as_inputs(file: bytes) -> bytes:
    """Files of old exporters list their constants among the inputs."""
    import onnx

    model = onnx.load_from_string(file)
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = [port for port in model.graph.input if port.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return bytes(model.SerializeToString())


# -------------------------------------------------------------------------------------------------------------------------- detection

SCORE, OVERLAP = 0.25, 0.5


def _boxes(output: F32) -> list[list[tuple[int, F32]]]:
    """Per image, class and corners of the boxes that stay after non-maximum suppression. output: (N, 4 + classes, anchors)."""
    found = []
    for rows in output.transpose(0, 2, 1):
        scores = rows[:, 4:].max(axis=1)
        kept: list[tuple[int, F32]] = []
        for i in np.argsort(-scores)[: np.count_nonzero(scores >= SCORE)]:
            x, y, width, height = rows[i, :4]
            box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2], np.float32)
            kind = int(rows[i, 4:].argmax())
            if all(other != kind or _overlap(box, corners) < OVERLAP for other, corners in kept):
                kept.append((kind, box))
        found.append(kept)
    return found


def _overlap(a: F32, b: F32) -> float:
    """The area in both over the area in either."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = float(np.prod(np.maximum(sides, 0)))
    return both / max(float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both, 1e-9)


def detector() -> Task:
    """nudenet's detector: the F1 score of its boxes against those that it finds in floats.

    Few pictures that packages carry show a person: calibration, choice and score have different crops, some of the same face.
    """
    file = model_file("nudenet", "3.4.2", "nudenet/320n.onnx", CACHE).read_bytes()
    rng = np.random.default_rng(0)
    given = pictures()
    faces = given[2:3] or given
    crops = [_crop(rng, faces[0] if i % 4 else given[i % len(given)], int(rng.integers(150, 420)), 320) for i in range(128)]
    crops = [crop[:, ::-1] if i % 2 else crop for i, crop in enumerate(crops)]
    x = np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32) / 255
    truth: dict[int, list[list[tuple[int, F32]]]] = {}

    def found(run: Run, begin: int, end: int) -> list[list[tuple[int, F32]]]:
        return [boxes for i in range(begin, end, 8) for boxes in _boxes(np.asarray(run(x[i : i + 8])))]

    def f1(run: Run, begin: int, end: int) -> float:
        if begin not in truth:
            truth[begin] = found(session(file), begin, end)
        own = found(run, begin, end)
        hits = sum(
            any(kind == other and _overlap(box, corners) >= OVERLAP for other, corners in mine)
            for theirs, mine in zip(truth[begin], own, strict=True)
            for kind, box in theirs
        )
        return 100 * 2 * hits / max(sum(map(len, truth[begin])) + sum(map(len, own)), 1)

    def score(run: Run) -> float:
        return f1(run, 32, 96)

    def select(run: Run) -> float:
        return f1(run, 96, 128)

    calibrate = [x[i : i + 8] for i in range(0, 32, 8)]
    return Task("detector", file, calibrate, x[32:33], "F1 against float boxes, %", score, select)


def session(model: bytes | str) -> Run:
    """The model in onnxruntime, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = made.get_inputs()[0].name
    return lambda x: made.run(None, {name: x})[0]


TASKS: dict[str, Callable[[], Task]] = {
    **{name: functools.partial(digits, name) for name in ("resnet", "mobilenet", "keyword")},
    "ocr": ocr,
    "espcn": espcn,
    "detector": detector,
}
