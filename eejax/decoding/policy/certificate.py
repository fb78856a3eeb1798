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
"""What a policy was certified for, and whether it is used for that.

A certificate holds for the model, the exits, the thresholds and the numbers it
was made with. Whoever decodes by it checks them; see `check_certificate`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from eejax import config as config_lib
from eejax.config import EarlyExitConfig
from eejax.errors import ArgumentError
from eejax.types import Params

LEARN_THEN_TEST = 'learn_then_test'
CONFORMAL = 'conformal'

# What tells texts apart, of the fields that `to_json` of a policy writes.
# Rows of a batch do not influence one another, so batching does not; drafts are
# verified, and policies from before texts drafted have no word of it.
_NOT_DECIDING = (
  'batching',
  'backbone_hash',
  'certificate',
  'draft_lookup',
  'mode',
)


@dataclasses.dataclass(frozen=True)
class Certificate:
  """Say what was certified, and everything that it takes to do so again.

  Attributes:
    method: `LEARN_THEN_TEST` or `CONFORMAL`.
    risk: limit of the mean loss of a sequence.
    delta: chance at most, over the sequences, that the mean loss is above;
      None for `CONFORMAL`, which bounds it on average over them.
    bound: p-value that was used; None for `CONFORMAL`.
    measure: loss of a sequence, in [0, 1].
    sequences: how many it was certified on.
    mean_loss: of these.
    p_value: of a higher risk; None for `CONFORMAL`.
    prompt_tokens: of each sequence.
    max_new_tokens: generated after each prompt, greedily.
    dtype: what was computed in.
    policy_hash: `policy_hash` of what decides the text.
    exit_hashes: hash of each exit that may be taken, by name.
    data: where sequences came from, with the hashes of those searched on and
      those certified on; plain values.
    versions: of eejax and jax.
  """

  method: str
  risk: float
  delta: float | None
  bound: str | None
  measure: str
  sequences: int
  mean_loss: float
  p_value: float | None
  prompt_tokens: int
  max_new_tokens: int
  dtype: str
  policy_hash: str
  exit_hashes: dict[str, str] = dataclasses.field(hash=False)
  data: dict[str, Any] = dataclasses.field(hash=False)
  versions: dict[str, str] = dataclasses.field(hash=False)

  def sentence(self) -> str:
    """Return in words what is guaranteed."""
    what = (
      f'the mean {self.measure} loss of greedy texts of up to '
      f'{self.max_new_tokens} tokens is at most {self.risk:g}'
    )
    if self.delta is None:
      return (
        f'certified on average (conformal, {self.sequences} sequences): {what}'
      )
    return (
      f'certified at {1 - self.delta:.6g} ({self.sequences} sequences, '
      f'{self.bound}): {what}'
    )

  def not_covered(
    self, *, temperature: float, max_new_tokens: int
  ) -> str | None:
    """Return why the guarantee is silent about a text, or None if it speaks.

    Args:
      temperature: of sampling; 0 is greedy.
      max_new_tokens: to be generated at most.
    """
    if temperature > 0:
      return 'the policy was certified for greedy text, and this is sampled'
    if max_new_tokens > self.max_new_tokens:
      return (
        f'the policy was certified for texts of up to {self.max_new_tokens} '
        f'tokens, and this may have {max_new_tokens}'
      )
    return None


def from_json(values: Any) -> Certificate:
  """Rebuild a certificate from plain values.

  Raises:
    ArgumentError: a field is missing, unknown or of another kind.
  """
  try:
    found = Certificate(**values)
    numbers = [found.risk, found.mean_loss]
    numbers += [x for x in (found.delta, found.p_value) if x is not None]
    plain = all(0 <= float(x) <= 1 for x in numbers)
    plain &= isinstance(found.exit_hashes, dict)
  except (TypeError, ValueError) as error:
    raise ArgumentError(
      f"the policy's certificate is broken: {error}."
    ) from error
  if not plain:
    raise ArgumentError("the policy's certificate is broken; calibrate again.")
  return found


def policy_hash(values: Mapping[str, Any]) -> str:
  """Return the hash of what decides the text, of a policy's plain values."""
  deciding = {k: v for k, v in values.items() if k not in _NOT_DECIDING}
  text = json.dumps(deciding, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def exit_hashes(params: Params, config: EarlyExitConfig) -> dict[str, str]:
  """Return a SHA-256 over each exit: its configuration, every path and byte.

  Args:
    params: the tree, of which only the exits are looked at.
    config: the model with the exits to be hashed.
  """
  described = config_lib.to_json(config)['exits']
  return {
    exit.name: _hash(params['exits'].get(exit.name, {}), words)
    for exit, words in zip(config.exits, described, strict=True)
  }


def _hash(exit_params: Params, words: Any) -> str:
  digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
  for path, leaf in jax.tree_util.tree_leaves_with_path(exit_params):
    array = np.ascontiguousarray(leaf)
    name = jax.tree_util.keystr(path)
    digest.update(f'{name} {array.dtype} {array.shape}\n'.encode())
    digest.update(array.reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def check_certificate(
  certificate: Certificate,
  *,
  values: Mapping[str, Any],
  params: Params,
  config: EarlyExitConfig,
  dtype: str,
) -> None:
  """Check that what is decoded is what was certified.

  Args:
    certificate: of the policy.
    values: the policy's plain values.
    params: the model; exits beyond where it always ends may be missing.
    config: with the exits that `params` holds.
    dtype: what is computed in; `int8` where weights or caches are rounded.

  Raises:
    ArgumentError: thresholds, exits or numbers are others.
  """
  if certificate.policy_hash != policy_hash(values):
    raise ArgumentError(
      'the policy was changed after it was certified; calibrate again, or '
      'remove its certificate to use it without.'
    )
  if certificate.dtype != dtype:
    raise ArgumentError(
      f'the policy was certified in {certificate.dtype}, and this decodes in '
      f'{dtype}; decode as it was certified, or calibrate again.'
    )
  found = exit_hashes(params, config)
  for name, digest in certificate.exit_hashes.items():
    if name in found and found[name] != digest:
      raise ArgumentError(
        f'the policy was certified with another {name} than this model has; '
        'calibrate again on this one.'
      )
    if name not in found and not found:
      raise ArgumentError(
        'the policy was certified with exits that this model lacks.'
      )
