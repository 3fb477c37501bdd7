"""The page on updates lists every setting."""

from dataclasses import fields
from pathlib import Path

from modelyard.update_strategy import UpdateSettings

PAGE = Path(__file__).parents[2] / "docs" / "updates.md"


def test_every_setting_stands_in_the_table():
    table = PAGE.read_text(encoding="utf-8").split("## All settings")[1].split("\n## ")[0]
    assert [f.name for f in fields(UpdateSettings) if f"`{f.name}`" not in table] == []
