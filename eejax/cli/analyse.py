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
"""eejax analyse: every analysis of a model on a text, on one page."""

import argparse
from typing import Any

from eejax.cli import output, run_flags
from eejax.cli.gin import config as gin_config
from eejax.cli.run_flags import Shorthand

HELP = 'analyse a model and write one page with plots, tables and a verdict'
EXAMPLE = 'eejax analyse runs/tuned/model --data notes.txt --out runs/analysis'

_SHORTHANDS = (
  Shorthand('--out', 'OUT', 'folder of the report; an earlier one continues'),
  Shorthand(
    '--data', 'DATA', "'stdlib', a file, a folder, seqio:TASK or tfds:NAME"
  ),
  Shorthand(
    '--conversations',
    'DATA',
    'in place of --data: JSON lines with messages',
    more=("UNIT = 'conversation'",),
    instead_of='--data',
  ),
  Shorthand('--split', 'SPLIT', 'train, validation, test or all of the text'),
  Shorthand('--unit', 'UNIT', 'what one document is: file, paragraph, line'),
  Shorthand('--max-tokens', 'MAX_TOKENS', 'tokens read, spread over it', int),
  Shorthand('--sequence-length', 'SEQUENCE_LENGTH', 'tokens a row', int),
  Shorthand('--batch-size', 'BATCH_SIZE', 'rows at a time', int),
  Shorthand('--sections', 'SECTIONS', 'sections to compute, by comma'),
  Shorthand('--leave-out', 'LEAVE_OUT', 'sections not to compute, by comma'),
  Shorthand('--manifest', 'MANIFEST', 'JSON of models and texts to compare'),
  Shorthand(
    '--training-run', 'TRAINING_RUN', 'a run folder, to compare its steps'
  ),
  Shorthand('--text', 'TEXT', 'what the map of tokens by depth shows'),
  Shorthand('--alpha', 'ALPHA', 'weight of the similarity in EAS', float),
  Shorthand('--dtype', 'DTYPE', 'float32 or bfloat16'),
  Shorthand('--seed', 'SEED', 'seed of the bootstrap', int),
  run_flags.MESH,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'checkpoint',
    metavar='CKPT',
    nargs='?',
    help=(
      'a checkpoint, a Hugging Face folder, a GGUF file, smollm2 or default '
      '(--gin.CHECKPOINT)'
    ),
  )
  run_flags.add_arguments(parser, _SHORTHANDS)


def run(args: argparse.Namespace) -> dict[str, Any]:
  # The configurables must be known before gin reads a file.
  from eejax.cli.gin import analyse_configurables  # noqa: F401

  checkpoint = Shorthand('--checkpoint', 'CHECKPOINT', '')
  run_flags.parse(
    args, (checkpoint, *_SHORTHANDS), default_file='runs/analyse.gin'
  )
  result = gin_config.call('analyse')
  values = _values(result)
  output.show(result.summary())
  for sentence in values['reasons']:
    output.show(f'- {sentence}')
  output.show(f'\nreport: {values["report"]}')
  if result.failures:
    raise output.NegativeResult(
      f'{result.summary()} The rest is in {values["report"]}.', values
    )
  return values


def _values(result: Any) -> dict[str, Any]:
  """Return what `--json` prints."""
  verdict = result.verdict or {}
  return {
    'out': str(result.folder),
    'report': str(result.folder / 'report.html'),
    'verdict': verdict.get('kind'),
    'headline': verdict.get('headline'),
    'reasons': verdict.get('sentences', ()),
    'failures': result.failures,
    'tables': result.values['tables'],
    'seconds': sum(s['seconds'] for s in result.values['stages']),
  }
