"""A compilation cache that processes share and kills cannot harm.

JAX writes the entries of its own cache in place and never mends a truncated one. So every process gives JAX a private
folder, with links to the finished entries, and puts what it compiled beside them by an atomic rename.
"""

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
    """Links what other processes have finished since into the private folder."""
    shared = shared_folder()
    if shared.is_dir():
        for entry in shared.iterdir():
            link = private / entry.name
            if not entry.name.startswith(".") and not link.exists():
                link.symlink_to(entry)


def publish(private: Path) -> None:
    """Puts the private folder's own entries among the finished ones, each in one step."""
    shared = shared_folder()
    try:
        shared.mkdir(parents=True, exist_ok=True)
        for entry in private.iterdir():
            if entry.is_file() and not entry.is_symlink():
                partial = shared / f".{entry.name}.{os.getpid()}"
                shutil.copyfile(entry, partial)
                partial.replace(shared / entry.name)
    except OSError:
        return  # a full or read-only cache only costs time


def processor_name() -> str:
    """The CPU's model, as the operating system names it."""
    return _processor().splitlines()[0].partition(": ")[2] or platform.machine()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kept = dict.fromkeys(line for line in lines if line.startswith(("model name", "flags")))
    return "\n".join(kept) or f"processor: {platform.processor()} {platform.machine()}"
