"""bnncc run."""

from pathlib import Path

import click

from bnncc.cli import output
from bnncc.runtime.errors import printable


@click.command()
@click.argument("artifact", metavar="ART.bnn")
@click.option("-i", "--input", "source", required=True, metavar="IN.npz", help="Arrays by input name.")
@click.option("-o", "--output", "out", required=True, metavar="OUT.npz", help="Arrays by output name.")
@output.threads_option
@output.json_option
def command(artifact: str, source: str, out: str, threads: int, json_file: str | None) -> None:
    """Run an artifact once on this machine.

    IN.npz holds exactly the network's inputs, by name, shape and dtype (an array `labels` may be there too).

    \b
    Example:
      bnncc run net.bnn -i x.npz -o y.npz
    """
    output.check_output(Path(out), artifact, source)
    from bnncc.runtime import npz

    model = output.load(artifact, threads)
    npz.write(out, model.run(npz.read(source, model.manifest.inputs)))
    outputs = model.manifest.outputs
    tensors = [{"name": t.name, "shape": list(t.shape), "dtype": t.dtype} for t in outputs]
    rows = [(printable(t.name), t.dtype, list(t.shape)) for t in outputs]
    output.show(
        {"output": out, "tensors": tensors},
        json_file,
        lambda: output.table(out, ["output", "dtype", "shape"], rows),
    )
