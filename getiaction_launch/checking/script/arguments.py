"""Options of a script by argparse: those that it requires, does not have, or drops."""

import ast
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.script.values import check_values
from getiaction_launch.checking.source.reach import called_name
from getiaction_launch.checking.source.source import Source
from getiaction_launch.errors import nearest_first

_ADDING = {"add_argument"}
_OPEN = {"parse_known_args", "add_subparsers", "add_parser", "set_defaults", "add_arguments"}
"""Calls after which a parser takes other options than those that are read here."""
_PARSERS = {"ArgumentParser", "add_argument_group", "add_mutually_exclusive_group"}
_PARSER = "argparse.ArgumentParser"
"""Parsers of other packages, such as jsonargparse's, read configuration files and nested keys."""
_NEGATING = "argparse.BooleanOptionalAction"
_REST = ("argparse.REMAINDER", "argparse.PARSER", "'...'", "'A...'")
"""What an argument takes that takes all words behind it, options too."""
_OF_OTHERS = {"parents", "prefix_chars", "fromfile_prefix_chars"}
_NEAR = 0.75
"""How similar an option is to that which was meant: from 0 to 1."""
_SHORTEST = 3
"""Letters of the shortest abbreviation of an option, with its dashes."""


def check_arguments(source: Source, words: Sequence[str]) -> Iterator[Finding]:
    """Find options that argparse will miss, not know, or not take with their values.

    Args:
        source: The script, as it was read.
        words: The arguments of the script.
    """
    yield from _of_unknown(source, words)
    yield from _of_dropped(source, words)
    if _reads_words(source) and not _takes_rest(source):
        yield from check_values(source, list(_calls(source.tree, _ADDING)), words)
    is_open = any(_calls(source.tree, _OPEN)) or not _reads_words(source)
    for node in _calls(source.tree, _ADDING):
        is_required = source.constants.arguments_of(node).get("required") is True
        options = [str(source.constants.value_of(each)) for each in node.args]
        if is_required and options and not any(_is_given(option, words) for option in options):
            name = max(options, key=len)
            found = refusal(
                "script",
                name,
                f"{source.at(node)}: the script requires {name}, which is not given.",
                f"Give it behind the script: {source.name} {name} VALUE",
            )
            yield replace(found, verdict="doubtful") if is_open else source.judged(found, node)


def _of_unknown(source: Source, words: Sequence[str]) -> Iterator[Finding]:
    """Find options that a script's only parser does not have."""
    for option, known in _unknown(source, words, "parse_args"):
        yield refusal(
            "script",
            option,
            f"{source.name} has no option {option}, so it would end at once.",
            nearest_first(option, known),
        )


def check_resuming(source: Source, words: Sequence[str]) -> Iterator[Finding]:
    """Find options that a script gets when it is restarted, and does not have.

    Args:
        source: The script, as it was read.
        words: Further arguments of the script from the second attempt on.
    """
    for option, known in _unknown(source, words, "parse_args"):
        has_value = "=" in " ".join(words) or len(words) > 1
        more = "" if has_value else ", action='store_true'"
        yield refusal(
            "script",
            "--resume-args",
            f"--resume-args {' '.join(words)}: {source.name} has no option {option}, so each "
            "restart would end at once.",
            f"Have the script take it: parser.add_argument({option!r}{more})"
            + (f". {nearest_first(option, known)}" if known else ""),
        )


def _of_dropped(source: Source, words: Sequence[str]) -> Iterator[Finding]:
    """Find options that a script does not have, and drops without a word.

    Another module may read them. Hardly any reads one that differs from the script's by a letter.
    """
    if not _drops_unknown(source.tree):
        return
    for option, known in _unknown(source, words, "parse_known_args"):
        is_spelled = any(_spelled(option) == _spelled(name) for name in known)
        is_slip = is_spelled or any(_differ_by_one(option, name) for name in known)
        if not source.is_alone and (not is_slip or _is_named_beside(option, source)):
            continue
        near = bool(difflib.get_close_matches(option, known, 1, _NEAR)) and source.is_alone
        what = f"{source.name} has no option {option}, and parse_known_args drops it unseen."
        fix = f"{nearest_first(option, known)} With parse_args, a wrong option ends the script"
        yield (refusal if near or is_spelled else doubt)("script", option, what, fix)


def _spelled(option: str) -> str:
    return option.replace("_", "-")


def _differ_by_one(option: str, other: str) -> bool:
    """Whether one letter is missing, too many or another one."""
    blocks = difflib.SequenceMatcher(None, option, other).get_matching_blocks()
    return sum(block.size for block in blocks) == max(len(option), len(other)) - 1


def _is_named_beside(option: str, source: Source) -> bool:
    """Whether a module beside a script names an option, which it may read itself."""
    folder, named = source.path.parent, re.compile(rf"{re.escape(option)}(?![\w-])")
    for name in source.names.modules:
        files = [folder / f"{name}.py", *(folder / name).rglob("*.py")]
        if any(named.search(each.read_text(errors="replace")) for each in files if each.is_file()):
            return True
    return False


def _drops_unknown(tree: ast.Module) -> bool:
    """Whether nothing in a script uses what its parser does not know."""
    calls = list(_calls(tree, {"parse_known_args"}))
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Subscript) and ast.unparse(node.slice) == "0":
            calls = [call for call in calls if call is not node.value]
        if not isinstance(node, ast.Assign) or node.value not in calls:
            continue
        (*_, target) = node.targets
        if isinstance(target, ast.Tuple) and isinstance(target.elts[-1], ast.Name):
            rest = target.elts[-1].id
            uses = [n for n in nodes if isinstance(n, ast.Name) and n.id == rest]
            if not any(isinstance(each.ctx, ast.Load) for each in uses):
                calls.remove(node.value)
    return not calls


def _unknown(source: Source, words: Sequence[str], parses: str) -> Iterator[tuple[str, list[str]]]:
    """Yield options that a script's only parser does not have, each with those that it has."""
    known = _options(source, but=parses)
    if known is None or not _reads_words(source) or not any(_calls(source.tree, {parses})):
        return
    for word in words[: words.index("--") if "--" in words else None]:
        option = word.partition("=")[0]
        is_known = any(name.startswith(option) for name in [*known, "--help"])
        if option.startswith("--") and len(option) >= _SHORTEST and not is_known:
            yield option, [name for name in known if name.startswith("--")]


def _reads_words(source: Source) -> bool:
    """Whether a script has one parser, of argparse, which reads all of the script's words."""
    parsers = list(_calls(source.tree, {"ArgumentParser"}))
    if len(parsers) != 1 or source.names.of(parsers[0].func) != _PARSER:
        return False
    if any(word.arg is None or word.arg in _OF_OTHERS for word in parsers[0].keywords):
        return False
    words = [source.names.of(node) for node in ast.walk(source.tree) if isinstance(node, ast.expr)]
    parsing = {"parse_args", "parse_known_args"}
    given = [each for call in _calls(source.tree, parsing) for each in _given(call)]
    whole = [each for each in given if ast.unparse(each) in ("sys.argv[1:]", "None")]
    return len(given) == len(whole) and words.count("sys.argv") <= len(whole)


def _given(call: ast.Call) -> list[ast.expr]:
    """Return what a parser is given to parse, and all else that it is given."""
    return [*call.args, *(word.value for word in call.keywords)]


def _options(source: Source, *, but: str) -> list[str] | None:
    """Return the options of a script's parser; None if it may have others."""
    if any(_calls(source.tree, _OPEN - {but})) or _is_handed_on(source.tree):
        return None
    known: list[str] = []
    if _takes_rest(source):
        return None
    for call in _calls(source.tree, _ADDING):
        values = [source.constants.value_of(each) for each in call.args]
        names = [value for value in values if isinstance(value, str)]
        given = {word.arg: word.value for word in call.keywords}
        action = given.get("action")
        is_negating = action is not None and source.names.of(action) == _NEGATING
        is_own = action is not None and source.constants.value_of(action) is None
        if len(names) < len(values) or None in given or (is_own and not is_negating):
            return None
        known += names
        if is_negating:
            known += [f"--no-{name[2:]}" for name in names if name.startswith("--")]
    return known


def _takes_rest(source: Source) -> bool:
    """Whether an argument takes all words behind it, options too."""
    words = [word for call in _calls(source.tree, _ADDING) for word in call.keywords]
    return any(word.arg == "nargs" and ast.unparse(word.value) in _REST for word in words)


def _is_handed_on(tree: ast.Module) -> bool:
    """Whether a parser, or a group of its options, may get options from elsewhere."""
    named = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    parsers = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and called_name(node.value) in _PARSERS
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    used = [node for node in named if node.id in parsers]
    stored = [node for node in used if isinstance(node.ctx, ast.Store)]
    called = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    is_passed = any(id(node) not in called for node in used if isinstance(node.ctx, ast.Load))
    return not parsers or len(stored) > len(parsers) or is_passed


def _calls(tree: ast.Module, names: set[str]) -> Iterator[ast.Call]:
    """Yield the calls of functions and methods of these names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called_name(node) in names:
            yield node


def _is_given(option: str, words: Sequence[str]) -> bool:
    """Whether a command line has an option, perhaps abbreviated, as argparse allows."""
    for word in words:
        typed = word.partition("=")[0]
        if len(typed) >= _SHORTEST and option.startswith(typed):
            return True
        if not option.startswith("--") and word.startswith(option):
            return True  # -n5
    return False
