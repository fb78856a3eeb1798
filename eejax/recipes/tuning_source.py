# Copyright 2026 The eejax Authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     https://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""A model whose exits are tuned: in memory, or a checkpoint read in part."""

import abc
import dataclasses
import enum
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from eejax import storage
from eejax.checkpoint import folder as checkpoint_folder
from eejax.checkpoint import streaming, tree
from eejax.checkpoint.folder import Existing
from eejax.checkpoint.manifest import Manifest
from eejax.checkpoint.model import Model
from eejax.checkpoint.tokenizer_files import find_tokenizer
from eejax.checkpoint.tree import Layout
from eejax.config import EarlyExitConfig
from eejax.data.tokenizer import Tokenizer
from eejax.models.quantized import quantize_backbone
from eejax.models.stacking import num_blocks, stack, truncate
from eejax.recipes import run_identity
from eejax.storage import AnyPath
from eejax.types import Params, PyTree


class FrozenBackbone(enum.Enum):
  """How a backbone is kept that nothing changes.

  COMPUTE: in the compute dtype.
  INT8: kernels of its blocks in int8, a scale for each output channel; the
    rest in the compute dtype.
  """

  COMPUTE = 'compute'
  INT8 = 'int8'


@dataclasses.dataclass(frozen=True)
class BackboneLayout:
  """How a run keeps the frozen backbone, so that no step need convert it.

  Attributes:
    depth: blocks that are run.
    dtype: compute dtype.
    precision: of the kernels of its blocks.
    mesh: its devices; None for the default device alone.
  """

  depth: int
  dtype: str
  precision: FrozenBackbone = FrozenBackbone.COMPUTE
  mesh: Mesh | None = None

  def converted(self, params: Params) -> Params:
    """Return parameters with the backbone as it is kept."""
    params = jax.tree.map(lambda x: x.astype(jnp.dtype(self.dtype)), params)
    if self.precision is FrozenBackbone.INT8:
      return quantize_backbone(params)
    return params


class TuningSource(abc.ABC):
  """A model whose exits are tuned."""

  @property
  @abc.abstractmethod
  def config(self) -> EarlyExitConfig:
    """Return the model with its exits."""

  @property
  @abc.abstractmethod
  def tokenizer(self) -> Tokenizer:
    """Return the tokenizer.

    Raises:
      ArgumentError: there is none.
    """

  @abc.abstractmethod
  def identity(self) -> Mapping[str, Any]:
    """Return plain values that identify all of its numbers."""

  @abc.abstractmethod
  def load(self, layout: BackboneLayout) -> Params:
    """Return the exits, and the first blocks of the backbone as laid out."""

  @abc.abstractmethod
  def load_heads(self, layout: BackboneLayout) -> Params:
    """Return the same without blocks, but for norms that exits read."""

  @abc.abstractmethod
  def save(
    self, path: AnyPath, *, exits: Params, provenance: Mapping[str, Any]
  ) -> Model | None:
    """Write the model with other exits, over what is at `path`.

    Returns:
      The model, where that costs no second backbone; else None.
    """


@dataclasses.dataclass(frozen=True)
class ModelSource(TuningSource):
  """A model in memory.

  Attributes:
    model: its backbone is shared with what comes out.
  """

  model: Model

  @property
  def config(self) -> EarlyExitConfig:
    """Return the model with its exits."""
    return self.model.config

  @property
  def tokenizer(self) -> Tokenizer:
    """Return the tokenizer."""
    return self.model.tokenizer

  def identity(self) -> Mapping[str, Any]:
    """Return plain values that identify all of its numbers."""
    return run_identity.of_model(self.model)

  def load(self, layout: BackboneLayout) -> Params:
    """Return the exits, and the first blocks as laid out."""
    params = self._stacked()
    if layout.depth < num_blocks(params['backbone']['blocks']):
      params = truncate(params, depth=layout.depth)
    kept = layout.converted({'backbone': params['backbone']})
    return {**kept, 'exits': _copied(params['exits'])}

  def load_heads(self, layout: BackboneLayout) -> Params:
    """Return the same without blocks."""
    backbone = self._stacked()['backbone']
    norms = _norms_read(backbone['blocks'])
    kept = jax.tree.map(
      lambda x: x.astype(jnp.dtype(layout.dtype)), {**backbone, 'blocks': norms}
    )
    return {'backbone': kept, 'exits': _copied(self.model.params['exits'])}

  def _stacked(self) -> Params:
    params = self.model.params
    if tree.layout_of(params) is Layout.STACKED:
      return params
    backbone = params['backbone']
    blocks = stack(backbone['blocks'])
    return {**params, 'backbone': {**backbone, 'blocks': blocks}}

  def save(
    self, path: AnyPath, *, exits: Params, provenance: Mapping[str, Any]
  ) -> Model | None:
    """Write the model with other exits."""
    tuned = dataclasses.replace(
      self.model,
      params={**self.model.params, 'exits': exits},
      provenance={**self.model.provenance, **provenance},
    )
    return checkpoint_folder.save(path, tuned, existing=Existing.OVERWRITE)


@dataclasses.dataclass(frozen=True)
class CheckpointSource(TuningSource):
  """A checkpoint of which only what is needed is read.

  Attributes:
    path: its folder.
    manifest: what it says of itself.
  """

  path: AnyPath
  manifest: Manifest

  @classmethod
  def open(cls, path: str | os.PathLike) -> 'CheckpointSource':
    """Return the checkpoint at a path.

    Raises:
      ArgumentError: there is none.
    """
    path = storage.as_path(path)
    return cls(path, checkpoint_folder.read_manifest(path))

  @property
  def config(self) -> EarlyExitConfig:
    """Return the model with its exits."""
    return self.manifest.config

  @property
  def tokenizer(self) -> Tokenizer:
    """Return the tokenizer."""
    return Model(self.config, {}, find_tokenizer(self.path)).tokenizer

  def identity(self) -> Mapping[str, Any]:
    """Return plain values that identify all of its numbers."""
    return run_identity.of_checkpoint(self.path)

  def load(self, layout: BackboneLayout) -> Params:
    """Return the exits, and the first blocks as laid out."""
    if layout.mesh is None:
      params = checkpoint_folder.load(self.path, depth=layout.depth).params
      kept = layout.converted({'backbone': params['backbone']})
      return {**params, **kept}
    mapped = streaming.map_checkpoint(self.path, depth=layout.depth).params
    place: Callable[..., Params] = streaming.place
    if layout.precision is FrozenBackbone.INT8:
      place = streaming.place_quantized
    placed = place(
      {**mapped, 'exits': {}}, mesh=layout.mesh, dtype=layout.dtype
    )
    return {**placed, 'exits': mapped['exits']}

  def load_heads(self, layout: BackboneLayout) -> Params:
    """Return the same without blocks."""
    params = streaming.map_checkpoint(self.path).params
    blocks: PyTree = params['backbone']['blocks']
    norms = tuple(_norms_read(block) for block in blocks)
    small = {'backbone': {**params['backbone'], 'blocks': norms}, 'exits': {}}
    if layout.mesh is not None:
      placed = streaming.place(small, mesh=layout.mesh, dtype=layout.dtype)
    else:
      placed = tree.on_device(
        tree.outer(small), norms, {}, layout=Layout.STACKED, dtype=layout.dtype
      )
    return {**placed, 'exits': params['exits']}

  def save(
    self, path: AnyPath, *, exits: Params, provenance: Mapping[str, Any]
  ) -> Model | None:
    """Write the model with other exits."""
    checkpoint_folder.replace_exits(
      path,
      source=self.path,
      config=self.config,
      exits=exits,
      provenance=provenance,
      existing=Existing.OVERWRITE,
    )
    return None


def _norms_read(blocks: Params) -> Params:
  """Return what MLP exits read of blocks, or of a stack of them."""
  return {name: x for name, x in blocks.items() if name == 'mlp_norm'}


def _copied(exits: Params) -> Params:
  # A run takes over what it is given.
  return jax.tree.map(lambda x: jnp.array(x, copy=True), exits)


def open_source(model: Model | str | os.PathLike) -> TuningSource:
  """Return a model in memory, or a checkpoint, as what is tuned."""
  if isinstance(model, Model):
    return ModelSource(model)
  return CheckpointSource.open(model)
