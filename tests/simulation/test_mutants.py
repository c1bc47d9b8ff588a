"""The simulation finds bugs: each one that is planted, within 2,000 seeds."""

from __future__ import annotations

from itertools import chain
from typing import Final

import pytest

from .mutants import MUTANTS
from .running import run_seeds

FOUND_BY: Final = {
    "a_put_returns_before_its_entries_are_committed": 23,
    "a_put_returns_although_a_store_has_failed": 11,
    "a_put_is_pending_for_one_store_only": 0,
    "a_put_says_the_contrary_of_what_it_has_added": 0,
    "a_queue_is_longer_than_it_should_be": 0,
    "a_put_is_not_woken_by_poison": 273,
    "a_put_that_waits_is_never_let_in": 18,
    "what_is_unreplicated_forgets_the_batch_in_flight": 2,
    "a_flush_forgets_the_batch_in_flight": 71,
    "a_block_ends_without_the_batch_in_flight": 0,
    "a_poisoned_replica_lets_those_wait_who_flush": 231,
    "an_entry_is_acknowledged_when_it_is_taken": 13,
    "an_error_is_proof_of_absence": 157,
    "one_miss_is_proof_of_absence": 157,
    "the_watermark_passes_puts_under_way": 37,
    "what_a_crash_leaves_in_doubt_is_taken_for_certain": 37,
    "a_put_that_fails_withdraws_the_entries_of_others": 1,
    "entries_of_earlier_sessions_are_forgotten": 0,
    "an_entry_in_hand_is_delivered_again": 92,
    "entries_of_earlier_puts_are_skipped": 762,
    "what_is_left_in_the_meantime_is_forgotten": 92,
    "a_block_ends_with_entries_and_says_nothing": 0,
    "a_worker_is_not_woken_when_acknowledgements_have_room": 10,
    "an_outbox_is_not_synced": 0,
    "an_outcome_is_kept_although_its_commit_failed": 58,
    "acknowledgements_are_lost_when_a_commit_fails": 165,
    "an_outbox_that_fails_is_named_as_a_store": 190,
    "a_winner_is_not_verified": 45,
    "a_failure_is_taken_for_a_miss": 1,
    "contains_says_yes_of_everything": 10,
    "a_listing_ends_at_the_shorter_store": 45,
    "a_listing_goes_on_after_the_longer_page": 161,
    "a_store_that_can_not_be_listed_has_ended": 34,
    "poison_wakes_who_waits_for_its_own_queue_only": 13,
    "a_batch_that_failed_is_acknowledged": 194,
    "an_entry_is_written_for_a_position": 10,
    "acknowledgements_that_a_cancelled_put_carried_are_lost": 165,
    "a_clean_exit_leaves_the_watermark_behind_an_abandoned_put": 1,
    "an_entry_is_acknowledged_by_its_ref": 1,
    "a_doubt_is_dropped_while_its_last_entry_is_there": 0,
    "a_reconcile_believes_a_listing": 2,
    "a_reconcile_believes_contains": 5,
    "a_reconcile_believes_a_put": 1,
    "a_reconcile_believes_that_a_blob_was_there": 3,
    "a_reconcile_believes_who_has_lied_before": 1,
    "a_scrub_takes_a_ghost_for_deleted": 7,
    "a_scrub_asks_no_more_once_it_has_read": 3,
    "a_scrub_believes_that_a_listing_is_whole": 3,
    "a_repair_believes_a_write": 0,
    "a_store_names_a_file_that_is_not_synced": 0,
}
"""A seed that finds each bug: it is tried first, because that is faster. Any other would do."""


SLOW: Final = {
    "acknowledgements_are_lost_when_a_commit_fails",
    "acknowledgements_that_a_cancelled_put_carried_are_lost",
}
"""Bugs after which something goes round for as many steps as ten sessions take."""


def test_there_is_a_seed_for_every_bug() -> None:
    assert FOUND_BY.keys() == MUTANTS.keys()


@pytest.mark.parametrize("bug", [pytest.param(bug, marks=[pytest.mark.deep] * (bug in SLOW)) for bug in MUTANTS])
def test_a_planted_bug_is_found(bug: str) -> None:
    (failure,) = run_seeds(chain([FOUND_BY[bug]], range(2000)), bug).failures
    assert "Violation: " in failure.error
