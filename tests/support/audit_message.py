"""What PS3.15 A.5.1 allows in an audit message, as RELAX NG written from its tables; RFC 5424 read strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lxml import etree

_CODED = "".join(
    f'<attribute name="{name}"><data type="token"/></attribute>' for name in ("csd-code", "codeSystemName")
)
_CODED += '<optional><attribute name="displayName"><data type="token"/></attribute></optional>'
_CODED += '<attribute name="originalText"><data type="token"/></attribute>'


def _one_of(name: str, values: str, *, optional: bool = True) -> str:
    choices = "".join(f"<value>{value}</value>" for value in values.split())
    found = f'<attribute name="{name}"><choice>{choices}</choice></attribute>'
    return f"<optional>{found}</optional>" if optional else found


def _numbers(last: int) -> str:
    return " ".join(map(str, range(1, last + 1)))


def _token(name: str) -> str:
    return f'<attribute name="{name}"><data type="token"/></attribute>'


def _uid(name: str = "UID") -> str:
    return (
        f'<attribute name="{name}"><data type="token"><param name="pattern">[0-9.]{{1,64}}</param></data></attribute>'
    )


_SCHEMA = f"""
<element name="AuditMessage" xmlns="http://relaxng.org/ns/structure/1.0"
         datatypeLibrary="http://www.w3.org/2001/XMLSchema-datatypes">
  <element name="EventIdentification">
    {_one_of("EventActionCode", "C R U D E")}
    <attribute name="EventDateTime"><data type="dateTime"/></attribute>
    {_one_of("EventOutcomeIndicator", "0 4 8 12", optional=False)}
    <element name="EventID">{_CODED}</element>
    <zeroOrMore><element name="EventTypeCode">{_CODED}</element></zeroOrMore>
    <optional><element name="EventOutcomeDescription"><text/></element></optional>
  </element>
  <oneOrMore>
    <element name="ActiveParticipant">
      <attribute name="UserID"/>
      <optional><attribute name="AlternativeUserID"/></optional>
      <optional><attribute name="UserName"/></optional>
      <attribute name="UserIsRequestor"><data type="boolean"/></attribute>
      <optional>{_token("NetworkAccessPointID")}</optional>
      {_one_of("NetworkAccessPointTypeCode", _numbers(5))}
      <zeroOrMore><element name="RoleIDCode">{_CODED}</element></zeroOrMore>
    </element>
  </oneOrMore>
  <element name="AuditSourceIdentification">
    <optional>{_token("AuditEnterpriseSiteID")}</optional>
    {_token("AuditSourceID")}
    <zeroOrMore>
      <element name="AuditSourceTypeCode">{_one_of("csd-code", _numbers(9), optional=False)}</element>
    </zeroOrMore>
  </element>
  <zeroOrMore>
    <element name="ParticipantObjectIdentification">
      {_token("ParticipantObjectID")}
      {_one_of("ParticipantObjectTypeCode", _numbers(4))}
      {_one_of("ParticipantObjectTypeCodeRole", _numbers(26))}
      {_one_of("ParticipantObjectDataLifeCycle", _numbers(15))}
      <element name="ParticipantObjectIDTypeCode">{_CODED}</element>
      <choice>
        <element name="ParticipantObjectName"><data type="token"/></element>
        <element name="ParticipantObjectQuery"><data type="base64Binary"/></element>
      </choice>
      <zeroOrMore>
        <element name="ParticipantObjectDetail">
          {_token("type")}
          <attribute name="value"><data type="base64Binary"/></attribute>
        </element>
      </zeroOrMore>
      <zeroOrMore>
        <element name="ParticipantObjectDescription">
          <zeroOrMore>
            <element name="SOPClass">
              {_uid()}
              <attribute name="NumberOfInstances"><data type="integer"/></attribute>
              <zeroOrMore><element name="Instance">{_uid()}</element></zeroOrMore>
            </element>
          </zeroOrMore>
        </element>
      </zeroOrMore>
    </element>
  </zeroOrMore>
</element>
"""
_VALIDATOR = etree.RelaxNG(etree.fromstring(_SCHEMA))

_HEAD = re.compile(
    r"<(?P<priority>\d{1,3})>1 (?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) (?P<host>[!-~]{1,255}) "
    r"(?P<application>[!-~]{1,48}) (?P<process>[!-~]{1,128}) (?P<id>[!-~]{1,32}) "
)
_NAME = r"[!#-<>-\\^-~]{1,32}"
_PARAMETER = re.compile(rf' (?P<name>{_NAME})="(?P<value>(?:\\["\\\]]|[^"\\\]])*)"')


@dataclass(frozen=True)
class Syslog:
    """A message of RFC 5424. data: structured data as {element: {parameter: value}}."""

    priority: int
    host: str
    application: str
    id: str
    data: dict[str, dict[str, str]]
    body: str


def validated(message: str) -> etree._Element:
    """The parsed message. Raises AssertionError, naming what A.5.1 does not allow."""
    root = etree.fromstring(message.encode())
    assert _VALIDATOR.validate(root), _VALIDATOR.error_log
    requestors = root.xpath("count(ActiveParticipant[@UserIsRequestor='true'])")
    assert requestors <= 1, "A.5.2: at most one participant asked for it"
    return root


def frames(stream: bytes) -> list[bytes]:
    """The messages of a stream in the frames of RFC 5425; every octet belongs to one."""
    found = []
    while stream:
        length, space, rest = stream.partition(b" ")
        assert space
        assert re.fullmatch(rb"[1-9]\d*", length), length
        assert len(rest) >= int(length)
        found.append(rest[: int(length)])
        stream = rest[int(length) :]
    return found


def parsed(message: bytes) -> Syslog:
    """Raises AssertionError where the message is none of RFC 5424."""
    text = message.decode("utf-8")
    head = _HEAD.match(text)
    assert head is not None, text[:200]
    at, data = head.end(), {}
    while text[at] == "[":
        name = re.compile(_NAME).match(text, at + 1)
        assert name is not None
        at, parameters = name.end(), {}
        while text[at] != "]":
            parameter = _PARAMETER.match(text, at)
            assert parameter is not None, text[at : at + 80]
            parameters[parameter["name"]] = re.sub(r'\\(["\\\]])', r"\1", parameter["value"])
            at = parameter.end()
        data[name[0]] = parameters
        at += 1
    assert text[at : at + 2] == " \ufeff", "a body in UTF-8 begins with a byte order mark"
    return Syslog(int(head["priority"]), head["host"], head["application"], head["id"], data, text[at + 2 :])
