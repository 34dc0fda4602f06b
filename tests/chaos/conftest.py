"""One site for all faults that can be mended while it runs; every test leaves it whole again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.proxy import PASS
from tests.support.site import Site, running_site


@pytest.fixture(scope="session")
def one_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as site:
        # The first image loads the model and the first delivery opens every connection: no figure is to hold that.
        site.wait_delivered(site.send("PACS"), timeout_s=120)
        yield site


@pytest.fixture
def site(one_site: Site) -> Iterator[Site]:
    yield one_site
    one_site.line.set(PASS)
    one_site.picky.answers.clear()
    one_site.picky.commits = True
    one_site.picky.take(reports=True)
