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
"""Captured texts planted from logits, so that every figure is known."""

import dataclasses

import numpy as np
import pytest

from eejax.capture.captured import Captured, CaptureFacts, Readout, ReadoutKind


def captured_of_logits(logits, *, rows=None, target=None, hidden=None, k=4):
  """Return what a capture of these logits [R, N, V] holds, from definitions.

  Read-outs are natural and stand at depths 0 to R - 1; the last is the full
  model's. Rows are eight positions long unless they are given.
  """
  logits = np.asarray(logits, np.float64)
  readouts, count, vocabulary = logits.shape
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  p = np.exp(log_p)
  order = np.argsort(-log_p, axis=-1, kind='stable')[..., :k]
  rows = np.arange(count) // 8 if rows is None else np.asarray(rows)
  target = order[-1, :, 0] if target is None else np.asarray(target)
  hidden = logits if hidden is None else np.asarray(hidden, np.float64)
  centred = logits - logits.mean(-1, keepdims=True)
  before = np.maximum(np.arange(readouts) - 1, 0)
  first = (np.arange(readouts) == 0)[:, None]
  position = np.concatenate(
    [np.arange((rows == r).sum()) for r in dict.fromkeys(rows.tolist())]
  )
  arrays = {
    'row': rows,
    'position': position,
    'segment': np.ones(count, int),
    'token': np.zeros(count, int),
    'target': target,
    'weight': np.ones(count),
    'top_tokens': order,
    'top_log_probs': np.take_along_axis(log_p, order, axis=-1),
    'loss': -log_p[:, np.arange(count), target],
    'entropy': -(p * log_p).sum(-1),
    'kl_final': (p[-1] * (log_p[-1] - log_p)).sum(-1),
    'js_final': _js(p, p[-1]),
    'logit_cosine': _cosine(centred, centred[-1]),
    'hidden_cosine': _cosine(hidden, hidden[-1]),
    'js_previous': np.where(first, np.nan, _js(p, p[before])),
    'hidden_cosine_previous': np.where(
      first, np.nan, _cosine(hidden, hidden[before])
    ),
    'gate_score': np.full((readouts, count), np.nan),
  }
  facts = CaptureFacts(
    readouts=tuple(
      Readout(f'natural_{d}', float(d), ReadoutKind.NATURAL)
      for d in range(readouts)
    ),
    fields=tuple(list(arrays)[6:]),
    num_candidates=k,
    num_layers=readouts - 1,
    vocab_size=vocabulary,
  )
  return Captured(facts, arrays)


def _js(p, q):
  middle = (p + q) / 2
  kl = lambda a: (a * np.log(a / middle)).sum(-1)
  return (kl(p) + kl(q + 0 * p)) / 2


def _cosine(a, b):
  norm = lambda x: np.sqrt((x * x).sum(-1))
  return (a * b).sum(-1) / (norm(a) * norm(b))


def logits_of_tokens(tokens, *, vocabulary=11, sure=6.0):
  """Return logits whose likeliest token is given, [R, N]."""
  return sure * np.eye(vocabulary)[np.asarray(tokens)]


def with_arrays(captured, **arrays):
  """Return a capture with other arrays."""
  return Captured(captured.facts, {**captured.source, **arrays})


def with_kinds(captured, kinds):
  """Return a capture whose read-outs are of other kinds."""
  readouts = tuple(
    dataclasses.replace(r, kind=kind)
    for r, kind in zip(captured.readouts, kinds, strict=True)
  )
  facts = dataclasses.replace(captured.facts, readouts=readouts)
  return Captured(facts, captured.source)


@pytest.fixture(scope='session')
def planted():
  """The functions of this module, for tests cannot import a conftest."""
  return __import__('types').SimpleNamespace(
    of_logits=captured_of_logits,
    logits_of_tokens=logits_of_tokens,
    with_arrays=with_arrays,
    with_kinds=with_kinds,
  )


@pytest.fixture(scope='session')
def mixed(planted):
  """Twelve rows of eight tokens over four depths, as a seed has it."""
  random = np.random.default_rng(0)
  final = random.integers(0, 11, 96)
  wrong = (final + 1) % 11
  stable = random.integers(1, 5, 96)
  tokens = np.stack([np.where(d >= stable, final, wrong) for d in range(5)])
  tokens[4] = final
  sure = np.where(tokens == final, 5.0, 2.0)[..., None]
  return planted.of_logits(
    planted.logits_of_tokens(tokens, sure=1.0) * sure,
    target=np.where(np.arange(96) % 3, final, wrong),
  )
