"""The two ways in which a user's request can end before anything is measured."""


class RequestError(ValueError):
    """The request itself is wrong: one line that says what, where, what is allowed and what to do.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        # What it quotes (a key, a path, a library's words) may hold line breaks.
        super().__init__(" ".join(message.splitlines()))


class NoDatabaseError(RequestError):
    """There is no database yet."""


class UnavailableError(RuntimeError):
    """A technique cannot run on this machine; the message says why and what it needs.

    It makes one measurement `unavailable`; the others of the run go on.
    """


def one_line(error: BaseException, limit: int = 400) -> str:
    """The message of `error` as one line of at most `limit` characters, never empty."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def did_you_mean(word: str, allowed: list[str] | tuple[str, ...]) -> str:
    """ "; did you mean 'x'?" where one of `allowed` resembles `word`, else an empty string."""
    import difflib

    near = difflib.get_close_matches(word, allowed, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def says_out_of_memory(text: str) -> bool:
    """Whether an error's type and message mean that the host or the device ran out of memory, whoever wrote them."""
    # The last two: cuBLAS, whose handle finds no room on a full GPU, and the loader, of a library that finds none.
    signs = (
        "memoryerror", "outofmemory", "out of memory", "bad_alloc", "cannot allocate memory",
        "cublas_status_alloc_failed", "failed to map segment",
    )  # fmt: skip
    return any(sign in text.lower() for sign in signs)


def first_line(error: BaseException) -> str:
    """`error` in one line, with its type: what a failed measurement gives as its reason."""
    return f"{type(error).__name__}: {one_line(error)}"
