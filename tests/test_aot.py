"""Counting what a compiled program executes, where the answer is known; and compiling for devices that are not here."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from benchmarks import hlo
from benchmarks.aot import row, with_others

ROOT = Path(__file__).parent.parent


def counts(f, *arguments):
    return hlo.count(jax.jit(f).lower(*arguments).compile().as_text() or "")


def products(rounds):
    return lambda a: jax.lax.scan(lambda b, _: (b @ a, None), a, length=rounds)[0]


def test_a_loop_s_products_count_as_often_as_it_goes_round():
    a = jnp.ones((16, 16))
    one, seven = (counts(products(rounds), a) for rounds in (1, 7))
    assert (one.flops, seven.flops) == (2 * 16**3, 7 * 2 * 16**3)
    assert seven.bytes >= 7 * 3 * 16 * 16 * 4 and seven.operations >= 7
    nested = counts(lambda a: jax.lax.scan(lambda b, _: (products(3)(b), None), a, length=5)[0], a)
    assert nested.flops == 15 * 2 * 16**3


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
@pytest.mark.parametrize("of", ["value", "image", "kernel"])
def test_flops_of_convolutions_leave_out_padding(strides, of):
    """As many as of the definition: each pair of a pixel and a tap that meet, in the value and in both gradients."""
    x, kernel = jnp.ones((2, 6, 5, 3)), jnp.ones((3, 3, 3, 4))

    def f(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def total(x, kernel):
        return jnp.sum(f(x, kernel) ** 2) / 2

    meet = [
        sum(0 <= stride * out + tap - before < size for out in range(-(-size // stride)) for tap in range(3))
        for size, stride, before in ((6, strides[0], 1 if strides[0] == 1 else 0), (5, strides[1], 1))
    ]
    once = 2 * 2 * 3 * 4 * meet[0] * meet[1]
    function, times = {"value": (f, 1), "image": (jax.grad(total, 0), 2), "kernel": (jax.grad(total, 1), 2)}[of]
    assert counts(function, x, kernel).flops == times * once


TEXT = """HloModule m
%cond (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %bound = s32[]{:T(128)} constant(9)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8]{0:T(128)S(1)} get-tuple-element(%p), index=1
  %all-reduce-start = f32[8]{0:T(128)S(1)} all-reduce-start(%x), replica_groups={}, to_apply=%sum
  %y = f32[8]{0:T(128)} all-reduce-done(%all-reduce-start), metadata={op_name="jit(f)/f32[9] (odd) %x"}
  %z = f32[8]{0:T(128)} negate(%y), backend_config={"window_config":{"estimated_cycles":"50"}}
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %t = (s32[], f32[8]{0}) tuple(%next, %z)
}

ENTRY %main (x: f32[8]) -> (s32[], f32[8]) {
  %x = f32[8]{0:T(128)} parameter(0)
  %start = s32[]{:T(128)} constant(2)
  %copied = s32[]{:T(128)} copy(%start)
  %t = (s32[]{:T(128)}, f32[8]{0}) tuple(%copied, %x)
  ROOT %loop = (s32[]{:T(128)}, f32[8]{0}) while(%t), condition=%cond, body=%body
}
"""


def test_a_tpu_s_loop_without_a_known_count_goes_from_its_start_to_its_bound():
    found = hlo.count(TEXT)
    assert found.operations == 1 + 7 * 3  # the copy; and all-reduce, negate and add
    assert found.cycles == 7 * 50
    assert found.collectives == {"all-reduce": {"count": 7, "bytes": 7 * 32}}
    assert found.off_chip_bytes == 8 + 7 * (2 * 32 + 12)  # of the all-reduce none, of the negation both sides


def test_a_loop_whose_rounds_are_unknown_is_refused():
    with pytest.raises(ValueError, match="loop is not accepted; its number of rounds is not a constant"):
        hlo.count(TEXT.replace("constant(9)", "parameter(1)"))
    with pytest.raises(ValueError, match="use the optimized HLO"):
        hlo.count("module @jit_f {}")


def test_collectives_and_slices_count_what_they_move():
    mesh = jax.make_mesh((2,), ("nets",), (jax.sharding.AxisType.Auto,))
    total = jax.shard_map(lambda x: jax.lax.psum(x, "nets"), mesh=mesh, in_specs=P("nets"), out_specs=P())
    assert counts(total, jnp.ones((2, 30))).collectives == {"all-reduce": {"count": 1, "bytes": 120}}
    rows = jnp.ones((1000, 8))
    taken = counts(lambda rows, i: jax.lax.dynamic_index_in_dim(rows, i) * 2, rows, jnp.int32(3))
    assert 64 <= taken.bytes < 1000  # not the 32,000 of all rows


def fact(workload, nets=1, operations=10):
    return {
        "workload": workload,
        "nets": nets,
        "steps": 30,
        "batch": 1024,
        "convolution": "default",
        "topology": "v5e:2x4",
        "mesh": {"nets": 1, "batch": 1},
        "operations": operations,
        "cycles": 5e6,
        "flops": 2e9,
        "off_chip_bytes": 1e6,
        "peak_bytes": 2**20,
        "collectives": {"all-reduce": {"count": 1, "bytes": 1234}},
        "compile_cpu_seconds": 3.2,
    }


def test_rows_of_other_cases_stay_and_the_same_case_is_replaced():
    before = ["jax 1.", "", "| workload |", "|---|", row(fact("W4")), row(fact("W2", 8)), row(fact("W2", 4))]
    after = with_others([row(fact("W4", operations=77))], before, "jax 1.")
    assert [text.split("|")[2].split()[0] for text in after] == ["4", "8", "1"]
    assert "| 77 | 5.00 | 2.00 | 1.0 | 1.0 | 1 all-reduce, 1,234 B | 3 |" in after[2]
    assert with_others([row(fact("W1"))], before, "jax 2.") == [row(fact("W1"))]


def run_command(*arguments, module="tpu_aot"):
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


COMPILERS = {"tpu_aot": "libtpu", "gpu_aot": "jax_cuda13_plugin"}


@pytest.mark.parametrize(
    ("module", "advice"), [("tpu_aot", "pip install libtpu"), ("gpu_aot", "pip install 'dd-jax[cuda]'")]
)
def test_without_the_compiler_one_is_told_what_to_install(module, advice):
    if importlib.util.find_spec(COMPILERS[module]):
        pytest.skip("the compiler is installed")
    done = run_command("W1", module=module)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"is not installed; {advice}" in done.stderr


def test_flops_of_a_library_s_kernels_are_not_made_up():
    text = TEXT.replace("negate(%y)", 'custom-call(%y), custom_call_target="__cudnn$convForward"')
    assert hlo.count(TEXT).flops == 0 and hlo.count(text).flops is None


@pytest.mark.slow
@pytest.mark.parametrize("module", COMPILERS)
def test_an_outer_step_compiles_for_several_devices(module):
    pytest.importorskip(COMPILERS[module])
    several, one_more, unknown = {
        "tpu_aot": ("v5e:2x4", "9", "v5e:nine"),
        "gpu_aot": ("h100:8", "9", "h100:nine"),
    }[module]
    done = run_command("W1", "--topology", several, "--nets", "2", "--mesh", "2", "1", "--batch", "16", module=module)
    facts = json.loads(done.stdout)
    assert (facts["devices"], facts["mesh"], facts["steps"]) == (2, {"nets": 2, "batch": 1}, 1)
    assert 0 < facts["temp_bytes"] < facts["peak_bytes"] < 2**30 and facts["operations"] > 0
    assert (facts["cycles"] is None) == (module == "gpu_aot")
    reduced = facts["collectives"]["all-reduce"]
    learned = 4 * (10 * 28 * 28 + 10 * 10 + 1)
    assert learned <= reduced["bytes"] < learned + 100
    refused = run_command("W1", "--topology", several, "--mesh", one_more, "1", module=module)
    assert refused.returncode == 2 and "the topology has 8 devices" in refused.stderr
    assert f"topology: {unknown} is not accepted" in run_command("W1", "--topology", unknown, module=module).stderr
