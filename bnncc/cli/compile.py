"""bnncc compile."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnncc.cli import output
from bnncc.progress import Progress, silent

if TYPE_CHECKING:
    from bnncc.runtime.artifact import Artifact, Calibration

QUANTIZE = "bnncc.QuantizeConvs"


@click.command()
@click.argument("model", metavar="MODEL.onnx")
@click.option("--target", required=True, help="The machine to compile for; bnncc targets lists them.")
@click.option("-o", "--output", "out", metavar="OUT.bnn", help="The artifact.  [default: MODEL.bnn beside the model]")
@output.shape_option
@click.option(
    "--calibrate",
    metavar="DATA.npz",
    help="Compute float convolutions in 8-bit integers; DATA holds typical samples by input name, and labels if any.",
)
@click.option("--peaks", is_flag=True, help="Add what bnncc bench --profile needs to compare layers with the machine.")
@click.option(
    "--cache/--no-cache", default=True, help="Take what was compiled before from ~/.cache/bnncc if nothing changed."
)
@click.option("--dump-ir", metavar="DIR", help="Write the IR after every pass into this folder.")
@output.json_option
def command(
    model: str,
    target: str,
    out: str | None,
    shape: tuple[str, ...],
    calibrate: str | None,
    peaks: bool,
    cache: bool,
    dump_ir: str | None,
    json_file: str | None,
) -> None:
    """Compile an ONNX file to an artifact for one target.

    \b
    Example:
      bnncc compile net.onnx --target native -o net.bnn
      bnncc compile net.onnx --target arm --shape x=1,3,224,224 -o net.arm.bnn
      bnncc compile net.onnx --target native --calibrate samples.npz
    """
    shapes = output.parse_shapes(shape)
    path = Path(out) if out is not None else Path(model).parent / f"{Path(model).stem}.bnn"
    output.check_output(path, model)
    import bnncc.cache
    from bnncc import compiler
    from bnncc.options import Options
    from bnncc.runtime import npz

    samples = npz.read_any(calibrate) if calibrate is not None else None

    options = Options(shapes=shapes, peaks=peaks)

    def work(progress: Progress) -> tuple[Artifact, bool]:
        folder = bnncc.cache.default_folder() if cache and dump_ir is None else None
        if folder is not None:
            return bnncc.cache.compile(model, target, folder, options=options, calibrate=samples, progress=progress)
        artifact = compiler.compile(
            model, target, options=options, calibrate=samples, dump_ir=dump_ir, progress=progress
        )
        return artifact, False

    start = time.perf_counter()
    terminal = output.console(stderr=True)
    if terminal.is_terminal:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Bar(*columns, console=terminal, transient=True) as bar:
            task = bar.add_task("reading", total=None)

            def progress(stage: str, done: int, total: int) -> None:
                bar.update(task, description=stage, completed=done, total=total)

            artifact, cached = work(progress)
    else:
        artifact, cached = work(silent)
    artifact.save(path)
    seconds = time.perf_counter() - start
    manifest = artifact.manifest
    layers, calibration = manifest.layers, manifest.calibration
    binary = sum(layer.binary for layer in layers)
    report = {
        "artifact": str(path),
        "target": manifest.target,
        "bytes": path.stat().st_size,
        "arena_bytes": manifest.arena_bytes,
        "layers": len(layers),
        "binary_layers": binary,
        "calibration": dataclasses.asdict(calibration) if calibration else None,
        "seconds": round(seconds, 3),
        "cached": cached,
    }

    def show() -> None:
        click.echo(
            f"{path}: target {manifest.target}, {len(layers)} layers, {binary} of them binary, "
            f"{output.size(path)}, " + ("unchanged since it was compiled" if cached else f"compiled in {seconds:.1f} s")
        )
        if calibration:
            refused = [reason for record in manifest.passes for reason in record.refused if record.name == QUANTIZE]
            click.echo(_changes(calibration))
            for reason in refused:
                click.echo(f"stays float32: {reason}")

    output.show(report, json_file, show)


def _changes(calibration: Calibration) -> str:
    """What 8-bit convolutions changed, in a sentence or two."""
    text = (
        f"8-bit convolutions: {calibration.layers}. On {calibration.samples} samples, run as "
        f"{calibration.target}: outputs differ by at most {calibration.largest_difference:.2%} of the largest"
    )
    if calibration.agreement is not None:
        text += f", {calibration.agreement:.2%} of the answers are the same"
    if calibration.accuracy_float is not None and calibration.accuracy_int8 is not None:
        text += f"; accuracy {calibration.accuracy_float:.2%} before, {calibration.accuracy_int8:.2%} after"
    return text + "."
