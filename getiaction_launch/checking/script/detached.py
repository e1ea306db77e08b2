"""What a script does that a worker cannot: ask a terminal, leave work behind, end too early."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.checking.built import Place
from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.login import check_login
from getiaction_launch.checking.ranks.rank_zero import certain_on_rank_0
from getiaction_launch.checking.script.folders import check_folders
from getiaction_launch.checking.source.reach import is_main
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Plan

_DEBUGGERS = {"breakpoint", "pdb.set_trace", "ipdb.set_trace"}
_SHELLS = {"os.system", "os.popen", "subprocess.Popen", "subprocess.call", "subprocess.run"}
_BACKGROUND = re.compile(r"(\bnohup\b.*\bpython|\bpython[\d.]*\b.*&\s*['\"]?$)", re.DOTALL)
_LOGS_IN = re.compile(
    r"WANDB_|wandb\.(login|setup|Settings)|netrc|dotenv|environ\.update|environ *\|="
)
"""What gives W&B a key in a script, or another way to work."""
_DECIDES = (None, "mode", "settings", "anonymous")
"""Arguments of ``wandb.init`` by which it may need no key."""
_ENDS = {"exit", "quit", "sys.exit", "os._exit"}
_WORDS_OF_CKPT_PATH = ("best", "last", "hpc", "registry")


def check_wandb(source: Source, plan: Plan, place: Place) -> Iterator[Finding]:
    """Find a start of W&B, which asks a terminal for its key if it has none.

    Args:
        source: The script, as it was read.
        plan: The plan of the run.
        place: Where the run would be started.
    """
    beside = [source.path.parent / name for name in source.names.modules - {"wandb"}]
    if _LOGS_IN.search(source.text) or any(
        each.is_dir() or each.with_suffix(".py").is_file() for each in beside
    ):
        return  # a module of the user's own may log in, too
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or source.names.of(node.func) != "wandb.init":
            continue
        is_open = bool(node.args) or any(word.arg in _DECIDES for word in node.keywords)
        if not is_open:
            where = f"{source.at(node)}: wandb.init"
            offline = "wandb.init(mode='offline')"
            if node in certain_on_rank_0(source):
                yield from check_login("wandb.init", where, offline, plan, place)
        return


def check_detached(source: Source, plan: Plan) -> Iterator[Finding]:
    """Find what needs a terminal, runs in the background, or ends before training.

    Args:
        source: The script, as it was read.
        plan: The plan of the run.
    """
    for node in ast.walk(source.tree):
        found: list[Finding] = []
        if isinstance(node, ast.Call):
            found = [*_of_call(node, source), *_of_checkpoint(node, source, plan)]
            found += check_folders(node, source, plan)
        for finding in found:
            yield source.judged(finding, node)
    yield from _of_ends(source)


def _of_call(node: ast.Call, source: Source) -> Iterator[Finding]:
    called, at = _name(node.func, source), source.at(node)
    if called == "input":
        what = f"{at}: input() waits for the keyboard, but a worker has no terminal."
        yield refusal("terminal", "input", what, "Read it from the script's arguments: argparse")
    elif called in _DEBUGGERS:
        what = f"{at}: {called}() stops at a breakpoint, but a worker has no terminal."
        yield refusal("terminal", called, what, "Remove the breakpoint")
    elif called in _SHELLS and _BACKGROUND.search(_text(node.args)):
        what = f"{at}: {called} starts a program in the background, and does not wait for it."
        fix = "Launch that program itself, or wait for it: subprocess.run([...], check=True)"
        yield refusal("processes", called, what, fix)
    elif called.startswith("submitit.") and called.endswith("Executor"):
        yield doubt(
            "processes",
            called,
            f"{at}: {called} submits jobs of its own, and the launcher has submitted this one.",
            "Call the training function itself, and let the launcher submit the script",
        )


def _of_checkpoint(node: ast.Call, source: Source, plan: Plan) -> Iterator[Finding]:
    if not (isinstance(node.func, ast.Attribute) and node.func.attr == "fit"):
        return
    path = source.constants.arguments_of(node).get("ckpt_path")
    if not isinstance(path, str) or "://" in path:
        return
    if path.partition(":")[0] in _WORDS_OF_CKPT_PATH:
        return
    if not Path(plan.working_directory, path).exists():
        yield doubt(
            "checkpoints",
            "ckpt_path",
            f"{source.at(node)}: fit(ckpt_path={path!r}): there is no such file in "
            f"{plan.working_directory}.",
            f"Name a checkpoint that is there: ls {Path(path).parent}",
        )


def _of_ends(source: Source) -> Iterator[Finding]:
    """Find an exit in the middle of a script, left there by somebody who looked for a fault."""
    guards = [each for each in source.tree.body if isinstance(each, ast.If) and is_main(each.test)]
    for body in (source.tree.body, *(guard.body for guard in guards)):
        for statement in body[:-1]:
            call = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(call, ast.Call) and _name(call.func, source) in _ENDS:
                yield doubt(
                    "script",
                    "exit",
                    f"{source.at(statement)}: the script ends here, and what stands "
                    "behind it is never run.",
                    "Remove the line, if it is left of looking for a fault",
                )
                return


def _text(arguments: list[ast.expr]) -> str:
    return ast.unparse(arguments[0]) if arguments else ""


def _name(node: ast.expr, source: Source) -> str:
    """Return the whole name of what is called, or that of a builtin function."""
    return source.names.of(node) or (node.id if isinstance(node, ast.Name) else "")
