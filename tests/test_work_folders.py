"""Nothing that was computed is lost: changed data, finished runs, failing pictures, runs that go on from others."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dd_jax.base import Network
from dd_jax.files.distilled_file import load_distilled
from dd_jax.files.figures import draw_images
from dd_jax.outer import OuterRecipe
from experiments import distil, evaluate, fixed_init, record, results, seeds, training
from experiments.distilled import DistilledSetting
from experiments.kept import read_records, write
from experiments.nets import nets_of
from experiments.relabelled import Relabelled
from experiments.settings import Weights, dataset_from, path_from
from experiments.streams import streams
from experiments.tables import tables_of
from experiments.training import Stopped

TINY = ("--outer.steps", "4", "--batch-size", "8", "--distilled.epochs", "2", "--validation-fraction", "0.2")


def write_data(path, names=("a", "b", "c"), shift=0):
    """Thirty bright squares of each class, in a corner of its own; ``shift`` moves the labels around."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = rng.integers(0, 60, (90, 28, 28), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[9 * label : 9 * label + 9, :14] += 180
    np.savez(path, images=images, labels=(labels + shift) % 3, class_names=np.array(names))
    return path


def contents(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def run(data, workdir, *options):
    fixed_init.main(["--dataset", str(data), "--workdir", str(workdir), *TINY, *options])
    return json.loads((workdir / "result.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(write_data(folder / "mine.npz"), folder / "run")
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "all")
    return tmp_path / "all"


def test_a_finished_run_is_shown_and_left_as_it_is(copied, monkeypatch, capsys):
    before = contents(copied)
    monkeypatch.setattr(distil, "assemble", lambda *_: pytest.fail("nothing needs to be assembled"))
    (copied / "else").mkdir()
    monkeypatch.chdir(copied / "else")
    result = json.loads((copied / "run" / "result.json").read_text())
    capsys.readouterr()
    shown = run("../mine.npz", copied / "run")  # however the path is typed
    output = capsys.readouterr()
    assert shown == result
    assert f"{100 * result['test_accuracy']['after']['mean']:.2f} %" in output.out
    assert "holds this run, finished" in output.err
    assert contents(copied) == before


@pytest.mark.parametrize("change", [{"shift": 1}, {"names": ("a", "b", "d")}])
@pytest.mark.parametrize("stage", ["finished", "interrupted"])
def test_data_that_changed_under_the_same_path_are_refused(copied, change, stage):
    if stage == "interrupted":
        (copied / "run" / "result.json").unlink()
    before = contents(copied / "run")
    write_data(copied / "mine.npz", **change)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(data is \w{12} there and \w{12} here\)"):
        run(copied / "mine.npz", copied / "run")
    assert contents(copied / "run") == before


def test_a_picture_that_fails_costs_the_picture(tmp_path, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("no such glyph\nin this font")

    monkeypatch.setattr(record, "draw_images", fails)
    result = run(write_data(tmp_path / "mine.npz"), tmp_path / "run")
    assert result["test_accuracy"]["after"]["n"] == 1
    assert load_distilled(tmp_path / "run" / "distilled.npz").images.shape == (1, 3, 28, 28, 1)
    assert not (tmp_path / "run" / "images.png").exists()
    assert "images.png was not written (RuntimeError: no such glyph)" in caplog.text
    assert "Training" in (tmp_path / "run" / "report.html").read_text()
    monkeypatch.undo()
    before = (tmp_path / "run" / "result.json").stat().st_mtime_ns
    run(tmp_path / "mine.npz", tmp_path / "run")  # the same command again draws what is missing
    assert (tmp_path / "run" / "images.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run" / "result.json").stat().st_mtime_ns == before


def test_class_names_that_look_like_formulas_are_names(tmp_path):
    result = run(write_data(tmp_path / "mine.npz", names=("smile", "$_$", "猫")), tmp_path / "run")
    assert (tmp_path / "run" / "images.png").read_bytes().startswith(b"\x89PNG")
    assert result["preset"] == "mine"
    assert "fixed_init · mine" in (tmp_path / "run" / "report.html").read_text()
    file = load_distilled(tmp_path / "run" / "distilled.npz")
    assert file.meta["class_names"] == ["smile", "$_$", "猫"]
    titles = [t.get_text() for axis in draw_images(file.distilled, file.meta["class_names"]).axes for t in axis.texts]
    titles += [axis.get_title() for axis in draw_images(file.distilled, file.meta["class_names"]).axes]
    assert {"smile", "$_$", "猫"} <= set(titles)


def test_one_s_own_data_have_a_folder_of_their_own_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data("mine.npz")
    fixed_init.main(["--dataset", "mine.npz", *TINY])
    assert (tmp_path / "runs" / "fixed_init" / "mine" / "result.json").is_file()
    assert not (tmp_path / "runs" / "fixed_init" / "digits").exists()


@pytest.mark.slow
def test_a_run_goes_on_from_another_under_its_own_bound_with_other_batches(copied, monkeypatch):
    bound = ("--outer.max-step-size", "0.12", "--distilled.step-size", "0.12")
    first = run(data := copied / "mine.npz", copied / "bounded", *bound)
    file = load_distilled(copied / "bounded" / "distilled.npz")
    sizes = np.full_like(file.step_sizes, np.float32(0.12) + np.float32(2e-8))
    with np.load(copied / "bounded" / "distilled.npz") as held:
        np.savez(copied / "bounded" / "distilled.npz", **{**held, "step_sizes": sizes})
    assert sizes.max() > 0.12
    seen = []

    def noting(dataset, size, **settings):
        draw = batch_drawer(dataset, size, **settings)

        def noted(key, split):
            images, labels = draw(key, split)
            jax.debug.callback(lambda i: seen.append(np.asarray(i)), images)
            return images, labels

        return noted

    batch_drawer = distil.batch_drawer
    monkeypatch.setattr(distil, "batch_drawer", noting)
    run(data, copied / "again", *bound)
    jax.effects_barrier()
    of_first, seen[:] = list(seen), []
    then = run(data, copied / "then", *bound, "--distilled.first", str(copied / "bounded"))
    jax.effects_barrier()
    assert then["earlier"]["outer_steps"] == first["outer_steps"] == len(of_first) == len(seen) == 4
    assert not any(np.array_equal(a, b) for a in of_first for b in seen)


BY_EPOCH = ("--batches", "epochs", "--batch-size", "10", "--outer.steps", "12")  # of 57 examples: 5 times 10, and 7


class _stops_at:
    """``signals`` of a user who stops a run after so many steps."""

    def __init__(self, step):
        self.left = step

    def __enter__(self):
        def signalled():
            self.left -= 1
            return 0 if self.left else signal.SIGTERM

        return signalled

    def __exit__(self, *_):
        return None


@pytest.mark.slow
def test_batches_by_epoch_have_every_example_once_and_a_resumed_run_has_the_same(copied, monkeypatch):
    seen = []

    def noting(dataset, **settings):
        make = batch_maker(dataset, **settings)

        def noted(key, split, index):
            jax.debug.callback(lambda i: seen.append(np.asarray(i)), index)
            return make(key, split, index)

        return noted

    batch_maker = distil.batch_maker
    with monkeypatch.context() as patch:
        patch.setattr(distil, "batch_maker", noting)
        run(copied / "mine.npz", copied / "epoch", *BY_EPOCH, "--outer.steps", "6")
        jax.effects_barrier()
    assert sorted(map(len, seen)) == [7, *[10] * 5]
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(57))

    run(copied / "mine.npz", copied / "whole", *BY_EPOCH)
    with monkeypatch.context() as patch:
        patch.setattr(training, "signals", lambda: _stops_at(8))  # within the second epoch
        with pytest.raises(Stopped, match="stopped after step 8 of 12"):
            run(copied / "mine.npz", copied / "resumed", *BY_EPOCH)
    run(copied / "mine.npz", copied / "resumed", *BY_EPOCH)
    for name in ("images", "step_sizes"):
        resumed, whole = (getattr(load_distilled(copied / w / "distilled.npz"), name) for w in ("resumed", "whole"))
        assert resumed.tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "58"], "batch_size: 58 is not accepted; use 1 … 57, the training examples, with batches"),
        (
            ["--outer.perturbations", "5"],
            "batches: 'epochs' is not accepted; use 'replaced', or outer.perturbations that divide 7, the last batch",
        ),
    ],
)
def test_batches_by_epoch_that_cannot_be_are_refused(copied, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        run(copied / "mine.npz", copied / "refused", *BY_EPOCH, *options)
    assert not (copied / "refused").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights.law", "kaiming_fan_in"], "weights.law orthogonal, and this run kaiming_fan_in"),
        (["--weights.gain", "0.5"], "weights.gain 1.4, and this run 0.5"),
        (["--weights.nets", "2"], "known networks True, and this run False"),
        (["--network", "mlp"], "network lenet, and this run mlp"),
    ],
)
def test_a_run_goes_on_for_the_same_networks_only(copied, options, message):
    with pytest.raises(ValueError, match=f"^distilled.first: .*run has {message}; they must be the same"):
        run(copied / "mine.npz", copied / "refused", "--distilled.first", str(copied / "run"), *options)
    assert not (copied / "refused").exists()


def test_a_run_goes_on_with_the_same_classes_only(copied):
    write_data(data := copied / "mine.npz", names=("b", "a", "c"))
    with pytest.raises(ValueError, match=r"run has classes \('a', 'b', 'c'\), and this run \('b', 'a', 'c'\)"):
        run(data, copied / "refused", "--distilled.first", str(copied / "run"))


@pytest.mark.slow
def test_labels_are_relabelled_once(copied):
    """{0: 1, 1: 0} swaps two classes; a run that goes on from one with swapped labels keeps them."""
    config = distil.Config(
        str(copied / "mine.npz"),
        distilled=DistilledSetting(epochs=2),
        outer=OuterRecipe(steps=1, learning_rate=1e-7),
        batch_size=8,
        validation_fraction=0.2,
        workdir=copied / "swapped",
    )
    swap = {0: 1, 1: 0}
    distil.run("attack", "mine", config, attack=Relabelled(swap))
    first = load_distilled(copied / "swapped" / "distilled.npz")
    assert first.labels[0].argmax(-1).tolist() == [1, 0, 2]
    onwards = DistilledSetting(epochs=2, first=copied / "swapped")
    then = dataclasses.replace(config, distilled=onwards, workdir=copied / "then")
    distil.run("attack", "mine", then, attack=Relabelled(swap))
    np.testing.assert_array_equal(load_distilled(copied / "then" / "distilled.npz").labels, first.labels)
    refused = dataclasses.replace(then, workdir=copied / "refused")
    with pytest.raises(ValueError, match=r"has relabel \{'0': 1, '1': 0\}, and this run None; they must"):
        distil.run("attack", "mine", refused)


@pytest.mark.slow
def test_a_run_is_repeated_for_each_seed_and_the_spread_told(copied, capsys):
    command = ["--base.dataset", str(copied / "mine.npz"), "--seeds", "2", "--workdir", str(copied / "seeds")]
    command += [option.replace("--", "--base.") for option in TINY]
    seeds.main(command)
    result = json.loads((copied / "seeds" / "result.json").read_text())
    each = [json.loads((copied / "seeds" / f"seed_{i}" / "result.json").read_text()) for i in (0, 1)]
    means = [one["test_accuracy"]["after"]["mean"] for one in each]
    assert [one["seed"] for one in each] == [0, 1]
    assert result["by_seed"] == {"0": means[0], "1": means[1]}
    assert result["test_accuracy"]["mean"] == pytest.approx(np.mean(means))
    assert (result["test_accuracy"]["min"], result["test_accuracy"]["max"]) == (min(means), max(means))
    assert "test accuracy over seeds: " in capsys.readouterr().out
    first = load_distilled(copied / "seeds" / "seed_0" / "distilled.npz")
    np.testing.assert_array_equal(first.images, load_distilled(copied / "run" / "distilled.npz").images)
    write_data(copied / "mine.npz", shift=1)
    with pytest.raises(ValueError, match=r"holds a run with other settings \(data is "):
        seeds.main(command)
    write(results.read_run(copied / "seeds"), copied / "results")
    assert "| [seeds](../results/seeds/seeds) | 0, 1 | " in tables_of(read_records(copied / "results").values())


def test_evaluation_finds_the_data_from_any_folder_and_knows_them(copied, monkeypatch, tmp_path):
    (tmp_path / "else").mkdir()
    moved = tmp_path / "moved"
    shutil.move(copied, moved)
    monkeypatch.chdir(tmp_path / "else")
    scores = evaluate.run(moved / "run", evaluate.Config())["scores"]
    result = json.loads((moved / "run" / "result.json").read_text())
    assert scores[-1]["accuracy"]["mean"] == pytest.approx(result["test_accuracy"]["after"]["mean"])
    write_data(moved / "mine.npz", shift=1)
    with pytest.raises(ValueError, match=r"^dataset: .*mine.npz has changed since .*run was made; give --dataset"):
        evaluate.run(moved / "run", evaluate.Config())
    write_data(moved / "mine.npz", names=("c", "b", "a"))
    with pytest.raises(ValueError, match=r"mine.npz has the classes c, b, a, and .*run a, b, c; use another dataset"):
        evaluate.run(moved / "run", evaluate.Config(dataset=str(moved / "mine.npz")))
    (moved / "mine.npz").unlink()
    with pytest.raises(ValueError, match=r"^dataset: .*moved/mine.npz, which .* was made of, is not there; give --da"):
        evaluate.run(moved / "run", evaluate.Config())


def test_a_file_with_its_own_network_takes_no_number_of_others(finished):
    with pytest.raises(ValueError, match=r"^nets: 5 is not accepted; .* was made for networks of its own"):
        evaluate.run(finished / "run", evaluate.Config(nets=5))
    result = evaluate.run(finished / "run", evaluate.Config(nets=2, law="xavier_normal"))
    assert result["scores"][0]["accuracy"]["n"] == 2
    assert result["networks"] == {"known": False, "network": "lenet", "law": "xavier_normal", "gain": 1.4}


def test_paths_are_kept_from_the_file_s_own_folder_on(tmp_path):
    folder = tmp_path / "runs" / "a"
    assert path_from(folder, tmp_path / "runs" / "bank") == os.path.join("..", "bank")
    assert path_from(folder, folder / "bank") == os.path.join(".", "bank")
    assert dataset_from(folder, "mnist") == "mnist"
    assert dataset_from(folder, str(tmp_path / "my.npz")) == os.path.join("..", "..", "my.npz")


def test_a_path_through_a_link_is_found_again(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    (tmp_path / "my.npz").touch()
    folder = tmp_path / "link" / "run"
    folder.mkdir()
    assert (folder / path_from(folder, tmp_path / "my.npz")).resolve() == (tmp_path / "my.npz").resolve()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("run/result.json", "a new file, or that of an earlier evaluation"),
        ("run/distilled.npz", "a new file, or that of an earlier evaluation"),
        ("nowhere/scores.json", "a file in an existing folder; there is no .*nowhere"),
    ],
)
def test_an_evaluation_is_not_written_over_anything_else(copied, monkeypatch, output, message):
    monkeypatch.setattr(evaluate, "run", lambda *_: pytest.fail("it is refused before"))
    before = contents(copied)
    with pytest.raises(ValueError, match=f"^output: .* is not accepted; use {message}"):
        evaluate.main([str(copied / "run"), "--output", str(copied / output)])
    assert contents(copied) == before


def test_no_key_of_one_purpose_is_another_s():
    """The keys themselves, and the first of each purpose's children, by either way of deriving them."""
    keys = [key for seed in (0, 1) for key in streams(seed)]
    children = [jax.random.fold_in(key, i) for key in keys for i in range(3)]
    words = {tuple(jax.random.key_data(key).tolist()) for key in keys + children}
    assert len(words) == len(keys) + len(children)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"jitter": 0.1}, "weights.jitter: 0.1 is not accepted without weights.bank and weights.nets"),
        ({"bank": Path("bank"), "gain": 2.0}, "weights.gain: 2.0 has no effect with weights.bank; use 1.0 there"),
        ({"bank": Path("bank"), "law": "zero"}, "weights.law: zero has no effect with weights.bank; use xavier_normal"),
        ({"bank": Path("nowhere")}, r"weights.bank: nowhere is not accepted; use the work folder of experiments.pretr"),
    ],
)
def test_weights_without_effect_or_not_there_are_refused(tmp_path, monkeypatch, weights, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bank" / "train").mkdir(parents=True)
    network = Network(lambda key: jnp.zeros(2), lambda theta, images: images)
    with pytest.raises(ValueError, match=f"^{message}"):
        nets_of(Weights(**weights), network, (28, 28, 1), 0)
