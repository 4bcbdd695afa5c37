"""Run grants.sql as the owner of the tables, without psql: in the image, and so in the Job that sets up."""  # noqa: INP001  a script

import argparse
import os
import sys
from pathlib import Path

import psycopg

_URL = "ARTIFACT_DELETION_DATABASE_URL"


def main() -> None:
    """Grant all of it, or nothing. Exit codes: 1 if the database refuses, 2 for bad usage."""
    parser = argparse.ArgumentParser(description="Grant the rights of deploy/grants.sql.", epilog=f"{_URL}: the owner's.")
    parser.parse_args()
    if _URL not in os.environ:
        parser.error(f"{_URL} is not set")
    try:
        with psycopg.connect(os.environ[_URL].replace("+psycopg", "", 1)) as owner:
            owner.execute(Path(__file__).with_suffix(".sql").read_bytes())
    except psycopg.Error as error:
        # Not its own text: of a URL that is none, that has the password.
        sys.exit(f"nothing was granted: {error.diag.message_primary or type(error).__name__}")


if __name__ == "__main__":
    main()
