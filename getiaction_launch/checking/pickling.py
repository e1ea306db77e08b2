"""Whether an object can be written to a file, or handed to another process."""

import pickle


def why_unpicklable(value: object) -> str | None:
    """Return why an object cannot be pickled; None if it can.

    Args:
        value: The object, which should be small: it is pickled.
    """
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return str(error)
    return None
