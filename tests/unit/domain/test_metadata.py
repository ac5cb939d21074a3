"""sevfork's own element in a domain's metadata: written, read back, and hostile ones refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevfork.domain import metadata_xml
from sevfork.domain.elements import to_text
from sevfork.domain.metadata import Maker, Metadata, Phase, ProcessorState, PublishedPort, Transport
from sevfork.errors import WrongState
from sevfork.handshake.launch import Role
from sevfork.technology import Technology

words = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1)
ports = st.integers(1, 65535)
addresses = st.ip_addresses(v=4).map(str)
published = st.builds(PublishedPort, ports, ports, addresses, st.sampled_from(Transport))
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)
metadatas = st.builds(
    Metadata,
    technology=st.sampled_from(Technology),
    role=st.sampled_from(Role),
    phase=st.sampled_from(Phase),
    image=words,
    cpu_model=words,
    generation=st.integers(0, 2**40),
    parent=st.just("11111111-2222-4333-8444-555555555555"),
    parent_name=st.none() | words,
    fork_id=st.none() | st.binary(min_size=16, max_size=16).map(bytes.hex),
    index=st.none() | st.integers(0, 63),
    workload_ports=st.lists(ports).map(tuple),
    ports=st.lists(published).map(tuple),
    volumes=st.lists(names).map(tuple),
    maker=st.none() | st.builds(Maker, words, words, st.integers(1, 2**22), st.integers(0)),
    ended=st.none() | st.integers(-64, 255),
    owner=st.none() | st.binary(min_size=48, max_size=48),
    processor=st.none()
    | st.builds(
        ProcessorState,
        st.binary(min_size=48, max_size=48),
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=32, max_size=32),
    ),
)


@given(metadatas)
def test_metadata_is_read_back_as_it_was_written(metadata: Metadata) -> None:
    assert metadata_xml.read(to_text(metadata_xml.element(metadata))) == metadata
    assert metadata_xml.read(metadata_xml.write(metadata)) == metadata


def test_what_libvirt_is_handed_has_no_namespace() -> None:
    metadata = Metadata(Technology.SIMULATED, Role.ROOT, Phase.READY, "redis", "maximum")
    assert metadata_xml.write(metadata).startswith("<vm ")


def test_a_domain_of_somebody_else_has_no_metadata() -> None:
    assert metadata_xml.from_domain("<domain><name>x</name><metadata/></domain>") is None


GOOD = (
    '<vm technology="simulated" role="root" phase="ready" generation="0">'
    '<image name="redis" cpu="maximum"/><volume name="a.log"/></vm>'
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('technology="simulated"', 'technology="sgx"'),
        ('role="root"', 'role="king"'),
        ('phase="ready"', 'phase="done"'),
        ('generation="0"', 'generation="many"'),
        (' role="root"', ""),
        ('<image name="redis" cpu="maximum"/>', ""),
        ("<image ", '<image name="two" cpu="x"/><image '),
        ("<vm ", "<pm "),
        ('name="a.log"', 'name="../../etc/passwd"'),
        ('name="a.log"', 'name="/etc/passwd"'),
        ('name="a.log"', 'name=".."'),
        ("<volume", '<processor measurement="00" hostData="00" reportId="00"/><volume'),
        ("<volume", '<processor measurement="zz" hostData="00" reportId="00"/><volume'),
        ("<volume", '<ended returncode="x"/><volume'),
        ("<volume", '<maker host="h" boot="b" pid="one" start="1"/><volume'),
    ],
)
def test_metadata_that_was_tampered_with_is_refused(old: str, new: str) -> None:
    assert metadata_xml.read(GOOD)
    tampered = GOOD.replace(old, new, 1).replace("</vm>", "</pm>" if "<pm" in new else "</vm>")
    with pytest.raises(WrongState):
        metadata_xml.read(tampered)


def test_an_entity_is_not_expanded() -> None:
    attack = '<!DOCTYPE vm [<!ENTITY e SYSTEM "file:///etc/hostname">]>' + GOOD.replace(
        "</vm>", "&e;</vm>"
    )
    metadata = metadata_xml.read(attack)
    assert metadata.image == "redis"


@given(st.text(max_size=200))
def test_arbitrary_text_ends_in_our_error(text: str) -> None:
    with pytest.raises(WrongState):
        metadata_xml.read(text)
