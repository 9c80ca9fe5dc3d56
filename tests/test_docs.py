"""Everything that pages and docstrings name exists: links, headings, files, modules and make targets."""

import re
from pathlib import Path

import pytest

PROJECT_ROOT = Path(__file__).parents[1]
PAGES = [
    *(PROJECT_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((PROJECT_ROOT / "docs").rglob("*.md")),
]
ROOTS = ("lance_assets/", "resources/", "benchmarks/", "tests/", "docs/", "definitions.py")

LINK = re.compile(r"\]\(([^)\s]+)\)")
NAME = re.compile(r"`([\w./-]+/[\w./-]*|\w+\.py)`")
MODULE = re.compile(r"python -m ((?:benchmarks|lance_assets|resources)[\w.]*)")
BLOCK = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
ROOM = r"(?:lance_assets|resources|benchmarks|algorithms|assets|cli|pictures|recipes|rounds)"
CODE_NAME = re.compile(rf"`({ROOM}(?:[./]\w+)+(?::\w+)?)`")
"""A module, a file or a name in one, from the project's folder or from `lance_assets`."""
SOURCES = [*(PROJECT_ROOT / "lance_assets").rglob("*.py"), *(PROJECT_ROOT / "resources").rglob("*.py")]
TARGET = re.compile(r"`make ([a-z][a-z-]*)")
TARGET_IN_BLOCK = re.compile(r"^make ([a-z][a-z-]*)", re.MULTILINE)


def read_prose(page: Path) -> str:
    """A page without its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def list_anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", read_prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture(params=PAGES, ids=lambda page: page.relative_to(PROJECT_ROOT).as_posix())
def page(request: pytest.FixtureRequest) -> Path:
    """A page of the documentation."""
    path = request.param
    assert isinstance(path, Path)
    return path


def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(read_prose(page)) if "://" not in link]
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in list_anchors(target)):
            broken.append(link)
    assert not broken


def test_files_that_are_named_exist(page: Path) -> None:
    names = [name for name in NAME.findall(read_prose(page)) if name.startswith(ROOTS)]
    assert not [name for name in names if not (PROJECT_ROOT / name).exists()]


def is_there(name: str) -> bool:
    """Whether a dotted name or a path leads to a folder or a file, or to a word of a file."""
    parts = re.split(r"[./:]", name.removesuffix(".py"))
    for place in (PROJECT_ROOT, PROJECT_ROOT / "lance_assets"):
        rest = list(parts)
        while rest and (place / rest[0]).is_dir():
            place /= rest.pop(0)
        file = place / "__init__.py"
        if rest and (place / f"{rest[0]}.py").exists():
            file = place / f"{rest.pop(0)}.py"
        if not rest:
            return True
        if file.exists() and re.search(rf"\b{rest[0]}\b", file.read_text(encoding="utf-8")):
            return True
    return False


def test_code_that_pages_and_docstrings_name_exists() -> None:
    missing = [
        f"{file.relative_to(PROJECT_ROOT)}: {name}"
        for file in PAGES + SOURCES
        for name in CODE_NAME.findall(file.read_text(encoding="utf-8"))
        if not is_there(name)
    ]
    assert not missing


def test_a_name_that_leads_nowhere_is_noticed() -> None:
    names = ("rounds.study.ARMS", "algorithms/filters/keywords.py", "rounds.study.LEGS", "algorithms/keywords.py")
    assert [is_there(name) for name in names] == [True, True, False, False]


def test_modules_and_make_targets_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = []
    for module in MODULE.findall(text):
        path = PROJECT_ROOT.joinpath(*module.rstrip(".").split("."))
        if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists():
            missing.append(module)
    makefile = (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8")
    targets = TARGET.findall(text) + [
        target for block in BLOCK.findall(text) for target in TARGET_IN_BLOCK.findall(block)
    ]
    missing += [f"make {target}" for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)]
    assert not missing


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    readme = PROJECT_ROOT / "README.md"
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= 110
    linked, pages = set(), [readme]
    while pages:
        page = pages.pop()
        for link in LINK.findall(read_prose(page)):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in linked:
                linked.add(target)
                pages.append(target)
    assert not [path.name for path in PAGES if path not in linked and path != readme]
