"""The page of a run, ``report.html``: one self-contained file, and a page that compares several runs."""
