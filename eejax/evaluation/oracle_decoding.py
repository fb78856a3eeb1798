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
"""Oracle exits of decoded text: ceilings for every exit criterion.

An oracle knows what the full model will say and exits where an exit says the
same, so with greedy decoding it emits the full model's text. The text is
therefore decoded at full depth, and one pass over it tells where each token
could have left. An oracle is no policy: nobody has the final output at an
exit. The two differ, so a number goes by the name of its oracle.

Example:
  decoded = decode_with_oracle(
    model.params, config=model.config, prompts=[ids], oracle=Oracle.STABLE
  )
  print(decoded[0].exit_depths)
"""

import dataclasses
import enum
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from eejax.config import EarlyExitConfig
from eejax.data.batch import Batch
from eejax.decoding.generate import generate
from eejax.evaluation.scores import collect_scores
from eejax.types import Bool, Int, Params


class Oracle(enum.Enum):
  """Which exit an oracle takes, y_e being the likeliest token at exit e.

  FIRST_MATCH: the first exit with y_e = y_L, the full model's. Chance
  agreement counts, so it is the more generous of the two (Shan et al. 2024,
  Early Exit Is a Natural Capability in Transformer-based Models, the oracle
  strategy).
  STABLE: the first exit from which on all exits say y_L; never before
  FIRST_MATCH (Lioubashevski et al. 2025, Looking Beyond the Top-1, section 3,
  saturation, at exits instead of layers).
  """

  FIRST_MATCH = 'first_match'
  STABLE = 'stable'


@dataclasses.dataclass(frozen=True)
class OracleRow:
  """Text that greedy decoding continues a prompt with, and its oracle exits.

  Attributes:
    tokens: the generated ones.
    exit_depths: blocks after which the oracle emits each; the full depth where
      no exit agrees.
  """

  tokens: tuple[int, ...]
  exit_depths: tuple[int, ...]


def oracle_exits(
  agree: Bool[np.ndarray, 'E *tokens'], oracle: Oracle
) -> Int[np.ndarray, '*tokens']:
  """Return the exit that an oracle takes, by its place; E where there is none.

  Args:
    agree: whether each exit's likeliest token is the full model's, shallowest
      exit first; `ExitScores.agree` is such an array.
    oracle: which oracle.
  """
  if oracle is Oracle.STABLE:
    disagreeing_later = np.cumsum(~agree[::-1], axis=0)[::-1]
    agree = disagreeing_later == 0
  return np.where(agree.any(axis=0), agree.argmax(axis=0), len(agree))


def decode_with_oracle(
  params: Params,
  *,
  config: EarlyExitConfig,
  prompts: Sequence[Sequence[int]],
  oracle: Oracle,
  max_new_tokens: int = 128,
  eos_ids: Sequence[int] | None = None,
  dtype: str = 'float32',
) -> tuple[OracleRow, ...]:
  """Continue every prompt greedily and say where an oracle would have exited.

  Args:
    params: the whole tree, blocks stacked.
    config: the model with its exits.
    prompts: token ids; an empty one becomes the start token.
    oracle: which oracle.
    max_new_tokens: tokens to emit at most, a row.
    eos_ids: tokens that end a row; by default the model's.
    dtype: compute dtype.

  Raises:
    ArgumentError: a prompt cannot be used, or the model has no exits.
  """
  rows = generate(
    params,
    config=config,
    prompts=prompts,
    max_new_tokens=max_new_tokens,
    eos_ids=eos_ids,
    dtype=jnp.dtype(dtype),
  ).rows
  texts = [(*row.prompt_tokens, *row.tokens) for row in rows]
  agree = collect_scores(
    params,
    [_one_text_a_row(texts)],
    config=config,
    criteria=('max_prob',),
    dtype=dtype,
  )['max_prob'].agree
  depths = np.array([*config.exit_depths, config.model.num_layers])
  by_row = depths[oracle_exits(agree, oracle)]
  decoded = []
  for row, of_text in zip(rows, by_row, strict=True):
    # The last token of the prompt predicts the first one that is generated.
    first = len(row.prompt_tokens) - 1
    exits = of_text[first : first + len(row.tokens)]
    decoded.append(OracleRow(tuple(row.tokens), tuple(map(int, exits))))
  return tuple(decoded)


def _one_text_a_row(texts: Sequence[Sequence[int]]) -> Batch:
  """Return texts as a batch, the last token of each as a target alone."""
  batch = Batch.padding(len(texts), sequence_length=max(map(len, texts)) - 1)
  for row, text in enumerate(texts):
    length = len(text) - 1
    batch.tokens[row, :length] = text[:-1]
    batch.targets[row, :length] = text[1:]
    batch.weights[row, :length] = 1
    batch.positions[row, :length] = np.arange(length)
    batch.segment_ids[row, :length] = 1
  return batch
