"""bnncc compile."""

import time
from pathlib import Path

import click

from bnncc.cli import output


@click.command()
@click.argument("model", metavar="MODEL.onnx")
@click.option("--target", required=True, help="The machine to compile for; bnncc targets lists them.")
@click.option("-o", "--output", "out", metavar="OUT.bnn", help="The artifact.  [default: MODEL.bnn beside the model]")
@output.shape_option
@click.option("--dump-ir", metavar="DIR", help="Write the IR after every pass into this folder.")
@output.json_option
def command(
    model: str, target: str, out: str | None, shape: tuple[str, ...], dump_ir: str | None, json_file: str | None
) -> None:
    """Compile an ONNX file to an artifact for one target.

    \b
    Example:
      bnncc compile net.onnx --target native -o net.bnn
      bnncc compile net.onnx --target arm --shape x=1,3,224,224 -o net.arm.bnn
    """
    shapes = output.parse_shapes(shape)
    path = Path(out) if out is not None else Path(model).parent / f"{Path(model).stem}.bnn"
    output.check_output(path, model)
    from bnncc import compiler

    start = time.perf_counter()
    terminal = output.console(stderr=True)
    if terminal.is_terminal:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, console=terminal, transient=True) as bar:
            task = bar.add_task("reading", total=None)

            def progress(stage: str, done: int, total: int) -> None:
                bar.update(task, description=stage, completed=done, total=total)

            artifact = compiler.compile(model, target, shapes=shapes, dump_ir=dump_ir, progress=progress)
    else:
        artifact = compiler.compile(model, target, shapes=shapes, dump_ir=dump_ir, progress=None)
    artifact.save(path)
    seconds = time.perf_counter() - start
    layers = artifact.manifest.layers
    binary = sum(layer.binary for layer in layers)
    report = {
        "artifact": str(path),
        "target": artifact.manifest.target,
        "bytes": path.stat().st_size,
        "arena_bytes": artifact.manifest.arena_bytes,
        "layers": len(layers),
        "binary_layers": binary,
        "seconds": round(seconds, 3),
    }
    output.show(
        report,
        json_file,
        lambda: click.echo(
            f"{path}: target {artifact.manifest.target}, {len(layers)} layers, {binary} of them binary, "
            f"{output.size(path)}, compiled in {seconds:.1f} s"
        ),
    )
