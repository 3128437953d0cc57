"""Running in other people's programs: each test is a process of its own that does what such a program does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bnncc
from bnncc import targets
from bnncc.runtime import abi, cpu
from tests.onnxmodels import model, node

ROOT = Path(__file__).parents[2]
HEAD = """
import contextlib, ctypes, gc, os, signal, sys, threading, time, warnings
import numpy as np, bnncc
folder = sys.argv[1]
def child(work):
    pid = fork()
    if pid == 0:
        signal.alarm(20)
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child hangs or fails"
"""
FORKS = {"forked by Python": "fork = os.fork\n", "forked in C": "fork = ctypes.PyDLL(None).fork\n"}
DAEMON = """
net = bnncc.load(folder + "/net.bnn", threads=THREADS)
x = np.zeros(net.manifest.inputs[0].shape, np.float32)
def loop(net):
    while True:
        net(x)
threading.Thread(target=loop, args=(net,), daemon=True).start()
"""
ENDS = {
    "main ends": "time.sleep(0.2)",
    "sys.exit": "time.sleep(0.2); sys.exit(0)",
    "SIGTERM": """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
while True: time.sleep(0.1)
""",
    "model dropped": "time.sleep(0.2); del net; gc.collect()",
}


@pytest.fixture(scope="module")
def folder(exported: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("networks")
    bnncc.compile(exported("bireal_resnet20")).save(made / "net.bnn")
    for name, factor in (("old", 2.0), ("new", 3.0)):
        weights = {"factor": np.array([factor], np.float32)}
        content = model([node("Mul", ["x", "factor"], "y")], weights, (1, 4)).SerializeToString()
        (made / f"{name}.onnx").write_bytes(content)
        bnncc.compile(content).save(made / f"{name}.bnn")
    return made


def run(code: str, folder: Path, *before: str) -> str:
    command = [*before, sys.executable, "-c", HEAD + code, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("end", ENDS)
def test_a_daemon_thread_infers_while_the_interpreter_ends(end: str, threads: int, folder: Path) -> None:
    for _ in range(3):
        run(DAEMON.replace("THREADS", str(threads)) + ENDS[end], folder)


def test_a_daemon_closes_every_descriptor(folder: Path) -> None:
    code = """
old = bnncc.load(folder + "/old.bnn")
x = np.ones((1, 4), np.float32)
os.closerange(3, 1024)
mine = [os.open(folder + "/old.onnx", os.O_RDONLY) for _ in range(8)]
news = [bnncc.load(folder + "/new.bnn") for _ in range(3)]
assert (old(x) == 2).all() and all((new(x) == 3).all() for new in news)
del old, news
gc.collect()
assert all(os.read(file, 1) for file in mine), "a file of the program's own was closed"
for _ in range(20):
    assert (bnncc.load(folder + "/old.bnn")(x) == 2).all()
    assert (bnncc.load(folder + "/new.bnn")(x) == 3).all()
assert len(os.listdir("/proc/self/fd")) <= 3 + 8 + 1
"""
    run(code, folder)


@pytest.mark.parametrize("fork", FORKS)
def test_a_fork_while_another_thread_runs_the_model(fork: str, folder: Path) -> None:
    code = """
net = bnncc.load(folder + "/net.bnn")
x = np.zeros(net.manifest.inputs[0].shape, np.float32)
expected, stop = net(x), False
def loop():
    while not stop:
        net(x)
def work():
    assert (net(x) == expected).all()
thread = threading.Thread(target=loop)
thread.start()
for _ in range(10):
    child(work)
stop = True
"""
    run(FORKS[fork] + code, folder)


@pytest.mark.parametrize("fork", FORKS)
def test_a_fork_after_openmp_was_used(fork: str, folder: Path) -> None:
    code = """
net = bnncc.load(folder + "/net.bnn", threads=2)
x = np.zeros(net.manifest.inputs[0].shape, np.float32)
expected, bound = net(x), net.bind(x)
def work():
    assert (net(x) == expected).all()
    bound.run()
    assert net.threads == 1
    child(lambda: net(x))
child(work)
assert net.threads == 2 and (net(x) == expected).all()
"""
    run(FORKS[fork] + code, folder)


@pytest.mark.parametrize("fork", FORKS)
def test_a_fork_after_somebody_else_used_openmp(fork: str, folder: Path) -> None:
    code = """
gomp = ctypes.CDLL("libgomp.so.1")
nothing = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: None)
gomp.GOMP_parallel(nothing, None, 2, 0)
def work():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = bnncc.load(folder + "/net.bnn", threads=2)
    net(np.zeros(net.manifest.inputs[0].shape, np.float32))
    assert "was forked after libgomp.so.1 was loaded" in str(caught[0].message)
child(work)
net = bnncc.load(folder + "/net.bnn", threads=2)
net(np.zeros(net.manifest.inputs[0].shape, np.float32))
assert net.threads == 2
"""
    run(FORKS[fork] + code, folder)


def test_a_signal_handler_runs_the_model_that_is_running(folder: Path) -> None:
    code = """
net = bnncc.load(folder + "/net.bnn")
x = np.zeros(net.manifest.inputs[0].shape, np.float32)
answers, expected = [], net(x)
signal.signal(signal.SIGALRM, lambda *_: answers.append(net(x)))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
end = time.monotonic() + 1
while time.monotonic() < end:
    assert (net(x) == expected).all()
signal.setitimer(signal.ITIMER_REAL, 0)
assert answers and all((answer == expected).all() for answer in answers)
"""
    run(code, folder)


def test_libraries_whose_names_everybody_sees(folder: Path, tmp_path: Path) -> None:
    """A library that was loaded RTLD_GLOBAL does not answer for the functions of the next."""
    for name in ("old", "new"):
        (tmp_path / f"{name}.so").write_bytes(bnncc.compile(folder / f"{name}.onnx").library)
    code = f"""
libraries = [ctypes.CDLL(folder + f"/{{name}}.so", mode=ctypes.RTLD_GLOBAL) for name in ("old", "new")]
x, y, arena = np.ones(4, np.float32), np.zeros(4, np.float32), np.zeros(1 << 16, np.uint8)
at = arena.ctypes.data + -arena.ctypes.data % 64
table = (ctypes.c_void_p * 6)(0, 0, 0, x.ctypes.data, y.ctypes.data, at)
for library, factor in zip(libraries, (2, 3)):
    library.{abi.RUN_THREADS}(1, table)
    assert (y == factor).all()
"""
    run(code, tmp_path)


def test_compiling_in_threads(folder: Path) -> None:
    code = """
mine, filters, seen = sys.stdout, list(warnings.filters), []
def work(number):
    name = folder + ("/old", "/new")[number % 2]
    net = bnncc.load(bnncc.compile(name + ".onnx"))
    seen.append((net(np.ones((1, 4), np.float32)) == 2 + number % 2).all())
threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
for thread in threads:
    thread.start()
while any(thread.is_alive() for thread in threads):
    assert sys.stdout is mine
    time.sleep(0.001)
assert seen == [True] * 4 and sys.stdout is mine
child(lambda: bnncc.compile(folder + "/old.onnx"))
"""
    run("fork = os.fork\n" + code, folder)


def test_a_fork_while_another_thread_compiles(folder: Path) -> None:
    code = """
started = threading.Event()
def work(stage, done, total):
    started.set()
    time.sleep(0.01)
thread = threading.Thread(target=lambda: bnncc.compile(folder + "/net.onnx", progress=work))
thread = threading.Thread(target=lambda: bnncc.compile(folder + "/old.onnx", progress=work))
thread.start()
started.wait()
child(lambda: bnncc.compile(folder + "/new.onnx"))
thread.join()
"""
    run("fork = os.fork\n" + code, folder)


def test_compiling_where_the_interpreter_is_another_program(folder: Path) -> None:
    run('sys.executable = "/bin/false"\nbnncc.compile(folder + "/old.onnx")', folder)


def test_a_service_without_memfd(folder: Path) -> None:
    code = """
def denied(*_):
    raise PermissionError(1, "Operation not permitted")
os.memfd_create = denied  # as a seccomp filter does
assert (bnncc.load(folder + "/old.bnn")(np.ones((1, 4), np.float32)) == 2).all()
os.environ["TMPDIR"] = "/proc/nowhere"
import tempfile
tempfile.mkdtemp = denied
try:
    bnncc.load(folder + "/old.bnn")
except bnncc.errors.ArtifactError as error:
    assert "Operation not permitted" in str(error) and "allow memfd_create" in str(error)
else:
    raise AssertionError
"""
    run(code, folder)


@pytest.mark.parametrize("hidden", ["mount -t proc -o subset=pid proc /proc", "umount -l /proc"])
def test_a_service_that_sees_little_of_proc(hidden: str, folder: Path) -> None:
    unshare = ["unshare", "--mount", "--pid", "--fork"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "sh", "-c", hidden], capture_output=True).returncode:
        pytest.skip("this user may not mount")
    code = 'assert (bnncc.load(folder + "/old.bnn")(np.ones((1, 4), np.float32)) == 2).all()'
    run(code, folder, *unshare, "sh", "-c", f'{hidden} && exec "$@"', "sh")


@pytest.mark.skipif(cpu.machine() != "x86_64", reason="x86 alone has cpuid")
def test_glibc_says_what_proc_says() -> None:
    wanted = {feature for target in targets.runnable() for feature in target.features}
    found = cpu.cpuid_features()
    if not found:
        pytest.skip("no glibc that says it")
    asked = {feature for name in targets.TARGETS if name.startswith("x86") for feature in targets.find(name).features}
    assert wanted <= found
    assert found & asked == cpu.features() & asked


def test_32_bit_programs_on_64_bit_kernels() -> None:
    """What the kernel of a Raspberry Pi 4 says, to a 64-bit program and to a 32-bit one."""
    cpuinfo = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
    armv7 = targets.find("armv7")
    assert armv7.runs_on(cpu.Host(cpu.process_machine("aarch64", 4), cpu.parse_features(cpuinfo)))
    assert armv7.runs_on(cpu.Host(cpu.process_machine("armv8l", 4), cpu.auxiliary_features("armv7l", 0x3FB0D6, 0x10)))
    board = cpu.Host(cpu.process_machine("aarch64", 8), cpu.auxiliary_features("aarch64", 0x887, 0))
    assert {target.name for target in targets.runnable(board)} == {"arm", "rpi4", "rpi3", "rpi-zero2w"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize(("mode", "found"), [(0o755, True), (0o700, False)])
def test_a_cache_of_somebody_else(mode: int, found: bool, folder: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    code = f"""
import encodings.cp437  # of zip files; the interpreter's own folder may be closed to the other user
from pathlib import Path
from bnncc import cache
from bnncc.runtime.artifact import Artifact
os.chdir(folder)
net, kept = Artifact.load("net.bnn"), Path("cache")  # the folders above are closed to others
cache.keep(kept, "0", net)
os.chmod(kept, {mode})
os.setuid(54321)
assert (cache.find(kept, "0") is not None) == {found}
cache.keep(kept, "1", net)
"""
    shutil.copy(folder / "net.bnn", tmp_path)
    run(code, tmp_path)


def test_no_home() -> None:
    """A user without an entry in passwd, without HOME: there is no folder to keep anything in."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os; os.getuid = os.geteuid = lambda: 54321; os.environ.pop('HOME', None); "
            "os.environ.pop('XDG_CACHE_HOME', None)\n"
            "import bnncc; from bnncc import cache; print(cache.default_folder())\n"
            "try: bnncc.compile(b'')\nexcept bnncc.errors.OptionError as error: print(error)",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    folder, error = done.stdout.splitlines()
    assert (done.returncode, folder) == (0, "None"), done.stderr
    assert "set HOME or XDG_CACHE_HOME" in error
