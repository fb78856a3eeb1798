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
"""Whether a policy may be used as it is about to be used.

Whoever decodes by a policy calls `check_use`: the recipes, the engine and so
every verb. `certify` makes the certificate that it checks.

Example:
  policy = certify(policy, model, Certificate(...))
  check_use(policy, model, Use(max_new_tokens=64))
"""

import dataclasses

import jax.numpy as jnp

from eejax.checkpoint import tree
from eejax.checkpoint.model import Model
from eejax.decoding.policy import bindings as bindings_lib
from eejax.decoding.policy.certificate import Certificate, PromptKind
from eejax.decoding.policy.policy import Policy
from eejax.errors import ArgumentError
from eejax.ops.quant import Quantization
from eejax.ops.sampling import SamplingConfig
from eejax.progress import SILENT, Progress

_GO_ON = (
  'or go on without the certificate: policy.without_certificate(), '
  '--uncertified on the command line'
)

_NAMES = {
  'model_config': 'another configuration of the model',
  'backbone': 'other weights of the backbone',
  'tokenizer': 'another tokenizer',
  'chat_template': 'another chat template',
  'criterion': 'another criterion of the same name',
}


@dataclasses.dataclass(frozen=True)
class Use:
  """How a policy is about to be used.

  Attributes:
    dtype: what is computed in, such as `float32`.
    weights: how kernels of the blocks are stored.
    kv: how keys and values are stored.
    temperature: of sampling; 0 is greedy.
    max_new_tokens: tokens generated at most; None where that is not known yet.
    prompt_kind: what prompts are; None likewise.
  """

  dtype: str = 'float32'
  weights: Quantization = Quantization.NONE
  kv: Quantization = Quantization.NONE
  temperature: float = 0.0
  max_new_tokens: int | None = None
  prompt_kind: PromptKind | None = None


def certify(
  policy: Policy,
  model: Model,
  certificate: Certificate,
  *,
  progress: Progress = SILENT,
) -> Policy:
  """Return a policy with a certificate that is bound to a model.

  Args:
    policy: what was certified.
    model: what it was certified on, all of its blocks loaded.
    certificate: what was found; `bindings` and `digest` are filled in.
    progress: is told while weights are hashed.

  Raises:
    ArgumentError: only some blocks of the model are loaded.
  """
  _check_whole(model)
  policy = dataclasses.replace(
    policy,
    certificate=None,
    backbone_hash=bindings_lib.backbone_identity(model, progress=progress),
  )
  bound = dataclasses.replace(
    certificate,
    bindings=_bindings(policy, model, certificate, progress),
  )
  sealed = dataclasses.replace(bound, digest=_digest(policy, bound))
  return dataclasses.replace(policy, certificate=sealed)


def check_use(
  policy: Policy,
  model: Model,
  use: Use = Use(),
  *,
  progress: Progress = SILENT,
) -> None:
  """Check that a policy fits a model and its certificate covers a use.

  A policy that was fitted for another model is refused, certified or not. A
  certificate is relied upon only where nothing that it rests on has changed:
  the policy and the certificate themselves, the configuration, weights, exits
  and tokenizer of the model, its chat template where conversations were
  certified on, the criterion, and the numbers that are computed with. The
  weights in use are hashed, once for a model.

  Args:
    policy: to be followed.
    model: to be decoded.
    use: how.
    progress: is told while weights are hashed.

  Raises:
    ArgumentError: the policy may not be used so; it says what differs.
  """
  certificate = policy.certificate
  if certificate is None:
    _check_fitted(policy, model, progress)
    return
  _check_unchanged(policy, certificate)
  check_covered(policy, use)
  _check_numbers(certificate, use)
  _check_whole(model)
  current = _bindings(policy, model, certificate, progress)
  for name in (*current, *certificate.bindings):
    if certificate.bindings.get(name) != current.get(name):
      what = _NAMES.get(name, f'another {name}')
      raise ArgumentError(
        f'the policy was certified with {what} than this model has; calibrate '
        f'again on this one, {_GO_ON}.'
      )


def check_covered(policy: Policy, use: Use) -> None:
  """Check that a certificate, if there is one, covers a text.

  Args:
    policy: to be followed.
    use: of it, `temperature`, `max_new_tokens` and `prompt_kind` are looked
      at.

  Raises:
    ArgumentError: the text is sampled, may be longer than those certified, or
      its prompt is of another kind.
  """
  certificate = policy.certificate
  if certificate is None:
    return
  if use.temperature > 0:
    raise ArgumentError(
      'the policy was certified for greedy text, and this is sampled with '
      f'temperature {use.temperature:g}; use temperature 0, {_GO_ON}.'
    )
  limit = certificate.max_new_tokens
  if use.max_new_tokens is not None and use.max_new_tokens > limit:
    raise ArgumentError(
      f'the policy was certified for texts of up to {limit} tokens, and this '
      f'may have {use.max_new_tokens}; generate {limit} at most, calibrate '
      f'with longer texts, {_GO_ON}.'
    )
  _check_prompt_kind(certificate, use)


def longest_covered(policy: Policy, *, default: int) -> int:
  """Return how long a text may be where nobody says it.

  Args:
    policy: to be followed.
    default: tokens at most, where a certificate does not cover fewer.
  """
  if policy.certificate is None:
    return default
  return min(default, policy.certificate.max_new_tokens)


def check_sampling_covered(policy: Policy, sampling: SamplingConfig) -> None:
  """Check that a certificate, if there is one, covers how tokens are chosen.

  Tokens that end a text sooner take nothing from what was promised of it.

  Args:
    policy: to be followed.
    sampling: its temperature is `check_covered`'s to look at.

  Raises:
    ArgumentError: other tokens may be chosen than were certified.
  """
  if sampling.logit_bias:
    check_uncertified(policy, 'logit_bias')
  if sampling.min_tokens:
    check_uncertified(policy, 'min_tokens')
  if sampling.ignore_eos:
    check_uncertified(policy, 'ignore_eos')


def check_uncertified(policy: Policy, what: str) -> None:
  """Check that a policy has no certificate where none can be checked.

  Args:
    policy: to be followed.
    what: stands in the way, as in 'thresholds of a request'.

  Raises:
    ArgumentError: it has one.
  """
  if policy.certificate is not None:
    raise ArgumentError(
      f'the certificate of the policy does not cover {what}; use the policy '
      f'as it was certified, {_GO_ON}.'
    )


def _digest(policy: Policy, certificate: Certificate) -> str:
  values = dataclasses.asdict(certificate)
  del values['digest']
  return bindings_lib.hash_of([bindings_lib.policy_hash(policy), values])


def _check_fitted(policy: Policy, model: Model, progress: Progress) -> None:
  fitted = policy.backbone_hash
  if fitted is None:
    return
  backbone = bindings_lib.backbone_identity(model, progress=progress)
  if fitted == backbone:
    return
  # Policies were fitted to the arrays of a model as they were stored, too.
  if model.backbone_hash is None and fitted == tree.backbone_hash(model.params):
    return
  raise ArgumentError(
    f'the policy was fitted for another model (its backbone is {fitted[:12]}, '
    f'this one {backbone[:12]}); calibrate again on this one.'
  )


def _check_prompt_kind(certificate: Certificate, use: Use) -> None:
  if use.prompt_kind in (None, certificate.prompt_kind):
    return
  if use.prompt_kind is PromptKind.CONVERSATION:
    raise ArgumentError(
      'the policy was certified on texts, and this is a conversation; '
      f'calibrate on conversations, {_GO_ON}.'
    )
  raise ArgumentError(
    'the policy was certified on conversations, and this prompt is a text as '
    f'it stands; give messages, calibrate on such texts, {_GO_ON}.'
  )


def _bindings(
  policy: Policy, model: Model, certificate: Certificate, progress: Progress
) -> dict[str, str]:
  """Return the hash of each thing that a certificate rests on."""
  found = bindings_lib.bindings(
    policy, model, dtype=certificate.dtype, progress=progress
  )
  if certificate.prompt_kind is PromptKind.CONVERSATION:
    found['chat_template'] = bindings_lib.chat_template_hash(model)
  return found


def _check_unchanged(policy: Policy, certificate: Certificate) -> None:
  if certificate.digest == _digest(policy, certificate):
    return
  what = 'its certificate'
  if certificate.bindings.get('policy') != bindings_lib.policy_hash(policy):
    what = 'its settings'
  raise ArgumentError(
    f'the policy was changed after it was certified ({what}); calibrate again, '
    f'{_GO_ON}.'
  )


def _check_numbers(certificate: Certificate, use: Use) -> None:
  certified = (certificate.dtype, certificate.weights, certificate.kv)
  wanted = (jnp.dtype(use.dtype).name, use.weights.value, use.kv.value)
  if certified != wanted:
    raise ArgumentError(
      f'the policy was certified in {_numbers(*certified)}, and this decodes '
      f'in {_numbers(*wanted)}; decode as it was certified, calibrate again, '
      f'{_GO_ON}.'
    )


def _numbers(dtype: str, weights: str, kv: str) -> str:
  parts = [dtype]
  none = Quantization.NONE.value
  if weights != none:
    parts.append(f'weights in {weights}')
  if kv != none:
    parts.append(f'keys and values in {kv}')
  return ' with '.join(parts[:2]) + ''.join(f' and {p}' for p in parts[2:])


def _check_whole(model: Model) -> None:
  loaded = tree.count_blocks(model.params)
  blocks = model.config.model.num_layers
  if loaded < blocks:
    raise ArgumentError(
      f'a certificate is checked on the whole model, and {loaded} of {blocks} '
      f'blocks are loaded; load all of it, {_GO_ON}.'
    )
