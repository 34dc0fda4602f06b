"""rsyslog as the hospital's audit collector, over TLS with a certificate of its own, or over TCP in the clear."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import Authority
from tests.support.processes import listens, program, running

_TLS = """
global(
  defaultNetstreamDriverCAFile="{ca}"
  defaultNetstreamDriverCertFile="{certificate}"
  defaultNetstreamDriverKeyFile="{key}"
)
"""
_CONFIG = """
global(workDirectory="{folder}" maxMessageSize="64k" parser.escapeControlCharactersOnReceive="off")
{tls}
module(load="imtcp" {driver})
template(name="whole" type="string" string="%rawmsg%\\n")
input(type="imtcp" address="127.0.0.1" port="{port}")
action(type="omfile" file="{messages}" template="whole")
"""
_DRIVER = 'streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="{auth}"'


@dataclass(frozen=True)
class Collector:
    port: int
    messages: Path

    def received(self) -> list[bytes]:
        """The messages taken, as they came, without their frames."""
        return self.messages.read_bytes().splitlines() if self.messages.exists() else []


@contextmanager
def rsyslog(
    folder: Path, port: int, authority: Authority | None = None, *, ask_certificate: bool = False
) -> Iterator[Collector]:
    """Run it. authority: signs its certificate; without one it listens in the clear. ask_certificate: senders need
    one of that authority too."""
    folder.mkdir(parents=True, exist_ok=True)
    tls = driver = ""
    if authority is not None:
        certificate, key = authority.issue("collector")
        tls = _TLS.format(ca=authority.ca, certificate=certificate, key=key)
        driver = _DRIVER.format(auth="x509/certvalid" if ask_certificate else "anon")
    collector = Collector(port, folder / "messages")
    config = folder / "rsyslog.conf"
    config.write_text(_CONFIG.format(folder=folder, tls=tls, driver=driver, port=port, messages=collector.messages))
    argv = [program("rsyslogd", "rsyslog"), "-n", "-f", str(config), "-i", str(folder / "pid")]
    with running(argv, lambda: listens(port), log=folder / "rsyslog.log"):
        yield collector
