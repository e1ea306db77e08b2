"""Docstrings, comments, messages and pages are whole, natural sentences."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("getiaction", "getiaction_launch")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs")
MIN_WORDS = 4

SECTION = re.compile(r"^(Args|Attributes|Raises):\n((?:(?: {4}.*)?\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^ {4}(\*{0,2}\w[\w.]*)(?: \(.*?\))?:(.*\n(?:(?: {5}.*)?\n)*)", re.MULTILINE)
# Phrases, and what to write in their place.
PHRASES = {
    r"\b(go|goes|going|gone|went) on\b": "continue, resume",
    r"(?<!there )\b(is|are) no (?!longer|more|less|better)": "is not a, invalid",
    r"(?-i:(^|[.:;] )Of (a|an|the|each|every|its) )": "name it first",
    r"\bfor want of\b": "without",
    r"\bby (it|them)sel(f|ves)\b": "automatically",
    r"\b(brings?|bringing|brought)\b": "download, copy, upload",
    r"\b(tells?|told)\b": "say, log, report",
    r"\b(bears? with|are said|is to be had|whoever)\b": "plain words",
    r"\bas it is\b": "unchanged",
    r"(?-i:\b(Whose|Which|Where|Those|See there|From it)\.)": "a whole sentence",
}


def short_entries(docstring: str) -> Iterator[str]:
    """Find the entries of a docstring that mean nothing in an editor's tooltip."""
    for section, body in SECTION.findall(docstring + "\n"):
        for name, text in ENTRY.findall(body):
            if len(text.split()) < MIN_WORDS:
                yield f"{section} {name}: {text.strip()!r} has fewer than {MIN_WORDS} words"


def stilted_phrases(text: str) -> Iterator[str]:
    """Find the phrases of the list, with their surroundings."""
    text = " ".join(text.split())
    for pattern, instead in PHRASES.items():
        for found in re.finditer(pattern, text, re.IGNORECASE):
            around = text[max(0, found.start() - 30) : found.end() + 30]
            yield f"...{around}... (instead: {instead})"


def docstrings(tree: ast.Module) -> dict[ast.expr, str]:
    """Return the docstring of each module, class and function, by its node."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return {n.body[0].value: text for n in documented if (text := ast.get_docstring(n))}


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield each block of comments, joined, with the line of its end."""
    block, end = "", -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != end + 1:
                yield end, block
                block = ""
            block, end = f"{block} {token.string.lstrip('# ')}", token.start[0]
    yield end, block


def complaints(source: str) -> list[str]:
    """List what is wrong with the words of a file: docstrings, comments and other strings."""
    tree = ast.parse(source)
    documented = docstrings(tree)
    found = [
        (node.lineno, problem)
        for node, text in documented.items()
        for problem in (*short_entries(text), *stilted_phrases(text))
    ]
    strings = [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documented
    ]
    for line, text in (*strings, *comments(source)):
        found += [(line, problem) for problem in stilted_phrases(text)]
    return [f"{line}: {problem}" for line, problem in sorted(found)]


@pytest.mark.parametrize("package", PACKAGES)
def test_words(package):
    """Every entry makes sense when it is read alone, and no phrase of the list is used."""
    found = [
        f"{path.relative_to(ROOT)}:{complaint}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for complaint in complaints(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


def prose(page: str) -> str:
    """Return a page's text without code, in which each heading and cell is a sentence."""
    text = re.sub(r"^```.*?^```$|`[^`]*`", "`", page, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\n\n| \| |^#+ ", ". ", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", PAGES)
def test_words_of_pages(name):
    """Pages use no phrase of the list either."""
    place = ROOT / name
    pages = sorted(place.glob("*.md")) if place.is_dir() else [place]
    assert pages
    texts = {page.name: prose(page.read_text(encoding="utf-8")) for page in pages}
    found = [f"{page}: {words}" for page, text in texts.items() for words in stilted_phrases(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ('"""A.\n\nArgs:\n    x: Whose.\n"""', "Args x: 'Whose.' has fewer"),
        (
            'class A:\n    """B.\n\n    Attributes:\n        x: Its\n            number.\n    """',
            "x: ",
        ),
        ('def f():\n    """B.\n\n    Raises:\n        E: It is bad.\n    """', "Raises E"),
        ("# Training goes\n# on here.", "goes on"),
        ('x = f"{1} is no number."', "is no number"),
        ('"""Files. Of a run: what it wrote."""', "Of a run"),
    ],
)
def test_broken_words_are_found(source, complaint):
    """Each kind of text is read, and each rule refuses something."""
    assert any(complaint in found for found in complaints(source))
