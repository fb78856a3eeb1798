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
"""What was certified of a policy.

A certificate holds for the model, the policy and the use it was made with; see
`eejax.decoding.policy.check_use`, which makes certificates and checks them.
"""

import dataclasses
import enum
from typing import Any

from eejax.errors import ArgumentError

LEARN_THEN_TEST = 'learn_then_test'
CONFORMAL = 'conformal'
# Of the data of a certificate: what ended texts, where it was not what ends
# those of the model.
EOS_IDS = 'eos_ids'

# A field of certificates whose digest did not cover all that they rest on.
_FORMER_FIELD = 'exit_hashes'


class PromptKind(enum.Enum):
  """What prompts are.

  TEXT: texts, or token ids, as they stand. CONVERSATION: messages, which a
  chat template writes, up to an answer.
  """

  TEXT = 'text'
  CONVERSATION = 'conversation'


@dataclasses.dataclass(frozen=True)
class Certificate:
  """What was certified, and everything that it takes to do so again.

  Attributes:
    method: `LEARN_THEN_TEST` or `CONFORMAL`.
    risk: limit of the mean loss of a sequence, in [0, 1].
    delta: chance at most, over the sequences, that the mean loss is above;
      None for `CONFORMAL`, which bounds it on average over them.
    bound: p-value that was used; None for `CONFORMAL`.
    measure: loss of a sequence, in [0, 1].
    sequences: how many it was certified on.
    mean_loss: of these.
    p_value: of a higher risk; None for `CONFORMAL`.
    prompt_tokens: of each sequence.
    max_new_tokens: generated after each prompt, greedily.
    dtype: what was computed in, such as `float32`.
    data: where sequences came from, with the hashes of those searched on and
      those certified on; plain values.
    versions: of eejax and jax.
    weights: how kernels of the blocks were stored, `none` or `int8`.
    kv: how keys and values were stored, likewise.
    bindings: hash of each thing that it holds for, by name; see
      `eejax.decoding.policy.bindings`.
    digest: hash of the policy and of every field above; '' before
      `eejax.decoding.policy.check_use.certify` has filled it in.
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
  data: dict[str, Any] = dataclasses.field(hash=False)
  versions: dict[str, str] = dataclasses.field(hash=False)
  weights: str = 'none'
  kv: str = 'none'
  bindings: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)
  digest: str = ''

  @property
  def prompt_kind(self) -> PromptKind:
    """Return what the prompts were that it was certified on."""
    is_chat = self.data.get('unit') == PromptKind.CONVERSATION.value
    return PromptKind.CONVERSATION if is_chat else PromptKind.TEXT

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


def from_json(values: Any) -> Certificate:
  """Rebuild a certificate from plain values; every field must be there.

  Raises:
    ArgumentError: a field is missing, unknown or of another kind, or the
      certificate is of an earlier version of eejax.
  """
  if isinstance(values, dict) and _FORMER_FIELD in values:
    raise ArgumentError(
      'the certificate of the policy is of an earlier version of eejax, which '
      'did not bind it to all that it rests on; calibrate again, or go on '
      'without it: Policy.load(path, certified=False), --uncertified on the '
      'command line.'
    )
  try:
    missing = {f.name for f in dataclasses.fields(Certificate)} - set(values)
    certificate = Certificate(**values)
    numbers = [certificate.risk, certificate.mean_loss]
    optional = (certificate.delta, certificate.p_value)
    numbers += [x for x in optional if x is not None]
    is_whole = all(0 <= float(x) <= 1 for x in numbers) and not missing
    is_whole &= isinstance(certificate.bindings, dict)
    is_whole &= isinstance(certificate.max_new_tokens, int)
  except (TypeError, ValueError) as error:
    raise ArgumentError(
      f"the policy's certificate is broken: {error}; calibrate again."
    ) from error
  if not is_whole:
    raise ArgumentError("the policy's certificate is broken; calibrate again.")
  return certificate
