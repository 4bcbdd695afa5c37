"""Mistakes in deletions of whole projects, in retention, and in what goes by a report. See mutants.py."""

from tests.mutation import Mutation

_BULK, _COMMANDS = "tests/workflow/test_bulk.py", "tests/end_to_end/test_bulk_commands.py"
_RECONCILE = "tests/workflow/test_scheduled_reconcile.py"
_LEFT_TRACES = "tests/steps/test_left_trace_items.py"
_TURNS = "tests/steps/test_bulk_turns.py"
_HELD, _ORPHANS = "tests/steps/test_held_artifacts.py", "tests/steps/test_orphans.py"
_LEFTOVERS = "tests/steps/test_comparison_leftovers.py"

BULK = (
    Mutation(
        "a version whose delete was not answered is remembered without its time",
        "activities/stores/s3.py",
        "            self.memory.describe(found)\n",
        "            pass\n",
        (f"{_ORPHANS}::test_what_the_store_did_not_answer_for_is_as_old_as_it_was[sqlite-none]",),
    ),
    Mutation(
        "a bulk deletion that takes its deletions along",
        "workflows/delete_in_bulk.py",
        "workflow.ParentClosePolicy.ABANDON",
        "workflow.ParentClosePolicy.TERMINATE",
        (f"{_BULK}::test_its_deletions_outlive_it",),
    ),
    Mutation(
        "a bulk deletion confirmed by the one who asked",
        "workflows/delete_in_bulk.py",
        "        if by == self._request.requested_by:\n",
        '        if by == "":\n',
        (f"{_BULK}::test_so_many_artifacts_need_a_second_persons_word",),
    ),
    Mutation(
        "a run that forgets which deletions ran before it",
        "workflows/delete_in_bulk.py",
        '"running": running}',
        '"running": ()}',
        (f"{_BULK}::test_no_history_grows_without_bounds",),
    ),
    Mutation(
        "a bulk deletion that waits for keys that nothing is at work on",
        "activities/ledger/in_flight.py",
        ", ~IS_HELD)",
        ")",
        (f"{_TURNS}::test_only_keys_that_a_deletion_of_the_organization_is_at_work_on_count",),
    ),
    Mutation(
        "a bulk deletion that begins another before the last one's keys are known",
        "activities/next_artifacts.py",
        "if is_fresh and page.last",
        "if not is_fresh and page.last",
        (f"{_TURNS}::test_the_keys_of_the_one_before_are_waited_for_but_not_for_long",),
    ),
    Mutation(
        "a reconcile that passes over failed projects without a word",
        "workflows/reconcile.py",
        "        if run.so_far.failures:\n",
        "        if run.failed_in_a_row:\n",
        (f"{_RECONCILE}::test_a_project_that_cannot_be_looked_at_hides_no_other",),
    ),
    Mutation(
        "a reconcile that takes trace items of an artifact in another project for orphans",
        "activities/reconcile/judge.py",
        "        return Class.TRACE_MOVED\n",
        "        pass\n",
        (f"{_LEFT_TRACES}::test_each_trace_is_in_its_class[sqlite]",),
    ),
    Mutation(
        "a hold on a project that is not looked for",
        "activities/ledger/held.py",
        "if artifact in along or kept.keeps(artifact, project)}",
        "if artifact in along or kept.keeps(artifact, None)}",
        (f"{_HELD}::test_what_is_held_keeps_its_rows_objects_and_trace_items_and_the_rest_of_its_chunk_goes",),
    ),
    Mutation(
        "rows deleted by a report",
        "activities/plan_of_report.py",
        "stay = heads | backend.find(session, artifact_ids).keys()",
        "stay = heads",
        (
            f"{_ORPHANS}::test_an_artifact_that_has_a_row_again_stays_whenever_it_comes_back",
            f"{_ORPHANS}::test_one_that_comes_back_elsewhere_stays_too",
        ),
    ),
    Mutation(
        "a comparison that has its row again, emptied by a report",
        "activities/plan_of_report.py",
        "        _leave_compared(session, chunk, found, {one.name for one in compared})\n",
        "        pass\n",
        (f"{_LEFTOVERS}::test_a_comparison_that_has_a_row_again_stays",),
    ),
    Mutation(
        "a base that expires before its head",
        "activities/selection.py",
        "days_since(added) >= days, days_since(since) >= days)",
        "days_since(added) >= days)",
        ("tests/steps/test_retention.py::test_a_base_is_kept_until_its_last_head_has_expired",),
    ),
    Mutation(
        "an artifact that expires before what inherits from it",
        "activities/backend/preprod_bulk.py",
        "case((has_heirs(), _NEVER)",
        "case((~has_heirs(), _NEVER)",
        ("tests/steps/test_ancestry.py::test_a_chain_expires_from_its_young_end",),
    ),
    Mutation(
        "an artifact that is needed by another app",
        "activities/backend/ancestry.py",
        'artifact.project_id + 0, artifact.app_id + "", artifact',
        "artifact.project_id + 0, artifact",
        ("tests/steps/test_ancestry.py::test_what_a_selective_snapshot_inherits_from_has_not_expired",),
    ),
    Mutation(
        "a page that ends where nothing has expired for a while",
        "activities/selection.py",
        "    while len(rows) < at_most and (ids :=",
        "    if len(rows) < at_most and (ids :=",
        ("tests/steps/test_ancestry.py::test_a_page_is_full_however_many_are_judged_at_once",),
    ),
    Mutation(
        "a deletion that takes what is needed again since its keys were collected",
        "activities/delete_rows.py",
        "if sealed.expired and not_expired(",
        "if sealed.report and not_expired(",
        ("tests/steps/test_not_expired.py::test_what_is_needed_again_stays",),
    ),
    Mutation(
        "a deletion that waits for the shortest grace",
        "activities/selection.py",
        "grace = max((row[-1]",
        "grace = min((row[-1]",
        ("tests/steps/test_retention.py::test_what_expires_together_waits_for_the_longest_grace",),
    ),
    Mutation(
        "what waits asked for once more each night",
        "activities/selection.py",
        "    found = found.where(~in_one_that_waits(artifact))\n",
        "",
        ("tests/end_to_end/test_bulk_commands.py::test_what_expires_waits_for_the_end_of_its_grace_and_can_be_called_off",),
    ),
)
