"""The page of a run: what it says, that it is whole by itself, and that it is made of whatever a run has left."""

import base64
import html.parser
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from pages import made_up
from PIL import Image

from dd_jax.files.report.page import comparison, html_report
from dd_jax.files.report.plots import confusion_chart, loss_chart, validation_chart
from dd_jax.files.report.svg import Axes, linear, logarithmic, of_accuracies
from dd_jax.files.report.tiles import ALL_BYTES, FRAME_BYTES, chosen, moments, sheet
from dd_jax.files.report.words import result_sentence, standard_error, uncertainty_sentence
from dd_jax.files.snapshots import Snapshot, load_snapshots, save_snapshot, snapshot
from dd_jax.files.text import percent
from experiments.attack_table import lines
from experiments.record import facts_of, print_result
from experiments.reported import fields


class _Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def tiles_of(text):
    return [attributes for tag, attributes in _Page(text).attributes if tag == "i"]


def test_the_result_is_one_sentence_with_data_network_images_steps_and_chance():
    facts = made_up()
    assert result_sentence(facts) == (
        "3 gradient steps on 10 distilled images of digits take a known lenet from 10.00 % to 77.50 % accuracy on 400 "
        "test images; guessing among 10 classes gives 10 %."
    )
    assert "200 networks (lenet) that were never seen before" in result_sentence(made_up(networks=200))
    assert result_sentence(made_up(networks=200)).count("n = 200") == 0
    assert "200 networks, which share the test images" in uncertainty_sentence(made_up(networks=200))


def test_the_last_digit_is_put_beside_the_standard_error():
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(1.0, 100) == pytest.approx(0.00995, rel=1e-3)
    said = uncertainty_sentence(made_up())
    assert "One test image of 400 is 0.25 points" in said
    assert "standard error of 2.1 points (binomial), so a difference of less than about 4.2 points" in said


def test_every_image_has_a_name_and_its_own_place():
    facts = made_up(classes=7, steps=2)
    tiles = [tile for tile in tiles_of(html_report(facts)) if "step sizes" in tile["title"]]
    assert len(tiles) == 14
    assert len({tile["style"] for tile in tiles}) == 14
    sizes = ", ".join(f"{size:.3g}" for size in facts.distilled.step_sizes[1::2])
    assert tiles[7]["aria-label"] == tiles[7]["title"] == f"class 0 · step 1 · image 0 · step sizes {sizes}"


def test_a_tile_is_cut_where_its_image_lies_on_the_sheet():
    """By CSS's own rule: x % puts that point of the sheet on the same point of the box."""
    page = html_report(made_up(classes=7, steps=1, size=8))
    across, down = re.findall(r"#distilled i\{aspect-ratio:8/8;background-size:([\d.]+)% ([\d.]+)%\}", page)[0]
    wide, high = 8 * float(across) / 100, 8 * float(down) / 100
    assert (wide, high) == pytest.approx((30, 30), abs=1e-3)  # 3 × 3 images of 8 with an edge around each
    places = [re.findall(r"([\d.]+)% ([\d.]+)%", t["style"])[0] for t in tiles_of(page) if "step sizes" in t["title"]]
    corners = [(float(x) / 100 * (wide - 8), float(y) / 100 * (high - 8)) for x, y in places]
    np.testing.assert_allclose(corners, [(10 * (i % 3) + 1, 10 * (i // 3) + 1) for i in range(7)], atol=0.01)


def test_a_sheet_has_every_image_with_its_edge_around_it():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    png, columns = sheet(images)
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert (columns, pixels.shape) == (3, (12, 24, 3))
    np.testing.assert_array_equal(pixels[6:12, 8:16], np.pad(images[4], ((1, 1), (1, 1), (0, 0)), mode="edge"))


def test_the_slider_has_a_moment_for_each_snapshot_and_the_end():
    page = html_report(made_up(moments=4))
    slider = next(a for tag, a in _Page(page).attributes if tag == "input")
    words = json.loads(slider["data-words"])
    assert len(words) == 5 == int(slider["max"]) + 1 == page.count("] i{background-image:url(data:image/png")
    assert words[0].startswith("before training")
    assert words[-1].startswith("outer step 100 of 100 · validation accuracy 98.4 %")
    assert "<input" not in html_report(made_up(moments=0)).replace(".time input", "")


def test_an_earlier_result_that_does_not_say_so_has_known_networks_if_none_were_drawn():
    for nets, known in ((None, True), (4, False)):
        facts = made_up(config={"network": "lenet", "weights": {"nets": nets}})
        del facts.result["networks"]
        assert facts.known == known


@pytest.mark.parametrize("known", [True, False])
def test_the_greys_and_the_look_are_explained(known):
    page = html_report(made_up(networks=1 if known else 200))
    assert "mid-grey is zero" in page
    assert ("look like noise because they were made for known initial weights" in page) == known


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_a_page_has_place_for_any_number_of_classes(classes):
    page = html_report(made_up(classes=classes, steps=2, depth=3, moments=21))
    assert len(page) < 3_000_000
    assert page.count("class='name'") == min(classes, 100)
    assert ("Confusion matrix" in page) == (classes <= 200)


def test_of_many_or_large_images_some_are_shown_within_the_page_s_size():
    for shape in ((10, 1000, 64, 64, 3), (300, 2, 28, 28, 1), (1, 10, 1024, 1024, 3)):
        steps, members = chosen(shape)
        size = np.prod(shape[2:])
        assert len(steps) * len(members) == 1 or len(steps) * len(members) * size <= FRAME_BYTES
        kept = moments(21, int(len(steps) * len(members) * size))
        assert (kept[0], kept[-1]) == (0, 20)
        assert len(kept) == 4 or (len(kept) - 1) * len(steps) * len(members) * size <= ALL_BYTES


def pictures_in(page, selector):
    """The pictures that tiles are cut from, with their kinds."""
    found = re.findall(selector + r" i\{background-image:url\(data:image/(\w+);base64,([^)]+)\)", page)
    return [(kind, np.asarray(Image.open(io.BytesIO(base64.b64decode(held))))) for kind, held in found]


def test_a_page_of_a_hundred_colour_classes_can_be_sent_around():
    """Even if its pixels are noise, which no format makes smaller; the last images are exact, the others near."""
    facts = made_up(classes=100, steps=2, depth=3, size=32, moments=21)
    page = html_report(facts)
    assert len(page.encode()) < 3_000_000
    *earlier, (kind, last) = pictures_in(page, r"#distilled\[data-moment='\d+'\]")
    assert [kind for kind, _ in earlier] == ["jpeg"] * 3
    now = snapshot(100, facts.distilled.images)
    assert kind == "png"
    np.testing.assert_array_equal(last[1:33, 1:33], now.images[0, 0])
    first = facts.snapshots[0].images[0, 0].astype(float)
    assert np.sqrt(np.mean((earlier[0][1][1:33, 1:33] - first) ** 2)) < 20  # of 255, where the pixels deviate by 64
    assert "those before them are JPEG pictures" in page
    assert "JPEG" not in html_report(made_up())


def test_a_large_confusion_matrix_has_every_cell_and_names_the_largest_shares():
    counts = np.random.default_rng(0).integers(0, 3, (60, 60))
    counts[7, 5] = 1000
    drawn = confusion_chart(counts, [f"c{i}" for i in range(60)])
    paths = re.findall(r"<path class='(cell(?: wrong)?)' fill-opacity='([\d.]+)' d='([^']+)'", drawn)
    cells = [(kind, int(x), int(y), opacity) for kind, opacity, d in paths for x, y in re.findall(r"M(\d+) (\d+)h", d)]
    shares = counts / counts.sum(1, keepdims=True)
    assert {(y, x) for _, x, y, _ in cells} == {tuple(at) for at in np.argwhere(shares >= 0.0005)}
    assert all((kind == "cell") == (x == y) for kind, x, y, _ in cells)
    assert next(float(opacity) for _, x, y, opacity in cells if (y, x) == (7, 5)) > 0.8
    assert f"<title>c7 taken for c5: {100 * shares[7, 5]:.1f} %</title>" in drawn
    assert drawn.count("<title>") == 500


def test_a_run_that_kept_nothing_more_has_a_page_with_what_there_is():
    facts = made_up()._replace(scored=None, snapshots=(), metrics=(), command="", changed=())
    page = html_report(facts)
    assert "on the test images; guessing" in page
    for absent in ("<input", "What is taken for what", "Real images", "How to make them again", "standard error of"):
        assert absent not in page.replace(".time input", "")
    assert "Learned step sizes" in page


def test_the_page_of_an_attack_has_its_baselines_and_what_is_reported():
    record = Path(__file__).parent.parent / "results/attack/mnist"
    reported = {"before": 0.82, "after": 0.07, "checked": True}
    told = json.loads((record / "attack.json").read_text()) | {"reported": reported}
    for name in ("before", "after", "random_real"):
        told[name]["attacked"] = told[name]["attacked_to_target"]  # which so early an attack has not
    page = html_report(made_up()._replace(attack=lines(told)))
    for cell in ("after random real", "0 → 1", "82.0 % (checked) → 7.0 % (checked)"):
        assert f"<th>{cell}</th>" in page or f"<td>{cell}</td>" in page
    for name in ("before", "after", "random_real"):
        assert f"<td>{percent(told[name]['attacked_to_target'])}</td>" in page
    assert "<h2>What the attack does" in html_report(facts_of(record))
    assert "What the attack does" not in html_report(made_up())


def test_the_page_is_whole_by_itself_and_every_picture_has_a_text():
    page = html_report(made_up())
    assert not re.search(r"(src|href)=['\"]?(https?:|/|\w+\.)", page)
    assert not re.search(r"url\((?!data:)", page)
    for tag, attributes in _Page(page).attributes:
        if tag == "i" or (tag == "svg" and attributes.get("role") == "img"):
            assert attributes["aria-label"]
        elif tag == "svg":
            assert "aria-hidden" in attributes or "x" in attributes  # a mark, or the area within a plot
    plots = re.findall(r"<figure class='(?:plot|matrix)'>.*?</figure>", page)
    assert len(plots) == 5
    for plot in plots:
        ElementTree.fromstring(plot)


def test_the_page_says_what_it_was_given_and_runs_none_of_it():
    nasty = "</pre><script>alert('\"&\ud800')</script>"
    shown = nasty.replace("\ud800", "?")
    names = [nasty, "汉字", "$_$", "b"]
    facts = made_up(classes=4, names=names, preset=nasty, device=nasty, config={"dataset": nasty, "network": nasty})
    for text in (
        html_report(facts._replace(command=nasty, changed=[(nasty, nasty, nasty)])),
        comparison([facts, facts]),
    ):
        page = _Page(text.encode().decode())
        assert page.tags.count("script") == 1  # ours
        assert f"fixed_init · {shown}" in " ".join(page.words)
        assert "汉字" in text


@pytest.mark.parametrize(
    "losses", [[], [0.0, -1.0], [np.nan] * 3, [np.inf, 1.0], [2.0, 0.0, np.nan, -1.0, 0.5], [1.0], [0.5] * 200]
)
@pytest.mark.parametrize("validation", [[], [0.5, np.nan], [1.0], [0.2, 0.99]])
def test_a_curve_is_drawn_whatever_was_measured(losses, validation):
    for chart, values in ((loss_chart, losses), (validation_chart, validation)):
        drawn = chart({"": np.array([np.arange(len(values)), values], float)})
        assert bool(drawn) == bool(np.isfinite(values).any())
        assert "nan" not in drawn.lower()
        if drawn:
            assert len(re.findall(r"<text", drawn)) >= 3  # both axes say what they are


def test_axes_show_what_happened():
    """The last per cents have as much place as the first ones, and every mark is where its value is."""
    y = of_accuracies([0.1, 0.9, 0.99])
    places = y.place(np.array([0.1, 0.9, 0.99]))
    assert places == pytest.approx([0, 0.49, 1], abs=0.07)
    assert {text for _, text in y.ticks} >= {"50 %", "90 %", "99 %"}
    assert of_accuracies([0.2, 0.5]).place(np.array(0.35)) == pytest.approx(0.5)
    assert logarithmic(0.01, 1.0).place(np.array([0.01, 0.1, 1.0])) == pytest.approx([0, 0.5, 1])
    x = linear(0, 100)
    assert [value for value, _ in x.ticks] == [0, 20, 40, 60, 80, 100]
    assert Axes(x, y).points([0, 100], [0.99, 0.1])[:, 0].tolist() == [0, 300]


def test_a_comparison_has_every_run_and_the_settings_that_differ():
    runs = [made_up(), made_up(steps=2, config={"network": "lenet", "dataset": "digits", "outer": {"steps": 50}})]
    page = comparison(runs)
    assert "2 runs compared" in page
    assert page.count("class='line s1'") == 4  # the second run is in each of four plots
    assert "fixed_init · digits (2)" in page
    assert "<td>outer.steps</td><td>–</td><td>50</td>" in page
    assert "<td>network</td>" not in page


@pytest.mark.parametrize(("checked", "said"), [(True, "checked"), (False, "from memory")])
def test_a_figure_of_the_paper_says_whether_it_was_checked(checked, said, capsys):
    """On the page, and where a run ends."""
    facts = made_up(**fields({"before": 0.129, "after": 0.795, "std": 0.081, "checked": checked}))
    print_result(facts.result, Path("run"))
    for text in (html_report(facts), capsys.readouterr().out):
        assert f"12.9 % ({said})" in text
        assert f"79.5 ± 8.1 % ({said})" in text


def test_snapshots_are_kept_and_those_that_do_not_fit_are_left_out(tmp_path):
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(1, 2, 3, 4, 1)
    for step in (0, 50, 100):
        save_snapshot(tmp_path / "snapshots", Snapshot(step, images + step, 0.5))
    save_snapshot(tmp_path / "snapshots", Snapshot(60, images[:, :1], 0.5))
    (tmp_path / "snapshots" / "00000070.npz").write_bytes(b"PK half a file")
    found = load_snapshots(tmp_path / "snapshots", 80, images.shape)
    assert [moment.step for moment in found] == [0, 50]
    np.testing.assert_array_equal(found[1].images, images + 50)
    assert load_snapshots(tmp_path / "nowhere", 80, images.shape) == []


def test_balanced_accuracy_stands_beside_plain_where_a_result_has_it(capsys):
    assert "mean of the classes" not in html_report(made_up())
    score = {"mean": 0.625, "std": 0.0, "n": 1}
    for reported in (None, 0.9):
        quoted = fields({"before": None, "after": reported, "std": None, "checked": True})
        facts = made_up(balanced_test_accuracy={"before": {**score, "mean": 0.125}, "after": score}, **quoted)
        page = html_report(facts)
        assert "<th>mean of the classes&#x27; accuracies</th>" in page
        assert "<td>after 3 steps</td><td>77.50 %</td><td>62.50 %</td>" in page
        print_result(facts.result, Path("run"))
        assert "mean of the classes' accuracies  after the steps: 62.50 %" in capsys.readouterr().out
