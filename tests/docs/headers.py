"""The C++ headers of onnxruntime, which its wheel lacks, and the wheel's library as a linker looks for it."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from tests.conftest import unless_installed

PACKAGE = "libonnxruntime-dev"
RELEASE = "trixie"  # the first of Debian with the package; its headers work with every later library
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LIMIT_S = 150


def flags(folder: Path) -> list[str]:
    """Return g++'s flags for a program that uses onnxruntime; skip the test if this system has no headers.

    folder: an empty one; the headers are unpacked there, nothing is installed.
    """
    found = sorted(Path(str(resources.files("onnxruntime"))).glob("capi/libonnxruntime.so.*"))
    if not found:
        pytest.skip("the wheel of onnxruntime has no shared library for Linux here")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(found[0])
    return [f"-I{headers(folder)}", f"-L{folder}", f"-Wl,-rpath,{folder}", "-lonnxruntime"]


def headers(folder: Path) -> Path:
    """Download Debian's package of the headers, from a later release if this one has none; return where they are."""
    if shutil.which("apt-get") is None:
        pytest.skip(f"the headers of onnxruntime come from Debian's package {PACKAGE}, and this is not Debian")
    if error := downloaded(folder):
        if platform.freedesktop_os_release()["ID"] != "debian":
            pytest.skip(f"no package of this system has the headers of onnxruntime: {error}")
        mirror = next((uri for uri, origin in mirrors() if origin == "Debian"), None)
        if mirror is None:
            unless_installed("apt-get knows no package; run `apt-get update`")
        apart = later(folder, mirror)
        if error := apt(folder, *apart, "update") or downloaded(folder, *apart):
            unless_installed(f"could not download {PACKAGE} of Debian's {RELEASE}: {error}")
    (package,) = folder.glob(f"{PACKAGE}_*.deb")
    subprocess.run(["dpkg-deb", "-x", package, folder], check=True, timeout=LIMIT_S)
    return folder / "usr" / "include" / "onnxruntime"


def downloaded(folder: Path, *options: str) -> str:
    return apt(folder, *options, "download", PACKAGE)


def apt(folder: Path, *words: str) -> str:
    """Run apt-get in `folder`; return its errors if it failed, or else nothing."""
    command = ["apt-get", "-q", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def mirrors() -> list[tuple[str, str]]:
    """Return each archive whose list of packages is here: its address, and who made it."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)", "Created-By: Packages"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True).stdout
    return [(uri, origin) for uri, _, origin in (line.partition(" ") for line in said.splitlines())]


def later(folder: Path, mirror: str) -> list[str]:
    """Return options with which apt-get reads the later release, and neither reads nor changes the system's lists."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {RELEASE} main\n")
    options = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
    }
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
