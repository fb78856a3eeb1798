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
"""What pipelined decoding adds to a result: steps of the pipeline."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from eejax.decoding.loop.accounting import Accounting, BatchAccounting
from eejax.decoding.pipelined import latency
from eejax.decoding.pipelined.layout import PipelineLayout
from eejax.decoding.pipelined.rows import RecordedTokens
from eejax.decoding.results import DecodeResult, EmittedTokens


@dataclasses.dataclass(frozen=True)
class PipelineSteps:
  """The steps of a pipeline, in each of which all its stages run at once.

  Attributes:
    num_stages: stages of the pipeline, P.
    exit_stages: for each row, the stage each of its tokens was emitted at,
      from 0.
    prefill_steps: steps that the prompts took, counted on the devices.
    decode_steps: steps from there to the last token, likewise.
    predicted_prefill_steps: what `eejax.decoding.pipelined.latency` makes of
      the lengths of the prompts.
    predicted_decode_steps: what it makes of `exit_stages`; tokens that were
      on their way when a stop string ended their row are not in it.
    full_decode_steps: steps of decoding without exits, P a token.
  """

  num_stages: int
  exit_stages: tuple[tuple[int, ...], ...]
  prefill_steps: int
  decode_steps: int
  predicted_prefill_steps: int
  predicted_decode_steps: int
  full_decode_steps: int

  @classmethod
  def of(
    cls,
    exit_stages: tuple[tuple[int, ...], ...],
    *,
    layout: PipelineLayout,
    prefill_length: int,
    prefill_chunk: int,
    prefill_steps: int,
    decode_steps: int,
  ) -> 'PipelineSteps':
    """Return the steps of one batch, counted and predicted.

    Args:
      exit_stages: for each row, the stage each token was emitted at.
      layout: which stage runs what.
      prefill_length: tokens of the longest prompt without its last.
      prefill_chunk: tokens of a row that go through a stage together.
      prefill_steps: counted.
      decode_steps: counted.
    """
    stages = layout.num_stages
    return cls(
      num_stages=stages,
      exit_stages=exit_stages,
      prefill_steps=prefill_steps,
      decode_steps=decode_steps,
      predicted_prefill_steps=latency.prefill_steps(
        prefill_length, chunk=prefill_chunk, num_stages=stages
      ),
      predicted_decode_steps=latency.decode_steps(exit_stages),
      full_decode_steps=latency.full_decode_steps(
        list(map(len, exit_stages)), num_stages=stages
      ),
    )

  @property
  def speedup(self) -> float:
    """Return `full_decode_steps` over `decode_steps`, in [1, P].

    It is a ratio of steps (EE-LLM, arXiv 2312.04916, pipeline-based
    inference), not of measured times.
    """
    return self.full_decode_steps / max(self.decode_steps, 1)

  def __add__(self, other: 'PipelineSteps') -> 'PipelineSteps':
    """Return the steps of two batches of a pipeline, one after the other."""
    both = {
      f.name: getattr(self, f.name) + getattr(other, f.name)
      for f in dataclasses.fields(self)
    }
    return PipelineSteps(**{**both, 'num_stages': self.num_stages})

  def sentence(self) -> str:
    """Return how many steps exits saved."""
    saved = self.full_decode_steps - self.decode_steps
    return (
      f'{self.decode_steps} pipeline steps on {self.num_stages} stages, '
      f'{saved} fewer than without exits: a latency {self.speedup:.2f} times '
      'shorter, counted in steps and not in measured time'
    )


@dataclasses.dataclass(frozen=True)
class PipelinedResult(DecodeResult):
  """The continuations of one batch on a pipeline.

  Attributes:
    pipeline: its steps.
  """

  pipeline: PipelineSteps


def emitted_tokens(
  record: RecordedTokens, row: int, *, layout: PipelineLayout
) -> tuple[EmittedTokens, bool]:
  """Return what a row emitted before its logits were no finite numbers.

  Returns:
    The tokens, and whether there were others after them.
  """
  count = int(record.counts[row])
  emitted = jax.tree.map(lambda x: np.asarray(x)[row, :count], record.emitted)
  is_finite = np.isfinite(emitted.log_prob)
  good = slice(count if is_finite.all() else int(is_finite.argmin()))
  ends = np.array([stage.last for stage in layout.stages])
  tokens = EmittedTokens(
    token=emitted.token[good],
    depth=ends[emitted.stage[good]],
    score=emitted.score[good],
    log_prob=emitted.log_prob[good],
    top_ids=None if emitted.top_ids is None else emitted.top_ids[good],
    top_log_probs=(
      None if emitted.top_log_probs is None else emitted.top_log_probs[good]
    ),
  )
  return tokens, not is_finite.all()


def row_accounting(
  exit_stages: Sequence[int], *, layout: PipelineLayout
) -> Accounting:
  """Return the work done for one row: every token passes the whole model.

  Args:
    exit_stages: the stage each of its tokens was emitted at.
    layout: which stage runs what.
  """
  num_layers = layout.config.num_layers
  heads = np.cumsum([s.has_head for s in layout.stages])
  full = len(exit_stages) * num_layers
  before = sum(layout.stages[s].last for s in exit_stages)
  own_blocks = sum(s.has_block_head for s in layout.stages)
  return Accounting(
    blocks_run=full,
    blocks_full=full,
    catch_up_blocks=full - before,
    exit_blocks_run=len(exit_stages) * own_blocks,
    head_calls=int(sum(heads[s] for s in exit_stages)),
  )


def batch_accounting(
  exit_stages: Sequence[Sequence[int]], *, layout: PipelineLayout
) -> BatchAccounting:
  """Return what the batch read, each stage on its own device."""
  runs, asked = latency.stage_steps(exit_stages, num_stages=layout.num_stages)
  sizes = [s.num_blocks + s.has_block_head for s in layout.stages]
  head_reads = tuple(
    steps if stage.has_head else 0
    for steps, stage in zip(asked, layout.stages, strict=True)
  )
  return BatchAccounting(
    block_reads=int(np.dot(runs, sizes)),
    head_reads=sum(head_reads),
    segment_runs=runs,
    segment_head_reads=head_reads,
  )
