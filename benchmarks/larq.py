"""Larq Compute Engine beside ours: a process in its own environment that runs a model when its turn comes."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.timing import Timed, Turn

SERVER = Path(__file__).with_name("larq_server.py")
KERNEL = "indirect"  # the faster of LCE's two on x86; its default takes about five times as long


class Unavailable(Exception):
    """Why a peer cannot take part."""


@contextmanager
def models(python: Path, folder: Path) -> Iterator[dict[str, Timed]]:
    """Turns by name for every .tflite file in `folder`, run by `python`, an interpreter that has larq-compute-engine.

    Raises:
        Unavailable: with the reason.
    """
    files = sorted(folder.glob("*.tflite"))
    if not files:
        raise Unavailable(f"{folder} holds no .tflite files")
    command = [str(python), str(SERVER), KERNEL, *map(str, files)]
    try:
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise Unavailable(f"{python}: {error.strerror}") from error
    with server:
        try:
            assert server.stdin is not None
            assert server.stdout is not None
            first = server.stdout.readline()
            ready = json.loads(first) if first else {"error": "the process ended before it was ready"}
            if ready != "ready":
                raise Unavailable(f"larq-compute-engine: {ready['error']}")
            yield {
                f"Larq Compute Engine, {KERNEL} kernel, {file.stem}": _turns(server, number)
                for number, file in enumerate(files)
            }
        finally:
            server.kill()


def _turns(server: "subprocess.Popen[str]", number: int) -> Timed:
    def turn(times: int) -> Turn:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps({"model": number, "times": times}) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        return Turn(float(answer["wall"]), float(answer["cpu"]))

    return turn
