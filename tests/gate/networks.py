"""The stored networks and what they are compiled for; `python -m tests.gate.networks` stores their figures anew."""

import sys
from pathlib import Path

from bnncc import cli

HERE = Path(__file__).parent
NETWORKS = tuple(sorted(path.stem for path in HERE.glob("*.onnx")))
TARGETS = ("x86-avx2", "arm")

if __name__ == "__main__":
    for name in NETWORKS:
        for target in TARGETS:
            model, data = HERE / f"{name}.onnx", HERE / f"{name}.npz"
            arguments = ["--target", target, "--no-passes", "--min-agreement", "1", "--update-baseline"]
            if code := cli.main(["verify", str(model), "--data", str(data), *arguments], standalone_mode=False):
                sys.exit(code)
