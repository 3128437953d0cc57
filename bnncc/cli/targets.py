"""bnncc targets."""

import click

from bnncc.cli import output


@click.command()
@output.json_option
def command(json_file: str | None) -> None:
    """List the targets, and which of them this machine runs.

    \b
    Example:
      bnncc targets
    """
    from bnncc.targets import TARGETS, runnable

    here = runnable()
    report = [
        {
            "name": target.name,
            "description": target.description,
            "triple": target.triple,
            "cpu": target.cpu,
            "features": list(target.features),
            "runs_here": target in here,
        }
        for target in TARGETS.values()
    ]
    best = here[0].name if here else None

    def tables() -> None:
        columns = ["target", "runs here", "triple", "cpu", "description"]
        rows = [[t["name"], "yes" if t["runs_here"] else "no", t["triple"], t["cpu"], t["description"]] for t in report]
        output.table("", columns, rows)
        click.echo(f"native: {best or 'no target runs here'}")

    output.show({"native": best, "targets": report}, json_file, tables)
