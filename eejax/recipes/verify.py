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
"""Verify that speculative decoding gives the whole model's text."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from eejax import serialization
from eejax.checkpoint.model import Model
from eejax.decoding.policy.check_use import Use, check_use
from eejax.decoding.policy.defaults import complete_policy
from eejax.decoding.policy.policy import Mode, Policy
from eejax.errors import ArgumentError
from eejax.evaluation import lossless
from eejax.evaluation.lossless import LosslessSummary, RowCheck
from eejax.ops.sampling import SamplingConfig
from eejax.parallel.mesh import MeshChoice
from eejax.progress import SILENT, Progress
from eejax.recipes.devices import on_mesh
from eejax.recipes.prompts import PromptsLike, check_has_exits, token_prompts
from eejax.recipes.result import Result

BATCH_SIZES = (1, 3, 8)
NUM_PROMPTS = 8
NEW_TOKENS = 48


@dataclasses.dataclass(frozen=True)
class VerifyResult(Result):
  """Comparison of speculative decoding with the whole model, row by row.

  Attributes:
    checks: every row that was compared.
    policy: how drafts were made.
    prompts: where the prompts come from.
    batch_sizes: prompts decoded together.
    temperature: 0 is greedy.
    dtype: what was computed in.
    token_texts: texts of the tokens in which rows differ, by id; empty without
      a tokenizer.
  """

  checks: tuple[RowCheck, ...]
  policy: Policy
  prompts: str
  batch_sizes: tuple[int, ...]
  temperature: float
  dtype: str
  token_texts: Mapping[int, str]

  title = "Speculative decoding against the whole model's text"

  @property
  def counts(self) -> LosslessSummary:
    """Return the rows, tokens and drafts, counted."""
    return LosslessSummary.of(self.checks)

  @property
  def is_lossless(self) -> bool:
    """Return whether drafts were verified and no row really differs."""
    return self.counts.is_lossless

  @property
  def verdict(self) -> str:
    """Return the answer as a sentence."""
    counts = self.counts
    if counts.real_differences:
      return (
        f'not lossless here: {counts.real_differences} of {counts.rows} rows '
        "part from the whole model's text where rounding does not decide; "
        'please report this with the command.'
      )
    if not counts.drafted:
      return (
        'nothing was tested: no draft was verified; lower the threshold, or '
        'give a draft depth and a draft length.'
      )
    if counts.near_ties:
      return (
        f'Lossless here up to rounding: {counts.near_ties} of {counts.rows} '
        'rows part at a near tie, all others are token for token those of the '
        'whole model.'
      )
    return (
      f"Lossless here: all {counts.rows} rows are the whole model's, token for "
      'token.'
    )

  def work(self) -> str:
    """Return how much was compared, as a sentence."""
    counts = self.counts
    kept = (
      '' if counts.acceptance is None else f' ({counts.acceptance:.0%} kept)'
    )
    work = (
      f'{counts.rows} rows in batches of '
      f'{", ".join(map(str, self.batch_sizes))}, {counts.tokens} tokens, '
      f'{counts.drafted} drafts verified{kept}; {self.dtype}.'
    )
    if counts.non_finite:
      work += (
        f' {counts.non_finite} rows ended because the logits of the model were '
        'no finite numbers any more.'
      )
    return work

  def summary(self) -> str:
    """Return the answer, and how much was compared."""
    return f'{self.verdict}\n{self.work()}'

  def table(self) -> list[dict[str, Any]]:
    """Return a line for each row that differs."""
    return [
      {
        'prompt': check.prompt,
        'batch': check.batch_size,
        'seed': check.seed,
        'equal tokens': difference.place,
        'full': self._token(difference.full_token),
        'speculative': self._token(difference.speculative_token),
        'top-2 gap': difference.gap,
        'bound': difference.bound,
        'kind': difference.kind.value.replace('_', ' '),
      }
      for check in self.checks
      if (difference := check.difference) is not None
    ]

  def to_json(self) -> dict[str, Any]:
    """Return counts, the answer, and every row that differs."""
    counts = self.counts
    return {
      'prompts': self.prompts,
      'dtype': self.dtype,
      'temperature': self.temperature,
      'batch_sizes': list(self.batch_sizes),
      'policy': self.policy.to_json(),
      **dataclasses.asdict(counts),
      'acceptance': counts.acceptance,
      'is_lossless': counts.is_lossless,
      'verdict': self.verdict,
      'differences': serialization.plain(
        [check for check in self.checks if check.difference is not None]
      ),
    }

  def _token(self, token: int | None) -> str:
    if token is None:
      return 'end'
    return repr(self.token_texts.get(token, token))


def verify(
  model: Model,
  prompts: PromptsLike = None,
  *,
  policy: Policy | None = None,
  batch_sizes: Sequence[int] = BATCH_SIZES,
  max_new_tokens: int = NEW_TOKENS,
  temperature: float = 0.0,
  seeds: int | None = None,
  dtype: str = 'float32',
  mesh: MeshChoice | None = None,
  progress: Progress = SILENT,
) -> VerifyResult:
  """Check that speculative decoding emits what the whole model emits.

  Both decode the same prompts. Where two texts part, the first difference is
  a near tie if the whole model's two best logits are as close as rounding,
  and a real one otherwise; see `eejax.evaluation.lossless`.

  Args:
    model: with exits, which draft.
    prompts: texts, or token ids of each; None takes 8 beginnings of the
      standard library's validation part.
    policy: how drafts are made; its mode is set to speculative. None drafts
      from exits at the threshold 0.4 and from the text so far.
    batch_sizes: prompts decoded together, each number in turn.
    max_new_tokens: tokens generated after each prompt.
    temperature: 0 is greedy; above, both sample with equal seeds.
    seeds: how many seeds each prompt is sampled with; None is 1.
    dtype: what is computed in, `float32` or `bfloat16`.
    mesh: the devices, as `eejax.generate` takes them; None is the default one.
    progress: is told of every batch.

  Returns:
    Every row that was compared, and the answer.

  Raises:
    EejaxError: the model has no exits, the policy or the mesh does not fit
      it, or a number is out of range.

  Example:
    >>> import eejax
    >>> from eejax.testing import tiny
    >>> config = tiny.tiny_config('1:norm,3:mlp')
    >>> model = eejax.Model(config, tiny.tiny_params(config))
    >>> drafts = eejax.Policy(eejax.Mode.SPECULATIVE, thresholds=(0.0,))
    >>> result = eejax.verify(
    ...   model, [[3, 4], [5]], policy=drafts, batch_sizes=[2], max_new_tokens=4
    ... )
    >>> print(result.verdict)
    Lossless here: all 2 rows are the whole model's, token for token.
  """
  _check_seeds(seeds, temperature)
  check_has_exits(model)
  policy = (policy or default_policy(model)).with_mode('speculative')
  check_use(policy, model, Use(dtype=dtype), progress=progress)
  policy.usable_exits(model.config)
  ids = token_prompts(
    model, prompts, max_new_tokens=max_new_tokens, count=NUM_PROMPTS
  )
  trials = lossless.plan_trials(
    len(ids.tokens), batch_sizes=batch_sizes, num_seeds=seeds or 1
  )
  model = on_mesh(model, mesh)
  check = lossless.LosslessCheck(
    model.params,
    config=model.config,
    prompts=ids.tokens,
    policy=policy,
    sampling=SamplingConfig(temperature=temperature),
    max_new_tokens=max_new_tokens,
    dtype=dtype,
  )
  tracked = progress.track(trials, 'verifying', unit='trial')
  checks = tuple(row for rows in check.run(tracked) for row in rows)
  return VerifyResult(
    checks=checks,
    policy=policy,
    prompts=ids.source,
    batch_sizes=tuple(batch_sizes),
    temperature=temperature,
    dtype=dtype,
    token_texts=_token_texts(model, checks),
  )


def default_policy(model: Model) -> Policy:
  """Return speculation as `eejax.generate` does it where nothing is said."""
  return complete_policy(model.config, mode=Mode.SPECULATIVE)


def _check_seeds(seeds: int | None, temperature: float) -> None:
  if seeds is None:
    return
  if seeds < 1:
    raise ArgumentError(f'seeds must be at least 1, not {seeds}.')
  if temperature == 0:
    raise ArgumentError(
      'greedy decoding knows no seeds; give a temperature, or leave seeds out.'
    )


def _token_texts(model: Model, checks: Sequence[RowCheck]) -> dict[int, str]:
  """Return the texts of the tokens in which rows differ."""
  if model.tokenizer_folder is None:
    return {}
  differences = [c.difference for c in checks if c.difference is not None]
  tokens = {
    token
    for difference in differences
    for token in (difference.full_token, difference.speculative_token)
    if token is not None
  }
  return {token: model.tokenizer.decode([token]) for token in sorted(tokens)}
