"""The use case: a workload file in, a measured guest image out.

Debian's own tools do the work: apt, mmdebstrap, mkfs.erofs, veritysetup. mkosi, which joins such
tools too, was not taken. Since version 15 it makes dm-verity by systemd-repart, as partitions of
a GPT disk that an initrd with systemd finds; a guest here has one bare disk and no systemd, and
Debian 12 has version 14. It picks packages by the date of a snapshot; here a lock by version and
SHA-256 is wanted (mkosi issue 700), because other bytes are another launch measurement.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import sevfork
from sevfork.agent.workload import CONTAINER_ROOT, GUEST_PATH, Workload, parse
from sevfork.attest.defaults import HARDWARE_ROOTS, Floors
from sevfork.attest.guest_policy import POLICY_PATH, Fork, guest_policy_toml
from sevfork.errors import UsageError
from sevfork.image import contents, cpio, fork_id, initramfs, manifest_json, verity
from sevfork.image.base import (
    Base,
    BaseCache,
    BaseRequest,
    Say,
    require_root,
)
from sevfork.image.contents import File, Files
from sevfork.image.files import read_limited
from sevfork.image.guest_root import GuestRoot
from sevfork.image.install import PYTHON_DIRECTORY, compile_python
from sevfork.image.lock import Lock
from sevfork.image.manifest_json import ImageManifest, WorkloadSummary
from sevfork.image.modules import KernelModules
from sevfork.image.oci import container_image
from sevfork.image.oci.container_image import ContainerImage
from sevfork.image.oci.reference import Reference
from sevfork.image.recipe import Recipe
from sevfork.process import run
from sevfork.simulated.processor import SimulatedProcessor
from sevfork.technology import Technology

_MOVED_SHOWN = 10
_WORKLOAD_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Order:
    """What is to be built, and from where. ``simulator``: the simulated processor's directory.

    ``floors``: None stands for the technology's usual ones. ``container``: the container image
    that the workload is, which a workload file then completes, or needs not.
    """

    output: Path
    workload: Path | None
    technology: Technology
    fork: Fork
    firmware: Path
    cache: Path
    mirror: str
    simulator: Path
    floors: Floors | None = None
    locked: bool = False
    update_lock: bool = False
    refresh: bool = False
    container: Reference | None = None
    authfile: Path | None = None


@dataclass(frozen=True)
class BuildInputs:
    """Everything that is read before anything is made."""

    recipe: Recipe
    workload: Workload
    files: Files
    workload_files: Files
    init: bytes
    policy: bytes
    base: Base
    container: ContainerImage | None

    def inputs(self, order: Order) -> str:
        """A digest of all that the image depends on."""
        files, added = (
            {n: [f.mode, hashlib.sha384(f.data).hexdigest()] for n, f in files.items()}
            for files in (self.files, self.workload_files)
        )
        packages = [[p.name, p.sha256] for p in self.base.info.packages]
        whole = [
            *(
                self.base.directory.name,
                self.base.info.epoch_s,
                packages,
                files,
                self.init.decode(),
            ),
            *(
                order.technology.value,
                order.fork,
                self.recipe.modules,
                self.recipe.kernel.command_line,
            ),
            self.recipe.kernel.cpu_model,
            *(added, self.container.source.digest if self.container else None),
        ]
        return hashlib.sha384(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def default_fork(technology: Technology, asked: str | None) -> Fork:
    """Only the owner decides who may fork, but where isolation is simulated there is nothing to
    protect, and a demonstration needs no key."""
    if asked is None:
        return "owner" if technology.confidential else "anyone"
    return "owner" if asked == "owner" else "anyone"


def build(order: Order, say: Say) -> bool:
    """Build the image into ``order.output``. False: it is there already, from the same inputs.

    Nothing is left behind by a build that fails: the directory is made elsewhere and renamed.
    """
    _require_ours(order.output)
    os.umask(0o022)  # modes in the image must not depend on who builds it
    if order.container is None:
        return _build(order, None, say)
    require_root()
    order.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sevfork-oci-", dir=order.output.parent) as work:
        return _build(order, _take(order, order.container, Path(work), say), say)


def _take(order: Order, reference: Reference, directory: Path, say: Say) -> ContainerImage:
    say(f"fetching and unpacking '{reference.text}'")
    file = parse(_workload_file(order)) if order.workload else {}
    image = container_image.take(reference, file, directory, order.authfile)
    for line in image.summary(file):
        say(line)
    return image


def _build(order: Order, container: ContainerImage | None, say: Say) -> bool:
    source = _read(order, container, say)
    _say_moved(source.base.info.moved, say)
    if manifest_json.is_current(order.output, source.inputs(order)):
        return False
    require_root()
    order.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sevfork-image-", dir=order.output.parent) as work:
        image = Path(work) / "image"
        image.mkdir()
        _make(order, source, GuestRoot(Path(work) / "tree"), image, say)
        _publish(image, order.output, Path(work) / "old")
    return True


def _say_moved(moved: tuple[str, ...], say: Say) -> None:
    for line in moved[:_MOVED_SHOWN]:
        say(f"not as locked: {line}")
    if len(moved) > _MOVED_SHOWN:
        say(f"... and {len(moved) - _MOVED_SHOWN} more (all of them are in manifest.json)")


def _read(order: Order, container: ContainerImage | None, say: Say) -> BuildInputs:
    recipe = Recipe.load((order.firmware / "guest.toml").read_bytes())
    toml = container.workload_file if container else _workload_file(order)
    workload = Workload.load(toml).resolved(order.technology)
    beside = order.workload.resolve().parent if order.workload else Path()
    added = contents.workload_files(workload, beside)
    files = {
        **contents.agent_files(Path(sevfork.__file__).parent, order.technology),
        **contents.firmware_files(order.firmware),
        GUEST_PATH.lstrip("/"): File(toml),
    }
    base = _base(order, recipe, workload, say)
    policy = _policy(order, base.info.epoch_s)
    files[POLICY_PATH.lstrip("/")] = File(policy)
    init = (order.firmware / "initramfs-init").read_bytes()
    return BuildInputs(recipe, workload, files, added, init, policy, base, container)


def _workload_file(order: Order) -> bytes:
    if order.workload is None:
        raise UsageError("neither a workload file nor a container image: '--workload' or '--oci'")
    return read_limited(order.workload, _WORKLOAD_LIMIT_BYTES)


def _base(order: Order, recipe: Recipe, workload: Workload, say: Say) -> Base:
    lock_file = order.firmware / "packages.lock"
    lock = Lock.parse(lock_file.read_text()) if lock_file.exists() else Lock()
    wheels = (order.firmware / "wheels.txt").read_text()
    cache = BaseCache(order.cache, order.mirror, say)

    source = (order.firmware / fork_id.SOURCE_NAME).read_text()
    epoch_s = source_date_epoch()
    request = BaseRequest(recipe, lock, workload.packages, wheels, source, epoch_s)
    if order.update_lock:
        request = replace(request, lock=cache.newest(request))
        replace_text(lock_file, request.lock.render())
    return cache.get(request, refresh=order.refresh, locked=order.locked)


def source_date_epoch() -> int | None:
    """https://reproducible-builds.org/specs/source-date-epoch/"""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is None:
        return None
    if not text.isdigit():
        raise UsageError(f"SOURCE_DATE_EPOCH is not a number of seconds: '{text}'")
    return int(text)


def _policy(order: Order, epoch_s: int) -> bytes:
    """The measured policy: which roots the image accepts, who may fork it."""
    if order.technology is Technology.SIMULATED:
        simulator = SimulatedProcessor.load_or_create(order.simulator)
        roots: tuple[str, ...] = (simulator.root_fingerprint,)
    else:
        roots = HARDWARE_ROOTS[order.technology]
    built = datetime.fromtimestamp(epoch_s, UTC)
    text = guest_policy_toml(order.technology, order.fork, roots, built, order.floors)
    return text.encode()


def _make(order: Order, source: BuildInputs, root: GuestRoot, image: Path, say: Say) -> None:
    """Fill ``image`` with the four files."""
    base, modules = source.base, KernelModules(source.base.kernel)
    say("filling the root file system")
    _fill(root, source, modules, order.technology, say)
    say("writing the root file system and its hash tree")
    epoch_s = base.info.epoch_s
    target, attributes = image / manifest_json.ROOT, source.container is not None
    hashed = verity.make_root(root.directory, target, epoch_s, attributes=attributes)
    early = modules.ordered(source.recipe.modules["initramfs"])
    entries = initramfs.entries(initramfs.programs(base.initramfs), early, source.init)
    (image / manifest_json.INITRD).write_bytes(cpio.archive(entries, epoch_s))
    (vmlinuz,) = (base.kernel / "boot").glob("vmlinuz-*")
    shutil.copyfile(vmlinuz, image / manifest_json.KERNEL)
    manifest_json.write(image, _manifest(order, source, hashed, image))


def _fill(
    root: GuestRoot, source: BuildInputs, modules: KernelModules, technology: Technology, say: Say
) -> None:
    root.directory.mkdir()
    archive = source.base.root_archive
    run(["tar", "--numeric-owner", "-C", root.directory, "-xpf", archive], timeout_s=300)
    container = _container_root(root, source, say)
    contents.require_own_places(container, source.workload)
    wanted = source.recipe.modules
    early = modules.ordered(wanted["initramfs"])
    late = modules.ordered([*wanted["root"], *wanted[technology.value]])
    contents.write(root, source.files)
    contents.write(root, contents.module_files({n: m for n, m in late.items() if n not in early}))
    contents.write(container, source.workload_files)
    contents.make_writable(container, source.workload)
    contents.require_programs(container, source.workload)
    compile_python(root, [f"/{contents.PACKAGE}"])
    require_imports(root)


def _container_root(root: GuestRoot, source: BuildInputs, say: Say) -> GuestRoot:
    """Where the workload's files are: in the guest's root, or in a directory of its own there."""
    if source.container is None:
        return root
    container = GuestRoot(root.directory / CONTAINER_ROOT.lstrip("/"))
    source.container.root.directory.rename(container.directory)
    if not fork_id.share(root, container):
        say("its C library is not glibc, or older: OpenSSL in it does not notice a fork by itself")
    return container


def require_imports(root: GuestRoot) -> None:
    """An agent that lacks a module fails the build (CommandFailed), not the first boot."""
    command = ["/usr/bin/python3", "-S", "-s", "-P", "-c", "import sevfork.agent.__main__"]
    env = {"PYTHONPATH": f"/{PYTHON_DIRECTORY}", "PYTHONDONTWRITEBYTECODE": "1"}
    run(["chroot", root.directory, *command], timeout_s=120, env=env)


def _manifest(order: Order, source: BuildInputs, root: verity.Verity, image: Path) -> ImageManifest:
    kernel, info, workload = source.recipe.kernel, source.base.info, source.workload
    command_line = " ".join([*kernel.command_line, root.kernel_argument])
    files = manifest_json.digests(image)
    return ImageManifest(
        name=workload.name,
        technology=order.technology,
        fork=order.fork,
        kernel_cmdline=command_line,
        cpu_model=kernel.cpu_model,
        files=files,
        root_hash=root.root_hash,
        policy_digest=hashlib.sha384(source.policy).hexdigest(),
        launch_digests=manifest_json.launch_digests(
            order.technology, files, command_line, kernel.cpu_model
        ),
        workload=_summary(workload),
        packages={package.name: package.version for package in info.packages},
        moved=info.moved,
        oci=source.container.source if source.container else None,
        epoch=info.epoch_s,
        inputs=source.inputs(order),
    )


def _summary(workload: Workload) -> WorkloadSummary:
    return WorkloadSummary(workload.name, workload.ports, workload.logs or "", workload.exec or "")


def _require_ours(output: Path) -> None:
    """Raise UsageError rather than replace a directory that is not an image."""
    if not output.exists() or (output / manifest_json.NAME).is_file():
        return
    if not output.is_dir() or any(output.iterdir()):
        raise UsageError(f"'{output}' exists and is not a guest image", hint="choose another DIR")


def _publish(image: Path, output: Path, old: Path) -> None:
    image.chmod(0o755)
    try:
        if output.exists():
            output.rename(old)
        image.rename(output)
    except BaseException:
        # Ctrl-C between the two: the image that was there is there again.
        if old.exists() and not output.exists():
            old.rename(output)
        raise


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)
