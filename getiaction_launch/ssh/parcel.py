"""What a command that starts a run takes along: the user's code, and the files of its spec."""

import contextlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from getiaction_launch.launch.freezing.archive import contents_of, pack
from getiaction_launch.launch.freezing.arrival import Arrival
from getiaction_launch.launch.freezing.files import choose
from getiaction_launch.launch.freezing.freeze import code_of
from getiaction_launch.mirror.code import extract
from getiaction_launch.plan.code import Code, Snapshot
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.plan.plan import DEFAULT_ROOT
from getiaction_launch.storage.tree import place_below

ARCHIVE = "code.tar.gz"
CONTENTS = "parcel.json"


@dataclass(frozen=True)
class Contents:
    """What a parcel says of itself.

    Attributes:
        code: The user's code; its root is a directory of the machine that sends it.
        is_private: Whether others may not read one of its files.
        specs: Path of each file of the spec, by its path in the parcel.
    """

    code: Code
    is_private: bool
    specs: dict[str, str]


@dataclass(frozen=True)
class Packed:
    """A parcel that is ready.

    Attributes:
        path: The file to send.
        script: Path of the script in the parcel; None for anything else.
        specs: Paths in the parcel of the files of the spec, in order.
    """

    path: Path
    script: str | None
    specs: list[str]


@contextlib.contextmanager
def packed(script: Path | None, specs: Sequence[str], settings: Snapshot) -> Iterator[Packed]:
    """Have a parcel while the context lasts.

    Args:
        script: The script to run; None for a spec, a module or a command.
        specs: Paths of the files of the spec.
        settings: Which files are not code, and how large all of them may be.

    Raises:
        CheckError: If the code is too large.
        OSError: If a file cannot be read.
    """
    here = Path(os.path.realpath(Path.cwd()))
    files = choose(script.parent if script else here, script, settings, [here / DEFAULT_ROOT])
    files.check_size(settings.limit_mb)
    # A directory outside of the code stands for nothing in it.
    home = os.path.relpath(here, files.root) if here.is_relative_to(files.root) else "."
    code = replace(code_of(files, is_copied=True), contents=contents_of(files), home=home)
    names = [f"specs/{number}/{Path(path).name}" for number, path in enumerate(specs)]
    paths = [str(Path(path).absolute()) for path in specs]
    with tempfile.TemporaryDirectory() as folder:
        archive, parcel = Path(folder, ARCHIVE), Path(folder, "parcel.tar")
        pack(files, archive)
        contents = Contents(code, files.is_private, dict(zip(names, paths, strict=True)))
        with tarfile.open(parcel, "w") as entries:
            text = json.dumps(asdict(contents), allow_nan=False).encode()
            entry = tarfile.TarInfo(CONTENTS)
            entry.size = len(text)
            entries.addfile(entry, io.BytesIO(text))
            for name, path in [(ARCHIVE, str(archive)), *contents.specs.items()]:
                entries.add(os.path.realpath(path), name, recursive=False)
        inside = os.path.realpath(script.parent) if script else ""
        place = script and f"{code.folder}/{os.path.relpath(inside, files.root)}/{script.name}"
        yield Packed(parcel, os.path.normpath(place) if place else None, names)


def unpack(parcel: Path, directory: Path) -> Arrival:
    """Unpack a parcel, and the code in it.

    Args:
        parcel: The file that has arrived.
        directory: Where to unpack it; an empty directory of this user alone.
    """
    with tarfile.open(parcel) as entries:
        for entry in entries:
            if content := entries.extractfile(entry):
                with place_below(directory, entry.name, create=True).open("wb") as target:
                    shutil.copyfileobj(content, target)
    text = (directory / CONTENTS).read_text(encoding="utf-8")
    contents = read_dataclass(Contents, json.loads(text), CONTENTS)
    tree = directory / contents.code.folder
    tree.mkdir()
    extract(directory / ARCHIVE, tree)
    typed = {str(directory / name): path for name, path in contents.specs.items()}
    return Arrival(contents.code, directory / ARCHIVE, tree, contents.is_private, typed)
