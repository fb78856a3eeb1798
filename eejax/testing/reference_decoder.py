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
"""A slow, obvious decoder: what every mode of the real one must equal.

It keeps nothing from token to token. Each token runs the whole text through
the whole model, so keys and values are those of a full pass by construction,
and only then asks which exit would have been taken.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eejax.config import EarlyExitConfig, GateKind
from eejax.models import decoder
from eejax.models.exits import gate_logit
from eejax.types import Array, Float, Int, Params

# `(logits, gate_logit) -> score`; the gate's logit is NaN where there is none.
Score = Callable[[np.ndarray, float], float]


@dataclasses.dataclass
class ReferenceText:
  """Hold what the reference generated for one prompt.

  Attributes:
    tokens: the tokens.
    exit_depths: depth each was emitted at.
    scores: score at the exit each came from; None from the final head.
    logprobs: log-probability of each under the head that emitted it.
  """

  tokens: list[int] = dataclasses.field(default_factory=list)
  exit_depths: list[int] = dataclasses.field(default_factory=list)
  scores: list[float | None] = dataclasses.field(default_factory=list)
  logprobs: list[float] = dataclasses.field(default_factory=list)


def reference_generate(
  params: Params,
  *,
  config: EarlyExitConfig,
  prompt: Sequence[int],
  num_tokens: int,
  score: Score | None = None,
  thresholds: Sequence[float | None] = (),
  window: int = 8,
) -> ReferenceText:
  """Continue a prompt greedily.

  Args:
    params: the model, blocks stacked.
    config: its configuration.
    prompt: token ids, at least one.
    num_tokens: how many to generate.
    score: says how safe an exit is; None decodes at full depth.
    thresholds: one an exit, None for never; exit iff score >= threshold.
    window: every `window`-th token at the latest goes to full depth.
  """
  text, result, since_full = list(prompt), ReferenceText(), 0
  length = len(text) + num_tokens
  for _ in range(num_tokens):
    tokens = np.zeros((1, length), np.int32)
    tokens[0, : len(text)] = text
    heads, gates = _run(params, jnp.asarray(tokens), config=config)
    newest = len(text) - 1
    logits = np.asarray(heads['final'])[0, newest]
    depth, value = config.model.num_layers, None
    if score is not None and since_full + 1 < window:
      for exit, threshold in zip(config.exits, thresholds, strict=True):
        here = np.asarray(heads[exit.name])[0, newest]
        found = score(here, float(gates[exit.name][0, newest]))
        if threshold is not None and found >= threshold:
          logits, depth, value = here, exit.depth, found
          break
    at_full_depth = depth == config.model.num_layers
    since_full = 0 if at_full_depth else since_full + 1
    token = int(np.argmax(logits))
    text.append(token)
    result.tokens.append(token)
    result.exit_depths.append(depth)
    result.scores.append(value)
    result.logprobs.append(float(jax.nn.log_softmax(logits)[token]))
  return result


@functools.partial(jax.jit, static_argnames='config')
def _run(
  params: Params, tokens: Int[Array, 'B T'], *, config: EarlyExitConfig
) -> tuple[dict[str, Float[Array, 'B T V']], dict[str, Float[Array, 'B T']]]:
  """Return the logits of every head and the logits of every gate."""
  backbone = params['backbone']
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  out = decoder.run_blocks(
    backbone,
    decoder.embed(backbone, tokens, dtype=jnp.float32),
    config=config,
    positions=positions,
  )
  gates = {}
  for exit in config.exits:
    gates[exit.name] = jnp.full(tokens.shape, jnp.nan)
    hidden = out.exit_inputs[exit.name].hidden
    if exit.gate is not GateKind.NONE and hidden is not None:
      gates[exit.name] = gate_logit(
        params['exits'][exit.name],
        hidden,
        exit=exit,
        config=config.model,
      )
  return decoder.logits(params, tokens, config=config), gates
