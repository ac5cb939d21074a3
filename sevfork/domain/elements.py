"""Making and reading XML, with types: the little of lxml that sevfork uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from lxml import etree

from sevfork.errors import WrongState

# Metadata and domains come from the libvirt host: no entity is expanded, nothing is fetched.
_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True)


class _Make(Protocol):
    def __call__(self, *content: str | etree._Element, **attributes: str) -> etree._Element: ...


class _Elements:
    """``E.name(text or elements..., attribute="value")``, as lxml.builder has it without types."""

    def __getattr__(self, tag: str) -> _Make:
        def make(*content: str | etree._Element, **attributes: str) -> etree._Element:
            element = etree.Element(tag, attributes)
            for each in content:
                if isinstance(each, str):
                    element.text = each
                else:
                    element.append(each)
            return element

        return make


E = _Elements()


def to_text(element: etree._Element, *, indent: bool = False) -> str:
    return etree.tostring(element, encoding="unicode", pretty_print=indent)


def child_of(element: etree._Element, path: str) -> etree._Element:
    """What has to be there. Raises WrongState."""
    found = element.find(path)
    if found is None:
        raise WrongState(f"the VM's domain XML has no '{path}' in '{element.tag}'")
    return found


def unset(elements: Iterable[etree._Element], *names: str) -> None:
    """Take attributes away, where they are."""
    for each in elements:
        for name in names:
            if name in each.attrib:
                del each.attrib[name]


def parse(text: str) -> etree._Element:
    """Raise WrongState for what is not well-formed."""
    try:
        return etree.fromstring(text.encode(), _PARSER)
    except etree.XMLSyntaxError as exc:
        raise WrongState(f"the hypervisor gave XML that cannot be read: {exc}") from exc
