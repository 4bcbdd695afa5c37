"""The words of a command: which are taken, which deletion and artifacts they mean, and how mistakes in them are named."""

import io
import json
import re
import tomllib

import pytest
from sqlalchemy import insert

import starter
from activities.ledger.schema import Ask
from commands.exit_codes import BAD_USAGE, DONE, FAILED
from tests.stack import ROOT, Stack, lines
from tests.typed import NOWHERE, Done, Run, assert_one_sentence, runner

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(stack, monkeypatch, capsys)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("delete 0 --organization 1", "artifact_ids"),
        ("delete 4,0 --organization 1", "artifact_ids"),
        ("delete --organization 1", "no artifact ids"),
        ("delete --organization 1 --ids-from nowhere", "the file of ids cannot be read (FileNotFoundError)"),
        ("delete 1 --organization 0", "organization_id"),
        ("delete 1 --organization 1 --project 0", "project_id"),
        ("delete 1 --organization 1 --requested-by someone@example.com", "requested_by"),
        ("receipt delete-artifacts/1/0", "the ledger knows no deletion"),
        ("verify delete-artifacts/1/0", "the ledger knows no deletion"),
        ("status nothing", "the ledger knows no deletion"),
        ("rerun nothing", "the ledger knows no deletion"),
        ("status 0123456789abcdef", "the ledger knows no deletion"),
        ("confirm nothing --by user:7", "the ledger knows no deletion"),
        ("hold --deletion nothing --reason x --by user:7", "the ledger knows no deletion"),
        ("hold --everything --organization 1 --reason x --by user:7", "name one of --everything"),
        ("hold --reason x --by user:7", "name one of --everything"),
        ("hold --artifact 4 --project 7 --reason x --by user:7", "name one of --everything"),
        ("lift --by user:7", "name holds by their ids"),
        ("rerun", "name one deletion, or --all-failed"),
        ("retention set --by user:7", "name one of --days and --for-ever"),
        ("retention set --days 9 --for-ever --by user:7", "name one of --days and --for-ever"),
        ("retention set --for-ever --grace 7d --by user:7", "what is kept for ever needs no --grace"),
        (
            "retention set --days 9 --kind apples --by user:7",
            "the kinds of artifacts are snapshots, distribution, size_analysis",
        ),
        ("pause delete-artifacts/1/0", "is no deletion of a whole project or organization"),
        ("unpause nothing", "is no deletion of a whole project or organization"),
        ("delete-project 0 --organization 1", "project_id"),
        ("delete-organization 0", "organization_id"),
        ("rerun nothing --all-failed", "name one deletion, or --all-failed"),
    ],
)
async def test_what_cannot_be_meant_is_refused_in_one_sentence(run: Run, arguments: str, named: str) -> None:
    """Before anything is written down."""
    done = await run(*arguments.split())
    assert_one_sentence(done, BAD_USAGE)
    assert named in done.err
    assert (await run("list")).out == ""


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("undo", "No such command 'undo'."),
        ("delte", "Did you mean 'delete'?"),
        ("delete", "'--organization'"),
        ("delete 1", "'--organization'"),
        ("schedule set --every 5 --by user:7", "must be a time such as 30s, 5m or 1h"),
        ("schedule set --by user:7", "'--every'"),
        ("retention set --days 0 --by user:7", "must be 1 or more"),
        ("retention set --days 9", "'--by'"),
        ("delete-project 1", "'--organization'"),
        ("delete-organization 1 --by jane@example.com", "must be an opaque id"),
        ("delete-organization 1 --rate 0", "must be 1 or more"),
        ("delete x --organization 1", "must be a whole number"),
        ("delete 1.5 --organization 1", "must be a whole number"),
        ("delete 4, --organization 1", "must be a whole number"),
        ("delete -1 --organization 1", "No such option: -1"),
        ("delete ٣ --organization 1", "must be a whole number"),
        ("delete 9223372036854775808 --organization 1", "at most 63 bits"),
        ("list --organization 9223372036854775808", "at most 63 bits"),
        ("list --limit 9223372036854775808", "at most 63 bits"),
        ("list --state gone", "'accepted', 'running', 'failed', 'refused', 'cancelled', 'closed'"),
        ("hold --everything --by user:7 --reason gel\udcf6scht", "must be text in UTF-8"),
        ("hold --everything --by jane@example.com --reason x", "must be an opaque id"),
        ("hold --organization -1 --reason x --by user:7", "must be 1 or more"),
        ("hold --artifact 0 --reason x --by user:7", "must be 1 or more"),
        ("hold --project 0 --reason x --by user:7", "must be 1 or more"),
        ("hold --everything --by user:7 --reason=", "must not be empty"),
        ("delete 1 --organization 1 --reason gel\udcf6scht", "must be text in UTF-8"),
        ("status gel\udcf6scht", "must be text in UTF-8"),
        ("rerun gel\udcf6scht", "must be text in UTF-8"),
        ("list --limit 0", "must be 1 or more"),
        ("list --limit -1", "must be 1 or more"),
        ("resume --every 5", "must be a time such as 30s, 5m or 1h"),
        ("reapply --since 0001-01-01", "must be a time of the years 1970 to 9998"),
        ("reapply --since 0001-01-01T00:00:00+14:00", "must be a time of the years 1970 to 9998"),
        ("reapply --since 9999-12-31T23:59:59-14:00", "must be a time of the years 1970 to 9998"),
        ("reconcile --project 1 --older-than 999999d", "must be 36500d at most"),
        ("setup --sql oracle", "'postgresql', 'sqlite'"),
        ("lift x --by user:7", "must be a whole number"),
    ],
)
async def test_a_command_that_was_mistyped_is_bad_usage(run: Run, arguments: str, said: str) -> None:
    """With the usage of the command that was meant, and in which word the mistake is."""
    done = await run(*arguments.split())
    assert (done.code, done.out) == (BAD_USAGE, "")
    assert "Traceback" not in done.err
    usage, *_, last = lines(done.err)
    assert usage.startswith("Usage: starter.py ")
    assert said in last


async def test_without_a_command_there_is_help_by_what_a_person_wants(run: Run) -> None:
    done = await run()
    assert (done.code, done.err) == (BAD_USAGE, "")
    assert re.findall(r"^╭─ ([\w ]+) ─", done.out, re.MULTILINE) == ["Options", *starter.COMMANDS]
    shown = {name for _, name in re.findall(r"^(│) ([a-z][a-z-]*) ", done.out, re.MULTILINE)}
    assert shown == {name for commands in starter.COMMANDS.values() for name in commands}


async def test_it_says_which_version_it_is(run: Run) -> None:
    """Of a checkout by its own file, whatever is installed beside it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert await run("--version") == Done(DONE, f"artifact-deletion {project['version']}\n", "")


@pytest.mark.thorough
async def test_a_shell_can_complete_commands_options_and_states(stack: Stack) -> None:
    """As bash would ask, in the way that `--install-completion` teaches it."""
    asked = {"_STARTER.PY_COMPLETE": "complete_bash"}

    def completed(words: str) -> list[str]:
        number = str(len(words.split(" ")) - 1)
        done = stack.command(**asked, COMP_WORDS=words, COMP_CWORD=number)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert set(completed("starter.py re")) == {"receipt", "reconcile", "rerun", "resume", "reapply", "retention"}
    assert completed("starter.py list --sta") == ["--state"]
    assert completed("starter.py list --state ca") == ["cancelled"]


# Which deletion, and which artifacts ----------------------------------------------------------------------------------


async def test_the_first_digits_of_a_digest_are_shown_and_taken_while_they_are_unique(stack: Stack, run: Run) -> None:
    """Copied from the list; where two begin alike, more are shown, and too few are told so. Asked-for deletions count."""
    one, *_ = requests = [stack.request([one.id]) for one in stack.snapshots("one", "two")]
    for request in requests:
        stack.accept(request)
    listed = await run("list")
    assert {line.split()[0] for line in lines(listed.out)} == {request.deletion_id[:8] for request in requests}
    for given in (one.deletion_id[:8], one.deletion_id[:9].upper(), one.deletion_id, one.workflow_id[:-20]):
        status = await run("status", given, "--json", TEMPORAL_ADDRESS=NOWHERE)
        assert json.loads(status.out)["workflow_id"] == one.workflow_id, given
    assert_one_sentence(await run("status", one.deletion_id[:7]), BAD_USAGE)

    twin = f"{one.deletion_id[:10]}{('1' if one.deletion_id[10] == '0' else '0') * 22}"
    with stack.database.write() as session:
        session.execute(insert(Ask).values(deletion_id=twin, request={}))
    ambiguous = await run("receipt", one.deletion_id[:8])
    assert_one_sentence(ambiguous, BAD_USAGE)
    longer = sorted({one.deletion_id[:11], twin[:11]})
    assert ambiguous.err == f"several deletions begin with {one.deletion_id[:8]}: {', '.join(longer)}\n"
    shown = {line.split()[0] for line in lines((await run("list")).out)}
    assert next(digest for digest in longer if one.deletion_id.startswith(digest)) in shown
    assert (await run("receipt", next(digest for digest in longer if one.deletion_id.startswith(digest)))).code == FAILED


@pytest.mark.thorough
async def test_the_list_has_what_is_only_asked_for_and_what_is_asked_for_anew(stack: Stack, run: Run) -> None:
    """Accepted, whether a run ever began it or not; names of states in any case; times of this machine, or in UTC."""
    done, new = stack.snapshots("done", "new")
    stranger = stack.world.organization("globex")
    async with stack.worker():
        await stack.delete([done.id])
    stack.accept(stack.request([new.id]))
    stack.accept(stack.request([new.id], organization_id=stranger))

    async def states(*arguments: object) -> dict[str, str]:
        listed = await run("list", "--json", *arguments)
        return {one["workflow_id"]: one["state"] for one in map(json.loads, lines(listed.out))}

    ours = stack.organization_id
    first, second = stack.request([done.id]).workflow_id, stack.request([new.id]).workflow_id
    assert await states("--organization", ours) == {first: "closed", second: "accepted"}
    assert await states("--state", "Accepted", "--organization", ours) == {second: "accepted"}
    stack.accept(stack.request([done.id]))
    assert await states("--state", "ACCEPTED", "--organization", ours) == {first: "accepted", second: "accepted"}
    for options, zone in (([], "+0545"), (["--utc"], "UTC")):
        shown = await stack.run_command("list", "--organization", stranger, *options, TZ="Asia/Kathmandu")
        assert re.search(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d {re.escape(zone)}  accepted  1  -  -$", shown.stdout)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "given", [["{}", "{}"], ["{},{}"], ["--ids-from", "FILE"], ["--ids-from", "-"], ["{}", "--ids-from", "FILE"]]
)
async def test_artifacts_are_named_as_words_with_commas_or_in_a_file(
    stack: Stack, run: Run, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    """All of these ask for the same deletion, and no one is asked anything where there is no terminal."""
    ids = sorted(one.id for one in stack.snapshots("one", "two"))
    file = stack.folder / "ids"
    file.write_text(f"{ids[1]}\n{ids[0]}, {ids[1]}\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(file.read_text()))
    numbers = iter(ids)
    words = [str(file) if word == "FILE" else re.sub(r"\{\}", lambda _: str(next(numbers)), word) for word in given]
    asked = await run("delete", *words, "--organization", stack.organization_id, "--images", "keep")
    assert asked == Done(DONE, f"{stack.request(ids).workflow_id}\n", "")
    file.write_text("4\n٣\n")
    refused = await run("delete", "--organization", 1, "--ids-from", file)
    assert_one_sentence(refused, BAD_USAGE)
    assert "must be a whole number" in refused.err
