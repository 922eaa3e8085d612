"""Recorded sets are loaded by name, and the gallery shows each of them."""

import re
from pathlib import Path

import numpy as np
import pytest

import dd_jax
from dd_jax.files.recorded import recorded
from experiments import gallery

ROOT = Path(__file__).parent.parent


def test_every_recorded_set_is_loaded_by_its_name():
    names = recorded()
    assert len(names) >= 16
    for name in names:
        file = dd_jax.load(name)
        assert file.meta["experiment"] == name.partition("/")[0]
    with np.load(ROOT / "results/fixed_init/mnist_100/distilled.npz") as held:
        np.testing.assert_array_equal(dd_jax.load("mnist_100").images, held["images"])


def test_names_that_are_unknown_or_of_several_sets_are_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"^name: 'mnist_1' is no recorded set; use one of .*fixed_init/mnist, mnist_100"
    ):
        dd_jax.load("mnist_1")
    with pytest.raises(ValueError, match=r"^name: 'cifar10_fixed' is no recorded set; use one of "):  # too large a file
        dd_jax.load("cifar10_fixed")
    told = (
        r"^name: 'mnist' is the name of several recorded sets; use one of attack/mnist, fixed_init/mnist, random_init/"
    )
    with pytest.raises(ValueError, match=told):
        dd_jax.load("mnist")


def test_the_gallery_is_what_the_command_writes_and_has_every_picture():
    page = (ROOT / gallery.PAGE).read_text()
    assert page == gallery.page(ROOT / "results"), "run python -m experiments.gallery"
    shown = re.findall(r"\]\(\.\./(results/[^)]+)\)", page)
    assert sorted(shown) == sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("results/*/*/images.png"))


def test_the_command_writes_the_page_of_the_records_it_finds(tmp_path, monkeypatch):
    record = tmp_path / "results/fixed_init/digits"
    record.mkdir(parents=True)
    for name in ("result.json", "images.png"):
        (record / name).write_bytes((ROOT / "results/fixed_init/digits" / name).read_bytes())
    monkeypatch.setattr(gallery, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"^gallery: .* has no docs; records are kept in a checkout"):
        gallery.main([])
    (tmp_path / "docs").mkdir()
    gallery.main([])
    page = (tmp_path / "docs/gallery.md").read_text()
    assert (
        "digits, one known lenet: 1 per class × 1 images, 5 steps. Test accuracy: 12.68 % before, 97.46 % after."
        in page
    )
    assert "dd_jax.load" not in page.partition("## ")[2]  # its images are not recorded there
    with pytest.raises(ValueError, match=r"^gallery: --x is not accepted"):
        gallery.main(["--x"])
