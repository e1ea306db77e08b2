"""The names of this machine's users."""

import pwd


def user_name(uid: int) -> str:
    """Return the name of a user, or ``user 1000`` if this machine knows none with that id."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
