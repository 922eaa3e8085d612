"""The tables of :mod:`benchmarks.accelerator`, from the content of its JSON file."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.readme import head, line
from dd_jax.inner.modes import MODES

Result = dict[str, Any]
NONE = "–"
LEARNED = ("images", "step sizes")


def summary(result: Result) -> str:
    """A result as one line of text."""
    named = (
        "kind",
        "preset",
        "workload",
        "network",
        "optimizer",
        "implementation",
        "nets",
        "over",
        "mode",
        "convolution",
    )
    words = [str(result[name]) for name in (*named, "precision") if name in result]
    if "error" in result:
        found = result["error"]
    elif "seconds" in result:
        found = f"{result['seconds']:.4f} s"
    elif "flops_per_second" in result:
        found = f"{result['flops_per_second'] / 1e12:.3g} Tflop/s"
    elif "accuracy" in result:
        found = _accuracy(result["accuracy"]["after"])
    else:
        found = f"error {_number(_worst(result['errors']), '.1e')}"
    return f"{' '.join(words)}: {found}"


def tables(content: dict[str, Any]) -> str:
    """Markdown: what was measured on, then a table for each part."""
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    title = f"### {content['devices']} × {content['device']}{', the small version' if content['small'] else ''}\n"
    about = (
        f"{content['host']}; {versions}; {content['platform_version']}. {content['seconds']:.0f} s of measuring; "
        f"{content['compiled_at_a_time']} programs compiled at a time.\n"
    )
    parts = (_correctness, _gradients, _distillations, _speed, _presets, _failed)
    return "\n".join([title, about, *(text for part in parts if (text := part(content)))])


def _of(content: dict[str, Any], *kinds: str) -> list[Result]:
    """The results of some kinds that were measured."""
    return [r for r in content["results"] if r["kind"] in kinds and "error" not in r]


def _table(caption: str, heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join([f"{caption}\n", head(*heading), *(line(*row) for row in rows), ""]) if rows else ""


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _accuracy(score: dict[str, Any]) -> str:
    return f"{100 * score['mean']:.2f} ± {100 * score['std']:.2f} % (n = {score['n']})"


def _before_and_after(r: Result) -> tuple[str, str]:
    return _accuracy(r["accuracy"]["before"]), _accuracy(r["accuracy"]["after"])


def _worst(errors: Mapping[str, float | None]) -> float | None:
    """The largest; none where one is not finite, or none is there."""
    values = [value for value in errors.values() if value is not None]
    return max(values) if len(values) == len(errors) else None


def _correctness(content: dict[str, Any]) -> str:
    """The largest error of loss, images, labels and step sizes, by mode."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for r in content["results"]:
        if r["kind"] == "correctness":
            of_modes = rows.setdefault((r["network"], r["optimizer"], r["convolution"]), {})
            of_modes[r["mode"]] = _number(_worst(r.get("errors", {"": None})), ".0e")
    caption = (
        "The meta-gradient in float32 against float64 on the host: norm of the difference over the norm, the largest "
        "of loss, images, labels and step sizes."
    )
    heading = ("network", "inner optimizer", "convolution", *MODES)
    return _table(caption, heading, [(*key, *(found.get(m, NONE) for m in MODES)) for key, found in rows.items()])


def _gradients(content: dict[str, Any]) -> str:
    """What each precision does to a gradient."""

    def cells(r: Result) -> list[str]:
        return [f"{_number(r['errors'][part], '.1e')}, {_number(r['cosines'][part], '.4f')}" for part in LEARNED]

    rows = [(r["precision"], r["workload"], r["convolution"], *cells(r)) for r in _of(content, "gradient")]
    caption = "The gradient of a workload against float64 on the host: error, cosine."
    return _table(caption, ("precision", "workload", "convolution", *LEARNED), rows)


def _distillations(content: dict[str, Any]) -> str:
    """What each precision does to what is distilled."""
    rows = [
        (r["precision"], r["network"], str(r["outer_steps"]), *_before_and_after(r))
        for r in _of(content, "distillation")
    ]
    caption = "The test accuracy of `random_init digits`, cut short, with the backend's own convolution."
    return _table(caption, ("precision", "network", "outer steps", "before", "after"), rows)


def _speed(content: dict[str, Any]) -> str:
    """Each implementation of each workload; shares are of the measured rate of products in the same precision."""
    rates = {r["precision"]: r["flops_per_second"] for r in _of(content, "rate")}
    results = _of(content, "timing", "pytorch")
    names = sorted({(r["workload"], r.get("nets", 0)) for r in results})
    rows = []
    for name in names:
        these = [r for r in results if (r["workload"], r.get("nets", 0)) == name]
        rows += [_row(r, these, rates) for r in these]
    measured = ", ".join(f"{precision} {rate / 1e12:.3g}" for precision, rate in rates.items()) or NONE
    caption = (
        f"An outer step. Products of square matrices reach, in Tflop/s: {measured}. *Share*: the workload's own flops, "
        "as a part of that. *Times ours*: against the fastest of ours in float32. *Memory*: XLA's figure for arguments "
        "and temporaries; *peak*: the device's, where this step raised it."
    )
    heading = (
        "workload", "implementation", "nets", "convolution", "mode", "precision", "s", "nets/s", "times ours", "share",
        "compile, s", "memory, MB", "peak, MB",
    )  # fmt: skip
    return _table(caption, heading, rows)


def _row(r: Result, these: Sequence[Result], rates: dict[str, float]) -> tuple[str, ...]:
    ours = [t["seconds"] for t in these if t.get("implementation") == "ours" and t["precision"] == "float32"]
    nets = r.get("nets", 4 if r["workload"] == "W2" else 1)
    rate, flops = rates.get(r.get("precision", "")), r.get("flops")
    memory = [r[name] for name in ("temporary_bytes", "argument_bytes") if r.get(name) is not None]
    peak = r["peak_bytes"]
    rose = peak["after"] is not None and peak["after"] > (peak["before"] or 0)
    return (
        r["workload"],
        "PyTorch" if r["kind"] == "pytorch" else r["implementation"],
        f"{nets}{', in turn' if r.get('over') == 'map' else ''}",
        r.get("convolution", NONE),
        r["mode"] if r.get("implementation") == "ours" else NONE,
        r.get("precision", "float32"),
        f"{r['seconds']:.4f}",
        f"{nets / r['seconds']:.1f}",
        f"{r['seconds'] / min(ours):.2f}" if ours else NONE,
        f"{flops / r['seconds'] / rate:.3f}" if rate and flops else NONE,
        _number(r.get("compile_seconds"), ".1f"),
        f"{sum(memory) / 1e6:.1f}" if memory else NONE,
        f"{peak['after'] / 1e6:.1f}" if rose else NONE,
    )


def _presets(content: dict[str, Any]) -> str:
    rows = [
        (
            r["preset"],
            str(r["outer_steps"]),
            f"{r['wall_seconds']:.0f}",
            f"{r['wall_seconds'] / r['outer_steps']:.3f}",
            *_before_and_after(r),
        )
        for r in _of(content, "preset")
    ]
    caption = "Presets, for as many outer steps as there was time for."
    return _table(caption, ("preset", "outer steps", "s", "s a step", "before", "after"), rows)


def _failed(content: dict[str, Any]) -> str:
    """What is not there, and why."""
    reasons: dict[str, list[str]] = {}
    for r in content["results"]:
        if "error" in r:
            reasons.setdefault(r["error"], []).append(summary(r).partition(": ")[0])
    for r in content["left_out"]:
        reasons.setdefault(r["why"], []).append(summary(r | {"error": ""}).partition(": ")[0])
    lines = [f"- {why}: {'; '.join(cases)}" for why, cases in reasons.items()]
    return "\n".join(["Not measured:\n", *lines, ""]) if lines else ""
