"""What people would run instead: ResNet-18 in onnxruntime, in float32 and in int8 (random weights, 1x3x224x224)."""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import Timed, repeat, timed

SHAPE = (1, 3, 224, 224)


def resnet18(folder: Path) -> dict[str, Timed]:
    """Turns of both, by name; the ONNX files are written to `folder`."""
    import onnxruntime

    floats = _export(folder)
    return {
        f"onnxruntime {onnxruntime.__version__}, ResNet-18 float32": _turns(floats),
        f"onnxruntime {onnxruntime.__version__}, ResNet-18 int8 (static)": _turns(_quantize(floats)),
    }


def _export(folder: Path) -> Path:
    import torch
    from torch import nn

    class Block(nn.Module):
        """He et al., CVPR 2016, figure 2: two 3x3 convolutions and a shortcut."""

        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.first_norm = nn.BatchNorm2d(outputs)
            self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.second_norm = nn.BatchNorm2d(outputs)
            self.shortcut: nn.Module = nn.Identity()
            if stride != 1 or inputs != outputs:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.first_norm(self.first(x)))
            return torch.relu(self.second_norm(self.second(y)) + self.shortcut(x))

    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    widths = (64, 64, 128, 256, 512)
    blocks = []
    for number in range(1, 5):
        blocks += [
            Block(widths[number - 1], widths[number], 1 if number == 1 else 2),
            Block(widths[number], widths[number], 1),
        ]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))
    path = folder / "resnet18.onnx"
    module = nn.Sequential(*stem, *blocks, *head).eval()
    with _quiet():
        torch.onnx.export(
            module, (torch.zeros(SHAPE),), path, input_names=["x"], opset_version=18, dynamo=True, external_data=False
        )
    return path


def _quantize(floats: Path) -> Path:
    """QDQ, per channel, uint8 activations by int8 weights: the fastest form onnxruntime has on x86 with VNNI."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Noise(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            random = np.random.default_rng(0)
            self.batches = iter([{"x": random.standard_normal(SHAPE, np.float32)} for _ in range(8)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    prepared, integers = floats.with_name("resnet18_prepared.onnx"), floats.with_name("resnet18_int8.onnx")
    with _quiet():
        quant_pre_process(str(floats), str(prepared))
        quantize_static(
            str(prepared), str(integers), Noise(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    return integers


def _turns(path: Path) -> Timed:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    binding.bind_cpu_input("x", x)
    for output in session.get_outputs():
        binding.bind_output(output.name)

    def run(kept: object = x) -> None:  # onnxruntime reads the array without owning it
        session.run_with_iobinding(binding)

    return timed(repeat(run))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter and the quantiser talk a lot; an exception still says what went wrong."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
