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
"""Compare decoding on meshes with decoding on one device; print one object.

  python benchmarks/mesh_decoding.py

The embedded model gets exits that are read with its own norm and head, and
continues prompts of the standard library in float32. Devices are simulated
unless there are accelerators. Nothing here is timed.
"""

import functools
from typing import Any

import figures
import jax
from figures import Figure

import eejax
from eejax.checkpoint.model import Model
from eejax.decoding.policy.policy import KVStrategy, Mode, Policy
from eejax.parallel.mesh import has_stages, make_mesh, parse_mesh
from eejax.recipes.prompts import token_prompts

NUM_PROMPTS, NEW_TOKENS = 4, 48
DEVICES = 4
MESHES = ('model=4', 'fsdp=4', 'data=2,model=2', 'stage=4')
_EARLY: dict[str, Any] = {
  'criterion': 'max_prob',
  'thresholds': (0.3, 0.4),
  # A pipeline has a window without end.
  'window': NEW_TOKENS,
}
POLICIES = {
  'full': Policy(),
  'deferred': Policy(Mode.EARLY_EXIT, **_EARLY),
  'propagate': Policy(
    Mode.EARLY_EXIT, kv_strategy=KVStrategy.PROPAGATE, **_EARLY
  ),
  'speculative': Policy(Mode.SPECULATIVE, **{**_EARLY, 'window': 4}),
}
# What a pipeline refuses.
_ONE_STAGE = ('propagate', 'speculative')


@functools.cache
def the_model() -> Model:
  """Return the embedded model with an exit at the end of two of its stages."""
  return eejax.add_exits(eejax.load('default'), '3:norm,6:norm')


@functools.cache
def texts(mode: str, mesh: str | None) -> list[tuple[tuple[int, ...], ...]]:
  """Return tokens and exit depths of each prompt, in one mode on a mesh."""
  model, devices = the_model(), None
  if mesh is not None:
    devices = make_mesh(parse_mesh(mesh), devices=jax.devices()[:DEVICES])
  prompts = token_prompts(
    model, None, max_new_tokens=NEW_TOKENS, count=NUM_PROMPTS
  )
  result = eejax.generate(
    model,
    [list(p) for p in prompts.tokens],
    policy=POLICIES[mode],
    max_new_tokens=NEW_TOKENS,
    mesh=devices,
  )
  return [(row.tokens, row.exit_depths) for row in result.rows]


def mesh_decode_exact(args) -> Figure:
  """Return the share of texts that are token for token those of one device."""
  del args  # nothing is timed
  shares: dict[str, float] = {}
  for mesh in MESHES:
    for mode in POLICIES:
      if has_stages(mesh) and mode in _ONE_STAGE:
        continue
      pairs = zip(texts(mode, mesh), texts(mode, None), strict=True)
      equal = [ours == theirs for ours, theirs in pairs]
      shares[f'{mode} on {mesh}'] = sum(equal) / len(equal)
  depths = [d for _, row in texts('deferred', None) for d in row]
  detail = {
    'texts': shares,
    'exit_shares': {
      d: depths.count(d) / len(depths) for d in sorted(set(depths))
    },
  }
  return min(shares.values()), detail


if __name__ == '__main__':
  # A mesh of four, whatever there is; accelerators are taken as they are.
  jax.config.update('jax_num_cpu_devices', DEVICES)
  figures.run(
    figures.parser(__doc__.split('\n')[0], repeats=1),
    {'mesh_decode_exact': mesh_decode_exact},
  )
