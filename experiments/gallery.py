"""Writes docs/gallery.md, the images of every recorded run.

    python -m experiments.gallery

takes them from results/, where ``python -m experiments.results`` keeps them.
"""

from pathlib import Path

from dd_jax.files.atomic import write_atomically

from .command_line import run_as_script
from .kept import Record, read_records
from .tables import before_and_after

ROOT = Path(__file__).parent.parent
PAGE = "docs/gallery.md"
_PICTURE = "images.png"
_ABOVE = """# Gallery

These are the images of every recorded run, and what a network trained on them can do. `dd_jax.load("NAME")` gives a
set, where its images are recorded. Images made for one known network look like noise, for they serve it alone. Images
made for networks never seen look more like their classes. `python -m experiments.gallery` writes this page.
"""
_TITLES = {
    "fixed_init": "One known network",
    "random_init": "Networks never seen",
    "modern": "Learned labels, momentum and other networks",
    "adaptation": "Adaptation of trained networks to other data",
    "transfer": "Transfer of a trained network to classes that it has not seen",
    "attack": "Attacks on trained networks",
}


def page(results: Path) -> str:
    """The page, of all records that have images.

    Args:
      results: the folder of the records, ``EXPERIMENT/NAME`` in it.
    """
    parts, records = [_ABOVE], list(read_records(results).values())
    for experiment, title in _TITLES.items():
        entries = [_entry(r) for r in records if r.experiment == experiment and _PICTURE in r.files]
        parts += [f"\n## {title}\n", *entries] if entries else []
    return "".join(parts)


def _entry(record: Record) -> str:
    """The heading, the sentence and the picture of one record."""
    name, sentence = f"{record.experiment}/{record.name}", _sentence(record)
    loaded = f' `dd_jax.load("{name}")`' if "distilled.npz" in record.files else ""
    return f"\n### {name}\n\n{sentence}{loaded}\n\n![{sentence}](../{record.place}/{_PICTURE})\n"


def _sentence(record: Record) -> str:
    result, (before, after) = record.json(), before_and_after(record)
    config = result["config"]
    shape, known = config["distilled"], config["weights"].get("nets") is None
    count = shape.get("images") or f"{shape['images_per_class']} per class"
    network = f"{'trained ' if config['weights'].get('bank') else ''}{config['network']}"
    networks = f"one known {network}" if known else f"{network} networks never seen"
    classes = config.get("images", {}).get("classes")
    data = result["dataset"] + (f", {len(classes)} of its classes" if classes else "")
    by = " by the modified labels" if config.get("relabel") else ""
    return (
        f"{data}, {networks}: {count} × {shape['steps']} images, "
        f"{shape['steps'] * shape['epochs']} steps. Test accuracy{by}: {before} before, {after} after."
    )


def main(argv: list[str]) -> None:
    """The command line of this module."""
    if argv:
        raise ValueError(f"gallery: {argv[0]} is not accepted; it takes no arguments")
    if not (ROOT / "docs").is_dir():
        raise ValueError(f"gallery: {ROOT} has no docs; records are kept in a checkout of dd_jax, so run it there")
    write_atomically(ROOT / PAGE, page(ROOT / "results"))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    run_as_script(main)
