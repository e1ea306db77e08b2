"""What Ray's exceptions say of the nodes on which actors ran."""

import contextlib
import sys
from collections.abc import Iterator

from getiaction_launch.errors import CheckError
from getiaction_launch.node.sidecar import NodeLostError


def is_out_of_memory(error: Exception) -> bool:
    """Whether Ray killed an actor because a node's memory ran low.

    Beware: its other messages name the kernel's OOM killer as one of many possible causes.
    """
    words = ("NODE_OUT_OF_MEMORY", "running low on memory")
    is_named = any(word in str(error) for word in words)
    return is_named or type(error).__name__ == "OutOfMemoryError"


@contextlib.contextmanager
def node_errors() -> Iterator[None]:
    """Distinguish lost nodes from errors that an agent itself has raised.

    Raises:
        NodeLostError: If a node does not answer.
        CheckError: If an agent raised an error, whose message is the agent's, or Ray could not set
            up the runtime environment, which no other node could either.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise CheckError(str(error.cause)) from error
    except ray.exceptions.RuntimeEnvSetupError as error:
        # Long, with all that pip or conda printed; the last line says why.
        sys.stdout.write(f"{error}\n")
        said = str(error).strip().rpartition("\n")[2].strip()
        raise CheckError(f"Ray could not set up the runtime_env: {said}") from error
    except ray.exceptions.RayError as error:
        raise NodeLostError(str(error)) from error
