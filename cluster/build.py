"""Build the Kubernetes binaries once from Debian's own source package.

Debian 12 is the last release whose `kubernetes` source holds the servers, at
1.20.2. It is built with Debian 12's Go 1.19. Both are fetched and unpacked
privately, so this needs neither root nor that this machine runs Debian 12.

The work happens in `<cache>/kubernetes-<version>.build`, under a lock. An
interrupted build is continued there by the next one (the Go build cache is kept
until the end); the result appears by a single rename.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.paths import cache_directory, say
from cluster.private_apt import PrivateApt

VERSION = "1.20.2"
SUITE = "bookworm"
GO_PACKAGES = ["golang-1.19-go", "golang-1.19-src", "golang-github-modern-go-reflect2-dev"]
# Unpacked, not installed: on a machine with systemd, installing them starts a service.
SERVICE_PACKAGES = ["etcd-server", "docker-registry"]
SERVICES = ("etcd", "docker-registry")
# The two servers that the tests need most come first.
KUBERNETES = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
)
_MODULE = "k8s.io/kubernetes"


def cached_binaries() -> Path:
    """Return the directory the built binaries have, or will have."""
    return cache_directory() / f"kubernetes-{VERSION}"


def build() -> Path:
    """Build all binaries unless they are cached, and return their directory."""
    target = cached_binaries()
    if target.is_dir():
        return target
    work = target.with_name(target.name + ".build")
    with build_lock(work):
        if target.is_dir():  # another process built it while this one waited
            return target
        say(f"building Kubernetes {VERSION} from Debian's source, once (5 to 10 minutes)")
        _fetch(work)
        out = work / "out"
        out.mkdir(exist_ok=True)
        for name in SERVICES:
            shutil.copy2(work / "debian/usr/bin" / name, out / name)
        _generate_openapi(work)
        for name in KUBERNETES:
            if not (out / name).exists():
                _compile(work, f"{_MODULE}/cmd/{name}", out / name)
        out.rename(target)
        remove_tree(work)
        say(f"built: {target}")
    return target


@contextmanager
def build_lock(work: Path) -> Iterator[None]:
    """Hold the lock of a build directory; whoever comes second waits for the first."""
    work.mkdir(parents=True, exist_ok=True)
    with work.with_name(work.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        work.mkdir(parents=True, exist_ok=True)
        yield


def remove_tree(directory: Path) -> None:
    """Delete a tree although Go makes parts of its caches read-only."""
    for folder, _, _ in os.walk(directory):
        Path(folder).chmod(0o755)
    shutil.rmtree(directory)


def _fetch(work: Path) -> None:
    """Download and unpack the source, the compiler and the service binaries."""
    done = work / "fetched"
    if done.exists():
        return
    say(f"fetching the source and Go from Debian {SUITE}")
    apt = PrivateApt(work / "apt", SUITE)
    apt.update()
    apt.unpack(GO_PACKAGES + SERVICE_PACKAGES, work / "debian")
    files = apt.source("kubernetes", work / "source")
    archive = next(file for file in files if ".orig.tar." in file.name)
    tree = _tree(work)
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            # The archive's single top folder becomes the import path's folder.
            _, _, member.name = member.name.partition("/")
            if member.islnk():
                _, _, member.linkname = member.linkname.partition("/")
            if member.name:
                tar.extract(member, tree)
    _replace_reflect2(work)
    _open_provisioned_volumes(work)
    done.touch()


def _tree(work: Path) -> Path:
    return work / "gopath/src" / _MODULE


def _replace_reflect2(work: Path) -> None:
    """Replace the vendored reflect2 1.0.1, which crashes when built by Go 1.18 or newer.

    The API server would pass /readyz and die with SIGSEGV at the first custom
    resource (github.com/modern-go/reflect2#26). Debian's package is 1.0.2.
    """
    vendored = _tree(work) / "vendor/github.com/modern-go/reflect2"
    fixed = work / "debian/usr/share/gocode/src/github.com/modern-go/reflect2"
    for pattern in ("*.go", "*.s"):
        for file in vendored.glob(pattern):
            file.unlink()
        for file in fixed.glob(pattern):
            if not file.name.endswith("_test.go"):
                shutil.copy(file, vendored)


def _open_provisioned_volumes(work: Path) -> None:
    """Let the host-path provisioner make volumes that any user may write to.

    It makes them with mode 0750, owned by root, and a host path does not honour
    fsGroup, so a pod that does not run as root could not use its own claim.
    """
    source = _tree(work) / "pkg/volume/hostpath/host_path.go"
    text = source.read_text()
    closed, opened = "os.MkdirAll(pv.Spec.HostPath.Path, 0750)", "os.MkdirAll(pv.Spec.HostPath.Path, 0777)"
    if closed not in text:
        raise RuntimeError(f"{source.name} does not look as expected")
    source.write_text(text.replace(closed, opened))


def _go(work: Path, *arguments: str) -> None:
    """Run Go in GOPATH mode: Debian's vendor folder does not satisfy module mode."""
    goroot = work / "debian/usr/lib/go-1.19"
    environment = dict(
        os.environ,
        GOROOT=str(goroot),
        GOPATH=str(work / "gopath"),
        GOCACHE=str(work / "gocache"),
        GO111MODULE="off",
        GOFLAGS="",
        CGO_ENABLED="0",
    )
    run_go(goroot, arguments, _tree(work), environment)


def run_go(goroot: Path, arguments: tuple[str, ...], cwd: Path, env: dict[str, str]) -> None:
    """Run the Go command of an unpacked compiler, with its output only on failure."""
    result = subprocess.run(
        [str(goroot / "bin/go"), *arguments],
        cwd=cwd,
        env=env,
        text=True,
        capture_output=True,
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"go {arguments[0]} failed:\n{result.stderr[-4000:]}")


def _compile(work: Path, package: str, output: Path, *, linked: bool = True) -> None:
    """Compile one command; the file appears under its name only when complete."""
    started = time.monotonic()
    flags = []
    if linked:
        settings = {
            "gitVersion": f"v{VERSION}",
            "gitMajor": VERSION.split(".")[0],
            "gitMinor": VERSION.split(".")[1],
            "gitTreeState": "archive",
            "buildDate": "2021-01-13T00:00:00Z",
        }
        stamps = [
            f"-X {_MODULE}/vendor/k8s.io/{owner}/{key}={value}"
            for owner in ("client-go/pkg/version", "component-base/version")
            for key, value in settings.items()
        ]
        stamps = [stamp.replace("version/", "version.") for stamp in stamps]
        flags = ["-ldflags", " ".join(["-s -w", *stamps])]
    partial = output.with_name(output.name + ".partial")
    _go(work, "build", "-trimpath", *flags, "-o", str(partial), package)
    partial.rename(output)
    say(f"  {output.name}: {time.monotonic() - started:.0f} s")


def _generate_openapi(work: Path) -> None:
    """Generate the OpenAPI definitions, which the release archive does not carry."""
    tree = _tree(work)
    generated = tree / "pkg/generated/openapi/zz_generated.openapi.go"
    if generated.exists():
        return
    generator = work / "openapi-gen"
    _compile(work, f"{_MODULE}/vendor/k8s.io/kube-openapi/cmd/openapi-gen", generator, linked=False)
    packages = set()
    for root in ("pkg", "cmd", "plugin", "staging/src/k8s.io"):
        for file in (tree / root).rglob("*.go"):
            path = str(file.parent.relative_to(tree))
            if "/code-generator" in path or "/sample-apiserver" in path:
                continue
            if "+k8s:openapi-gen=" in file.read_text(errors="replace"):
                packages.add(f"{_MODULE}/{path.replace('staging/src/', 'vendor/', 1)}")
    subprocess.run(
        [
            str(generator),
            "-i",
            ",".join(sorted(packages)),
            "-p",
            f"{_MODULE}/pkg/generated/openapi",
            "-O",
            "zz_generated.openapi",
            "-h",
            "hack/boilerplate/boilerplate.generatego.txt",
            "-r",
            str(work / "openapi-violations"),
        ],
        cwd=tree,
        check=True,
        capture_output=True,
        env=dict(
            os.environ,
            GOROOT=str(work / "debian/usr/lib/go-1.19"),
            GOPATH=str(work / "gopath"),
            GO111MODULE="off",
            GOFLAGS="",
            PATH=f"{work}/debian/usr/lib/go-1.19/bin:{os.environ.get('PATH', '')}",
        ),
    )
