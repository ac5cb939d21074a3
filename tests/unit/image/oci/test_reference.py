"""Names of container images, as skopeo has them."""

from __future__ import annotations

import pytest

from sevfork.errors import UsageError
from sevfork.image.oci.reference import Reference


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("docker://docker.io/library/nginx:1.29", "nginx"),
        ("docker://nginx", "nginx"),
        ("docker://localhost:5000/team/My_App@sha256:" + "a" * 64, "my-app"),
        ("oci:/srv/images/web:latest", "web"),
        ("oci-archive:web.tar", "web"),
        ("docker-archive:/tmp/all.tar:registry/app:2", "app"),
        ("containers-storage:localhost/api:dev", "api"),
        ("oci:..:tag", "workload"),
    ],
)
def test_a_workload_is_called_as_its_image(text: str, name: str) -> None:
    found = Reference.parse(text)
    assert (found.text, found.name) == (text, name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nginx", "not one of"),
        ("", "not one of"),
        ("docker-daemon:nginx:latest", "not one of"),
        ("--help", "not one of"),
        ("docker:nginx", "write docker://nginx"),
        ("docker://", "names nothing"),
        ("oci:", "names nothing"),
        ("oci:a\nb", "not a name"),
        ("oci:" + "a" * 5000, "not a name"),
    ],
)
def test_what_names_no_image_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Reference.parse(text)
