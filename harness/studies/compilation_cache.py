"""A compilation cache that processes share and kills cannot harm.

JAX writes the entries of its own cache in place and never mends a truncated one. So every process gives JAX a private
folder, with links to the finished entries, and puts what it compiled beside them by an atomic rename. A finished entry
has its size behind its name, so that one that a full disk or a crash has cut off is told and made anew.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

MOST_BYTES = 2 << 30
"""Of the finished entries of a machine; those that were not used for longest go first. The largest program of the
catalogue takes 2 MB."""

_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX"}  # the widest first


def shared_folder() -> Path:
    """The folder of finished entries of this kind of machine, under `$XDG_CACHE_HOME/playbook-bench`."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "playbook-bench"
    return root / hashlib.sha256(_processor().encode()).hexdigest()[:16]


def use(private: Path) -> None:
    """Makes a private folder JAX's compilation cache, holding links to every finished entry.

    Args:
      private: an empty or missing folder that belongs to this process.
    """
    private.mkdir(parents=True, exist_ok=True)
    link_finished(private)
    jax.config.update("jax_compilation_cache_dir", str(private))
    # XLA's own caches would lie in the private folder, whose name would then be part of every entry's key.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    reset_cache()  # JAX settles on a folder at its first compilation


@contextmanager
def temporary_cache() -> Iterator[Path]:
    """Makes a temporary folder JAX's compilation cache, see `use`, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="playbook-") as private:
        use(Path(private))
        try:
            yield Path(private)
        finally:
            jax.config.update("jax_compilation_cache_dir", None)
            reset_cache()


def link_finished(private: Path) -> None:
    """Links what other processes have finished since into the private folder, and removes what is not whole."""
    for link in private.iterdir():
        if link.is_symlink() and not link.exists():  # evicted since
            link.unlink(missing_ok=True)
    shared = shared_folder()
    for entry in _entries(shared):
        name, _, size = entry.name.rpartition(".")
        with contextlib.suppress(OSError):  # evicted meanwhile, or the cache is read-only
            if not name or str(entry.stat().st_size) != size:
                entry.unlink()
            elif not (link := private / name).exists():
                link.symlink_to(entry)


def publish(private: Path) -> None:
    """Puts the private folder's own entries among the finished ones, each in one step, and keeps to `MOST_BYTES`."""
    shared = shared_folder()
    try:
        shared.mkdir(parents=True, exist_ok=True)
        for entry in private.iterdir():
            if entry.is_file() and not entry.is_symlink():
                partial = shared / f".{entry.name}.{os.getpid()}"
                shutil.copyfile(entry, partial)
                partial.replace(shared / f"{entry.name}.{partial.stat().st_size}")
        _evict(shared)
    except OSError:
        return  # a full or read-only cache only costs time


def _evict(shared: Path) -> None:
    found = [(entry, entry.stat()) for entry in shared.iterdir() if entry.is_file()]
    # File systems note when a file was read at least once a day, or not at all.
    by_use = sorted(found, key=lambda pair: max(pair[1].st_atime, pair[1].st_mtime), reverse=True)
    total = 0
    for entry, about in by_use:
        total += about.st_size
        if total > MOST_BYTES:
            entry.unlink(missing_ok=True)


def _entries(shared: Path) -> list[Path]:
    """The finished entries; what begins with a dot is being written."""
    if not shared.is_dir():
        return []
    return [entry for entry in shared.iterdir() if entry.is_file() and not entry.name.startswith(".")]


def processor_name() -> str:
    """The CPU's model, as the operating system names it, with its widest vector instructions, which move bits."""
    processor = _processor()
    name = processor.splitlines()[0].partition(": ")[2] or platform.machine()
    widest = next((shown for flag, shown in _VECTORS.items() if flag in processor.split()), None)
    return f"{name} ({widest})" if widest else name


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kept = dict.fromkeys(line for line in lines if line.startswith(("model name", "flags")))
    return "\n".join(kept) or f"processor: {platform.processor()} {platform.machine()}"
