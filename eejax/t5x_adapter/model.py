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
"""A model of t5x around eejax's decoder, objective and decode loop."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from flax.linen import partitioning as flax_partitioning
from t5x import models

from eejax.config import EarlyExitConfig
from eejax.data.seqio_runtime import seqio
from eejax.data.seqio_vocabulary import HuggingFaceVocabulary
from eejax.decoding.policy.policy import Policy
from eejax.errors import ArgumentError
from eejax.models import decoder
from eejax.models.exits import apply_exit_head, output_kernel
from eejax.ops.cross_entropy import cross_entropy
from eejax.ops.sampling import SamplingConfig
from eejax.t5x_adapter import axes, features, metrics, settings
from eejax.t5x_adapter.decoding import DecodeSettings, continuations
from eejax.t5x_adapter.features import Features
from eejax.t5x_adapter.optimizers import frozen_tree, plain_tree
from eejax.training import losses
from eejax.training.freeze import Regime
from eejax.training.loss_sums import LossSums
from eejax.training.objective import Forward, Objective
from eejax.types import Array, Float, Params

Metrics = Mapping[str, Any]

JOINT = Objective(regime=Regime.JOINT)
PLAIN_FORWARD = Forward()
FULL_DEPTH = Policy()


class EarlyExitModel(models.BaseTransformerModel):
  """An early-exit decoder as t5x's train, eval and infer use one."""

  def __init__(
    self,
    config: EarlyExitConfig,
    vocabulary: seqio.Vocabulary,
    optimizer_def: Any,
    *,
    objective: Objective = JOINT,
    forward: Forward = PLAIN_FORWARD,
    policy: Policy = FULL_DEPTH,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
  ):
    """Describe the model; its parameters are t5x's.

    Args:
      config: the backbone and its exits.
      vocabulary: of the tasks that it is used with.
      optimizer_def: an optimizer of t5x. A part of the parameters is trained
        with `eejax.t5x_adapter.optimizers.trained_part`.
      objective: what training minimises.
      forward: how the backbone is run.
      policy: when decoding exits early.
      temperature: of decoding; 0 is greedy.
      top_k: decode among this many of the likeliest tokens; 0 is all.
      top_p: decode among the likeliest tokens with this share.
    """
    super().__init__(
      None,
      input_vocabulary=vocabulary,
      output_vocabulary=vocabulary,
      optimizer_def=optimizer_def,
    )
    ends = {*config.model.eos_ids}
    if vocabulary.eos_id is not None:
      ends.add(vocabulary.eos_id)
    self.config, self.objective, self.forward = config, objective, forward
    self.decode_settings = DecodeSettings(
      policy=policy,
      sampling=SamplingConfig(temperature, top_k, top_p),
      eos_ids=tuple(sorted(ends)),
      dtype=forward.dtype,
    )

  @property
  def FEATURE_CONVERTER_CLS(self) -> Callable[..., seqio.FeatureConverter]:  # noqa: N802
    """Return the decoder converter, with the model's own start token."""
    start = self.config.model.bos_id
    return functools.partial(
      seqio.DecoderFeatureConverter, bos_id=0 if start is None else start
    )

  def get_initial_variables(
    self,
    rng: jax.Array,
    input_shapes: Mapping[str, Any],
    input_types: Mapping[str, Any] | None = None,
  ) -> Any:
    """Return random parameters and the names of their dimensions."""
    del input_shapes, input_types
    params = frozen_tree(decoder.init(self.config, rng))
    named = flax.traverse_util.flatten_dict(
      axes.parameter_names(params), is_leaf=lambda _, x: isinstance(x, tuple)
    )
    metadata = {
      (*path[:-1], f'{path[-1]}_axes'): flax_partitioning.AxisMetadata(names)
      for path, names in named.items()
    }
    return flax.core.freeze(
      {
        'params': params,
        'params_axes': flax.traverse_util.unflatten_dict(metadata),
      }
    )

  # MARK: Training

  def loss_fn(
    self, params: Any, batch: Features, dropout_rng: jax.Array | None
  ) -> tuple[Float[Array, ''], Metrics]:
    """Return eejax's objective a token, and metrics of every head.

    t5x's stock trainer differentiates it with respect to every parameter, so
    it is for `joint` and `standard` training at constant exit weights, in one
    microbatch. `eejax.t5x_adapter.trainer` has no such limits.

    Raises:
      ArgumentError: the objective needs that trainer.
    """
    del dropout_rng
    if self.objective.regime is Regime.TUNE:
      raise ArgumentError(
        'tuning keeps the backbone frozen, which t5x.trainer.Trainer does '
        'not; set train.trainer_cls = @EarlyExitTrainer.'
      )
    if not settings.constant_weights(self.objective):
      raise ArgumentError(
        'these exit weights change from step to step, which '
        't5x.trainer.Trainer does not tell a model; set train.trainer_cls = '
        '@EarlyExitTrainer.'
      )
    tokens = features.token_batch(batch)
    total, sums = losses.objective_sum(
      plain_tree(params),
      {},
      tokens,
      config=self.config,
      objective=self.objective,
      forward=self.forward,
      step=0,
    )
    loss = total / jnp.maximum(sums.tokens, 1.0)
    return loss, self.metrics(sums, batch)

  def eval_fn(
    self, params: Any, batch: Features
  ) -> tuple[Float[Array, ''], Metrics]:
    """Return the loss of every head at full depth, whatever is trained."""
    sums = losses.evaluation_sums(
      plain_tree(params),
      features.token_batch(batch),
      config=self.config,
      forward=self.forward,
      full_depth=True,
    )
    loss = sums.final.loss / jnp.maximum(sums.tokens, 1.0)
    found = metrics.step_metrics(sums, config=self.config, objective=JOINT)
    weights = features.token_batch(batch).weights
    return loss, {**found, **metrics.batch_metrics(weights)}

  def metrics(self, sums: LossSums, batch: Features) -> dict[str, Any]:
    """Return the metrics of a training step."""
    found = metrics.step_metrics(
      sums, config=self.config, objective=self.objective
    )
    weights = features.token_batch(batch).weights
    return {**found, **metrics.batch_metrics(weights)}

  # MARK: Inference

  def _compute_logits(
    self, params: Any, batch: Features, dropout_rng: jax.Array | None = None
  ) -> Float[Array, 'B T V']:
    del dropout_rng
    tokens = features.token_batch(batch)
    return decoder.logits(
      plain_tree(params),
      tokens.tokens,
      config=self.config.with_exits(()),
      dtype=jnp.dtype(self.forward.dtype),
      positions=tokens.positions,
      segment_ids=tokens.segment_ids,
    )['final']

  def score_batch(
    self, params: Any, batch: Features, return_intermediates: bool = False
  ) -> Any:
    """Return the log-likelihood of each row's targets at full depth.

    Args:
      params: as t5x holds them.
      batch: features.
      return_intermediates: whether the log-likelihood of every token, at
        every exit and at full depth, is returned as well.
    """
    tokens = features.token_batch(batch)
    config = self.config if return_intermediates else self.config.with_exits(())
    scores = _token_scores(
      plain_tree(params), tokens, config=config, forward=self.forward
    )
    rows = jnp.sum(scores['final'], axis=-1)
    if not return_intermediates:
      return rows
    return rows, {name: {'token_scores': (s,)} for name, s in scores.items()}

  def predict_batch_with_aux(
    self, params: Any, batch: Features, rng: jax.Array | None = None
  ) -> tuple[Array, Mapping[str, Array]]:
    """Continue every row, exiting early as the policy says.

    Args:
      params: as t5x holds them.
      batch: features with inputs.
      rng: random key, where the temperature is above 0.

    Returns:
      Tokens [B, T] from the first new one on, behind the last an end token
      and zeros; and `scores` [B], the sum of log-probabilities, with
      `exit_depths` and `token_log_probs` [B, T].
    """
    done = continuations(
      plain_tree(params),
      features.prompts(batch),
      config=self.config,
      settings=self.decode_settings,
      key=rng,
    )
    aux = {
      'scores': jnp.sum(done.log_probs, axis=-1),
      'exit_depths': done.exit_depths,
      'token_log_probs': done.log_probs,
    }
    return self._ended(done.tokens, done.counts), aux

  def _ended(self, tokens: Array, counts: Array) -> Array:
    """Return tokens with an end token behind rows that have none.

    The zeros that t5x pads with are a token like others to vocabularies that
    come from Hugging Face, whose text ends at the first end token.
    """
    end = self.output_vocabulary.eos_id
    if end is None:
      return tokens
    is_next = jnp.arange(tokens.shape[1])[None] == counts[:, None]
    return jnp.where(is_next, end, tokens)


def _token_scores(
  params: Params, batch, *, config: EarlyExitConfig, forward: Forward
) -> dict[str, Float[Array, 'B T']]:
  """Return the log-likelihood of each target under each head."""
  dtype = jnp.dtype(forward.dtype)
  backbone = params['backbone']
  out = decoder.run_blocks(
    backbone,
    decoder.embed(
      backbone,
      batch.tokens,
      positions=batch.positions,
      config=config.model,
      dtype=dtype,
    ),
    config=config,
    positions=batch.positions,
    segment_ids=batch.segment_ids,
    implementation=forward.implementation,
  )
  hidden = {
    e.name: apply_exit_head(
      params['exits'].get(e.name, {}),
      out.exit_inputs[e.name],
      exit=e,
      config=config.model,
      positions=batch.positions,
      segment_ids=batch.segment_ids,
    ).hidden
    for e in config.exits
  }
  hidden['final'] = decoder.final_hidden(
    backbone, out.hidden, config=config.model
  )
  heads = {e.name: e for e in config.exits} | {'final': None}

  def scores(name: str) -> Float[Array, 'B T']:
    kernel = output_kernel(params, exit=heads[name], config=config.model)
    statistics = cross_entropy(
      hidden[name],
      kernel=kernel,
      targets=batch.targets,
      dtype=dtype,
      softcap=config.model.logit_softcap,
    )
    return -statistics.loss * batch.weights

  return {name: scores(name) for name in hidden}


def vocabulary(source: str) -> HuggingFaceVocabulary:
  """Return the vocabulary of the tokenizer in a folder.

  Args:
    source: as `settings.early_exit_config` takes a folder.
  """
  return HuggingFaceVocabulary(settings.tokenizer(source))
