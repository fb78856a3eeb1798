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
"""Which dimension of which array lies along which axis of the mesh.

Dimensions have the letters of `eejax.types`. `RULES` is the one table from
letters to mesh axes; everything that is placed on several devices asks it.
Without a mesh nothing here has any effect, so that models call `constrain`
whether they run on one device or on many.
"""

import contextlib
import contextvars
import dataclasses
import enum
import math
from collections.abc import Iterator, Mapping, Sequence

import jax
from jax.sharding import AxisType, PartitionSpec

from eejax.errors import ArgumentError
from eejax.types import Array

STAGE, DATA, FSDP, MODEL = 'stage', 'data', 'fsdp', 'model'
EXPERT = 'expert'

# From the slowest links to the fastest: what a stage sends is least, what the
# devices of a `model` group send is most.
MESH_AXES = (STAGE, DATA, FSDP, EXPERT, MODEL)

# Rows of a batch are shared out over these.
BATCH_AXES = (DATA, FSDP, EXPERT)

# The key of the exits in a tree of parameters.
EXITS = 'exits'

# A dimension without a letter is never cut.
Axes = Sequence[str | None]


class Kind(enum.Enum):
  """What an array is: a letter may mean one thing for each."""

  PARAMETER = 'parameter'
  ACTIVATION = 'activation'
  # The stream of the few tokens that decoding runs at once. It is whole where
  # parameters are cut, so that no parameter is gathered for it (Pope et al.
  # 2022, arXiv 2211.05102, section 3.2.1, weight-stationary).
  WINDOW = 'window'


@dataclasses.dataclass(frozen=True)
class Rule:
  """Say along which mesh axes a dimension is cut.

  Attributes:
    letter: of the dimension.
    parameter: mesh axes for parameters, gradients and optimizer state.
    activation: mesh axes for everything computed from a batch.
    window: mesh axes for the streams of decoding.
  """

  letter: str
  parameter: tuple[str, ...] = ()
  activation: tuple[str, ...] = ()
  window: tuple[str, ...] = ()

  def mesh_axes(self, kind: Kind) -> tuple[str, ...]:
    """Return the mesh axes for one kind of array."""
    return getattr(self, kind.value)


# In order of precedence: a mesh axis goes to the first rule that wants it. So
# T is cut along `model` where neither heads, F nor V are: in norms and in the
# residual stream, which is sequence parallelism (Korthikanti et al. 2022,
# arXiv 2205.05198, section 4.2.2).
RULES = (
  Rule('P', parameter=(STAGE,), activation=(STAGE,)),
  Rule('L', parameter=(STAGE,)),
  Rule('X', parameter=(EXPERT,)),
  Rule('B', activation=BATCH_AXES, window=(DATA,)),
  Rule('V', parameter=(MODEL,), activation=(MODEL,)),
  Rule('N', parameter=(MODEL,), activation=(MODEL,)),
  Rule('K', parameter=(MODEL,), activation=(MODEL,)),
  Rule('F', parameter=(MODEL,), activation=(MODEL,)),
  Rule('R', parameter=(MODEL,), activation=(MODEL,)),
  Rule('I', parameter=(MODEL,), activation=(MODEL,)),
  # F of experts whose kernels are apart: no X is left to be cut.
  Rule('Y', parameter=(EXPERT, MODEL)),
  Rule('D', parameter=(FSDP,)),
  Rule('T', activation=(MODEL,)),
)

_RULES: contextvars.ContextVar[tuple[Rule, ...]] = contextvars.ContextVar(
  'sharding_rules', default=RULES
)


@contextlib.contextmanager
def sharding_rules(changes: Mapping[str, Sequence[str]]) -> Iterator[None]:
  """Lay parameters along other mesh axes while the context is open.

  Gradients and optimizer state go with their parameters; what is computed from
  a batch stays as it is.

  Args:
    changes: by the letter of a dimension, the mesh axes along which
      parameters are cut there; none leaves the dimension whole.

  Raises:
    ArgumentError: a letter or an axis is not known, or is that of stages.

  Example:
    >>> mesh = {'data': 2, 'fsdp': 2}
    >>> with sharding_rules({'D': ('fsdp', 'data')}):
    ...   partition(('D', 'F'), shape=(8, 8), mesh=mesh, kind=Kind.PARAMETER)
    P(('fsdp', 'data'), None)
  """
  letters = [r.letter for r in RULES if STAGE not in r.parameter]
  axes = [a for a in MESH_AXES if a != STAGE]
  for letter, wanted in changes.items():
    if letter not in letters:
      raise ArgumentError(
        f'no dimension of parameters has the letter {letter!r}; there are '
        f'{", ".join(letters)}.'
      )
    unknown = [] if isinstance(wanted, str) else set(wanted) - {*axes}
    if isinstance(wanted, str) or unknown:
      raise ArgumentError(
        f'the rule of {letter} is {wanted!r}, and must be a tuple of some of '
        f'{", ".join(axes)}.'
      )
  token = _RULES.set(
    tuple(
      dataclasses.replace(r, parameter=tuple(changes[r.letter]))
      if r.letter in changes
      else r
      for r in _RULES.get()
    )
  )
  try:
    yield
  finally:
    _RULES.reset(token)


def active_rules() -> tuple[Rule, ...]:
  """Return the rules in effect; see `sharding_rules`."""
  return _RULES.get()


# Letters of every parameter by the end of its path; '.' is never cut: norm
# gains, biases and gates are too small to be worth a message. A stack of
# blocks has an L before.
PARAMETERS = {
  'embedding/table': 'V D',
  'embedding/positions': '. D',
  'head/kernel': 'D V',
  'output/kernel': 'D V',
  'attention/query/kernel': 'D N H',
  'attention/query/bias': 'N H',
  'attention/key/kernel': 'D K H',
  'attention/key/bias': 'K H',
  'attention/value/kernel': 'D K H',
  'attention/value/bias': 'K H',
  'attention/output/kernel': 'N H D',
  'attention/output/bias': '.',
  'mlp/gate/kernel': 'D F',
  'mlp/gate/bias': 'F',
  'mlp/up/kernel': 'D F',
  'mlp/up/bias': 'F',
  'mlp/down/kernel': 'F D',
  'mlp/down/bias': '.',
  'router/kernel': '. .',
  'experts/gate/kernel': 'X D F',
  'experts/up/kernel': 'X D F',
  'experts/down/kernel': 'X F D',
  'shared/gate/kernel': 'D F',
  'shared/up/kernel': 'D F',
  'shared/down/kernel': 'F D',
  'shared_gate/kernel': '. .',
  'mixer/gate/kernel': 'D I',
  'mixer/gate/bias': 'I',
  'mixer/inner/kernel': 'D I',
  'mixer/inner/bias': 'I',
  'mixer/input/kernel': 'D .',
  'mixer/readout/kernel': 'D .',
  'mixer/selection/kernel': 'I .',
  'mixer/step/kernel': 'D I',
  'mixer/step/bias': 'I',
  'mixer/output/kernel': 'I D',
  'mixer/convolution/kernel': '. .',
  'mixer/convolution/bias': '.',
  'mixer/log_rates': '. I',
  'mixer/head_log_rates': 'I',
  'mixer/step_bias': 'I',
  'mixer/skip': 'I',
  'mixer/norm_scale': 'I',
  'bottleneck/down/kernel': 'D R',
  'bottleneck/up/kernel': 'R D',
  'gate/inner/kernel': '. .',
  'gate/inner/bias': '.',
  'gate/output/kernel': '. .',
  'gate/output/bias': '.',
  'scale': '.',
  'bias': '.',
}

_LONGEST_END = max(end.count('/') + 1 for end in PARAMETERS)


def parameter_axes(path: Sequence[str], *, ndim: int) -> Axes | None:
  """Return the letters of a parameter, None for what is none.

  Whatever lies at the path of a parameter is laid out like it: its gradient,
  its moments in the optimizer, and the two parts of a quantised kernel.

  Args:
    path: names from the root of any tree down to the leaf.
    ndim: how many dimensions it has.
  """
  letters = _letters(path)
  if letters is None:
    return None
  stacked = _stack_axes(path, ndim - len(letters))
  if stacked is None:
    return None
  return (*stacked, *(None if c == '.' else c for c in letters))


def _letters(path: Sequence[str]) -> list[str] | None:
  """Return the letters by the end of a path, None for what is no parameter."""
  path = list(path)
  is_part = len(path) > 1 and path[-2] == 'kernel'
  part = path.pop() if is_part else None
  for length in range(_LONGEST_END, 0, -1):
    letters = PARAMETERS.get('/'.join(path[-length:]))
    if letters is not None:
      if part != 'scale':
        return letters.split()
      # A scale has no dimensions that its kernel's product sums over.
      summed = 2 if path[-3:-1] == ['attention', 'output'] else 1
      names = letters.split()
      first = int(names[0] == 'X')
      return names[:first] + names[first + summed :]
  return None


def _stack_axes(path: Sequence[str], count: int) -> Sequence[str] | None:
  """Return the letters before a block's own, None where they cannot be."""
  allowed = ('L',) if count == 1 else ('P', 'L')
  if count == 0:
    return ()
  return allowed if count <= 2 and 'blocks' in path else None


def partition(
  axes: Axes,
  *,
  shape: Sequence[int],
  mesh: Mapping[str, int],
  kind: Kind,
) -> PartitionSpec:
  """Return how an array is cut; a dimension that does not divide stays whole.

  Args:
    axes: a letter for each dimension, or None.
    shape: of the array.
    mesh: size of each mesh axis that may be used.
    kind: what the array is.
  """
  cut: dict[int, tuple[str, ...]] = {}
  free = dict(mesh)
  for rule in active_rules():
    for dimension, letter in enumerate(axes):
      if letter != rule.letter:
        continue
      wanted = tuple(a for a in rule.mesh_axes(kind) if a in free)
      while wanted and shape[dimension] % math.prod(free[a] for a in wanted):
        wanted = wanted[:-1]
      if wanted:
        cut[dimension] = wanted
        free = {a: size for a, size in free.items() if a not in wanted}
  return PartitionSpec(*(_entry(cut.get(i)) for i in range(len(axes))))


def parameter_spec(
  path: Sequence[str], *, shape: Sequence[int], mesh: Mapping[str, int]
) -> PartitionSpec | None:
  """Return how a parameter is cut, None for what is none.

  An exit belongs to one stage, but arrays of one program lie on all devices of
  its mesh. So each stage keeps an equal part of every exit, along D.

  Args:
    path: names from the root of any tree down to the leaf.
    shape: of the leaf.
    mesh: size of each mesh axis.
  """
  axes = parameter_axes(path, ndim=len(shape))
  if axes is None:
    return None
  spec = partition(axes, shape=shape, mesh=mesh, kind=Kind.PARAMETER)
  cut = stage_dimension(path, shape=shape, mesh=mesh)
  if cut is None:
    return spec
  entries = list(spec)
  entries[cut] = _entry((STAGE, *entry_names(entries[cut])))
  return PartitionSpec(*entries)


def stage_dimension(
  path: Sequence[str], *, shape: Sequence[int], mesh: Mapping[str, int]
) -> int | None:
  """Return the dimension of an exit's parameter that stages have parts of.

  None where there is one stage, where the path is no exit's, and where nothing
  divides: norms and biases are whole on every stage.

  Args:
    path: names from the root of any tree down to the leaf.
    shape: of the leaf.
    mesh: size of each mesh axis.
  """
  stages = mesh.get(STAGE, 1)
  axes = parameter_axes(path, ndim=len(shape))
  if stages == 1 or axes is None or EXITS not in path:
    return None
  spec = partition(axes, shape=shape, mesh=mesh, kind=Kind.PARAMETER)
  for dimension, letter in enumerate(axes):
    parts = stages * math.prod(mesh[a] for a in entry_names(spec[dimension]))
    if letter == 'D' and shape[dimension] % parts == 0:
      return dimension
  return None


def entry_names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """Return the mesh axes of one entry of a partition."""
  if entry is None:
    return ()
  return (entry,) if isinstance(entry, str) else entry


def _entry(names: tuple[str, ...] | None) -> str | tuple[str, ...] | None:
  if names is None:
    return None
  return names[0] if len(names) == 1 else names


def ambient() -> dict[str, int]:
  """Return the mesh axes that the compiler cuts along here, with their sizes.

  Those of `jax.set_mesh`, less those that an enclosing `shard_map` handles by
  itself. Empty without a mesh.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return {
    name: size
    for name, size, kind in zip(
      mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True
    )
    if kind is AxisType.Auto and name in MESH_AXES
  }


def constrain(x: Array, axes: Axes, *, kind: Kind = Kind.ACTIVATION) -> Array:
  """Ask the compiler to lay `x` out as the rules say; no-op without a mesh.

  Args:
    x: an array being computed.
    axes: a letter for each of its dimensions, or None for one not to cut.
    kind: what it is.
  """
  mesh = ambient()
  if math.prod(mesh.values()) == 1:
    return x
  if _inside_shard_map():
    # A T cut there makes a sum over the stages, too, look like the compiler's
    # own: "Cross-partition allreduce must be in (partial) manual partitioning
    # mode" (jaxlib 0.10.2).
    axes = tuple(None if letter == 'T' else letter for letter in axes)
  spec = partition(axes, shape=x.shape, mesh=mesh, kind=kind)
  return jax.lax.with_sharding_constraint(x, spec)


def _inside_shard_map() -> bool:
  """Return whether some mesh axis is handled by an enclosing `shard_map`."""
  types = jax.sharding.get_abstract_mesh().axis_types
  return AxisType.Manual in types


def batch_shards(rows: int) -> int:
  """Return into how many parts the ambient mesh cuts a batch of `rows`."""
  mesh = ambient()
  spec = partition(('B',), shape=(rows,), mesh=mesh, kind=Kind.ACTIVATION)
  names = spec[0] or ()
  return math.prod(mesh[a] for a in BATCH_AXES if a in mesh and a in names)
