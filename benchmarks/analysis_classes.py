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
"""Compare dense models, mixtures of experts and state-space models.

  python benchmarks/analysis_classes.py
  python benchmarks/analysis_classes.py --seeds 2 --steps 1000

A model of each class is trained on the standard library with `eejax.pretrain`:
the same tokenizer, tokens, steps, learning rate, depth and width, and nearly
as many parameters that a token passes. They are compared by `eejax.analyse`
with a manifest, on the part of the library that none has seen, without exits.

`model_classes` is the mean score (EAS) of the dense models less that of the
state-space models; the detail has every class and model with its interval over
text. This is the shape of a study, of models too small and too shortly trained
to say anything of large ones; `gin/studies/model_classes.json` names those.
"""

import argparse
import json
import pathlib
import sys
import tempfile
from typing import Any

import figures
import jax
from figures import Figure

import eejax
from eejax.analysis.manifest import read_manifest
from eejax.config import ModelConfig, PositionKind
from eejax.config.experts import ExpertsConfig
from eejax.config.state_space import StateSpaceConfig, StateSpaceKind
from eejax.progress import Progress

_COMMON: dict[str, Any] = {
  'vocab_size': 512,
  'num_layers': 8,
  'embed_dim': 64,
  'max_length': 128,
  'tied_head': True,
}
_ATTENTION = {'num_heads': 4, 'num_kv_heads': 4, 'head_dim': 16}
CLASSES = {
  'dense': ModelConfig(**_COMMON, **_ATTENTION, mlp_dim=192),
  # Two of eight experts, together as wide as the dense MLP.
  'moe': ModelConfig(
    **_COMMON,
    **_ATTENTION,
    mlp_dim=192,
    experts=ExpertsConfig(num_experts=8, top_k=2, expert_dim=96),
    family='mixtral',
  ),
  'ssm': ModelConfig(
    **_COMMON,
    num_heads=0,
    num_kv_heads=0,
    head_dim=0,
    mlp_dim=0,
    positions=PositionKind.NONE,
    state_space=StateSpaceConfig(
      StateSpaceKind.MAMBA, inner_dim=224, state_dim=16, step_rank=4
    ),
    family='mamba',
  ),
}


class _Shown(Progress):
  """Tell on stderr what is said."""

  def say(self, text: str) -> None:
    print(f'  {text}', file=sys.stderr, flush=True)


def model_classes(args: argparse.Namespace) -> Figure:
  """Return the difference of the scores of dense and state-space models."""
  text = eejax.read_text('stdlib')
  with tempfile.TemporaryDirectory() as made:
    folder = pathlib.Path(made)
    entries = []
    for seed in range(args.seeds):
      for kind, config in CLASSES.items():
        name = f'{kind}_{seed}'
        run = eejax.pretrain(
          config,
          text,
          folder=folder / name,
          steps=args.steps,
          batch_size=16,
          sequence_length=128,
          seed=seed,
          progress=_Shown(),
        )
        entries.append(_entry(name, kind, run))
        jax.clear_caches()
    manifest = folder / 'manifest.json'
    models = [{k: e[k] for k in _OF_MANIFEST} for e in entries]
    manifest.write_text(json.dumps({'models': models, 'reference': 'dense_0'}))
    result = eejax.analyse(
      folder / 'dense_0/model',
      text,
      sections=['comparison'],
      manifest=read_manifest(manifest),
      progress=_Shown(),
    )
    found = result.sections['comparison']
  groups = {
    g['value']: g['eas'] for g in found['groups'] if g['fact'] == 'kind'
  }
  gap = groups['dense']['value'] - groups['ssm']['value']
  return gap, {
    'steps': args.steps,
    'seeds': args.seeds,
    'trained': entries,
    'by_class': groups,
    'models': [
      {k: v for k, v in row.items() if k != 'checkpoint'}
      for row in result.tables()['models']
    ],
  }


_OF_MANIFEST = ('name', 'checkpoint', 'kind', 'parameters')


def _entry(name: str, kind: str, run: Any) -> dict[str, Any]:
  params = run.model.params['backbone']
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  return {
    'name': name,
    'checkpoint': f'{name}/model',
    'kind': kind,
    'parameters': float(count),
    'held_out_loss': run.held_out['final/loss'],
  }


FIGURES: dict[str, figures.Measure] = {'model_classes': model_classes}


def main() -> None:
  parser = figures.parser(__doc__.split('\n')[0], repeats=1)
  parser.add_argument(
    '--steps', type=int, default=500, help='of each training (default: 500)'
  )
  parser.add_argument(
    '--seeds', type=int, default=2, help='models of each class (default: 2)'
  )
  figures.run(parser, FIGURES)


if __name__ == '__main__':
  main()
