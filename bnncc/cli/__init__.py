"""The command line: one file a command, each parses, calls one function and prints what it returns.

Exit codes: 0 done, 1 an error in the input, 2 wrong usage, 3 a budget or accuracy gate failed, 4 device unavailable,
130 interrupted. Nothing heavy is imported before a command needs it.
"""

import importlib
import os
import sys

from bnncc import __version__
from bnncc.runtime.errors import BnnccError

try:
    import click
except ModuleNotFoundError:
    # `pip install bnncc` brings this command along, but not what it needs.
    raise SystemExit("error: click is not installed; pip install 'bnncc[cli]'") from None

# Each has a module of its name in this package, which holds it as `command`.
COMMANDS = ("train", "compile", "run", "bench", "verify", "inspect", "targets", "doctor")

# Packages that a command may find missing, and the extra of ours that brings each.
EXTRAS = {"rich": "cli", "tvm": "compile", "tvm_ffi": "compile", "onnx": "compile", "ziglang": "compile"}
EXTRAS |= {"torch": "train", "lightning_fabric": "train", "matplotlib": "train"}


class Commands(click.Group):
    """Loads a command's module when it is called for; a BnnccError ends in one line and its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which one uses them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, if there is one."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"bnncc.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; any exception but BnnccError is a bug and keeps its traceback."""
        try:
            return super().invoke(ctx)
        except BnnccError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in EXTRAS:
                raise
            click.echo(f"error: {package} is not installed; pip install 'bnncc[{EXTRAS[package]}]'", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bnncc")
def main() -> None:
    """Compile binary neural networks from ONNX to fast, bit-exact artifacts, and run and measure them.

    \b
    Example:
      bnncc compile net.onnx --target native -o net.bnn
      bnncc run net.bnn -i x.npz -o y.npz
    """
    # Where a stream is closed, as cron and launchers do, what is said to it goes nowhere.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for as long as the process lives
