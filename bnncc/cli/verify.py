"""bnncc verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnncc.cli import output
from bnncc.progress import Progress, bar
from bnncc.runtime import atomic
from bnncc.runtime.errors import GateError, OptionError

if TYPE_CHECKING:
    from bnncc.verify.case import Case
    from bnncc.verify.gates import Figures, Gate
    from bnncc.verify.verification import Verification


@click.command()
@click.argument("model", metavar="MODEL.onnx|CASE")
@click.argument("artifact", metavar="[ART.bnn]", required=False)
@click.option("--data", metavar="DATA", help="Samples by input name (.npz), labels if any; or a folder of images.")
@click.option("--target", default="native", show_default=True, help="The target, where no artifact is given.")
@output.shape_option
@click.option("--layer-runs", type=click.IntRange(0), default=1, show_default=True, help="Runs compared by layer.")
@click.option("--passes/--no-passes", default=True, help="Compare layers after every pass, too; slow by nature.")
@click.option("--resize", type=click.IntRange(1), help="Images: pixels of the shorter side.")
@click.option("--crop", type=click.IntRange(1), help="Images: pixels of the square cut out of the middle.")
@click.option("--mean", default="0.485,0.456,0.406", show_default=True, help="Images: subtracted, by channel.")
@click.option("--std", default="0.229,0.224,0.225", show_default=True, help="Images: divided by, by channel.")
@click.option("--layout", type=click.Choice(["NCHW", "NHWC"]), default="NCHW", show_default=True, help="Images.")
@click.option("--min-agreement", type=click.FloatRange(0, 1), help="Gate: part of the answers that stay the same.")
@click.option("--max-accuracy-drop", type=click.FloatRange(0, 1), help="Gate: top-1 lost, as in 0.005.")
@click.option("--max-bytes", metavar="N|+P%", help="Gate: the artifact's size; +2% is above the baseline's.")
@click.option("--max-instructions", metavar="N|+P%", help="Gate: executed instructions of one run, as for bytes.")
@click.option("--max-latency-ratio", type=click.FloatRange(0), help="Gate: time over that of --baseline-artifact.")
@click.option("--baseline-artifact", metavar="OLD.bnn", help="What --max-latency-ratio compares with, in turns.")
@click.option("--baseline", metavar="FILE", help="Figures to compare with.  [default: baseline.json beside the model]")
@click.option("--update-baseline", is_flag=True, help="Write this model's figures there, if nothing fails.")
@click.option("--case", metavar="DIR", help="Where the smallest failing case goes.  [default: MODEL.case]")
@click.option("--junit", metavar="FILE", help="Write stages and gates as JUnit XML.")
@click.option("--markdown", metavar="FILE", help="Write a comment for a pull request.")
@output.json_option
def command(
    model: str,
    artifact: str | None,
    data: str | None,
    target: str,
    shape: tuple[str, ...],
    layer_runs: int,
    passes: bool,
    resize: int | None,
    crop: int | None,
    mean: str,
    std: str,
    layout: str,
    min_agreement: float | None,
    max_accuracy_drop: float | None,
    max_bytes: str | None,
    max_instructions: str | None,
    max_latency_ratio: float | None,
    baseline_artifact: str | None,
    baseline: str | None,
    update_baseline: bool,
    case: str | None,
    junit: str | None,
    markdown: str | None,
    json_file: str | None,
) -> None:
    """Compare a model with every stage of its compilation and with its machine code, on the same samples; or replay a
    failing case that this command wrote. Exit code 3 if something differs or a gate fails.

    \b
    Example:
      bnncc verify net.onnx --data test.npz
      bnncc verify net.onnx net.bnn --data images/ --resize 256 --crop 224
      bnncc verify net.onnx --target arm --data test.npz --max-accuracy-drop 0.01 --max-instructions +2%
      bnncc verify net.case
    """
    if Path(model).is_dir():
        _replay(Path(model), json_file)
        return
    if data is None:
        raise click.UsageError("Missing option '--data'.")
    if (max_latency_ratio is None) != (baseline_artifact is None):
        raise click.UsageError("--max-latency-ratio and --baseline-artifact go together.")
    means, deviations = _numbers("--mean", mean), _numbers("--std", std)
    shapes = output.parse_shapes(shape)
    for path in filter(None, (junit, markdown, baseline if update_baseline else None)):
        output.check_output(Path(path), model, data)
    from bnncc import targets
    from bnncc.frontend import onnx_file
    from bnncc.options import Options
    from bnncc.runtime.artifact import Artifact
    from bnncc.verify import data as samples
    from bnncc.verify import gates, instructions, latency, report
    from bnncc.verify.verification import verify

    built = Artifact.load(artifact) if artifact else None
    chosen = targets.find(built.manifest.target if built else target)
    options = Options(shapes=shapes)
    first = onnx_file.input_names(onnx_file.read(Path(model), shapes)[0])[0]
    arrays = samples.read(Path(data), samples.Recipe(resize, crop, means, deviations, layout), first)
    stored = gates.Baseline(Path(baseline or Path(model).with_name("baseline.json")))
    before = stored.figures(Path(model).stem, chosen.name)
    limits = {
        name: gates.limit(f"--max-{name}", text, before, name)
        for name, text in (("bytes", max_bytes), ("instructions", max_instructions))
        if text is not None
    }

    def work(progress: Progress) -> Verification:
        return verify(
            model,
            arrays,
            target=target,
            artifact=built,
            options=options,
            layer_runs=layer_runs,
            passes=passes,
            progress=progress,
        )

    with bar() as progress:
        found = work(progress)
    figures: Figures = {"bytes": found.bytes}
    if "instructions" in limits or (update_baseline and not instructions.missing(chosen)):
        figures["instructions"] = instructions.count(model, chosen, options)
    if found.scores.agreement:
        figures["agreement"] = found.scores.agreement.value
    if found.scores.top1:
        figures["accuracy"] = found.scores.top1[1].value
    checked = _gates(found, figures, limits, min_agreement, max_accuracy_drop)
    if max_latency_ratio is not None and baseline_artifact is not None:
        slower = latency.ratio(found.artifact, Artifact.load(baseline_artifact))
        checked.append(gates.Gate("--max-latency-ratio", slower, max_latency_ratio))
    written = None
    if found.failure:
        written = Path(case or Path(model).with_suffix(".case"))
        found.failure.case.write(written)
    if junit:
        atomic.write(junit, report.junit(found, checked))
    if markdown:
        atomic.write(markdown, report.markdown(found, checked, figures, before).encode())
    result = report.as_json(found, checked, figures, str(written) if written else None)

    def show() -> None:
        for line in report.sentences(found):
            click.echo(line)
        for gate in checked:
            click.echo(f"{'passed' if gate.passed else 'FAILED'}: {gate}")

    output.show(result, json_file, show)
    _fail(found, checked, written)
    if update_baseline:
        stored.update(Path(model).stem, chosen.name, figures)


def _gates(
    found: Verification,
    figures: Figures,
    limits: dict[str, float],
    min_agreement: float | None,
    max_accuracy_drop: float | None,
) -> list[Gate]:
    from bnncc.verify.gates import Gate

    checked = [Gate(f"--max-{name}", figures[name], allowed) for name, allowed in limits.items()]
    if min_agreement is not None:
        if not found.scores.agreement:
            raise OptionError("--min-agreement: the network has no output [samples, classes]; leave it out")
        checked.append(Gate("--min-agreement", found.scores.agreement.value, min_agreement, at_most=False))
    if max_accuracy_drop is not None:
        if not found.scores.top1:
            raise OptionError("--max-accuracy-drop: the data has no labels; add an array `labels`, or leave it out")
        before, after = found.scores.top1
        checked.append(Gate("--max-accuracy-drop", before.value - after.value, max_accuracy_drop))
    return checked


def _fail(found: Verification, checked: list[Gate], written: Path | None) -> None:
    """GateError if something differs, or a gate failed."""
    if found.failure:
        first = found.failure.difference
        raise GateError(
            f"{found.model}: {found.failure.stage} changes layer {first.check.layer!r}: {first.differ} of "
            f"{first.total} {first.kind} differ, allowed is what rounding explains; replay it: bnncc verify {written}"
        )
    if unexplained := [each for each in found.traces if not each.explained]:
        raise GateError(f"{found.model}: every layer is right, but {unexplained[0]}; report it with the model")
    failed = [str(gate) for gate in checked if not gate.passed]
    if failed:
        raise GateError("; ".join(failed))


def _replay(folder: Path, json_file: str | None) -> None:
    from bnncc.verify.case import replay

    case = replay(folder)
    wrong = [difference for difference in case.differences() if difference.wrong]
    result = {
        "case": str(folder),
        "stage": case.stage,
        "target": case.target,
        "differs": bool(wrong),
        "differences": [
            {"layer": each.check.layer, "kind": each.kind, "differ": each.differ, "total": each.total} for each in wrong
        ],
    }
    output.show(result, json_file, lambda: _show_case(folder, case))
    if wrong:
        raise GateError(f"{folder}: {case.stage} still changes layer {wrong[0].check.layer!r}; allowed is no change")


def _show_case(folder: Path, case: Case) -> None:
    click.echo(f"{folder}: target {case.target}, {case.stage}")
    for each in case.differences():
        word = "differ" if each.wrong else "differ, as rounding explains" if each.differ else "differ: all well"
        click.echo(f"  {each.check.layer}: {each.differ} of {each.total} {each.kind} {word}")


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r}: allowed is 0.5 or 0.5,0.5,0.5", param_hint=option) from None
