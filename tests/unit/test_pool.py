from __future__ import annotations

from pathlib import Path

import pytest

from node.settings import Settings, Work
from workers.pool import plan


def settings(**work: int) -> Settings:
    return Settings(work=Work(**work))  # type: ignore[arg-type]


def test_every_gpu_gets_one_process_that_sees_no_other() -> None:
    children = plan(settings(infer_processes=3), None, ["infer", "deliver"], ["0", "1"])
    assert [child.env.get("CUDA_VISIBLE_DEVICES") for child in children] == ["0", "1", None]
    assert all(child.argv[child.argv.index("--concurrency") + 1] == "1" for child in children[:2])


def test_without_a_gpu_as_many_as_the_settings_say() -> None:
    children = plan(settings(infer_processes=3, deliver_processes=2), None, ["infer", "deliver"], [])
    assert [child.name for child in children] == ["infer-0", "infer-1", "infer-2", "deliver"]
    assert children[-1].argv[children[-1].argv.index("--concurrency") + 1] == "2"


@pytest.mark.parametrize(("role", "queues"), [("infer", "infer.stat,infer"), ("deliver", "deliver")])
def test_stat_comes_first_and_nobody_takes_the_work_of_others(role: str, queues: str) -> None:
    (child,) = plan(settings(), None, [role], [])
    assert child.argv[child.argv.index("--queues") + 1] == queues


def test_children_read_the_settings_file_of_their_parent() -> None:
    (child,) = plan(settings(), Path("radnode.toml"), ["deliver"], [])
    assert Path(child.env["RADNODE_CONFIG_FILE"]).is_absolute()
