"""bnncc bench."""

from typing import TYPE_CHECKING

import click

from bnncc.cli import output

if TYPE_CHECKING:
    from bnncc.bench.latency import Latency
    from bnncc.bench.profile import Profile
    from bnncc.bench.report import Bench


@click.command()
@click.argument("artifact", metavar="ART.bnn")
@click.option("--profile", is_flag=True, help="Time every layer alone, too.")
@click.option("--baseline", type=click.Choice(["onnxruntime"]), help="A peer to time in the same run.")
@click.option("--baseline-model", metavar="MODEL.onnx", help="The ONNX file the artifact was compiled from.")
@click.option(
    "--min-time", type=click.FloatRange(0.01, 600), default=1.0, show_default=True, help="Seconds of measuring."
)
@output.threads_option
@click.option("--samples", is_flag=True, help="Keep every sample in the JSON.")
@output.json_option
def command(
    artifact: str,
    profile: bool,
    baseline: str | None,
    baseline_model: str | None,
    min_time: float,
    threads: int,
    samples: bool,
    json_file: str | None,
) -> None:
    """Measure an artifact's latency on this machine; the baseline takes as many threads.

    \b
    Example:
      bnncc bench net.bnn --profile
      bnncc bench net.bnn --threads 2
      bnncc bench net.bnn --baseline onnxruntime --baseline-model net.onnx --json bench.json
    """
    if (baseline is None) != (baseline_model is None):
        raise click.UsageError("--baseline and --baseline-model go together: the peer runs the ONNX file.")
    from bnncc.bench import report

    model = output.load(artifact, threads)
    measured = report.bench(model, seconds=min_time, profile=profile, baseline_model=baseline_model, samples=samples)
    output.show(measured.report(), json_file, lambda: _tables(artifact, measured))


def _tables(artifact: str, measured: "Bench") -> None:
    machine, versions = measured.machine, measured.machine["versions"]
    click.echo(
        f"{machine['cpu']} ({machine['cores']} cores, governor {machine['governor']}), load {machine['load_average']}"
    )
    assert isinstance(versions, dict)
    click.echo(
        ", ".join(f"{name} {version}" for name, version in versions.items()) + f", {_threads(measured.threads)}\n"
    )
    rows = [_latency_row(artifact, measured.latency)]
    if measured.baseline:
        rows.append(_latency_row(f"{measured.baseline_name}", measured.baseline))
    columns = ["", "median us", "min", "mean", "p90", "p99", "samples"]
    output.table("Latency (measured)", columns, rows, right=columns[1:])
    if measured.ratio is not None and measured.max_abs_difference is not None:
        word = "faster" if measured.ratio >= 1 else "slower"
        factor = measured.ratio if measured.ratio >= 1 else 1 / measured.ratio
        click.echo(f"{factor:.2f} times {word} than {measured.baseline_name} (medians, measured in turns)")
        click.echo(f"largest difference of outputs: {measured.max_abs_difference:.3g}\n")
    if measured.layers:
        _profile_table(measured.layers, measured.latency)


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _latency_row(name: str, latency: "Latency") -> list[str]:
    times = (latency.median_us, latency.min_us, latency.mean_us, latency.p90_us, latency.p99_us)
    return [name, *(f"{time:.1f}" for time in times), str(latency.n)]


def _profile_table(profile: "Profile", latency: "Latency") -> None:
    columns = ["layer", "kind", "binary", "us", "share", "GMAC/s", "of peak", "bytes"]
    shown = [column for column in columns if column != "of peak" or profile.peaks]
    rows = []
    for time in profile.layers:
        layer = time.layer
        cells = {
            "layer": layer.name,
            "kind": layer.kind,
            "binary": "yes" if layer.binary else "no",
            "us": f"{time.us:.1f}",
            "share": f"{time.share:.0%}",
            "GMAC/s": "" if time.gmacs is None else f"{time.gmacs:.1f}",
            "of peak": "" if time.of_peak is None else f"{time.of_peak:.0%}",
            "bytes": output.amount(layer.bytes_in + layer.bytes_out + layer.bytes_weights),
        }
        rows.append([cells[column] for column in shown])
    title = f"Layers (measured on one thread, medians of {profile.sweeps} sweeps)"
    output.table(title, shown, rows, right=shown[3:])
    click.echo(f"layers together {profile.total_us:.1f} us, the whole call {latency.median_us:.1f} us")
    for kind, peak in profile.peaks.items():
        click.echo(f"measured peak of one thread, {kind}: {peak:.1f} GMAC/s")
    if not profile.peaks:
        click.echo(
            "no peaks: compile the model with --peaks to see how near its layers come to what this machine can do"
        )
