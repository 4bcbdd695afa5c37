"""What a person types to delete a whole project or organization."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import ScheduleOverlapPolicy

from activities.stores.s3 import S3Objects
from artifact_deletion.bulk import BulkReceipt
from commands.exit_codes import BAD_USAGE, DONE, FAILED, UNREACHABLE
from tests.oracle import Evidence, assert_promises_hold
from tests.stack import Held, Seen, Stack, eventually, lines
from tests.steps.test_orphans import forget_rows, make_old
from tests.steps.test_retention import aged
from tests.typed import Done, Run, assert_one_sentence, runner
from tests.workflow.test_bulk import deletions_of, shop_of, whole
from tests.workflow.test_reruns import hold
from workflows import bulk_text
from workflows.reconcile_steps import Reports

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def run(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    assert stack.world.organization("acme") == stack.organization_id
    return runner(stack, monkeypatch, capsys)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held(monkeypatch, S3Objects, "delete")
    yield made
    made.let_go()


@pytest.mark.thorough
async def test_a_large_project_is_asked_for_confirmed_by_another_looked_at_paused_and_gone(
    stack: Stack, run: Run, held: Held
) -> None:
    """Each command as docs/bulk.md has it."""
    project, snapshots = shop_of(stack, 3)
    before = Evidence.of(stack)
    workflow = f"delete-project/{stack.organization_id}/{project.id}"
    async with stack.worker(chunk_artifacts=1, bulk_deletions_at_once=1, max_bulk_unconfirmed=2):
        options = ("--organization", stack.organization_id, "--by", "user:7", "--images", "keep")
        asked = await run("delete-project", project.id, *options)
        assert (asked.code, asked.out) == (DONE, f"{workflow}\n")
        otherwise = await run("delete-project", project.id, *options[:-1], "delete", "--rate", "5")
        assert_one_sentence(otherwise, FAILED)
        assert "as it was asked for: --images keep, no --rate" in otherwise.err
        refused = await run("confirm", workflow, "--by", "user:7")
        assert_one_sentence(refused, FAILED)
        assert "another person" in refused.err
        assert (await run("confirm", workflow, "--by", "user:8")).out == f"{workflow} is confirmed\n"
        await held.reached()
        assert "unpause" in (await run("pause", workflow)).out
        said = await run("status", workflow)
        assert "Artifacts      0 deleted, 1 asked for, of 3 at the beginning" in said.out
        assert (said.code, "paused" in said.out) == (DONE, True), said.out
        held.let_go()
        assert (await run("unpause", workflow)).code == DONE
        again = await run("delete-project", project.id, *options, "--wait", "--json")
        receipt = json.loads(again.out)
        assert (again.code, receipt["deleted"], receipt["confirmed_by"]) == (DONE, 3, "user:8")
        ended = json.loads((await run("status", workflow, "--json")).out)
        assert (ended["state"], ended["deletions"], ended["running"]) == ("completed", {"complete": 3}, [])
    assert_promises_hold(stack, before, deletions_of(whole(project, requested_by="user:7"), snapshots, 1))


@pytest.mark.thorough
async def test_a_cancel_begins_no_further_deletion(stack: Stack, run: Run, held: Held) -> None:
    """And says so. Where nothing runs it says that."""
    project, snapshots = shop_of(stack, 2)
    workflow = f"delete-project/{stack.organization_id}/{project.id}"
    async with stack.worker(chunk_artifacts=1, bulk_deletions_at_once=1):
        await run("delete-project", project.id, "--organization", stack.organization_id)
        await held.reached()
        done = await run("cancel", workflow, "--by", "user:7")
        assert (done.code, done.out) == (DONE, f"{workflow}: {bulk_text.CANCELLED}\n")
        held.let_go()

        async def ended() -> bool:
            return bool(json.loads((await run("status", workflow, "--json")).out)["state"] == "canceled")

        await eventually(ended)
    assert max(one.id for one in snapshots) in stack.world.rows()["sentry_preprodartifact"]
    assert_one_sentence(await run("cancel", "delete-organization/999"), BAD_USAGE)


async def test_why_no_further_deletion_begins_is_said(stack: Stack, run: Run, held: Held) -> None:
    """By the step that waits, in the words of the Web UI; a script has them too."""
    project, _ = shop_of(stack, 2)
    workflow = f"delete-project/{stack.organization_id}/{project.id}"
    async with stack.worker(chunk_artifacts=1, bulk_keys_at_once=1):
        await run("delete-project", project.id, "--organization", stack.organization_id)
        await held.reached()

        async def said() -> str | None:
            found = (await run("status", workflow)).out
            return found if "the next one begins when these are 1 or fewer" in found else None

        assert "Tried again    next_artifacts, attempt " in await eventually(said)
        (step,) = json.loads((await run("status", workflow, "--json")).out)["trying_again"]
        assert (step["step"], "the next one begins when" in step["failure"]) == ("next_artifacts", True)
        held.let_go()


@pytest.mark.thorough
async def test_what_is_left_over_is_said_and_how_it_goes_on(stack: Stack, run: Run, locking_bucket: str) -> None:
    """A script sees it by the exit code, a person by one sentence."""
    stack.use_bucket(locking_bucket)
    _, snapshots = shop_of(stack, 2)
    hold(stack, [snapshots[0].id], "ON")
    async with stack.worker(chunk_artifacts=1):
        done = await run("delete-organization", stack.organization_id, "--images", "keep", "--wait")
        assert_one_sentence(done, FAILED)
        assert "1 of 2 deletions are not complete (ObjectsRemain 1)" in done.err
        assert f"Bulk deletion  delete-organization/{stack.organization_id}" in done.out
        status = await run("status", f"delete-organization/{stack.organization_id}")
        assert_one_sentence(status, FAILED)
        assert "1 of 2 deletions are not complete (ObjectsRemain 1)" in status.err
        assert_one_sentence(await run("cancel", f"delete-organization/{stack.organization_id}"), FAILED)
        hold(stack, [snapshots[0].id], "OFF")
        assert (await run("rerun", "--all-failed", "--organization", stack.organization_id, "--yes", "--wait")).code == DONE


@pytest.mark.thorough
async def test_retention_is_set_looked_at_and_run(stack: Stack, run: Run) -> None:
    """Without a policy nothing expires. What the preview counts is what the run deletes."""
    project, snapshots = shop_of(stack, 3)
    aged(stack, *snapshots[:2], days=100)
    of_project = ("--organization", stack.organization_id, "--project", project.id)
    for words in (("preview",), ("run", "--by", "user:7")):
        assert await run("retention", *words) == Done(DONE, "", "nothing has expired\n")
    assert (await run("retention", "list")).err == "there is no policy: nothing expires\n"
    for_ever = ("--for-ever", "--by", "user:7")
    assert_one_sentence(await run("retention", "set", "--organization", 1, "--project", project.id, *for_ever), BAD_USAGE)
    assert_one_sentence(await run("retention", "set", "--project", 999, *for_ever), BAD_USAGE)
    assert_one_sentence(await run("retention", "set", "--days", 2**31, "--by", "user:7"), BAD_USAGE)
    assert (await run("retention", "list")).err == "there is no policy: nothing expires\n"
    set_ = await run("retention", "set", *of_project, "--kind", "snapshots", "--days", 90, "--by", "user:7")
    scope = f"organization {stack.organization_id}, project {project.id}, kind snapshots"
    assert set_ == Done(DONE, f"{scope}: kept for 90 days\n", "")
    assert (await run("retention", "set", *for_ever)).out == "everything: kept for ever\n"

    listed = [json.loads(line) for line in lines((await run("retention", "list", "--json")).out)]
    assert [(one["organization"], one["project"], one["kind"], one["days"]) for one in listed] == [
        (None, None, None, None),
        (stack.organization_id, project.id, "snapshots", 90),
    ]
    assert "for 90 days" in (await run("retention", "list")).out
    assert (await run("retention", "preview")).out.split() == [
        *(str(stack.organization_id), str(project.id), "snapshots", "2"),
        *("0", "0", "2", "0", "0", "-"),
    ]
    looked = json.loads((await run("retention", "preview", "--json", "--organization", stack.organization_id)).out)
    assert (looked["artifacts"], looked["by_age"]["under 180 days"]) == (2, 2)
    assert (await run("retention", "preview", "--organization", 1)).out == ""

    workflow = f"delete-expired/{stack.organization_id}"
    async with stack.worker():
        assert (await run("retention", "run", "--by", "user:7", "--images", "keep")).out == f"{workflow}\n"
        await stack.client.get_workflow_handle(workflow).result()
        assert "2 deleted" in (await run("status", workflow)).out
    assert set(stack.world.rows()["sentry_preprodartifact"]) == {snapshots[2].id}
    assert (await run("retention", "remove", *of_project, "--kind", "snapshots")).out == f"{scope}: removed\n"
    assert (await run("retention", "remove", *of_project, "--kind", "snapshots")).code == FAILED


async def test_what_expires_waits_for_the_end_of_its_grace_and_can_be_called_off(stack: Stack, run: Run) -> None:
    """From the policy to the cancel, as docs/bulk.md has it. What waits is no more counted as expired, and cancelled it is."""
    _, snapshots = shop_of(stack, 2)
    aged(stack, snapshots[0], days=100)
    before = Seen.of(stack.world)
    said = await run("retention", "set", "--days", 90, "--grace", "7d", "--by", "user:7")
    assert said.out == "everything: kept for 90 days; then each deletion waits for 7 days, 0:00:00\n"
    assert "7 days, 0:00:00" in (await run("retention", "list")).out
    assert json.loads((await run("retention", "list", "--json")).out)["grace_s"] == 7 * 86_400
    looked = json.loads((await run("retention", "preview", "--json")).out)
    assert (looked["artifacts"], looked["grace_s"]) == (1, 7 * 86_400)
    deletion = stack.request([snapshots[0].id], expired=True).workflow_id
    async with stack.worker():
        await run("retention", "run", "--by", "user:7", "--images", "keep")
        expired = stack.client.get_workflow_handle(f"delete-expired/{stack.organization_id}", result_type=BulkReceipt)
        receipt = await expired.result()
        assert (receipt.complete, receipt.asked, receipt.waiting, receipt.deletions) == (True, 1, 1, {})
        assert "1 deletions wait for their time" in (await run("status", expired.id)).out

        async def waits() -> bool:
            return "waits until" in (await run("list", "--organization", stack.organization_id)).out

        await eventually(waits)
        assert (await run("retention", "run", "--by", "user:7")).err == "nothing has expired\n"
        assert (await run("cancel", deletion, "--by", "user:7")).out == f"{deletion}: cancelled: nothing was deleted\n"
        assert Seen.of(stack.world) == before
        assert json.loads((await run("retention", "preview", "--json")).out)["artifacts"] == 1


@pytest.mark.thorough
async def test_retention_runs_by_itself_as_often_as_a_schedule_says(stack: Stack, run: Run) -> None:
    """Set twice it is one. Paused it stays paused when it is set anew. A run that is asked for begins at once."""
    _, snapshots = shop_of(stack, 2)
    aged(stack, snapshots[0], days=100)
    await run("retention", "set", "--days", 90, "--by", "user:7")
    of, by = ("--organization", stack.organization_id), ("--by", "user:7")
    name = f"artifact-retention/{stack.organization_id}"
    for every, said in (("12h", "12:00:00"), ("24h", "1 day, 0:00:00")):
        done = await run("schedule", "set", *of, "--every", every, *by, "--images", "keep")
        assert done == Done(DONE, f"{name}: every {said}, up to 0:10:00 later\n", "")
    assert (await run("schedule", "pause", *of, *by)).code == DONE
    await run("schedule", "set", *of, "--every", "6h", *by, "--images", "keep")

    async def listed() -> Any:
        found = [json.loads(line) for line in lines((await run("schedule", "list", "--json")).out)]
        return next((one for one in found if one["id"] == name), None)

    assert (await eventually(listed))["paused"]
    assert f"{name}  paused" in (await run("schedule", "list")).out
    described = await stack.client.get_schedule_handle(name).describe()
    assert described.schedule.spec.intervals[0].every == timedelta(hours=6)
    assert described.schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
    async with stack.worker():
        assert (await run("schedule", "run", *of)).code == DONE

        async def gone() -> bool:
            return set(stack.world.rows()["sentry_preprodartifact"]) == {snapshots[1].id}

        await eventually(gone)
        await stack.client.get_workflow_handle(f"delete-expired/{stack.organization_id}").result()
    assert await run("schedule", "unpause", *of, *by) == Done(DONE, f"{name} is active\n", "")

    async def active() -> bool:
        return f"{name}  active" in (await run("schedule", "list")).out

    await eventually(active)
    assert (await run("schedule", "remove", *of)).code == DONE
    for command in (("pause", *by), ("unpause", *by), ("run",), ("remove",)):
        assert await run("schedule", command[0], *of, *command[1:]) == Done(BAD_USAGE, "", f"there is no schedule {name}\n")


@pytest.mark.thorough
async def test_what_is_left_behind_is_looked_for_as_often_as_a_schedule_says(stack: Stack, run: Run) -> None:
    """Made twice it is one. It runs at once where that is asked for, and a person deletes by the report that it wrote."""
    project, (gone,) = shop_of(stack, 1)
    keys = stack.world.objects_of([gone.id])
    forget_rows(stack, gone)
    by, place = ("--by", "user:7"), ("--organization", stack.organization_id, "--project", project.id)
    name = f"artifact-reconcile/{stack.organization_id}/{project.id}"
    for every, said in (("12h", "12:00:00"), ("24h", "1 day, 0:00:00")):
        done = await run("schedule", "reconcile", *place, "--every", every, *by, "--older-than", "0.001s", "--implausible", 100)
        assert done == Done(DONE, f"{name}: every {said}, up to 0:10:00 later\n", "")
    of = ("--reconcile", *place)
    assert (await run("schedule", "pause", *of, *by)).out == f"{name} is paused\n"

    async def listed() -> bool:
        return f"{name}  paused" in (await run("schedule", "list")).out

    await eventually(listed)
    async with stack.worker():
        assert (await run("schedule", "run", *of)).code == DONE
        schedule = stack.client.get_schedule_handle(name)

        async def begun() -> Any:
            return (await schedule.describe()).info.recent_actions

        (action,) = await eventually(begun)
        began = stack.client.get_workflow_handle(action.action.workflow_id, result_type=Reports)
        said = f"Look for what is left behind: project {project.id} of organization {stack.organization_id}"
        assert await (await began.describe()).static_summary() == said
        (report,) = (await began.result()).reports
        assert (report.orphans, report.implausible) == (len(keys), False)
        make_old(stack, report.report)
        assert (await run("reconcile", "--delete", report.report, "--yes", "--wait")).code == DONE
    assert not keys & set(stack.world.objects())
    assert (await run("schedule", "remove", *of)).code == DONE
    assert_one_sentence(await run("schedule", "run", *of), BAD_USAGE)
    assert_one_sentence(await run("schedule", "run", "--reconcile"), BAD_USAGE)
    assert_one_sentence(await run("schedule", "run", "--project", 7), BAD_USAGE)


@pytest.mark.thorough
async def test_what_is_not_at_work_is_said_to_be_so(stack: Stack, run: Run) -> None:
    """Never begun, ended, or begun while no worker is up."""
    project, _ = shop_of(stack, 1)
    for command in (("status",), ("pause",), ("confirm", "--by", "user:8")):
        unknown = await run(command[0], "delete-project/1/1", *command[1:])
        assert_one_sentence(unknown, BAD_USAGE)
        assert "nothing of that name at work" in unknown.err
    asked = await run("delete-project", project.id, "--organization", stack.organization_id, "--images", "keep")
    waits = await run("status", asked.out.strip())
    assert (waits.code, waits.out) == (UNREACHABLE, f"{asked.out.strip()}: running\n")
    async with stack.worker():
        await stack.client.get_workflow_handle(asked.out.strip()).result()
        assert (await run("confirm", asked.out.strip(), "--by", "user:8")).code == BAD_USAGE
