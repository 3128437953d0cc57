"""Running artifacts here: values, checks of inputs and of the CPU, nothing but numpy loaded."""

import dataclasses
import gc
import hashlib
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest

import bnncc
from bnncc import compiler, targets
from bnncc.codegen.assemble import assemble
from bnncc.codegen.link import link
from bnncc.options import Options
from bnncc.runtime import abi, cpu
from bnncc.runtime.artifact import Artifact
from bnncc.runtime.errors import ArtifactError, InputError, OptionError
from bnncc.runtime.model import Model, check_cpu
from bnncc.runtime.network import BoundNetwork, Network
from tests import toys
from tests.onnxmodels import model as model_of
from tests.onnxmodels import node

ROOT = Path(__file__).parents[2]
LEFT = np.array([[1, -2, 3], [-4, np.nan, 6]], np.float32)
RIGHT = np.full((2, 3), 10, np.float32)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return bnncc.compile(toys.add_and_relu())


@pytest.fixture
def model(artifact: Artifact) -> Model:
    return bnncc.load(artifact)


def test_inputs_in_order_and_by_name(model: Model) -> None:
    for given in ((LEFT, RIGHT), ({"right": RIGHT, "left": LEFT},)):
        results = model(*given)
        assert isinstance(results, dict)
        np.testing.assert_array_equal(results["sum"], LEFT + RIGHT)
        np.testing.assert_array_equal(results["positive"][0], [1, 0, 3])


def test_one_output_is_an_array() -> None:
    y = bnncc.load(bnncc.compile(toys.one_node("Relu")))(np.array([[-1, 0, 2, 3]], np.float32))
    np.testing.assert_array_equal(y, [[0, 0, 2, 3]])


def test_outputs_are_new_each_time(model: Model) -> None:
    first = model.run(LEFT, RIGHT)["sum"].copy()
    kept = model.run(LEFT, RIGHT)["sum"]
    model(RIGHT, RIGHT)
    np.testing.assert_array_equal(kept, first)


def test_any_memory_layout(model: Model) -> None:
    unaligned = np.frombuffer(b"x" + LEFT.tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3)
    for left in (np.asfortranarray(LEFT), np.repeat(LEFT, 2, axis=1)[:, ::2], unaligned):
        np.testing.assert_array_equal(model.run(left, RIGHT)["sum"], LEFT + RIGHT)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ((), "found 0 inputs, allowed are 2: 'left', 'right'"),
        ((LEFT,), "found 1 inputs"),
        ((LEFT, [1, 2]), "input 'right': found list, allowed is float32 [2, 3] as a numpy array"),
        ((LEFT, RIGHT.astype(np.float64)), "found float64 [2, 3], allowed is float32 [2, 3]; convert"),
        ((LEFT, RIGHT.astype(">f4")), "allowed is float32"),
        ((LEFT[:1], RIGHT), "input 'left': found float32 [1, 3], allowed is float32 [2, 3]; give one of this shape"),
        ((LEFT.reshape(1, 2, 3), RIGHT), "found float32 [1, 2, 3], allowed is float32 [2, 3]; reshape it"),
        ((LEFT.T, RIGHT), "found float32 [3, 2], allowed is float32 [2, 3]; give one of this shape"),
        (({"left": LEFT},), "found inputs 'left', allowed are exactly 'left', 'right'"),
        (({"left": LEFT, "right": RIGHT, "more": LEFT},), "allowed are exactly"),
        (({},), "found inputs none"),
    ],
)
def test_wrong_inputs(model: Model, inputs: tuple[object, ...], says: str) -> None:
    with pytest.raises(InputError) as caught:
        model(*inputs)  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_binding_runs_on_its_own_arrays(model: Model) -> None:
    binding = model.bind(LEFT, RIGHT)
    binding.run()
    np.testing.assert_array_equal(binding.outputs["sum"], LEFT + RIGHT)
    for output in binding.outputs.values():
        output.fill(0)
    for index in range(len(model.manifest.layers)):
        binding.step(index)
    np.testing.assert_array_equal(binding.outputs["sum"], LEFT + RIGHT)
    binding.outputs["sum"].fill(7)
    binding.stepper(len(model.manifest.layers))()
    assert (binding.outputs["sum"] == 7).all()
    with pytest.raises(OptionError, match="step 99: allowed are 0 to"):
        binding.step(99)


def test_a_stepper_keeps_its_arrays(artifact: Artifact) -> None:
    """It writes where its binding's outputs lie: they must be there for as long as it is."""
    binding = bnncc.load(artifact).bind(LEFT, RIGHT)
    output, arena = weakref.ref(binding.outputs["sum"]), weakref.ref(binding._model)
    stepper = binding.stepper(0)
    del binding
    gc.collect()
    assert output() is not None
    assert arena() is not None
    assert stepper() == 0
    del stepper
    gc.collect()
    assert output() is None


def test_bound_views_are_read_at_each_run(model: Model) -> None:
    frame = np.zeros((3, 2), np.float32)
    unaligned = np.frombuffer(bytearray(25), np.uint8)[1:].view(np.float32).reshape(2, 3)
    binding = model.bind(frame.T, unaligned)
    for number in (1, 2):
        frame[:], unaligned[:] = LEFT.T * number, RIGHT * number
        binding.run()
        np.testing.assert_array_equal(binding.outputs["sum"], (LEFT + RIGHT) * number)
    frame[:] = 0
    for index in range(len(model.manifest.layers)):
        binding.step(index)
    np.testing.assert_array_equal(binding.outputs["sum"], RIGHT * 2)


@pytest.mark.parametrize(
    ("found", "hint"),
    [
        ((1, 5, 4, 3), "use .transpose(0, 3, 1, 2)"),
        ((3, 5, 4), "reshape it"),
        ((5, 4, 3), "give one of this shape"),
        ((1, 3, 4, 5), "give one of this shape"),
    ],
)
def test_images_of_another_layout(found: tuple[int, ...], hint: str) -> None:
    """Reshaping a picture whose channels are last would scramble it."""
    relu = bnncc.load(bnncc.compile(model_of([node("Relu", ["x"], "y")], {}, (1, 3, 5, 4)).SerializeToString()))
    with pytest.raises(InputError) as caught:
        relu(np.zeros(found, np.float32))
    assert hint in str(caught.value)


def test_this_process_is_a_network_like_any_other(model: Model) -> None:
    network: Network = model
    bound: BoundNetwork = network.bind(LEFT, RIGHT)
    layers = len(network.manifest.layers)
    for _ in range(2):
        assert len(bound.time_runs(0)) == 1
        (sweep,) = bound.time_steps(0)
        assert len(sweep) == layers + 1
        np.testing.assert_array_equal(bound.outputs["sum"], LEFT + RIGHT)
        bound.outputs["sum"].fill(0)
    bound.time_steps(0)
    np.testing.assert_array_equal(bound.outputs["sum"], LEFT + RIGHT)
    assert len(bound.time_runs(0.001)) > 1
    assert network.machine()["machine"] == cpu.machine()


@pytest.fixture(scope="module")
def with_peaks() -> Model:
    return bnncc.load(bnncc.compile(toys.one_node("Relu"), peaks=True))


def test_peaks_count_macs(with_peaks: Model) -> None:
    assert with_peaks.peaks == ("binary", "float32", "int8")
    for kind in with_peaks.peaks:
        few, many = (with_peaks.time_peak(kind, iterations) for iterations in (1000, 3000))
        assert few[0] > 0
        assert many[0] == 3 * few[0]
        assert min(few[1], many[1]) > 0


def test_unknown_peaks(with_peaks: Model, model: Model) -> None:
    with pytest.raises(OptionError, match="allowed are binary, float32, int8"):
        with_peaks.time_peak("float64", 1)
    assert model.peaks == ()
    with pytest.raises(OptionError, match="no peak loops in it; compile the model with peaks"):
        model.time_peak("binary", 1)


def test_peaks_come_only_when_asked_for(artifact: Artifact) -> None:
    asked = bnncc.compile(toys.add_and_relu(), peaks=True)
    assert b"bnncc_peak" in asked.library
    assert b"bnncc_peak" not in artifact.library
    assert asked.manifest.layers == artifact.manifest.layers


def loaded_libraries() -> int:
    return len({line.split()[4] for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:bnncc" in line})


def test_two_libraries_at_once_and_after_one_is_gone(artifact: Artifact) -> None:
    relu = bnncc.compile(toys.one_node("Relu"))
    x = np.array([[-1, 0, 2, 3]], np.float32)
    gc.collect()
    loaded = loaded_libraries()
    first = bnncc.load(artifact)
    second = bnncc.load(relu)
    np.testing.assert_array_equal(second(x), [[0, 0, 2, 3]])
    del first
    gc.collect()
    third = bnncc.load(artifact)
    np.testing.assert_array_equal(third.run(LEFT, RIGHT)["sum"], LEFT + RIGHT)
    np.testing.assert_array_equal(second(x), [[0, 0, 2, 3]])
    del second, third
    gc.collect()
    assert loaded_libraries() == loaded


def test_threads_wait_for_one_another(model: Model) -> None:
    wrong = []

    def work(number: int) -> None:
        left = np.full((2, 3), number, np.float32)
        for _ in range(300):
            if not (model.run(left, RIGHT)["sum"] == number + 10).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"triple": "aarch64-linux-gnu"}, "is made for aarch64 and this machine is x86_64; compile the model with"),
        ({"triple": "x86_64-windows-msvc"}, "is made for x86_64-windows-msvc"),
        ({"cpu_features": ("sse9", "popcnt")}, "needs CPU features this machine lacks: sse9; compile the model with"),
    ],
)
def test_another_cpu(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], says: str
) -> None:
    monkeypatch.setattr(cpu, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "features", lambda: frozenset({"popcnt", "ssse3", "sse4_1", "sse4_2"}))
    foreign = dataclasses.replace(artifact.manifest, **changes)  # type: ignore[arg-type]
    with pytest.raises(ArtifactError) as caught:
        check_cpu(foreign, "net.bnn")
    assert says in str(caught.value)


def test_a_library_that_is_none(artifact: Artifact) -> None:
    for library in (b"no machine code", b"\x7fELF" + bytes(100)):
        digest = hashlib.sha256(library).hexdigest()
        manifest = dataclasses.replace(artifact.manifest, library_sha256=digest)
        with pytest.raises(ArtifactError, match="the library cannot be loaded"):
            bnncc.load(Artifact(manifest, library))


def test_a_library_that_lacks_a_function(artifact: Artifact) -> None:
    target, options = targets.find("native"), Options()
    _, program, _ = compiler.lower(toys.add_and_relu(), target, options)
    objects, _ = assemble(program, target, options)
    complete = abi.exports(peaks=False)
    for missing in complete:
        library = link(objects, target, tuple(symbol for symbol in complete if symbol != missing))
        manifest = dataclasses.replace(artifact.manifest, library_sha256=hashlib.sha256(library).hexdigest())
        with pytest.raises(ArtifactError, match=f"the library cannot be loaded .*undefined symbol: {missing}"):
            bnncc.load(Artifact(manifest, library))
    # Nothing of them is left that the next library could be taken for.
    np.testing.assert_array_equal(bnncc.load(artifact).run(LEFT, RIGHT)["sum"], LEFT + RIGHT)


def test_a_changed_library_is_not_loaded(artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="SHA-256"):
        bnncc.load(dataclasses.replace(artifact, library=artifact.library + b"x"))


def test_running_imports_numpy_and_the_standard_library_alone(artifact: Artifact, tmp_path: Path) -> None:
    artifact.save(tmp_path / "toy.bnn")
    script = f"""
import sys
before = set(sys.modules)
import numpy as np, bnncc
y = bnncc.load({str(tmp_path / "toy.bnn")!r})(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))
assert (y["sum"] == 2).all()
allowed = set(sys.stdlib_module_names) | {{"numpy", "bnncc"}}
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
# Cython's own bookkeeping, which numpy.random brings in.
print(*sorted(name for name in new - allowed if not name.startswith(("_cython", "cython"))))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_what_runs_where() -> None:
    board = cpu.Host("aarch64", frozenset({"asimd", "crc32", "neon"}))
    old_board = cpu.Host("armv7l", frozenset({"neon", "vfpv4"}))
    assert {target.name for target in targets.runnable(board)} == {"arm", "rpi4", "rpi3", "rpi-zero2w"}
    assert {target.name for target in targets.runnable(old_board)} == {"armv7"}
    cortex_a9 = cpu.Host("armv7l", frozenset({"half", "thumb", "vfp", "neon", "vfpv3"}))
    assert {target.name for target in targets.runnable(cortex_a9)} == {"armv7"}
    assert targets.runnable(cpu.Host("riscv64", frozenset())) == ()
    assert targets.runnable(dataclasses.replace(board, system="darwin")) == ()
    assert (
        board.why_not("aarch64-linux-gnu", ("asimd", "sve", "i8mm"))
        == "needs CPU features this machine lacks: i8mm sve"
    )
    for triple in ("arm-linux-gnueabihf", "armv7a-linux-gnueabihf"):
        assert old_board.why_not(triple, ("neon",)) == ""
        assert board.why_not(triple, ("neon",)) != ""


def test_cpu_features_of_x86_and_arm() -> None:
    x86 = "processor\t: 0\nflags\t\t: fpu sse2 popcnt\n\nprocessor\t: 1\nflags\t\t: fpu sse2\n"
    assert cpu.parse_features(x86) == {"fpu", "sse2"}
    assert cpu.parse_features("Features\t: fp asimd crc32\n") >= {"fp", "asimd", "crc32", "neon", "vfpv4", "idiva"}
    assert cpu.parse_features("Features\t: half thumb neon vfpv4\n") == {"half", "thumb", "neon", "vfpv4"}
    assert cpu.parse_features("nothing of the kind") == frozenset()
