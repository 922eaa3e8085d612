"""Data of one's own from the command line: splits of any names."""

import dataclasses
import json

import pytest

from experiments.problem import check_split
from experiments.settings import Images, Setting


@pytest.mark.parametrize("name", ["train_split", "test_split"])
def test_a_bank_of_other_splits_may_have_seen_the_test_images_and_is_refused(tmp_path, name):
    parts = Setting("mine", images=dataclasses.replace(Images(), **{name: "train[:80%]"}))
    (tmp_path / "config.json").write_text(json.dumps({**dataclasses.asdict(parts), "data": "other"}))
    check_split(tmp_path, parts, "here")
    with pytest.raises(ValueError, match=rf"^images.{name}: None is not accepted; use train\[:80%\], as .* has"):
        check_split(tmp_path, Setting("mine"), "here")
    check_split(tmp_path, Setting("yours"), "here")
