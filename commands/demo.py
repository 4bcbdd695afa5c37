"""`demo`: the whole of it on servers of its own."""

from commands.exit_codes import BAD_USAGE
from commands.output import warn


async def demo() -> int:
    """Show the whole of it, on servers of its own that end with it."""
    try:
        from demo.run import demo as play  # noqa: PLC0415  needs the development packages
    except ModuleNotFoundError:
        warn("the demo is in the repository only, with its packages: make demo")
        return BAD_USAGE
    code: int = await play()
    return code
