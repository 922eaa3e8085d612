"""The pages in a real browser, from a file: no errors, a slider that moves the images, no scrolling sideways."""

import html
import json
import re
import shutil
import subprocess

import pytest
from pages import made_up

from dd_jax.files.report.page import comparison, html_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")]


def browse(folder, text, script="", *, options=("--dump-dom",)):
    """Loads a page from a file, and then runs a script; returns the browser's output and what its console said."""
    path = folder / "page.html"
    path.write_text(text + f"<script>addEventListener('load', () => {{ {script} }})</script>")
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--allow-file-access-from-files", "--enable-logging=stderr", "--window-size=1100,1400"]
    command += ["--virtual-time-budget=3000", *options, path.as_uri()]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    return process.stdout, [line for line in process.stderr.splitlines() if "CONSOLE" in line]


def found_out(folder, text, expression):
    """What an expression is in a page, as JSON."""
    script = f"document.body.dataset.told = JSON.stringify({expression})"
    dom, console = browse(folder, text, script)
    assert console == []
    return json.loads(html.unescape(re.findall(r'data-told="(.*?)"', dom)[0]))


PAGES = {
    "ten": lambda: html_report(made_up(size=28)),
    "hundred": lambda: html_report(made_up(classes=100, steps=2, size=32, depth=3, names=["a" * 60] * 100)),
    "random": lambda: html_report(made_up(networks=200, steps=10)),
    "nothing_kept": lambda: html_report(made_up()._replace(scored=None, snapshots=(), metrics=())),
    "comparison": lambda: comparison([made_up(), made_up(steps=10), made_up(preset="b" * 80)]),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_errors_and_does_not_scroll_sideways_on_a_phone(tmp_path, name):
    (tmp_path / "shown.html").write_text(PAGES[name]())
    phone = "<!doctype html><iframe src='shown.html' style='border:0;width:390px;height:800px'></iframe>"
    frame = "document.querySelector('iframe').contentDocument"
    inner, content = found_out(
        tmp_path, phone, f"[{frame}.documentElement.clientWidth, {frame}.documentElement.scrollWidth]"
    )
    assert 370 <= inner <= 390
    assert content <= inner


def test_an_error_of_a_page_would_be_seen(tmp_path):
    _, console = browse(tmp_path, "<!doctype html><p>", "nowhere()")
    assert len(console) == 1


def test_the_slider_moves_the_pictures(tmp_path):
    move = "s = document.querySelector('input'); s.value = 1; s.dispatchEvent(new Event('input'))"
    background = "getComputedStyle(document.querySelector('#distilled i')).backgroundImage"
    said = "document.querySelector('output').textContent"
    page, unseen = PAGES["ten"](), "document.querySelector('input').hidden"
    last, words, hidden = found_out(tmp_path, page, f"[{background}, {said}, {unseen}]")
    moved, then = found_out(tmp_path, page, f"(() => {{ let s; {move}; return [{background}, {said}] }})()")
    assert not hidden
    assert words.startswith("outer step 100 of 100")
    assert then.startswith("outer step 45 of 100")
    assert moved != last
    pictures = []
    for script in ("", f"let s; {move}"):
        browse(tmp_path, page, script, options=[f"--screenshot={tmp_path / 'shot.png'}"])
        pictures.append((tmp_path / "shot.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_the_image_that_is_pointed_at_is_named(tmp_path):
    point = "document.querySelectorAll('#distilled i')[3].dispatchEvent(new Event('mouseover', {bubbles: true}))"
    told = found_out(tmp_path, PAGES["ten"](), f"({point}, document.querySelector('.told').textContent)")
    assert told.startswith("class 3 · step 0 · image 3 · step sizes 0.")


def test_a_page_prints(tmp_path):
    browse(tmp_path, PAGES["ten"](), options=[f"--print-to-pdf={tmp_path / 'page.pdf'}"])
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
