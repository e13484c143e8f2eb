"""Save and restore train states with Orbax.

A checkpoint is one folder per step: `state`, the arrays by name, and `meta`, a small JSON (what is
needed to rebuild the encoder, and the loop's bookkeeping). Arrays are keyed by their path in the
tree, so that an error can name a missing or extra one.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from byol_jax.core import TrainState, Tree
from byol_jax.manifest import what_is_wrong, write_manifest
from byol_jax.processes import from_main, main_process

# Orbax writes these two when it renames the folder; they hold nothing of the state.
_WRITTEN_LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")


def _flat(tree: Tree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def any_saved(folder: Path) -> bool:
    """Whether a run folder contains a checkpoint, good or damaged."""
    return any(p.name.isdigit() for p in (folder / "checkpoints").glob("*"))


class Checkpoints:
    """The checkpoints of one run, saved asynchronously.

    Args:
      folder: of the run; checkpoints are saved in `folder/checkpoints/STEP`.
      keep: how many of the newest checkpoints are kept.
      keep_every: checkpoints at multiples of this step are kept for good; 0: none.
      clear: remove what a killed save left behind; not while another process may be saving.
    """

    def __init__(
        self, folder: Path, keep: int = 3, keep_every: int = 0, *, clear: bool = False
    ) -> None:
        self._root = (folder / "checkpoints").absolute()
        if main_process():
            self._root.mkdir(parents=True, exist_ok=True)
            if clear:
                self._clear()
        from_main(0)  # no process continues before that is done
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        # Named handlers, so that a manager that has not saved anything can still read metadata.
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self._root, options=options, item_handlers=handlers)

    def _clear(self) -> None:
        """Remove incomplete saves: Orbax renames a folder only when it is complete.

        Of a save that failed, threads may go on writing for a moment, and make its folder again.
        """
        for _ in range(25):
            left = [*self._root.glob("*.orbax-checkpoint-tmp*")]
            if not left:
                return
            for folder in left:
                shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.2)

    def _seal(self) -> None:
        """Write the manifest of a save: its folder is complete but still has a temporary name."""
        if main_process():
            for folder in self._root.glob("*.orbax-checkpoint-tmp*"):
                write_manifest(folder, _WRITTEN_LATER)

    def latest(self) -> int | None:
        """The newest step on disk, or None."""
        return max(self._steps(), default=None)

    def _steps(self) -> list[int]:
        return [int(p.name) for p in self._root.iterdir() if p.name.isdigit()]

    def newest_good(self, *, set_aside: bool = False) -> tuple[int | None, list[str]]:
        """The newest step whose files are all as they were written, which Orbax does not check.

        Args:
          set_aside: rename damaged checkpoints to `damaged-STEP`, so that the step can be saved
            again; nothing is renamed if no checkpoint is good.

        Returns:
          (step, or None if there is none; what is wrong with each newer one).
        """
        damaged: dict[int, str] = {}
        good = None
        for step in sorted(self._steps(), reverse=True) if main_process() else ():
            problem = what_is_wrong(self._root / str(step))
            if not problem:
                good = step
                break
            damaged[step] = problem
        if damaged and set_aside and good is not None:
            for step in damaged:
                place = self._root / f"damaged-{step}"
                shutil.rmtree(place, ignore_errors=True)
                (self._root / str(step)).rename(place)
        # One process decides for all: each may see a different state of a shared file system.
        found = from_main(-1 if good is None else good)
        self._manager.reload()
        problems = [f"checkpoint {step} is damaged ({why})" for step, why in damaged.items()]
        return None if found < 0 else found, problems

    def check_room(self, state: TrainState) -> None:
        """Refuse to save if the disk has too little free space.

        Args:
          state: arrays, or their shapes.

        Raises:
          ValueError: gives both sizes.
        """
        arrays = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
        size = 1.1 * arrays + 2**21  # with the metadata, and what else the run writes
        free = shutil.disk_usage(self._root).free
        if main_process() and free < size:
            raise ValueError(
                f"A checkpoint takes {size / 2**30:.3g} GiB, and the disk of {self._root} has "
                f"{free / 2**30:.3g} GiB free. Free some, or lower keep or keep_every; the same "
                "command then resumes."
            )

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Start saving; returns when the arrays have been copied, before they are on disk.

        Raises:
          ValueError: the disk has too little free space.
          OSError: an earlier save failed.
        """
        self.wait()  # as Orbax would; if this save is refused, the one before it is still complete
        self.check_room(state)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_flat(state)), meta=ocp.args.JsonSave(meta)
        )
        with self._failures():
            if step in self._manager.all_steps():
                return
            if not self._manager.save(step, args=args, force=True):
                raise OSError(f"The checkpoint of step {step} was not taken; see {self._root}.")

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Report clearly that a save failed, and remove what it left behind."""
        try:
            yield
        except Exception as e:
            if isinstance(e, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
                raise  # processes wait for each other here, and one of them is gone
            if main_process():
                self._clear()
            last = self.latest()
            raise OSError(
                f"A checkpoint could not be saved in {self._root} ({_first_line(e)}). "
                + (f"The newest is step {last}" if last is not None else "There are none yet")
                + "; free some space or repair the disk, then run the same command to resume."
            ) from e

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON saved with a step."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return dict(self._manager.restore(step, args=args)["meta"])

    def restore(self, step: int, like: TrainState, sharding: Sharding | Tree) -> TrainState:
        """Restore a state onto the devices, however many there were when it was saved.

        Args:
          step: a saved step.
          like: a state (or its shapes) of the same structure.
          sharding: of its arrays: one for all of them, or a tree as `mesh.state_sharding` returns.

        Raises:
          ValueError: the saved arrays do not match `like`; names the first few.
        """
        wanted = _flat(like)
        saved = self._shapes(step)
        bad = [k for k in wanted if k not in saved] + [k for k in saved if k not in wanted]
        bad += [k for k in wanted if k in saved and tuple(saved[k]) != tuple(wanted[k].shape)]
        if bad:
            raise ValueError(
                f"Checkpoint {step} in {self._root} does not fit this run: {len(bad)} arrays are "
                f"missing, extra or of another shape; the first: {', '.join(sorted(bad)[:3])}. "
                "It was written by another config or version."
            )
        where = _flat(jax.tree.broadcast(sharding, like))
        target = {
            k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=where[k]) for k, v in wanted.items()
        }
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        flat = self._manager.restore(step, args=args)["state"]
        structure = jax.tree_util.tree_structure(like)
        return jax.tree_util.tree_unflatten(structure, [flat[k] for k in wanted])

    def arrays(self, step: int, prefix: str) -> dict[str, np.ndarray]:
        """The saved arrays whose names start with `prefix`, on the host, keyed without it."""
        path = self._root / str(step) / "state"
        shapes = {k: v for k, v in self._shapes(step).items() if k.startswith(prefix)}
        if not shapes:
            return {}
        with ocp.PyTreeCheckpointer() as reader:
            restored = reader.restore(
                path,
                args=ocp.args.PyTreeRestore(
                    item=dict.fromkeys(shapes, 0),
                    restore_args={k: ocp.RestoreArgs(restore_type=np.ndarray) for k in shapes},
                    partial_restore=True,
                ),
            )
        return {k.removeprefix(prefix): np.asarray(v) for k, v in restored.items()}

    def _shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        metadata = self._manager.item_metadata(step)["state"]
        tree = getattr(metadata, "tree", metadata)
        return {k: tuple(v.shape) for k, v in tree.items()}

    def wait(self) -> None:
        """Wait until everything saved is on disk.

        Raises:
          OSError: it could not be saved.
        """
        with self._failures():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait as `wait` does, then stop the background threads."""
        with self._failures():
            self._manager.close()


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
