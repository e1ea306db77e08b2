"""URLs as they may be shown: a warning or an error is in logs, which others read."""

import re
from urllib.parse import unquote

HIDDEN = "***"
# Shorter parts of a URL are in many words, and protect nothing.
_SHORTEST = 4
# A key of S3 may have a slash. Elsewhere, a number and a slash are a port and a path; [::1] is a
# host. What has :// in it is the next URL of a chain.
_KEY = r"(?:(?!://)[^\s@])*@"
_LOGIN = re.compile(
    rf"(?<=://)(?:[^/?#\s]*@|(?:(?<=s3://)|(?<=s3a://))[^/\s:@]+:{_KEY}"
    rf"|[^/\s:@\[]+:(?!\d+(?:[/?#\s,;)'\"]|$)){_KEY})"
)
# What a query grants access by, as in X-Amz-Signature or access_token.
_GRANTS = re.compile(r"(key|token|sig|signature|secret|password|credential|auth)", re.IGNORECASE)
_QUERY = re.compile(r"(?<=://)([^\s?'\"]*\?)[^\s'\"]+")


def without_secrets(text: str, url: str = "") -> str:
    """Hide user names, passwords and queries of URLs, which may be signatures.

    Args:
        text: A URL, or a text with some.
        url: URL whose secrets are hidden where they stand alone, too: some file systems take them
            for the name of a bucket, and say so in their errors.
    """
    text = _QUERY.sub(rf"\1{HIDDEN}", _LOGIN.sub(f"{HIDDEN}@", text))
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def shown_cause(error: BaseException | None, url: str) -> BaseException | None:
    """Return an error to be raised from, or None if a traceback of it would show a secret.

    Args:
        error: An error of a file system.
        url: URL that it was asked for.
    """
    each, seen = error, set()
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        if without_secrets(str(each), url) != str(each):
            return None
        each = each.__cause__ or each.__context__
    return error


def _secrets(url: str) -> set[str]:
    login, query = _LOGIN.search(url), _QUERY.search(url)
    user, _, password = login[0][:-1].partition(":") if login else ("", "", "")
    parameters = re.split(r"[&;]", url[query.end(1) : query.end()]) if query else []
    pairs = [parameter.partition("=")[::2] for parameter in parameters]
    # A token may stand alone in front of the host; beside a password, it is a user's name.
    found = {password or user, *(value for name, value in pairs if _GRANTS.search(name))}
    found |= {unquote(each) for each in found}
    return {each for each in found if len(each) >= _SHORTEST}
