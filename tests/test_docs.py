"""Documents that cannot lie: every Python block runs, every link leads somewhere."""

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_PAGES = sorted([*_ROOT.glob("*.md"), *(_ROOT / "docs").glob("*.md")])
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")
# Blocks that train or need a service; what they show is tested elsewhere.
_NOT_RUN = "<!-- not run: "


def blocks_of(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [
        match.group(1)
        for match in _BLOCK.finditer(text)
        if not text[: match.start()].rstrip().rpartition("\n")[2].startswith(_NOT_RUN)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_python_blocks_run_one_after_another(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": f"block_of_{page.stem}"}
    for number, block in enumerate(blocks_of(page), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)  # noqa: S102 - the project's own pages


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    for page in (_ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in readme
