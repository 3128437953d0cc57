"""Sphinx extension: the API reference, one page a package, written before each build from what is in the tree."""

import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "api"
_ENTRY = re.compile(r"\S.*?\S {2,}\S")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: write_pages(PAGES))
    app.connect("autodoc-process-docstring", as_markup, priority=400)  # before napoleon
    return {"parallel_read_safe": True}


def packages() -> dict[str, list[str]]:
    """Package name -> its modules: every folder in bnncc/ and in those, and the modules that lie in bnncc/ itself."""
    found: dict[str, list[str]] = {}
    inner = [
        path for top in sorted((ROOT / "bnncc").iterdir()) if top.is_dir() for path in (top, *sorted(top.iterdir()))
    ]
    folders = [ROOT / "bnncc", *(path for path in inner if path.is_dir())]
    for folder in folders:
        name = ".".join(folder.relative_to(ROOT).parts)
        files = [path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("__")]
        if (folder / "__init__.py").exists():
            found[name] = [name, *(f"{name}.{path.stem}" for path in files)]
    return found


def write_pages(folder: Path) -> None:
    """Write the pages, and leave alone those that are as they should be, so that Sphinx reads only what changed."""
    pages = {f"{name}.rst": page(name, modules) for name, modules in packages().items()}
    for path in folder.glob("*.rst"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def page(name: str, modules: list[str]) -> str:
    """The reST of one package's page."""
    blocks = [f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n"]
    for module in modules[1:]:
        title = module.rpartition(".")[2]
        blocks.append(f"{title}\n{'-' * len(title)}\n\n.. automodule:: {module}\n")
    return "\n".join(blocks)


def as_markup(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Our docstrings are prose with code in single backticks and formulas in indented blocks; make that reST.

    Stars, bars and underscores outside of code are what they are, and an indented block of a module's docstring is
    code, as in Markdown: reST wants `::` before it. Lines of a list in columns,
    "name   what it is", become paragraphs.
    """
    marked: list[str] = []
    in_code = False
    for line in lines:
        after_text = bool(marked) and bool(marked[-1].strip())
        after_blank = bool(marked) and not after_text
        if line.strip() and not line.startswith("    "):
            in_code = False
        elif line.strip() and after_blank and not in_code:
            announced = _last_text(marked).rstrip().endswith("::")
            if what == "module" and not announced:
                marked += ["::", ""]
            in_code = what == "module" or announced
        if after_text and not in_code and _ENTRY.match(line):
            marked.append("")
        marked.append(line if in_code else _escaped(line))
    lines[:] = marked


def _last_text(lines: list[str]) -> str:
    return next((line for line in reversed(lines) if line.strip()), "")


def _escaped(line: str) -> str:
    """The line with the characters escaped that mean something in reST, but for those in backticks."""
    parts = re.split("(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for part in parts)
