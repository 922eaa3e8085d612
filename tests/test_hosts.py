"""One run in two processes on loopback: they agree, one of them writes, and all end together, whatever ends one."""

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dd_jax import hosts as library
from dd_jax.files.distilled_file import load_distilled
from experiments import fixed_init, random_init
from experiments.command_line import command_line
from experiments.hosts import Hosts, check
from experiments.training import steps_until
from experiments.workdir import check_local, claimed, locked

ROOT = Path(__file__).parent.parent
PATIENCE = 240  # seconds, on a slow machine

# A run of the loop without networks. Its state is replicated over all devices, or is each process's own; an outer step
# is a sum over all devices, which waits for both processes.
TOY = """
import json, os, sys, time
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from dd_jax.hosts import agreed, from_first, replicated
from dd_jax.outer import OuterInfo
from experiments import hosts
from experiments.command_line import run_as_script
from experiments.hosts import Hosts, start
from experiments.training import train
from experiments.workdir import check_same_everywhere, claimed

given = json.loads(sys.argv[1])
number, steps, workdir = given["number"], given["steps"], Path(given["workdir"])


def main(argv):
    hosts.LOOK_SECONDS = given.get("look_seconds", hosts.LOOK_SECONDS)
    if given["count"] > 1:
        start(Hosts(f"127.0.0.1:{given['port']}", given["count"], number, timeout=given.get("timeout", 30.0)))
    check_same_everywhere({"steps": steps, "seed": given.get("seed", 0)})
    devices = Mesh(np.array(jax.devices()), ("devices",))
    dealt_out = NamedSharding(devices, P("devices"))
    ones = jax.make_array_from_callback((jax.device_count(),), dealt_out, lambda i: np.ones(1))
    state = {"x": jnp.float32(0), "key": jax.random.key(3)}
    state = replicated(state) if given.get("replicated", True) else state

    @jax.jit
    def together(x):
        return x.sum() / x.size

    @jax.jit
    def moved(state):
        drawn = jax.random.uniform(jax.random.fold_in(state["key"], (2 * state["x"]).astype(int)))
        return {**state, "x": state["x"] + 0.5}, OuterInfo(drawn, jnp.float32(1), jnp.array(True))

    def update(state, step):
        if step == given.get("fails_at"):
            raise OSError("no space for that")
        if step == given.get("waits_at"):
            print("waiting", file=sys.stderr, flush=True)
            time.sleep(3600)
        time.sleep(given.get("seconds", 0.0))
        together(ones)
        return moved(state)

    saves = []
    with claimed(workdir, {"a": 1}):
        from_first(lambda: print("begun", file=sys.stderr, flush=True))
        trained = train(
            workdir, state, update, steps=steps, validate=lambda state: {}, validate_every=1000,
            checkpoint_seconds=given.get("checkpoint_seconds", 1e9), remedy="",
        )
    print(json.dumps({"x": float(trained.state["x"]), "agreed": agreed(number)}), flush=True)


run_as_script(main)
"""


@pytest.fixture
def processes():
    """Starts processes, none of which outlives the test."""
    started = []

    def start(*command, devices=1):
        # As compiled for users: with less optimisation, one program and another of the same sums round differently.
        environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
        environment["XLA_FLAGS"] = ""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=os.environ | environment, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def toys(processes, workdir, count=2, each=({}, {}), **settings):
    """That many processes of the toy; ``each`` holds what is a process's own."""
    port = free_port()
    given = {"workdir": str(workdir), "port": port, "count": count, "steps": 6, **settings}
    own = itertools.islice(itertools.chain(each, itertools.repeat({})), count)
    return [processes("-c", TOY, json.dumps({**given, "number": i, **some})) for i, some in enumerate(own)]


def ends(pair):
    """Of each process its status, its output, and its lines of errors that are ours."""
    ended = []
    for process in pair:
        output, errors = process.communicate(timeout=PATIENCE)
        ours = [line for line in errors.splitlines() if line.startswith(("error: ", "stopped ", "Traceback"))]
        ended.append((process.returncode, output, ours))
    return ended


def begun(pair):
    """Waits until the first process trains."""
    line = ""
    while line != "begun\n":
        line = pair[0].stderr.readline()
        assert line, "it has ended"


def losses_of(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def saved(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


@pytest.mark.parametrize("replicated", [True, False])
def test_two_processes_run_one_run_and_one_of_them_writes_and_speaks(processes, tmp_path, replicated):
    pair = toys(processes, tmp_path, replicated=replicated, look_seconds=0.0)  # one is under way when the process ends
    (first, output, errors), (second, silence, none) = ends(pair)
    assert (first, second, errors, none) == (0, 0, [], [])
    assert json.loads(output.splitlines()[-1]) == {"x": 3.0, "agreed": 0}
    assert "agreed" not in silence
    assert list(losses_of(tmp_path)) == [1, 2, 3, 4, 5, 6]
    assert saved(tmp_path) == [6]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
@pytest.mark.parametrize("replicated", [True, False])
def test_a_run_goes_on_in_another_number_of_processes_with_the_same_numbers(
    processes, tmp_path, before, after, replicated
):
    ends(toys(processes, tmp_path / "whole", before, replicated=replicated, steps=9))
    ends(toys(processes, tmp_path / "run", before, replicated=replicated, steps=4))
    ended = ends(toys(processes, tmp_path / "run", after, replicated=replicated, steps=9))
    assert [status for status, *_ in ended] == [0] * after
    assert "resuming at step 4 of 9" in ended[0][1]
    assert json.loads(ended[0][1].splitlines()[-1])["x"] == 4.5
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "whole")
    assert len(set(losses_of(tmp_path / "run").values())) == 9


@pytest.mark.parametrize(
    ("kind", "at", "statuses"),
    [
        (signal.SIGTERM, 1, (143, 143)),
        pytest.param(signal.SIGTERM, 0, (143, 143), marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 1, (143, 130), marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_one_stops_both_after_the_same_step_and_the_same_command_goes_on(
    processes, tmp_path, kind, at, statuses
):
    pair = toys(processes, tmp_path, steps=400, seconds=0.02)
    begun(pair)
    time.sleep(0.5)
    pair[at].send_signal(kind)
    (first, _, (line,)), (second, _, none) = ends(pair)
    assert (first, second, none) == (*statuses, [])
    (step,) = saved(tmp_path)
    assert step < 400
    assert line == f"stopped after step {step} of 400; the same command goes on from there"
    assert list(losses_of(tmp_path)) == list(range(1, step + 1))
    ended = ends(toys(processes, tmp_path, steps=step + 2))
    assert [status for status, *_ in ended] == [0, 0]
    assert json.loads(ended[0][1].splitlines()[-1])["x"] == 0.5 * (step + 2)


@pytest.mark.slow
def test_the_first_process_s_clock_says_when_to_save(processes, tmp_path):
    """The other one's would never."""
    own = ({"checkpoint_seconds": 0.3}, {"checkpoint_seconds": 1e9})
    ended = ends(toys(processes, tmp_path, steps=40, seconds=0.05, each=own))
    assert [status for status, *_ in ended] == [0, 0]
    assert len(saved(tmp_path)) == 3  # the newest that are kept; without the clock, there is the last one alone


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killing_one_ends_the_other(processes, tmp_path, victim):
    pair = toys(processes, tmp_path, steps=10**6, seconds=0.02)
    begun(pair)
    pair[victim].kill()
    status, _, errors = ends([pair[1 - victim]])[0]
    assert status in (1, -signal.SIGABRT)
    if status == 1:  # else JAX was quicker, and has aborted the process with lines of its own
        assert len(errors) == 1
        assert errors[0].startswith("error: another process has ended (")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killing_one_ends_the_other_within_a_minute_wherever_it_is(processes, tmp_path, victim):
    """Here JAX finds out, and has no way to end but to abort."""
    own = [{"waits_at": 4}, {"waits_at": 4}]
    pair = toys(processes, tmp_path, each=own)
    begun(pair)
    lines = iter(pair[1 - victim].stderr.readline, "")
    assert any(line.endswith("waiting\n") for line in lines)  # after the bar, in the first process
    pair[victim].kill()
    status, _, _ = ends([pair[1 - victim]])[0]
    assert status == -signal.SIGABRT


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_ends_both_with_a_line_each(processes, tmp_path, failing):
    own = [{}, {}]
    own[failing] = {"fails_at": 4}
    own[1 - failing] = {"waits_at": 4}  # never gets to where it would notice
    ended = ends(toys(processes, tmp_path, each=own))
    assert [status for status, *_ in ended] == [1, 1]
    assert ended[failing][2] == ["error: no space for that"]
    assert ended[1 - failing][2] == [f"error: process {failing} has failed: no space for that"]


def test_settings_that_differ_are_refused_by_name(processes, tmp_path):
    ended = ends(toys(processes, tmp_path / "run", each=({"seed": 1}, {"seed": 2})))
    assert [status for status, *_ in ended] == [1, 1]
    why = "hosts: the processes have different settings (seed is 1 in process 0 and 2 in process 1); start all with the"
    assert [errors for *_, errors in ended] == [[f"error: {why} same"]] * 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_the_first_refuses_ends_all(processes, tmp_path):
    (tmp_path / "config.json").write_text('{"a": 2}')
    ended = ends(toys(processes, tmp_path))
    assert [status for status, *_ in ended] == [1, 1]
    why = f"workdir: {tmp_path} holds a run with other settings (a is 2 there and 1 here)"
    assert ended[0][2][0].startswith(f"error: {why}")
    assert len(ended[1][2]) == 1
    assert why in ended[1][2][0]


@pytest.mark.slow
def test_a_folder_that_not_all_see_is_refused(processes, tmp_path):
    (tmp_path / "second").mkdir()
    ended = ends(toys(processes, tmp_path / "first", each=({}, {"workdir": str(tmp_path / "second")})))
    assert [status for status, *_ in ended] == [1, 1]
    assert ended[1][2] == [
        f"error: workdir: {tmp_path / 'second'} is not accepted; use a folder that all processes see"
    ]


@pytest.mark.parametrize("number", [0, 1])
def test_where_not_all_come_a_process_ends_in_the_time_given_with_one_line(processes, tmp_path, number):
    port = free_port()
    given = {"workdir": str(tmp_path), "port": port, "count": 2, "steps": 3, "number": number, "timeout": 2.0}
    began = time.monotonic()
    (ended,) = ends([processes("-c", TOY, json.dumps(given))])
    assert time.monotonic() - began < 30
    assert ended == (
        1,
        "",
        [
            f"error: hosts: process 0 did not answer at 127.0.0.1:{port}, or not all 2 processes came, within 2 s; "
            "start all of them, and give each the address of process 0"
        ],
    )


def test_a_port_in_use_is_refused(processes, tmp_path):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        given = {"workdir": str(tmp_path), "port": port, "count": 2, "steps": 3, "number": 0}
        ((status, _, errors),) = ends([processes("-c", TOY, json.dumps(given))])
    assert status == 1
    why = f"port {port} cannot be used: Address already in use"
    assert errors == [f"error: hosts.coordinator: 127.0.0.1:{port} is not accepted ({why}); use another port"]


def test_a_cluster_that_jax_does_not_know_is_refused(processes):
    command = ["-m", "experiments.fixed_init", "--hosts.auto"]
    ((status, _, errors),) = ends([processes(*command)])
    assert status == 1
    assert errors == [
        "error: hosts.auto: True is not accepted (ValueError: coordinator_address should be defined.); use "
        "--hosts.coordinator, --hosts.count and --hosts.number"
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 2}, "hosts.count: 2 has no effect without hosts.coordinator; leave it out"),
        ({"number": 0}, "hosts.number: 0 has no effect without hosts.coordinator; leave it out"),
        ({"auto": True, "number": 0}, "hosts.number: 0 has no effect with hosts.auto; leave it out"),
        ({"auto": True, "coordinator": "a:1"}, "hosts.auto: True is not accepted; use no hosts.coordinator with it"),
        ({"coordinator": "a", "count": 2, "number": 0}, "hosts.coordinator: a is not accepted; use ADDRESS:PORT, such"),
        ({"coordinator": "a:0", "count": 2, "number": 0}, "hosts.coordinator: a:0 is not accepted; use ADDRESS:PORT"),
        ({"coordinator": ":8", "count": 2, "number": 0}, "hosts.coordinator: :8 is not accepted; use ADDRESS:PORT"),
        ({"coordinator": "a:1", "number": 0}, "hosts.count: None is not accepted; use the number of processes, 1 or"),
        ({"coordinator": "a:1", "count": 0}, "hosts.count: 0 is not accepted; use the number of processes, 1 or more"),
        ({"coordinator": "a:1", "count": 2}, "hosts.number: None is not accepted; use 0 … 1, another for each process"),
        ({"coordinator": "a:1", "count": 2, "number": 2}, "hosts.number: 2 is not accepted; use 0 … 1, another for"),
        ({"timeout": 0.0}, "hosts.timeout: 0.0 is not accepted; use a positive number"),
    ],
)
def test_options_that_do_not_fit_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        check(Hosts(**settings))


def test_hosts_are_options_of_what_distils_and_no_settings_of_it(tmp_path):
    with pytest.raises(ValueError, match=r"^hosts.count: 2 has no effect without hosts.coordinator"):
        command_line(random_init.PRESETS, "digits", "", ["digits", "--seed", "4", "--hosts.count", "2"])
    name, config = command_line(fixed_init.PRESETS, "digits", "", ["--hosts.timeout", "5", "--seed", "4"])
    assert (name, config.seed, hasattr(config, "hosts")) == ("digits", 4, False)


def test_a_process_alone_agrees_with_itself(tmp_path):
    assert library.agreed(anything := object()) is anything
    assert library.from_first(lambda: anything) is anything
    assert library.replicated(tree := {"x": np.ones(2)}) is tree
    assert library.is_first()
    assert not library.several()


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://b", "memory://x/y", "file:///tmp/x"])
def test_a_bucket_is_refused_and_no_folder_of_that_name_is_made(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    shown = url.replace("file:///", "file://")  # Path has one slash for all of them
    message = rf"^workdir: {shown} is not accepted; use a folder, and copy it to the bucket or mount the bucket$"
    with pytest.raises(ValueError, match=message):
        fixed_init.main(["--workdir", url])
    for refused in (lambda: claimed(Path(url), {}), lambda: locked(Path(url))):
        with pytest.raises(ValueError, match=message), refused():
            pass
    assert list(tmp_path.iterdir()) == []
    check_local(Path("C:/runs"))
    check_local(Path("runs/a:b"))


def test_looks_at_the_clock_are_as_far_apart_as_the_steps_are_fast():
    assert steps_until(left=30.0, pace=0.25, before=1000) == 120
    assert steps_until(left=30.0, pace=0.0, before=8) == 16
    assert steps_until(left=-1.0, pace=0.25, before=8) == 1


SMALL = (
    "digits", "--network", "mlp", "--distilled.epochs", "2", "--outer.steps", "12", "--batch-size", "32",
    "--weights.test-nets", "4",
)  # fmt: skip


def experiment(processes, workdir, count, *options, devices=1):
    port = free_port()
    of_all = ("-m", "experiments.random_init", *SMALL, "--workdir", str(workdir), *options)
    where = ("--hosts.coordinator", f"127.0.0.1:{port}", "--hosts.count", str(count)) if count > 1 else ()
    numbers = [("--hosts.number", str(i)) for i in range(count)] if count > 1 else [()]
    return [processes(*of_all, *where, *number, devices=devices) for number in numbers]


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "mesh"), [(4, (4, 2))])
def test_an_experiment_in_two_processes_is_as_in_one_with_as_many_devices(processes, tmp_path, devices, mesh):
    options = ("--devices.nets", str(mesh[0]), "--devices.batch", str(mesh[1]))
    for name, count in (("one", 1), ("two", 2)):
        ended = ends(experiment(processes, tmp_path / name, count, *options, devices=2 * devices // count))
        assert [(status, errors) for status, _, errors in ended] == [(0, [])] * count
    one, two = (load_distilled(tmp_path / name / "distilled.npz") for name in ("one", "two"))
    assert np.linalg.norm(two.images - one.images) <= 1e-5 * np.linalg.norm(one.images)  # sums in another order
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two")]
    assert results[0]["config"] == results[1]["config"]
    assert [result["mesh"] for result in results] == [{"nets": mesh[0], "batch": mesh[1]}] * 2
    before = {path: path.read_bytes() for path in (tmp_path / "two").iterdir() if path.is_file()}
    assert [status for status, *_ in ends(experiment(processes, tmp_path / "two", 1))] == [0]  # shown, by one alone
    assert [status for status, *_ in ends(experiment(processes, tmp_path / "two", 2))] == [0, 0]
    assert before == {path: path.read_bytes() for path in (tmp_path / "two").iterdir() if path.is_file()}
