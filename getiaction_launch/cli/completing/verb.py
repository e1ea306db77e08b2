"""The verb ``completion``: a script by which a shell completes words on TAB.

shtab writes the script from the parsers of all verbs, so that no Python runs when TAB is pressed.
Names of runs and of cluster configs are looked for by ``names.sh``. Only behind the dot of a key of
the spec, such as ``--model.``, Python runs: :mod:`getiaction_launch.cli.completing.keys`.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from getiaction_launch.cli.parser import Parser, parser_of
from getiaction_launch.plan.spec import CLI_CLASS

# What follows a script is the script's, so the shell completes it as it does elsewhere.
_BASH = """\
_getiaction_launch_matching() {
  local name
  while IFS= read -r name; do
    [[ $name == "$2"* ]] && printf '%s\\n' "$name"
  done < <(NAMES=$1 TYPED=$(printf '%s\\n' "${COMP_WORDS[@]}") @LOOK@)
}
_getiaction_launch_keys() { TYPED=$(printf '%s\\n' "${COMP_WORDS[@]}") @KEYS@ "$1"; }
_getiaction_launch_runs() { _getiaction_launch_matching runs "$1"; }
_getiaction_launch_clusters() { _getiaction_launch_matching clusters "$1"; }
"""
# Bash takes --root=DIR and @last apart at "=" and "@".
_BASH_END = """
_getiaction_launch() {
  local at= number word
  local -a typed
  for ((number = 0; number <= COMP_CWORD; number++)); do
    word=${COMP_WORDS[number]}
    if [[ $word == = ]]; then
      ((number < COMP_CWORD)) || typed+=("")
    elif [[ $word == @ ]] && ((number < COMP_CWORD)); then
      at=@
    else
      typed+=("$at$word")
      ((number == COMP_CWORD)) || at=
    fi
  done
  local -a COMP_WORDS=("${typed[@]}")
  local COMP_CWORD=$((${#typed[@]} - 1))
  for word in "${typed[@]:1:COMP_CWORD-1}"; do
    [[ $word != -* && $word == *.py ]] && { compopt -o default; COMPREPLY=(); return; }
  done
  if [[ ${typed[COMP_CWORD]} == --*.* ]]; then
    COMPREPLY=($(_getiaction_launch_keys "${typed[COMP_CWORD]}"))
    COMPREPLY=("${COMPREPLY[@]/%/=}")
    compopt -o nospace
    return
  fi
  _shtab_getiaction_launch
}
complete -o bashdefault -o default -F _getiaction_launch getiaction-launch
"""
_ZSH = """\
_getiaction_launch_names() {
  local -a names
  names=(${(f)"$(NAMES=$1 TYPED=${(F)_getiaction_launch_typed} @LOOK@)"})
  compadd -a names
}
_getiaction_launch_keys() {
  local -a keys
  keys=(${(f)"$(TYPED=${(F)_getiaction_launch_typed} @KEYS@ "$PREFIX")"})
  compadd -S = -a keys
}
_getiaction_launch_runs() { _getiaction_launch_names runs; _files -/ }
_getiaction_launch_clusters() { _getiaction_launch_names clusters; _files -g '*.(yaml|yml)' }
functions[_getiaction_launch_words]=$functions[_shtab_getiaction_launch]
_shtab_getiaction_launch() {
  typeset -ga _getiaction_launch_typed=("${words[@]}") # _arguments takes flags out of it
  if [[ -n ${(M)${words[2,CURRENT-1]:#-*}:#*.py} ]]; then _files
  elif [[ $PREFIX == --*.* && $PREFIX != *=* ]]; then _getiaction_launch_keys
  else _getiaction_launch_words; fi
}
functions[_getiaction_launch_verbs]=$functions[_shtab_getiaction_launch_commands]
_shtab_getiaction_launch_commands() {
  _getiaction_launch_verbs
  _files -g '*.(py|yaml|yml)'
}
"""
_FISH = """\
function _getiaction_launch_names
  set -lx NAMES $argv[1]
  set -lx TYPED (commandline -opc | string collect)
  @LOOK@
end
function _getiaction_launch_keys
  set -lx TYPED (commandline -opc | string collect)
  for key in (@KEYS@ (commandline -ct))
    echo $key=
  end
end
function _getiaction_launch_in_key
  string match -qr -- '^--[^=]*\\.[^=]*$' (commandline -ct)
end
function _getiaction_launch_behind_script
  string match -qr -- '^[^-].*\\.py$' (commandline -opc)
end
"""
_FISH_END = """
complete -c getiaction-launch -n _getiaction_launch_behind_script -F
complete -c getiaction-launch -n _shtab_getiaction_launch_using -F
complete -c getiaction-launch -n _getiaction_launch_in_key -f -a '(_getiaction_launch_keys)'
"""
_ZSH_VALUE = re.compile(r'^(  \S*--[\w-]+)((?:}")?\[.*[^\\]\]:)', re.MULTILINE)
_ENDS = {"bash": _BASH_END, "zsh": "", "fish": _FISH_END}


def completion(tokens: Sequence[str]) -> int:
    """Print a script by which a shell completes verbs, flags, clusters and runs on TAB.

    eval "$(getiaction-launch completion bash)"      # in ~/.bashrc; with zsh, in ~/.zshrc
    getiaction-launch completion fish | source       # in ~/.config/fish/config.fish
    """
    parser = Parser.of(completion)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="The shell that reads it")
    print(script(parser.parse(tokens).shell))
    return 0


def script(shell: str) -> str:
    """Return the script of a shell.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
    """
    import shtab

    from getiaction_launch.launch.cluster import config_directories  # slow to import

    quote = _quote_fish if shell == "fish" else shlex.quote
    names = (Path(__file__).parent / "names.sh").read_text(encoding="utf-8")
    directories = (
        path if path.name == str(path) else path.absolute() for path in config_directories()
    )
    look = ["sh", "-c", names, "sh", *map(str, directories)]
    preamble = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
    preamble = preamble.replace("@LOOK@", " ".join(map(quote, look)))
    keys = [sys.executable, "-I", str(Path(__file__).parent / "keys.py"), CLI_CLASS]
    preamble = preamble.replace("@KEYS@", " ".join(map(quote, keys)))
    text = shtab.complete(_all_parsers(), shell, preamble=preamble)
    if shell == "zsh":  # where shtab reads only one word for nargs="+", and no --flag=VALUE
        text = _ZSH_VALUE.sub(r"\1=\2", text)
        text = text.replace('"(*):', '"*:')
    return f"{text}{_ENDS[shell]}"


def _quote_fish(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _all_parsers() -> Parser:
    """Return the parser of a command without a verb, with those of all verbs below it."""
    from getiaction_launch.cli import main  # which imports this module

    root = main.root_parser()
    _name_values(root)
    parsers = {name: parser_of(verb) for name, verb in main.VERBS.items()}
    for name, parser in parsers.items():
        if name in main.LAUNCHING:
            parser.add_argument("what", nargs="*", metavar="PROGRAM")
        _name_values(parser)
    make = cast("type[Parser]", lambda prog, **_: parsers[prog.strip()])
    verbs = root.add_subparsers(prog="", parser_class=make)
    for name, parser in parsers.items():
        verbs.add_parser(name, help=(parser.description or "").partition("\n")[0])
    return root


def _name_values(parser: Parser) -> None:
    """Say what completes the value of each argument, by the name of the value in the help."""
    import shtab

    runs = dict.fromkeys(("bash", "zsh"), "_getiaction_launch_runs")
    clusters = dict.fromkeys(("bash", "zsh"), "_getiaction_launch_clusters")
    values = {
        "RUN": {**runs, "fish": "(_getiaction_launch_names runs; __fish_complete_directories)"},
        "YAML": shtab.glob("*.yaml", "*.yml"),
        "PROGRAM": shtab.glob("*.py", "*.yaml", "*.yml"),
        "DIR": shtab.DIRECTORY,
        "FILE": shtab.FILE,
        "--cluster": {**clusters, "fish": "(_getiaction_launch_names clusters)"},
    }
    for complete in parser.describe:
        complete()
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list
        for name in (action.metavar, *action.option_strings):
            if name in values:
                vars(action)["complete"] = values[name]
