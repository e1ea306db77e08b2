"""Has this process, and those that it starts, import the copy of the user's code.

The copy takes the place of the directories that it was made from: that of the script, or the
working directory for a spec, those of packages that are installed in editable mode, and those of
``PYTHONPATH``. The working directory itself stays the user's, and so does every relative path.
"""

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from getiaction_launch.plan.code import Code
from getiaction_launch.plan.plan import Plan


def use_copy(plan: Plan, tree: Path) -> Plan:
    """Import the copy of the user's code from here on.

    Args:
        plan: The plan of the run, whose working directory is the current one.
        tree: The directory that holds the copy.

    Returns:
        The plan, with the directories of modules in the copy, and the script.
    """
    code = plan.code or Code()
    pairs = [
        (os.path.realpath(source), os.path.normpath(tree / below))
        for source, below in code.moved(plan.working_directory, os.getcwd())  # noqa: PTH109
    ]
    before = [*sys.path]
    sys.path[1:] = [_moved(entry, pairs) for entry in sys.path[1:]]
    sys.path += [path for path in _editable(pairs) if path not in sys.path]
    changed = [path for path in sys.path[1:] if path not in before]
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    words = dict.fromkeys(filter(None, [*(_moved(each, pairs) for each in inherited), *changed]))
    if words:
        os.environ["PYTHONPATH"] = os.pathsep.join(words)
    script = plan.script
    if plan.script_path:
        folder, name = os.path.split(script[0])
        script = [str(Path(_moved(folder, pairs), name)), *script[1:]]
    home = _moved(plan.working_directory, pairs)
    return replace(plan, script=script, working_directory=home)


def _moved(path: str, pairs: Iterable[tuple[str, str]]) -> str:
    """Return the path in the copy of a directory that was copied; any other one unchanged."""
    real = os.path.realpath(path) if path else ""
    for source, copy in pairs:
        if real and Path(real).is_relative_to(source):
            moved = Path(copy, os.path.relpath(real, source))
            # Not through a link to what was not copied, such as a virtual environment.
            if moved.is_dir() and moved.resolve().is_relative_to(Path(copy).resolve()):
                return str(moved)
    return path


def _editable(pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Yield the directories in the copy of packages that setuptools maps one by one."""
    # A mapping from names to directories, which is searched after the path: https://
    # setuptools.pypa.io/en/latest/userguide/development_mode.html
    for name, module in [*sys.modules.items()]:
        mapping = getattr(module, "MAPPING", None) if name.startswith("__editable__") else None
        for package, path in (mapping or {}).items():
            moved = _moved(os.path.dirname(path), pairs)  # noqa: PTH120 - a name
            is_found = os.path.basename(path) == package  # noqa: PTH119 - a name
            if is_found and moved != os.path.dirname(path):  # noqa: PTH120 - a name
                yield moved
