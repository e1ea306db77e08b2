"""Rivals in processes of their own, each of any Python, which take turns to share the noise."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Answer = dict[str, Any]


def take_turns(commands: Mapping[str, Sequence[str]], turns: int) -> dict[str, list[Answer]]:
    """Start all rivals, and ask each for an answer in its turn.

    Args:
        commands: The command line of each, which calls `answer_turns`, by the rival's name.
        turns: How often each is asked.

    Returns:
        The answers of those that are installed, by their names.
    """
    processes = {
        name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, command in commands.items()
    }
    answers: dict[str, list[Answer]] = {}
    for name, process in processes.items():
        hello = _read(process)
        print(f"{name}: {hello or 'not installed in ' + commands[name][0]}")
        if hello:
            answers[name] = []
    for _ in range(turns):
        for name, each in answers.items():
            each.append(_ask(processes[name]))
    for process in processes.values():
        process.communicate(timeout=60)
    return answers


def answer_turns(prepare: Callable[[], tuple[Answer, Callable[[], Answer]]]) -> None:
    """Be a rival: answer each line on stdin, unless what it takes is not installed.

    Args:
        prepare: Imports and prepares all that it takes; returns what to say first, which is not
            empty, and the function that measures once.
    """
    try:
        hello, measure = prepare()
    except ImportError as error:
        print(error, file=sys.stderr)
        return
    print(json.dumps(hello), flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)


def _read(process: subprocess.Popen[str]) -> Answer:
    """Read one answer; empty if the process has ended."""
    if process.stdout is None:
        return {}
    line = process.stdout.readline()
    return json.loads(line) if line else {}


def _ask(process: subprocess.Popen[str]) -> Answer:
    if process.stdin is not None:
        process.stdin.write("next\n")
        process.stdin.flush()
    return _read(process)
