"""Would the tests notice? `make mutants` breaks our own code in one place at a time, and says which test caught it.

Each mutation is a mistake that a person could make, or that others in this field have made. It is applied to a copy of the
tree, where the few tests run that should notice it. The command fails if one survives, or fits nowhere any more.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bulk_mutations import BULK
from tests.image_mutations import IMAGES
from tests.mutation import Mutation

ROOT = Path(__file__).parents[1]
_NOT_COPIED = shutil.ignore_patterns(".git", ".venv*", ".*_cache", "__pycache__", "*.egg-info", "build", "dist")
_PATIENCE_S = 240
_CAUGHT, _FAILED = 1, "FAILED "
_ORACLE = re.compile(r"^E +(?:AssertionError: )?((?:orphaned|dangling|trespassed|forgotten|untrue): .*)$", re.MULTILINE)

_TRANSFERRED = "tests/workflow/test_promises.py::test_a_project_that_went_to_another_organization_takes_its_artifacts_along"
_HELD = "tests/steps/test_held_artifacts.py"
_MOVED = (
    "tests/workflow/test_promises.py::test_an_artifact_that_is_moved_while_delete_rows_waits_for_it_is_judged_where_it_is_then"
)


MUTATIONS = (
    *IMAGES,
    *BULK,
    Mutation(
        "a bulk's deletion is tried at once",
        "workflows/quick.py",
        " and not in_bulk",
        "",
        ("tests/workflow/test_quick.py::test_a_bulk_waits_for_its_turn_with_all_of_its_steps",),
    ),
    Mutation(
        "rows go within the workflow task that has heard of a cancel",
        "workflows/quick.py",
        " and workflow.cancellation_reason() is None",
        "",
        ("tests/workflow/test_images_runs.py::test_a_cancel_before_the_rows_go_leaves_the_images",),
    ),
    Mutation(
        "steps within workflow tasks that hang take all threads",
        "activities/interceptors.py",
        "if not activity.info().is_local:",
        "if True:",
        ("tests/workflow/test_quick.py::test_what_goes_on_after_its_time_takes_no_more_threads_than_it_was_given",),
    ),
    Mutation(
        "statements are prepared on connections that a pooler shares out",
        "activities/database.py",
        "connection.prepare_threshold = None",
        "pass",
        ("tests/steps/test_prepared.py::test_nothing_is_prepared_where_a_pooler_stands_between",),
    ),
    Mutation(
        "a plan for short lists is kept for long ones",
        "activities/database.py",
        "_LONG = 1_000",
        "_LONG = 1_000_000_000",
        ("tests/steps/test_prepared.py::test_what_asks_for_a_long_list_is_planned_each_time",),
    ),
    Mutation(
        "what is written in a read stays",
        "activities/database.py",
        "(session.commit if self.is_postgresql else session.rollback)()",
        "session.commit()",
        ("tests/steps/test_transactions.py::test_a_transaction_that_reads_keeps_nothing",),
    ),
    Mutation(
        "each read makes the driver forget what it has prepared",
        "activities/database.py",
        "(session.commit if self.is_postgresql else session.rollback)()",
        "session.rollback()",
        ("tests/steps/test_prepared.py::test_what_is_asked_for_again_is_prepared_unless_a_setting_says_no",),
    ),
    Mutation(
        "organizations do not take turns at the store within workflow tasks",
        "activities/interceptors.py",
        "        organization.set(",
        "        _ = (",
        ("tests/workflow/test_quick.py::test_requests_of_the_store_take_turns_as_those_of_their_organization",),
    ),
    Mutation(
        "the receipt that is kept is that of an attempt which came too late",
        "activities/close_deletion.py",
        "kept is not None and kept != closed:",
        "kept is None:",
        ("tests/steps/test_restore.py::test_the_receipt_that_is_kept_is_the_one_that_closed_it",),
    ),
    Mutation(
        "a refusal is asked for twice",
        "workflows/quick.py",
        "            raise _as_of_its_own(step, error) from error",
        "            return None",
        ("tests/workflow/test_quick.py::test_what_is_final_is_final_at_once",),
    ),
    Mutation(
        "objects before rows",
        "activities/collect_keys.py",
        "            sealing.write(session, found, last=True)\n",
        "            sealing.write(session, found, last=True)\n"
        "            for page in pages.read_pages(session, chunk):\n"
        "                self.planner.store.delete([page.scope + key for key in page.keys])\n",
        (
            "tests/workflow/test_promises.py::test_a_deletion_that_is_cancelled_after_its_keys_were_collected_has_touched_nothing",
        ),
    ),
    Mutation(
        "a page dropped before its delete is confirmed",
        "activities/delete_objects.py",
        "        answered = run_all(",
        "        settling.settle([Answer(together, frozenset()) for together in _full(owed)])\n        answered = run_all(",
        ("tests/workflow/test_promises.py::test_a_page_whose_request_failed_is_still_owed",),
    ),
    Mutation(
        "prefix without its slash",
        "activities/backend/keys.py",
        'return f"{artifact.organization_id}/{artifact.project_id}/{artifact.id}/"',
        'return f"{artifact.organization_id}/{artifact.project_id}/{artifact.id}"',
        ("tests/workflow/test_promises.py::test_artifact_4_takes_nothing_of_42",),
    ),
    Mutation(
        "no owner check when rows are deleted",
        "activities/delete_rows.py",
        "ours = organization == sealed.organization_id",
        "ours = organization > 0",
        (f"{_TRANSFERRED}[sqlite-before its rows are deleted]",),
    ),
    Mutation(
        "no owner check when a deletion is opened",
        "activities/permitted.py",
        "if organization != request.organization_id)",
        "if organization is None)",
        ("tests/steps/test_rows.py::test_a_request_with_one_foreign_artifact_is_refused_whole_before_the_store_is_asked",),
    ),
    Mutation(
        "an empty list on an error",
        "activities/plan.py",
        "            except ObjectAbsent:\n",
        "            except Exception:\n",
        ("tests/workflow/test_promises.py::test_a_manifest_that_could_not_be_read_once_is_read_again",),
    ),
    Mutation(
        "a delete by marker only",
        "activities/stores/s3.py",
        "        if not self.keeps_versions:\n            return self._delete(",
        "        if self.client:\n            return self._delete(",
        ("tests/workflow/test_promises.py::test_in_a_bucket_with_versions_no_version_is_left",),
    ),
    Mutation(
        "per-key errors swallowed",
        "activities/stores/s3.py",
        'if errors := answer.get("Errors"):',
        'if errors := answer.get("Warnings"):',
        ("tests/workflow/test_promises.py::test_what_the_store_refuses_inside_its_answer_is_left_over",),
    ),
    Mutation(
        "no seal check when keys are released",
        "activities/delete_rows.py",
        "if not found.names_digest or given != (found.epoch, found.pages, found.digest):",
        "if given == (None, None, None):",
        ("tests/workflow/test_promises.py::test_a_delete_rows_that_comes_while_keys_are_collected_again_releases_nothing",),
    ),
    Mutation(
        "no epoch check when keys are sealed",
        "activities/ledger/chunks.py",
        "    if found.epoch != epoch or found.state != ChunkState.OPEN:\n",
        "    if found.state != ChunkState.OPEN:\n",
        ("tests/steps/test_ledger.py::test_an_attempt_that_was_overtaken_can_seal_nothing_more",),
    ),
    Mutation(
        "no fence between two lives of a deletion",
        "activities/ledger/chunks.py",
        '_A_CHUNK = select(DeletionChunk).where(*of_chunk(DeletionChunk), DeletionChunk.fence == bindparam("of_fence"))',
        '_A_CHUNK = select(DeletionChunk).where(*of_chunk(DeletionChunk), DeletionChunk.fence >= bindparam("of_fence"))',
        ("tests/steps/test_ledger.py::test_an_attempt_from_before_a_cancel_is_fenced_off_from_the_run_that_follows",),
    ),
    Mutation(
        "a page dropped by a stale attempt",
        "activities/ledger/pages.py",
        'session.execute(_DROP, {**_of(found), "settled": empty})',
        "session.execute(delete(DeletionPage).where(*of_chunk(DeletionPage), "
        "DeletionPage.seq.in_([seq for seq, _ in empty])).returning(DeletionPage.seq), _of(found))",
        ("tests/workflow/test_promises.py::test_a_page_that_two_attempts_have_deleted_is_settled_by_one",),
    ),
    Mutation(
        "a page shrunk by a stale attempt",
        "activities/ledger/pages.py",
        'DeletionPage.digest == bindparam("was"))',
        '(DeletionPage.digest == bindparam("was")) | (DeletionPage.digest != ""))',
        ("tests/steps/test_ledger.py::test_a_page_that_two_attempts_settle_counts_once",),
    ),
    Mutation(
        "the project read before the lock",
        "activities/backend/cascade.py",
        'locked = session.execute(_LOCKED_ARTIFACTS, {"artifacts": artifact_ids}).all()',
        "locked = session.execute(select(Artifact.id, Artifact.project_id).where(one_of(Artifact.id, artifact_ids))).all()\n"
        '    session.execute(_LOCKED_ARTIFACTS, {"artifacts": artifact_ids}).all()',
        (f"{_MOVED}[to another organization-postgresql]",),
    ),
    Mutation(
        "a hold looked for before new ones are locked out",
        "activities/delete_rows.py",
        "        holds.lock_out_new_holds(session)\n",
        "",
        ("tests/steps/test_holds.py::test_freezing_returns_when_the_last_transaction_that_had_not_seen_it_has_ended",),
    ),
    Mutation(
        "a deletion that runs is not waited for",
        "activities/close_deletion.py",
        "running = [other for other in others if other.state == DeletionState.RUNNING]",
        "running = [other for other in others if other.state == DeletionState.CLOSED]",
        ("tests/workflow/test_promises.py::test_a_deletion_that_runs_is_waited_for_and_not_taken_over",),
    ),
    Mutation(
        "a deletion that runs is ended by the next caller",
        "artifact_deletion/client.py",
        'WorkflowIDConflictPolicy.USE_EXISTING,\n        "id_reuse_policy"',
        'WorkflowIDConflictPolicy.TERMINATE_EXISTING,\n        "id_reuse_policy"',
        ("tests/workflow/test_workflow.py::test_every_caller_hears_that_the_rows_are_gone_while_objects_are_still_there",),
    ),
    Mutation(
        "closed while another owes",
        "activities/ledger/overlaps.py",
        "deleted = and_(theirs.rows_state == RowsState.DELETED,",
        "deleted = and_(theirs.rows_state == RowsState.MOVED,",
        ("tests/workflow/test_promises.py::test_a_deletion_does_not_say_that_all_is_gone_while_another_is_refused_an_object",),
    ),
    Mutation(
        "an icon deleted that is still named",
        "activities/delete_objects.py",
        "kept = self.living.backend.still_named(session, shared)",
        "kept = self.living.backend.still_named(session, ())",
        ("tests/workflow/test_promises.py::test_an_icon_that_a_build_names_again_by_the_time_it_would_go_stays",),
    ),
    Mutation(
        "a cancel that does not look whether rows are gone",
        "activities/ledger/deletions.py",
        "    if found.state is DeletionState.CLOSED or has_deleted_rows(session, deletion_id):\n",
        "    if found.state is DeletionState.CLOSED:\n",
        ("tests/workflow/test_promises.py::test_a_cancel_that_comes_after_the_rows_finds_the_deletion_done_all_the_same",),
    ),
    Mutation(
        "a reset that asks in its own name",
        "workflows/delete_artifacts.py",
        "fresh = workflow.info().run_id == workflow.info().first_execution_run_id",
        'fresh = workflow.info().run_id != ""',
        ("tests/workflow/test_workflow.py::test_a_reset_of_a_cancelled_run_deletes_nothing_and_a_fresh_start_begins_anew",),
    ),
    Mutation(
        "an undo window that a run ends",
        "activities/open_deletion.py",
        "return deletions.earliest(wishes or [request.not_before])",
        "return deletions.earliest([*wishes, request.not_before])",
        ("tests/steps/test_waiting_deletions.py::test_a_deletion_that_had_ended_begins_when_those_want_who_ask_anew",),
    ),
    Mutation(
        "an undo window that each ask begins anew",
        "activities/open_deletion.py",
        "    if found is not None and found.state in deletions.UNFINISHED:\n",
        "    if found is not None and not wishes:\n",
        ("tests/steps/test_waiting_deletions.py::test_an_unfinished_deletion_is_never_put_off",),
    ),
    Mutation(
        "a deletion that does not wait for its time",
        "workflows/delete_artifacts.py",
        "        if opened.begins_at is not None:\n",
        "        if opened.begins_at is not None and not opened.chunks:\n",
        ("tests/workflow/test_undo_window.py::test_nothing_is_touched_before_its_time_and_all_is_done_after_it",),
    ),
    Mutation(
        "a prefix confirmed without its quiet period",
        "activities/sweep_prefixes.py",
        "since + self.quiet_period - prefix.now",
        "since - prefix.now",
        ("tests/faults/test_faults.py::test_an_object_written_in_the_quiet_period_is_found",),
    ),
    Mutation(
        "an outage after a long wait left to the policy's backoff",
        "activities/interceptors.py",
        "pause = asked or min(max(age / _AGE_TO_PAUSE, SOONEST), LATEST)\n",
        "pause = asked or min(max(age / _AGE_TO_PAUSE, SOONEST), LATEST)\n    if asked is None:\n        return None\n",
        ("tests/workflow/test_waits.py::test_an_outage_after_a_long_wait_is_looked_at_again_soon",),
    ),
    Mutation(
        "a ceiling that was placed, taken for one that was lifted",
        "activities/ledger/holds.py",
        "Hold.ceiling_of == fence, Hold.lifted_at.is_not(None)",
        "Hold.ceiling_of == fence",
        ("tests/steps/test_ceilings.py::test_a_ceiling_that_another_chunk_places_at_this_moment_holds_this_one_too",),
    ),
    Mutation(
        "rows deleted without another look at what is held",
        "activities/delete_rows.py",
        "        self._refuse_other_holds(session, sealed, every)\n",
        "",
        (f"{_HELD}::test_a_hold_between_collecting_and_deleting_rows_has_the_keys_collected_again_without_what_it_keeps",),
    ),
    Mutation(
        "what is held looked up before the locks",
        "activities/delete_rows.py",
        "        locked = self.backend.lock(session, [artifact.id for artifact in known], sealed.organization_id)\n"
        "        self._refuse_other_holds(session, sealed, every)\n",
        "        self._refuse_other_holds(session, sealed, every)\n"
        "        locked = self.backend.lock(session, [artifact.id for artifact in known], sealed.organization_id)\n",
        (f"{_HELD}::test_a_hold_that_is_placed_while_delete_rows_waits_for_a_lock_is_seen",),
    ),
    Mutation(
        "a comparison of a held artifact deleted with its other side",
        "activities/ledger/held.py",
        "if kept.keeps(other, others.get(other, (None,))[0])",
        "if kept.keeps(one, None)",
        (f"{_HELD}::test_what_was_compared_with_a_held_one_is_held_along_and_no_further",),
    ),
    Mutation(
        "what was let go at the last moment forgotten",
        "activities/close_deletion.py",
        " and not let_go(session, found.id)",
        "",
        ("tests/steps/test_held_commands.py::test_what_is_let_go_while_its_deletion_is_at_work_is_asked_for_again",),
    ),
    Mutation(
        "images of a held project about to be purged",
        "activities/settle_images.py",
        "            self._refuse_held(of.project_id)\n",
        "",
        (f"{_HELD}::test_a_hold_on_a_project_stops_the_purge_of_its_hidden_images",),
    ),
    Mutation(
        "a commit looks without the lock",
        "artifact_deletion/images.py",
        "func.pg_advisory_xact_lock_shared(key)",
        "key",
        ("tests/steps/test_reserved_images.py::test_a_deletion_decides_after_the_commits_that_are_at_work",),
    ),
    Mutation(
        "what was purged is not remembered",
        "activities/images/work.py",
        "project, self.times.reserved)",
        "project, False)",
        ("tests/steps/test_reserved_images.py::test_a_client_that_skipped_before_the_hiding_is_refused_after_the_purge",),
    ),
)


@dataclass(frozen=True)
class Result:
    """What the tests said of a mutation."""

    mutation: Mutation
    code: int
    output: str
    seconds: float

    @property
    def caught(self) -> bool:
        """A test failed: anything else, as a test that is not there or does not start, proves nothing."""
        return self.code == _CAUGHT and _FAILED in self.output

    @property
    def catcher(self) -> str:
        """The test, and what the oracle said if it was the oracle."""
        if not self.caught:
            return "SURVIVED" if self.code == 0 else f"NOT TESTED (pytest ended with {self.code})"
        test = self.output.rpartition(_FAILED)[2].partition(" - ")[0].splitlines()[0]
        said = _ORACLE.search(self.output)
        return f"{test}\n    {said[1][:120]}" if said else f"{test}\n    by an assertion of its own"


def run(mutation: Mutation) -> Result:
    """Apply it to a copy of the tree, and run its tests there."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(ROOT, copy, ignore=_NOT_COPIED)
        (copy / mutation.file).write_text(mutation.mutated(copy))
        command = [sys.executable, "-m", "pytest", "-xq", "--all", "-p", "no:cacheprovider", "--timeout", "90", *mutation.tests]
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        try:
            ended = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
            )
            code, output = ended.returncode, ended.stdout + ended.stderr
        except subprocess.TimeoutExpired as expired:
            code, output = -1, str(expired.stdout)
    return Result(mutation, code, output, time.monotonic() - began)


def chosen(names: Sequence[str]) -> Iterator[Mutation]:
    """Those whose name has one of these parts; all of them without any."""
    return (one for one in MUTATIONS if not names or any(name in one.name for name in names))


def main(names: Sequence[str]) -> int:
    """Print a table. 0 if every mutation was caught."""
    results = []
    for number, mutation in enumerate(chosen(names), start=1):
        result = run(mutation)
        results.append(result)
        print(f"{number:2} {mutation.name} ({mutation.file}, {result.seconds:.0f} s)\n    {result.catcher}", flush=True)
        if not result.caught:
            print(result.output, file=sys.stderr)
    caught = sum(result.caught for result in results)
    print(f"\n{caught} of {len(results)} mutations were caught in {sum(result.seconds for result in results):.0f} s.")
    return 0 if results and caught == len(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
