"""What a remote file system says when it fails, and whether it has failed at all."""

from typing import Any

_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
_PACKAGES = ("aiobotocore", "aiohttp", "botocore", "fsspec")


def is_failure(error: BaseException) -> bool:
    """Whether an error means that storage fails, and not that a file is missing or exists.

    If a bucket does not exist, nothing can be said about files in it, so that is a failure.
    """
    if isinstance(error, _MISSING):
        return _code_of(error) == "NoSuchBucket"
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _PACKAGES


def describe(error: BaseException) -> str:
    """Return the message of a file system's error, or its code if there is no message."""
    code = _code_of(error)
    words = str(error).partition("\n")[0].removesuffix(".")
    if words.endswith("None"):  # some servers send a code and no words
        words = ""
    words = words or code or type(error).__name__
    return f"{words} ({code})" if code and code not in words else words


def in_words(error: BaseException, fs: Any, key: str) -> BaseException:  # noqa: ANN401 - fsspec has no types
    """Return the same refusal in S3's words, if the request was one that it answers without any.

    S3 answers to HEAD, by which files are looked at, with nothing but a number.

    Args:
        error: What the file system has raised.
        fs: The fsspec file system that raised it.
        key: The key of the file or directory.
    """
    if not (_code_of(error) or "").isdigit() or "s3" not in fs.protocol:
        return error
    bucket, _, prefix = key.partition("/")
    said = _refusal(fs, "get_object", Bucket=bucket, Key=prefix, Range="bytes=0-0")
    return said or _refusal(fs, "list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1) or error


def _refusal(fs: Any, method: str, **words: object) -> Exception | None:  # noqa: ANN401 - as above
    try:
        fs.call_s3(method, **words)
    except Exception as error:  # noqa: BLE001 - whatever the client raises
        return error if is_failure(error) else None
    return None


def _code_of(error: BaseException) -> str | None:
    response = getattr(error.__cause__ or error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, dict) else None
