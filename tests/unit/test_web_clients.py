"""Whose request it is, where a log-in leads, and what people read: the web side's pure parts."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from db.errors import RefusedError
from db.states import DeliveryState, JobState, StudyState
from db.worklist import JobView, PatientView, StudyRow
from node.settings_web import Web
from node.web import passwords, tokens
from node.web.clients import Client, identify
from node.web.destinations import safe_destination
from node.web.permissions import ROLE_PERMISSIONS, SCOPES, Permission, Role, permissions_of, permissions_of_scopes
from node.web.rows import MASKED, line
from node.web.wording import duration, minute, moment, person_name, plain, probability, process

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "proto", "found"),
    [
        ("192.0.2.1", None, None, Client("192.0.2.1", False, True)),
        # Nobody that the settings do not name may say who asks.
        ("192.0.2.1", "127.0.0.1", "https", Client("192.0.2.1", False, False)),
        ("10.0.0.1", "192.0.2.9", "https", Client("192.0.2.9", True, False)),
        # What stands left of the first untrusted address is that one's claim.
        ("10.0.0.1", "127.0.0.1, 192.0.2.9, 10.0.0.2", "http", Client("192.0.2.9", False, False)),
        ("10.0.0.1", "garbage", None, Client("10.0.0.1", False, False)),
        ("::1", "2001:db8::1", "http,https", Client("2001:db8::1", True, False)),
        ("::ffff:10.0.0.1", "192.0.2.9", None, Client("192.0.2.9", False, False)),
        ("", None, None, Client("unknown", False, True)),
    ],
)
def test_only_trusted_proxies_say_who_asks(
    peer: str, forwarded_for: str | None, proto: str | None, found: Client
) -> None:
    assert identify(peer, "http", forwarded_for, proto, PROXIES) == found


def test_loopback_is_this_machine_itself_and_nobody_through_a_proxy() -> None:
    assert identify("127.0.0.1", "http", None, None, ()).loopback
    assert identify("::1", "http", None, None, ()).loopback
    assert not identify("127.0.0.1", "http", "192.0.2.1", None, ()).loopback
    assert not identify("10.0.0.1", "http", "127.0.0.1", None, PROXIES).loopback
    assert not identify("unix", "http", None, None, ()).loopback


@given(st.text(max_size=60))
def test_a_destination_is_a_path_of_this_node(wanted: str) -> None:
    found = safe_destination(wanted)
    assert found.startswith("/")
    assert not found.startswith(("//", "/\\"))
    assert found.isprintable()
    assert found in {wanted, "/"}


def test_every_role_is_in_the_table_and_nobody_else_has_a_right() -> None:
    assert set(ROLE_PERMISSIONS) == set(Role)
    assert permissions_of(["no such role", "root"]) == frozenset()
    assert permissions_of(["auditor", "ml-engineer"]) == (
        ROLE_PERMISSIONS[Role.AUDITOR] | ROLE_PERMISSIONS[Role.ML_ENGINEER]
    )
    assert permissions_of_scopes(["studies:read", "self", "everything"]) == {Permission.STUDIES_READ}
    assert Permission.PATIENTS_READ not in permissions_of(["auditor", "ml-engineer"])
    # A key judges no findings: only a person does.
    assert set(SCOPES) | {Permission.SELF, Permission.READINGS_WRITE} == set(Permission)
    assert not set(SCOPES) & {Permission.SELF, Permission.READINGS_WRITE}


def test_passwords_are_hashed_with_salt_and_verified() -> None:
    first, second = passwords.hash_password("correct horse battery"), passwords.hash_password("correct horse battery")
    assert first != second
    assert first.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.verify(first, "correct horse battery")
    assert not passwords.verify(first, "correct horse batterY")
    assert not passwords.verify("", "")
    assert not passwords.verify("no hash", "x")
    assert not passwords.verify(first, "x" * 2000)
    assert not passwords.outdated(first)
    assert passwords.outdated("$argon2id$v=19$m=1024,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAA")


@pytest.mark.parametrize(
    "password", ["", "short", "aaaaaaaaaaaaaaaa", "my-name-is-Ada-indeed", "Radnode-2026!!", "x" * 1025]
)
def test_passwords_that_are_easily_guessed_are_refused(password: str) -> None:
    with pytest.raises(RefusedError):
        passwords.check_policy(password, "ada")


def test_a_long_password_in_any_script_is_taken() -> None:
    passwords.check_policy("vier Wörter ohne Sinn", "ada")
    passwords.check_policy("正しい馬の電池ホチキスです", "ada")


def test_tokens_are_long_and_their_csrf_tokens_their_own() -> None:
    first, second = tokens.new_token(), tokens.new_token()
    assert len(first) == 43
    assert tokens.csrf_of(first) == tokens.csrf_of(first)
    assert len({tokens.csrf_of(first), tokens.csrf_of(second), tokens.digest(first), tokens.digest(second)}) == 4
    key = tokens.NewKey.make()
    assert key.text.startswith(f"{key.prefix}_")
    assert len(key.text) >= 43 + len(key.prefix)


def test_times_numbers_and_names_read_well() -> None:
    said = [duration(s) for s in (-1, 59.9, 60, 3599, 3661, 90000)]
    assert said == ["0 s", "59 s", "1 min", "59 min", "1 h 1 min", "1 d 1 h"]
    assert (moment(NOW), minute(NOW)) == ("2026-03-01 12:00:00 UTC", "2026-03-01 12:00 UTC")
    assert moment(None) == "\N{EN DASH}"
    assert [probability(p) for p in (0.0, 0.5, 0.994, 1.0)] == ["< 0.01", "0.50", "> 0.99", "> 0.99"]
    assert person_name("Doe^Jane^^Dr") == "Doe, Jane, Dr"
    assert person_name("Yamada^Tarou=山田^太郎=やまだ^たろう") == "Yamada, Tarou / 山田, 太郎 / やまだ, たろう"
    assert person_name("^^=") == ""


def job(
    state: JobState = JobState.DONE, *, priority: str = "routine", minutes: float = 3, **changes: object
) -> JobView:
    found = {"label": "a", "presence": "absent", "probability": 0.4, "threshold": 0.5, "priority": "routine"}
    values: dict[str, object] = {
        "id": "j",
        "model": "cxr",
        "model_version": "1.0.0",
        "state": state,
        "reason": "",
        "priority": priority,
        "route": "chest",
        "revision": 1,
        "current": True,
        "created_at": NOW,
        "finished_at": NOW + timedelta(minutes=minutes) if state in {JobState.DONE, JobState.PARKED} else None,
        "summary": {"images": [{"findings": [found]}]},
    }
    return JobView(**{**values, **changes})  # type: ignore[arg-type]


def row(*jobs: JobView, state: StudyState = StudyState.COMPLETE) -> StudyRow:
    patient = PatientView("Doe^Jane", "ID-1", "A-1")
    sent = {DeliveryState.DEAD: 1, DeliveryState.CONFIRMED: 2}
    return StudyRow(1, "1.2", state, "quiet", "AE", "Chest of Doe", NOW, NOW, patient, ("CR",), (), 1, jobs, sent)


def test_a_study_is_as_far_as_the_job_that_needs_most() -> None:
    at = NOW + timedelta(minutes=5)
    told = [
        line(row(*jobs), Web(), at, show_patient=True).state_text
        for jobs in (
            (job(),),
            (job(), job(JobState.RUNNING)),
            (job(), job(JobState.QUEUED), job(JobState.PARKED)),
            (job(JobState.PARKED, current=False), job()),
            (),
        )
    ]
    assert told == ["read", "being read (1 of 2)", "needs attention (1 of 3)", "read", "stored only"]
    more = line(row(job(), state=StudyState.RECEIVING), Web(), at, show_patient=True)
    assert more.state_text == "read, more images coming"


def test_age_stops_when_all_work_is_done_and_is_late_beyond_its_target() -> None:
    at = NOW + timedelta(hours=5)
    web = Web(target_stat_s=60, target_routine_s=600)
    done = line(row(job(minutes=3)), web, at, show_patient=True)
    assert (done.age_s, done.late) == (180, False)
    stat = line(row(job(minutes=3, priority="stat")), web, at, show_patient=True)
    assert (stat.priority, stat.target_s, stat.late) == ("stat", 60, True)
    waiting = line(row(job(), job(JobState.QUEUED)), web, at, show_patient=True)
    assert (waiting.age_s, waiting.late) == (18000, True)
    assert not line(row(), web, at, show_patient=True).late


def test_the_finding_on_top_is_a_present_one_then_the_nearest_to_its_threshold() -> None:
    def with_findings(*found: tuple[str, str, object, object]) -> JobView:
        keys = ("label", "presence", "probability", "threshold")
        return job(summary={"images": [{"findings": [dict(zip(keys, one, strict=True)) for one in found]}]})

    listed = with_findings(("a", "absent", 0.89, 0.9), ("b", "present", 0.3, 0.2), ("c", "absent", 0.1, 0.5))
    top = line(row(listed), Web(), NOW, show_patient=True).finding
    assert top is not None
    assert top.label == "b"
    # What is no finding, whatever an older release wrote, is left out.
    odd = job(summary={"images": [{"findings": ["x", {"label": "y"}]}, "z"]})
    assert line(row(odd), Web(), NOW, show_patient=True).finding is None
    assert line(row(job(summary={"images": "?"})), Web(), NOW, show_patient=True).finding is None


def test_a_masked_line_holds_nothing_of_the_patient() -> None:
    masked = line(row(job()), Web(), NOW, show_patient=False)
    assert (masked.patient, masked.patient_id, masked.accession, masked.description) == (MASKED, MASKED, "", "")
    assert "Doe" not in str(masked)
    assert masked.deliveries == (("dead", "given up", 1), ("confirmed", "confirmed", 2))


def test_an_audit_entrys_detail_is_read_without_brackets() -> None:
    told = {"1.2": {"count": 2, "uids": ["3.4", "5.6"]}, "commented": True}
    assert plain(told) == "1.2: count: 2; uids: 3.4, 5.6; commented: yes"
    assert plain(None) == "None"


def test_a_process_is_named_without_its_node_and_a_person_as_they_are() -> None:
    assert process("8fa28a066cd0facb:infer:21140") == "infer:21140"
    assert process("ada:infer:1") == "ada:infer:1"
