"""What was found, as JSON values, as JUnit's XML, and as Markdown for a pull request."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from xml.etree import ElementTree as xml

from bnncc.verify.compare import Difference
from bnncc.verify.gates import Figures, Gate
from bnncc.verify.scores import MOST_LISTED, Rate, Scores
from bnncc.verify.verification import Verification

SCHEMA = 1


def as_json(found: Verification, gates: Sequence[Gate], figures: Figures, case: str | None) -> dict[str, object]:
    """JSON values: no NaN, no infinity."""
    failure = found.failure
    return {
        "schema": SCHEMA,
        "model": found.model,
        "target": found.target,
        "where": found.where,
        "samples": found.samples,
        "scores": _scores(found.scores),
        "canonical": _scores(found.canonical) if found.canonical else None,
        "runs_by_layer": found.runs,
        "stages": [
            {
                "name": stage.name,
                "changed": stage.changed,
                "seconds": round(stage.seconds, 3),
                "layers": [_difference(each) for each in stage.differences],
            }
            for stage in found.stages
        ],
        "traces": [_finite(dataclasses.asdict(each) | {"explained": each.explained}) for each in found.traces],
        "failure": {"stage": failure.stage, "case": case, **_difference(failure.difference)} if failure else None,
        "figures": dict(figures),
        "gates": [
            {"name": gate.name, "found": gate.found, "allowed": gate.allowed, "passed": gate.passed} for gate in gates
        ],
        "notes": list(found.notes),
    }


def sentences(found: Verification) -> list[str]:
    """The findings in plain text, one a line."""
    scores = found.scores
    lines = [f"{found.model}: target {found.target}, run on {found.where}, {scores.samples} samples"]
    for name, pair in (("top-1", scores.top1), ("top-5", scores.top5)):
        if pair:
            lines.append(f"{name}: {pair[0]} before, {pair[1]} after")
    if scores.agreement:
        lines.append(f"agreement: {scores.agreement.hits} of {scores.agreement.total}, {scores.agreement}")
    lines.append(
        f"scores changed by at most {scores.largest:.3g}, {scores.mean:.3g} on average "
        f"({scores.relative:.2g} of the largest)"
    )
    lines += [
        f"  sample {each.sample}: {each.before} became {each.after}, which was {each.margin:.2g} of the largest score "
        "behind"
        for each in scores.changed[:MOST_LISTED]
    ]
    lines += [f"  {each}" for each in sorted(found.traces, key=lambda each: each.explained)[:MOST_LISTED]]
    if found.canonical:
        lines.append(f"operators rewritten to ours: scores change by at most {found.canonical.largest:.3g}")
    if found.stages:
        lines += _layer_lines(found)
    return [*lines, *(f"note: {note}" for note in found.notes)]


def _layer_lines(found: Verification) -> list[str]:
    last = found.stages[-1]
    sums, signs = ([d for d in last.differences if d.kind == kind] for kind in ("sums", "signs"))
    stages = sum(stage.changed for stage in found.stages)
    lines = [
        f"layer by layer, {found.runs} run{'s' * (found.runs != 1)} of a batch, at {stages} "
        f"stage{'s' * (stages != 1)}, the last {last.name}: {_counted(sums, 'integers')} of binary layers, "
        f"{_counted(signs, 'signs')} differ"
    ]
    for difference in (d for d in signs if d.differ):
        margins = ", ".join("?" if flip.margin is None else f"{flip.margin:.2g}" for flip in difference.flips[:5])
        lines.append(f"  before {difference.check.layer}: {difference.differ} signs, at {margins} from the threshold")
    if found.failure:
        first = found.failure.difference
        lines.append(
            f"FIRST DIFFERENCE: {found.failure.stage}, layer {first.check.layer}: {first.differ} of {first.total} "
            f"{first.kind} differ, by at most {first.largest:.3g}"
        )
    return lines


def _counted(differences: Sequence[Difference], what: str) -> str:
    return f"{sum(d.differ for d in differences)} of {sum(d.total for d in differences)} {what}"


def markdown(found: Verification, gates: Sequence[Gate], figures: Figures, baseline: Figures) -> str:
    """A comment: figures beside the baseline's, gates, findings."""
    failed = found.failure is not None or not all(gate.passed for gate in gates)
    lines = [f"### bnncc verify: {_cell(found.model)} for {found.target} {'failed' if failed else 'passed'}", ""]
    lines += ["| | found | baseline |", "| --- | ---: | ---: |"]
    for name, value in figures.items():
        before = baseline.get(name)
        lines.append(f"| {name} | {value:,.6g} | {'' if before is None else f'{before:,.6g}'} |")
    if gates:
        lines += ["", "| gate | found | allowed | |", "| --- | ---: | ---: | --- |"]
        for gate in gates:
            word = "passed" if gate.passed else "**failed**"
            lines.append(f"| {gate.name} | {gate.found:,.6g} | {gate.word} {gate.allowed:,.6g} | {word} |")
    return "\n".join([*lines, "", "```", *(line.replace("```", "'''") for line in sentences(found)), "```", ""])


def junit(found: Verification, gates: Sequence[Gate]) -> bytes:
    """One test case for each stage, and for each gate."""
    suite = xml.Element("testsuite", name=f"bnncc verify {found.model} {found.target}")
    failures = 0
    for stage in found.stages:
        case = xml.SubElement(suite, "testcase", classname="stages", name=stage.name, time=f"{stage.seconds:.3f}")
        if stage.wrong:
            failures += 1
            layers = ", ".join(dict.fromkeys(d.check.layer for d in stage.wrong))
            xml.SubElement(case, "failure", message=f"first layer {stage.wrong[0].check.layer}").text = layers
    for gate in gates:
        case = xml.SubElement(suite, "testcase", classname="gates", name=gate.name)
        if not gate.passed:
            failures += 1
            xml.SubElement(case, "failure", message=str(gate))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(failures))
    content: bytes = xml.tostring(suite, encoding="utf-8", xml_declaration=True)
    return content


def _scores(scores: Scores) -> dict[str, object]:
    return {
        "samples": scores.samples,
        "largest_change": _finite(scores.largest),
        "mean_change": _finite(scores.mean),
        "relative_change": _finite(scores.relative),
        "agreement": _rate(scores.agreement) if scores.agreement else None,
        "top1": [_rate(rate) for rate in scores.top1] if scores.top1 else None,
        "top5": [_rate(rate) for rate in scores.top5] if scores.top5 else None,
        "changed": [_finite(dataclasses.asdict(each)) for each in scores.changed[:MOST_LISTED]],
    }


def _rate(rate: Rate) -> dict[str, object]:
    return {"hits": rate.hits, "total": rate.total, "rate": rate.value, "interval": list(rate.interval)}


def _difference(difference: Difference) -> dict[str, object]:
    return {
        "layer": difference.check.layer,
        "kind": difference.kind,
        "total": difference.total,
        "differ": difference.differ,
        "largest": _finite(difference.largest),
        "excused": difference.excused,
        "flips": [_finite(dataclasses.asdict(flip)) for flip in difference.flips],
    }


def _finite(value: object) -> object:
    """The same with None for every number that JSON has no word for."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'")
