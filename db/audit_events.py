"""Every event the audit trail knows, by name. A name outside of this list does not pass the type checker.

What each of them is to a collector, in the words of DICOM PS3.15 A.5, stands in `node/audit/catalogue.py`.
"""

from __future__ import annotations

from typing import Literal, get_args

Outcome = Literal["success", "warning", "failure"]

Event = Literal[
    # The node and its settings.
    "application_started",
    "application_stopped",
    "settings_changed",
    # Associations and images.
    "association_rejected",
    "handshake_failed",
    "instances_received",
    "instance_refused",
    "patient_mismatch",
    "instance_released",
    "study_routed",
    # What the hospital's other systems say of a study.
    "order_matched",
    "order_mismatched",
    "priors_fetched",
    "priors_absent",
    "priors_refused",
    "notice_received",
    "commitment_asked",
    "workitem_received",
    "workitem_changed",
    "workitem_claimed",
    "workitem_performed",
    # Work and its results.
    "job_finished",
    "job_parked",
    "job_retried",
    "job_given_up",
    "sending_begun",
    "result_sent",
    "delivery_dead",
    "delivery_retried",
    # Messages of HL7 v2.
    "message_sent",
    "message_refused",
    "order_received",
    "patient_identity_changed",
    # Models.
    "model_installed",
    "model_validated",
    "model_activated",
    "model_rolled_back",
    "model_shadowed",
    "model_retired",
    # People and programs.
    "login",
    "logout",
    "access_denied",
    "user_created",
    "user_password_changed",
    "user_roles_changed",
    "user_disabled",
    "user_enabled",
    "user_locked",
    "api_key_created",
    "api_key_revoked",
    # What people saw and took away.
    "patients_shown",
    "study_viewed",
    "report_viewed",
    "study_exported",
    # What readers said of the models' findings, and had read again.
    "finding_judged",
    "judgement_undone",
    "first_read",
    "study_rerun",
    # What was deleted.
    "study_deleted",
    "instances_deleted",
    # The audit trail itself.
    "audit_used",
    "audit_pruned",
]

EVENTS: tuple[str, ...] = get_args(Event)

# Their subject is a UID. Some come from peers, who may write anything where one belongs.
UID_SUBJECTS: frozenset[Event] = frozenset(
    {
        "instances_received",
        "instance_refused",
        "patient_mismatch",
        "instance_released",
        "study_routed",
        "patient_identity_changed",
        "order_matched",
        "order_mismatched",
        "priors_fetched",
        "priors_absent",
        "priors_refused",
        "notice_received",
        "commitment_asked",
        "workitem_received",
        "workitem_changed",
        "workitem_claimed",
        "workitem_performed",
        "result_sent",
        "delivery_dead",
        "study_viewed",
        "report_viewed",
        "study_exported",
        "finding_judged",
        "judgement_undone",
        "first_read",
        "study_rerun",
        "study_deleted",
        "instances_deleted",
    }
)
