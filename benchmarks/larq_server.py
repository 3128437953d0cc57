"""Times Larq Compute Engine models on request. Runs in the interpreter of an environment that has larq-compute-engine
0.16.0 and numpy, and nothing of this project: `larq_server.py KERNEL MODEL.tflite...`

Protocol, a JSON value a line: "ready" or {"error": text} once; then {"model": number, "times": number} in,
{"wall": seconds, "cpu": seconds} out, until the input ends. Input 1x224x224x3 float32 (NHWC).
"""

import importlib.machinery
import importlib.util
import json
import pathlib
import sys
import sysconfig
import time
from typing import Any

import numpy as np


def interpreter(model: str, kernel: str) -> Any:
    """The model in LCE's interpreter, one thread. The extension is loaded by itself, so TensorFlow is not needed."""
    folder = pathlib.Path(sysconfig.get_paths()["purelib"]) / "larq_compute_engine/tflite/python"
    name = "interpreter_wrapper_lite"
    path = str(next(folder.glob(name + "*.so")))
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    # Arguments: flatbuffer, threads, reference kernels, indirect binary kernels, XNNPACK.
    return module.LiteInterpreter(pathlib.Path(model).read_bytes(), 1, False, kernel == "indirect", False)


def main() -> None:
    """Answers until the input ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    kernel, *files = sys.argv[1:]
    try:
        models = [interpreter(file, kernel) for file in files]
        x = np.random.default_rng(0).standard_normal((1, 224, 224, 3), dtype=np.float32)
        for model in models:
            model.predict([x])
    except Exception as error:  # whatever goes wrong in a foreign library is the one thing to report
        print(json.dumps({"error": f"{type(error).__name__}: {error}"[:200]}), file=answers, flush=True)
        return
    print('"ready"', file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        model = models[request["model"]]
        wall, cpu = time.perf_counter(), time.thread_time()
        for _ in range(request["times"]):
            model.predict([x])
        answer = {"wall": time.perf_counter() - wall, "cpu": time.thread_time() - cpu}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
