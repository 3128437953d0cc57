"""bnncc inspect."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from bnncc.cli import output

if TYPE_CHECKING:
    from bnncc.runtime.artifact import Layer, PassRecord


@click.command()
@click.argument("file", metavar="MODEL.onnx|ART.bnn")
@click.option("--target", help="For an ONNX file: the machine it would be compiled for.  [default: native]")
@output.shape_option
@click.option("-v", "--verbose", is_flag=True, help="Show what each pass did, and what it refused and why.")
@output.json_option
def command(file: str, target: str | None, shape: tuple[str, ...], verbose: bool, json_file: str | None) -> None:
    """Show every layer of a model or artifact.

    Is it binary, and why not; what is fused into it; its output, work and weights.

    \b
    Example:
      bnncc inspect net.onnx --target rpi4 -v
      bnncc inspect net.bnn
    """
    shapes = output.parse_shapes(shape)
    layers: Sequence[Layer]
    passes: Sequence[PassRecord]
    if file.endswith(".bnn"):
        if target or shapes:
            raise click.UsageError("--target and --shape are for ONNX files; an artifact has its own.")
        from bnncc.runtime.artifact import Artifact

        manifest = Artifact.load(file).manifest
        layers, passes, target = manifest.layers, manifest.passes, manifest.target
    else:
        from bnncc import compiler
        from bnncc.options import Options

        target = target or "native"
        layers, passes = compiler.inspect(file, target, Options(shapes=shapes))
    report = {
        "file": file,
        "target": target,
        "layers": [dataclasses.asdict(layer) for layer in layers],
        "passes": [dataclasses.asdict(record) for record in passes],
    }
    output.show(report, json_file, lambda: _tables(f"{file} for {target}", layers, passes, verbose))


def _tables(title: str, layers: Sequence[Layer], passes: Sequence[PassRecord], verbose: bool) -> None:
    rows = [
        [
            layer.name,
            layer.kind,
            "yes" if layer.binary else "no",
            layer.why_not,
            ", ".join(layer.fused),
            "x".join(map(str, layer.output_shape)),
            output.amount(layer.macs),
            output.amount(layer.bytes_weights),
        ]
        for layer in layers
    ]
    columns = ["layer", "kind", "binary", "why not", "fused", "output", "MACs", "weight bytes"]
    output.table(title, columns, rows, right=columns[-2:])
    macs, binary = sum(layer.macs for layer in layers), sum(layer.macs for layer in layers if layer.binary)
    click.echo(
        f"{len(layers)} layers, {sum(layer.binary for layer in layers)} of them binary; {output.amount(macs)} MACs, "
        f"{binary / macs if macs else 0:.1%} of them binary; "
        f"{output.amount(sum(layer.bytes_weights for layer in layers))} bytes of weights"
    )
    if verbose:
        click.echo()
        done = [[p.name, p.rewrites, f"{p.seconds * 1e3:.1f}", len(p.refused)] for p in passes]
        output.table("Passes", ["pass", "rewrites", "ms", "refused"], done, right=["rewrites", "ms", "refused"])
        for record in passes:
            for reason in record.refused:
                click.echo(f"{record.name} refused: {reason}")
