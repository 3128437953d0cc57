"""Train, export, compile for two machines, check every test image against onnxruntime, measure: `make demo`.

Run as `python -m examples.demo`. Writes digits.onnx, the artifacts and report.json into demo/ and prints one table.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich import box
from rich.console import Console
from rich.table import Table

import bnncc
from bnncc.bench.report import Bench, bench
from bnncc.runtime import atomic
from examples.digits import train_digits

Images = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]


def onnxruntime_scores(path: Path, images: Images) -> Scores:
    """What onnxruntime says about each image: float32 [N, 10]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: images[i : i + 1]})[0] for i in range(len(images))])


def kilobytes(size: int) -> str:
    """Bytes for people: "17.3 kB"."""
    return f"{size / 1e3:.1f} kB"


def main() -> int:
    """Returns the exit code: 0 if artifact and onnxruntime agree on every image, 3 if not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder for the files made")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    arguments = parser.parse_args()
    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    console = Console(highlight=False)

    console.print("[bold]1[/] train a binary network on 8x8 digits (torch)")
    module, images, labels = train_digits(arguments.seed)
    model = folder / "digits.onnx"
    console.print(f"[bold]2[/] export it: {model}")
    bnncc.export(module, torch.from_numpy(images[:1]), model)
    artifacts = {}
    for target in ("native", "arm"):
        path = folder / f"digits.{target}.bnn"
        console.print(f"[bold]3[/] compile it: {path}")
        artifacts[target] = bnncc.compile(model, target=target)
        artifacts[target].save(path)

    console.print(f"[bold]4[/] check it against onnxruntime on all {len(images)} test images")
    network = bnncc.load(folder / "digits.native.bnn")
    ours = np.concatenate([network(images[i : i + 1]) for i in range(len(images))])
    theirs = onnxruntime_scores(model, images)
    with torch.inference_mode():
        before = module(torch.from_numpy(images)).numpy()
    same = int((ours.argmax(1) == theirs.argmax(1)).sum())

    console.print("[bold]5[/] measure both in turns, one thread\n")
    measured = bench(network, baseline_model=model)
    report = {
        "images": len(images),
        "accuracy_torch": float((before.argmax(1) == labels).mean()),
        "accuracy_artifact": float((ours.argmax(1) == labels).mean()),
        "agreement_with_onnxruntime": same / len(images),
        "max_abs_difference": float(np.abs(ours - theirs).max()),
        "float32_weight_bytes": 4 * sum(parameter.numel() for parameter in module.parameters()),
        "onnx_bytes": model.stat().st_size,
        "artifact_bytes": {target: (folder / f"digits.{target}.bnn").stat().st_size for target in artifacts},
        "bench": measured.report(),
    }
    atomic.write(folder / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    console.print(table(report, artifacts["native"].manifest.target, measured))
    console.print(f"files and report.json are in {folder}/")
    return 0 if same == len(images) else 3


def table(report: dict[str, object], native: str, measured: Bench) -> Table:
    """The results, one a row."""
    made = Table(box=box.SIMPLE_HEAD, title="digits: 8x8 images, 10 classes", title_justify="left", title_style="bold")
    made.add_column("")
    made.add_column("result", justify="right")
    sizes = report["artifact_bytes"]
    assert isinstance(sizes, dict)
    assert measured.baseline is not None
    assert measured.ratio is not None
    rows = (
        ("accuracy before: torch", f"{report['accuracy_torch']:.2%}"),
        ("accuracy after: artifact", f"{report['accuracy_artifact']:.2%}"),
        (
            "top-1 agreement with onnxruntime",
            f"{report['agreement_with_onnxruntime']:.2%} of {report['images']} images",
        ),
        ("largest difference of a score", f"{report['max_abs_difference']:.2g}"),
        ("weights as float32", kilobytes(int(str(report["float32_weight_bytes"])))),
        ("ONNX file, weights as bits", kilobytes(int(str(report["onnx_bytes"])))),
        (f"artifact, native ({native})", kilobytes(sizes["native"])),
        ("artifact, arm", kilobytes(sizes["arm"])),
        (f"latency, {measured.baseline_name} (measured, median)", f"{measured.baseline.median_us:.1f} us"),
        ("latency, artifact (measured, median)", f"{measured.latency.median_us:.1f} us"),
        ("onnxruntime / artifact", f"{measured.ratio:.2f}"),
    )
    for row in rows:
        made.add_row(*row)
    return made


if __name__ == "__main__":
    sys.exit(main())
