"""Accounts, sessions, keys and counted attempts, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import select

from db import api_keys, sessions, users
from db.errors import ConflictError, RefusedError
from db.session import Record
from db.sessions import PendingLogin
from db.tables import Audit
from tests.support.records import NOON, race

IDLE_S, LIFETIME_S = 600.0, 3600.0


def audited(record: Record) -> list[tuple[str, str, str]]:
    with record.read() as session:
        return [(row.event, row.actor, row.subject) for row in session.scalars(select(Audit).order_by(Audit.id))]


def person(record: Record, name: str = "ada", *roles: str) -> int:
    with record.write() as session:
        return users.create(session, name, "hash", roles or ("viewer",), actor="root").id


def opened(record: Record, user_id: int, token: str) -> None:
    with record.write() as session:
        sessions.start(session, user_id, token, address="127.0.0.1", lifetime_s=LIFETIME_S, now=NOON)


def found(record: Record, token: str, after_s: float = 0.0) -> sessions.SessionView | None:
    with record.read() as session:
        return sessions.find(session, token, idle_s=IDLE_S, now=NOON + timedelta(seconds=after_s))


def test_an_account_is_made_once_and_its_changes_are_on_record(record: Record) -> None:
    person(record)
    with pytest.raises(ConflictError, match="ada"), record.write() as session:
        users.create(session, "ada", "other", (), actor="root")
    with record.write() as session:
        users.set_roles(session, "ada", ["auditor"], actor="root")
        users.set_password(session, "ada", "new", actor="root")
    with record.read() as session:
        known = users.credentials(session, "ada")
        assert users.credentials(session, "eve") is None
        assert [user.name for user in users.everyone(session)] == ["ada"]
    assert known is not None
    assert (known.password_hash, known.user.roles, known.user.provided) == ("new", ("auditor",), False)
    assert audited(record) == [
        ("user_created", "root", "ada"),
        ("user_roles_changed", "root", "ada"),
        ("user_password_changed", "root", "ada"),
    ]


def test_a_newer_hash_takes_only_the_place_of_the_one_it_was_made_for(record: Record) -> None:
    user_id = person(record)
    with record.write() as session:
        assert users.rehash(session, user_id, "hash", "stronger")
        assert not users.rehash(session, user_id, "hash", "another")
    with record.read() as session:
        known = users.credentials(session, "ada")
    assert known is not None
    assert known.password_hash == "stronger"


@pytest.mark.parametrize("change", [users.disable, users.enable])
def test_changes_of_an_unknown_account_are_refused(record: Record, change: Callable[..., None]) -> None:
    with pytest.raises(users.UnknownUser, match="eve"), record.write() as session:
        change(session, "eve", actor="root")


def test_the_last_allowed_wrong_password_locks_and_a_right_one_forgives(record: Record) -> None:
    user_id = person(record)

    def fail() -> object:
        with record.write() as session:
            return users.note_failure(session, user_id, limit=3, lock_s=60, now=NOON)

    assert [fail(), fail()] == [None, None]
    with record.write() as session:
        users.note_login(session, user_id, NOON)
    assert [fail(), fail(), fail()] == [None, None, NOON + timedelta(seconds=60)]
    with record.read() as session:
        known = users.credentials(session, "ada")
    assert known is not None
    assert known.user.locked_until == NOON + timedelta(seconds=60)
    assert ("user_locked", "web", "ada") in audited(record)
    with record.write() as session:
        users.enable(session, "ada", actor="root")
    with record.read() as session:
        assert users.everyone(session)[0].locked_until is None


def test_wrong_passwords_at_the_same_moment_are_all_counted(record: Record) -> None:
    user_id = person(record)

    def fail(_number: int) -> bool:
        with record.write() as session:
            return users.note_failure(session, user_id, limit=4, lock_s=60, now=NOON) is not None

    assert sorted(race(4, fail)) == [False, False, False, True]


def test_somebody_vouched_for_is_one_account_whose_roles_follow_the_provider(record: Record) -> None:
    person(record, "ada")
    with record.write() as session:
        first = users.vouched(session, "https://idp", "42", "ada", ["viewer"])
    with record.write() as session:
        again = users.vouched(session, "https://idp", "42", "renamed", ["radiologist"])
    assert first.id == again.id
    assert (first.name, again.name, again.roles, again.provided) == ("ada-2", "ada-2", ("radiologist",), True)
    with pytest.raises(RefusedError, match="identity provider"), record.write() as session:
        users.set_password(session, "ada-2", "x", actor="root")


def test_a_session_ends_when_idle_when_old_and_when_ended(record: Record) -> None:
    user_id = person(record)
    opened(record, user_id, "a" * 64)
    view = found(record, "a" * 64)
    assert view is not None
    assert (view.user, view.roles) == ("ada", ("viewer",))
    assert found(record, "b" * 64) is None
    assert found(record, "a" * 64, IDLE_S) is None
    with record.write() as session:
        sessions.seen(session, view.id, NOON + timedelta(seconds=LIFETIME_S - 10))
    assert found(record, "a" * 64, LIFETIME_S - 1) is not None
    assert found(record, "a" * 64, LIFETIME_S) is None
    with record.write() as session:
        assert sessions.end(session, "a" * 64, by="logout", now=NOON)
        assert not sessions.end(session, "a" * 64, by="logout", now=NOON)
    with record.write() as session:
        sessions.seen(session, view.id, NOON)
    assert found(record, "a" * 64) is None


def test_disabling_an_account_or_changing_its_password_ends_its_sessions_only(record: Record) -> None:
    ada, bob = person(record, "ada"), person(record, "bob")
    for user_id, token in ((ada, "a"), (bob, "b")):
        opened(record, user_id, token)
    with record.write() as session:
        users.set_password(session, "ada", "new", actor="root")
    assert found(record, "a") is None
    assert found(record, "b") is not None
    opened(record, ada, "c")
    with record.write() as session:
        users.disable(session, "ada", actor="root")
    assert found(record, "c") is None
    with record.write() as session:
        users.enable(session, "ada", actor="root")
    assert found(record, "c") is None
    with record.write() as session:
        assert sessions.end_all(session, bob, "test") == 1


def test_a_log_in_under_way_is_taken_once_and_in_time(record: Record) -> None:
    pending = PendingLogin("browser", "nonce", "verifier", "/studies/1.2")
    with record.write() as session:
        sessions.begin_login(session, "s", pending, expires_at=NOON + timedelta(seconds=60))
        sessions.begin_login(session, "late", pending, expires_at=NOON)

    def take(_number: int) -> PendingLogin | None:
        with record.write() as session:
            return sessions.take_login(session, "s", now=NOON)

    assert sorted(race(3, take), key=str) == [None, None, pending]
    with record.write() as session:
        assert sessions.take_login(session, "late", now=NOON) is None


def test_attempts_are_counted_within_a_window(record: Record) -> None:
    def count(after_s: float = 0.0) -> int:
        with record.read() as session:
            return sessions.failures_of(session, "x", window_s=60, now=NOON + timedelta(seconds=after_s))

    assert count() == 0
    for after_s in (0, 1, 2):
        with record.write() as session:
            sessions.count_failure(session, "x", window_s=60, now=NOON + timedelta(seconds=after_s))
    assert (count(59), count(60)) == (3, 0)
    with record.write() as session:
        sessions.count_failure(session, "x", window_s=60, now=NOON + timedelta(seconds=61))
    assert count(62) == 1


def test_what_is_over_is_forgotten_and_what_is_not_stays(record: Record) -> None:
    user_id = person(record)
    opened(record, user_id, "running")
    later = NOON + timedelta(seconds=30)
    with record.write() as session:
        sessions.begin_login(session, "s", PendingLogin("b", "n", "v", "/"), expires_at=later)
        sessions.count_failure(session, "x", window_s=60, now=NOON)
        sessions.purge(session, window_s=60, now=NOON)
    assert found(record, "running") is not None
    with record.write() as session:
        assert sessions.failures_of(session, "x", window_s=60, now=NOON) == 1
        sessions.purge(session, window_s=60, now=NOON + timedelta(days=8))
    with record.write() as session:
        assert sessions.take_login(session, "s", now=NOON) is None
        assert sessions.failures_of(session, "x", window_s=60, now=NOON) == 0
    assert found(record, "running") is None


def test_a_key_opens_until_it_is_revoked_or_expires(record: Record) -> None:
    with record.write() as session:
        for name, days in (("grafana", 1), ("other", 2)):
            expires_at = NOON + timedelta(days=days)
            scopes = ["metrics:read"]
            api_keys.add(
                session, name, prefix=name[:3], key_digest=name, scopes=scopes, expires_at=expires_at, actor="root"
            )

    def view(digest: str, hours: float = 0.0) -> api_keys.KeyView | None:
        with record.read() as session:
            return api_keys.in_force(session, digest, now=NOON + timedelta(hours=hours))

    known = view("grafana")
    assert known is not None
    assert (known.name, known.scopes, known.last_used_at) == ("grafana", ("metrics:read",), None)
    assert view("unknown") is None
    assert view("grafana", hours=24) is None
    with record.write() as session:
        api_keys.used(session, known.id, NOON)
        api_keys.revoke(session, "other", actor="root")
    assert view("other") is None
    with record.read() as session:
        first, second = api_keys.every_key(session)
    assert (first.last_used_at, first.revoked_at) == (NOON, None)
    assert second.revoked_at is not None
    with pytest.raises(RefusedError, match="already"), record.write() as session:
        api_keys.revoke(session, "other", actor="root")
    with pytest.raises(api_keys.UnknownKey), record.write() as session:
        api_keys.revoke(session, "nobody", actor="root")
    with pytest.raises(ConflictError, match="other"), record.write() as session:
        api_keys.add(session, "other", prefix="p", key_digest="d", scopes=[], expires_at=NOON, actor="root")
    assert audited(record)[-1] == ("api_key_revoked", "root", "other")
