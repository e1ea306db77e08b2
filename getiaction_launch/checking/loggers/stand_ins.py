"""Loggers of a trial: they keep nothing, and lack what the loggers of the run lack."""

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.frames import own_frames
from getiaction_launch.checking.loggers.experiments import (
    directory_of,
    experiment_of,
    fix_of_experiment,
    fix_of_logger,
    lacks,
)

_MISSING = object()
_ASKS_TYPE = re.compile(r"\btype\(")
"""How a program may see that a stand-in is none of Lightning's loggers."""
_ON_RANK_0 = (
    "On each rank but 0, Lightning's logger.experiment has nothing but methods that do nothing: do "
    "this on rank 0 alone, below: if self.trainer.is_global_zero"
)


class _Nothing:
    """Stands for an experiment of any tracker: whatever is asked of it gives this again."""

    def __getattr__(self, name: str) -> "_Nothing":
        if name.startswith("__"):
            raise AttributeError(name)  # copying and the like must not take it for an answer
        return self

    def __call__(self, *_: object, **__: object) -> "_Nothing":
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Nothing)  # what a checkpoint has kept of it is not another one

    def __hash__(self) -> int:
        return hash(_Nothing)

    def __iter__(self) -> Iterator["_Nothing"]:
        return iter(())  # by __getitem__ it would never end

    def __getitem__(self, key: object) -> "_Nothing":
        return self

    def __setitem__(self, key: object, value: object) -> None:
        pass


class _Experiment(_Nothing):
    """Stands for the experiment of one of Lightning's loggers, and has what that has."""

    def __init__(self, logger: str, kind: type, opened: object, directory: str) -> None:
        self.owners, self._opened = (logger, kind), opened
        name = directory_of(kind)
        vars(self).update({name: directory} if name else {})

    def __getattr__(self, name: str) -> _Nothing:
        _refuse_absent(self, self._opened, self.owners[1], name)
        super().__getattr__(name)  # which has what copying must not take for an answer
        return _Nothing()


def quiet_loggers(built: Built) -> list[Any]:
    """Return a logger for each one of the run, which keeps nothing.

    Each has a directory that programs may write to. A default logger may be another one where the
    workers have other packages.

    Args:
        built: What the spec names.
    """
    is_sure = bool(built.arguments.get("logger")) or not built.place.other_environment
    return [_quiet_logger(each, str(built.scratch), is_sure) for each in built.trainer.loggers]


def fix_of_absent(error: BaseException) -> str | None:
    """Return what to do about an attribute that a logger or its experiment does not have.

    Args:
        error: An exception of a trial; None is returned for all but those of its loggers.
    """
    if _takes_method_for_value(error):
        return _ON_RANK_0
    if not isinstance(error, AttributeError) or "lightning.pytorch" not in sys.modules:
        return None
    from lightning.pytorch.loggers.logger import DummyLogger

    if type(error.obj) is _Experiment:
        return fix_of_experiment(*error.obj.owners, str(error.name))
    if issubclass(type(error.obj), DummyLogger):
        return fix_of_logger(error.obj.__class__, str(error.name))
    return _ON_RANK_0 if error.obj is type(DummyLogger().experiment).nop else None


def _takes_method_for_value(error: BaseException) -> bool:
    """Whether a line takes for a path, a text or a number what is a method of the stand-in there.

    Lightning's own experiment of other ranks than 0 has a method for each name.
    """
    said, calls = str(error), own_frames(error)
    line = (calls[-1].line or "") if calls else ""
    is_of_method = isinstance(error, TypeError) and re.search(r"\bmethod\b", said) is not None
    return is_of_method and ".experiment." in line


def _quiet_logger(real: Any, directory: str, is_sure: bool) -> Any:  # noqa: ANN401 - Lightning's
    from lightning.fabric.loggers.logger import rank_zero_experiment
    from lightning.pytorch.loggers.logger import DummyLogger

    kind: Any = type(real)
    experiment = _experiment_of(real, directory) if is_sure else _Nothing()
    getter = getattr(inspect.getattr_static(kind, "experiment", None), "fget", None)
    of_rank = rank_zero_experiment if hasattr(getter, "__wrapped__") else _unchanged

    class Quiet(DummyLogger):
        save_dir = log_dir = root_dir = property(lambda _: directory)
        experiment = property(of_rank(lambda _: experiment))
        __class__ = property(lambda _: kind)  # for isinstance

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as DummyLogger
            if is_sure:
                _refuse_absent(self, real, kind, name)
            return super().__getattr__(name)

        def __reduce__(self) -> tuple[type, tuple[()]]:
            return Quiet, ()  # by its own class, of which pickle says that it cannot

    Quiet.__name__ = kind.__name__
    return Quiet()


def _unchanged(getter: Any) -> Any:  # noqa: ANN401 - a function
    return getter


def _experiment_of(real: Any, directory: str) -> _Nothing:  # noqa: ANN401 - Lightning's
    """Return what stands for the experiment of a logger, as far as that is known."""
    owner = next((each for each in type(real).__mro__ if "experiment" in vars(each)), None)
    if owner is None or not owner.__module__.startswith("lightning."):
        return _Nothing()
    if (kind := experiment_of(owner.__name__)) is None:
        return _Nothing()
    return _Experiment(type(real).__name__, kind, vars(real).get("_experiment"), directory)


def _refuse_absent(stand_in: object, real: object, kind: type, name: str) -> None:
    """Raise what the run would, in ``__getattr__``, if what is stood in for lacks an attribute."""
    is_there = inspect.getattr_static(real, name, _MISSING) is not _MISSING
    if not is_there and lacks(kind, name) and not _asks_type():
        what = f"{kind.__name__!r} object has no attribute {name!r}"
        raise AttributeError(what, name=name, obj=stand_in)


def _asks_type() -> bool:
    """Whether the function of the user's that asks for an attribute asks for types, too."""
    try:
        return bool(_ASKS_TYPE.search(inspect.getsource(sys._getframe(3).f_code)))  # noqa: SLF001
    except (OSError, TypeError):
        return False
