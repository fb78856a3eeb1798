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
"""Test every verb on a mesh of simulated devices against one device."""

import dataclasses

import jax
import pytest

import eejax
from eejax.config import EarlyExitConfig
from eejax.decoding.policy.policy import Mode, Policy
from eejax.decoding.results import Timing
from eejax.errors import ArgumentError
from eejax.evaluation.part_times import PartTimes
from eejax.models.stacking import truncate
from eejax.parallel.mesh import MeshConfig, devices_of
from eejax.parallel.sharding import mesh_of
from eejax.recipes import devices

MESH = 'data=2,fsdp=2,model=2'
TIMES = PartTimes(blocks=4.0, head=0.5)
EARLY = Policy(Mode.EARLY_EXIT, 'max_prob', (0.02,), window=2)


def counted(result):
  """Take a second for a block and one for a head."""
  reads = result.batch
  return Timing(decode_s=float(reads.block_reads + reads.head_reads))


@pytest.fixture(scope='module')
def model(calibration_models):
  """Return a model of two blocks, of which the second changes nothing."""
  whole = calibration_models['perfect']
  params = truncate(whole.params, depth=2)
  name = whole.config.exits[0].name
  return dataclasses.replace(
    whole,
    config=EarlyExitConfig(
      whole.config.model.with_depth(2), whole.config.exits[:1]
    ),
    params={**params, 'exits': {name: params['exits'][name]}},
  )


@pytest.fixture(scope='module')
def read_alike(model, calibration_text):
  """Return a function that compares a verb on a mesh and on one device."""

  def run(verb, *arguments, **options):
    return [
      verb(model, *arguments, mesh=mesh, **options) for mesh in (MESH, None)
    ]

  return run


def test_generate(read_alike):
  found, wanted = read_alike(
    eejax.generate, ['alpha', [3, 4, 5]], stop=['a'], max_new_tokens=5
  )
  for ours, theirs in zip(found.rows, wanted.rows, strict=True):
    assert (ours.text, ours.finish_reason) == (
      theirs.text,
      theirs.finish_reason,
    )
  assert found.pipeline is None


def test_verify(model):
  drafts = Policy(Mode.SPECULATIVE, 'max_prob', (0.0,), draft_length=1)
  result = eejax.verify(
    model,
    [[3, 4, 5], [9]],
    policy=drafts,
    batch_sizes=(2,),
    max_new_tokens=5,
    mesh=MESH,
  )
  assert result.is_lossless and result.counts.drafted


@pytest.mark.slow
def test_bench(read_alike):
  found, wanted = read_alike(
    eejax.bench,
    [EARLY],
    prompts=[[3, 4, 5]],
    batch_sizes=(1,),
    max_new_tokens=5,
    repeats=1,
    times={1: TIMES},
    clock=counted,
  )
  assert found.table() == wanted.table()
  assert found.values['run']['mesh'] == MESH
  assert 'mesh' not in wanted.values['run']


def test_eval(read_alike, calibration_text):
  found, wanted = read_alike(
    eejax.evaluate, calibration_text, max_tokens=300, sequence_length=16
  )
  for ours, theirs in zip(
    found.quality.heads, wanted.quality.heads, strict=True
  ):
    assert ours.loss.value == pytest.approx(theirs.loss.value, rel=1e-5)
    assert ours.agreement == theirs.agreement


@pytest.mark.slow
def test_calibrate(read_alike, calibration_text):
  found, wanted = read_alike(
    eejax.calibrate,
    calibration_text,
    criterion='max_prob',
    risk=0.2,
    sequences=24,
    search_sequences=6,
    report_sequences=3,
    prompt_tokens=4,
    max_new_tokens=6,
    batch_size=6,
    window=2,
    times=TIMES,
    clock=counted,
    required=True,
  )
  assert found.certificate.mean_loss == wanted.certificate.mean_loss
  assert found.thresholds == pytest.approx(wanted.thresholds, rel=1e-4)


def test_probe(read_alike, calibration_text):
  found, wanted = read_alike(
    eejax.probe,
    calibration_text,
    hardware='h100_80g',
    max_tokens=400,
    sequence_length=16,
    window=2,
  )
  assert found.verdict.answer is wanted.verdict.answer
  names = [[c.name for c in r.verdict.candidates] for r in (found, wanted)]
  assert names[0] == names[1]


@pytest.mark.slow
def test_analyse(model, calibration_text):
  result = eejax.analyse(
    model,
    calibration_text,
    sections=['natural', 'free_running'],
    max_tokens=200,
    sequence_length=16,
    mesh=MESH,
  )
  assert not result.failures
  assert {'natural', 'free_running'} <= set(result.values['sections'])


# MARK: Models on a mesh


def test_a_checkpoint_is_read_onto_a_mesh(model, tmp_path):
  eejax.save(model, tmp_path / 'model')
  loaded = eejax.load(tmp_path / 'model', mesh=MESH)
  assert mesh_of(loaded.params) == devices_of(MESH)
  kernel = loaded.params['backbone']['blocks']['mlp']['up']['kernel']
  assert kernel.addressable_shards[0].data.size * 4 == kernel.size
  options = {'max_new_tokens': 3}
  # It decodes where it lies.
  (found,) = eejax.generate(loaded, 'alpha', **options).rows
  (wanted,) = eejax.generate(model, 'alpha', **options).rows
  assert found.tokens == wanted.tokens
  assert devices.on_mesh(loaded, MESH) is loaded


def test_a_model_is_laid_out_once(model):
  config = MeshConfig(data=2, fsdp=2, model=2)
  again = devices.on_mesh(model, config)
  assert again is devices.on_mesh(model, devices_of(MESH))
  assert devices.on_mesh(model, None) is model


def test_a_mesh_of_jax_may_lack_axes(model):
  few = jax.make_mesh((2, 2), ('model', 'data'), devices=jax.devices()[:4])
  assert mesh_of(devices.on_mesh(model, few).params).shape['fsdp'] == 1
  other = jax.make_mesh((8,), ('x',))
  with pytest.raises(eejax.EejaxError, match="this one has 'x'"):
    devices.on_mesh(model, other)


@pytest.mark.parametrize(
  'mesh, message',
  [
    ('stage=2', 'without pipeline stages, and the mesh has stage=2'),
    ('model=8', 'the 4 heads of the model do not divide among model=8'),
    ('data=3', 'needs 3 devices and there are 8'),
    ('nowhere', 'there is no mesh'),
  ],
)
def test_a_mesh_that_does_not_fit_is_one_sentence(model, mesh, message):
  with pytest.raises(eejax.EejaxError, match=message) as caught:
    eejax.verify(model, [[3]], max_new_tokens=4, mesh=mesh)
  assert '. ' not in str(caught.value)


def test_a_served_model_checks_its_mesh(model):
  from eejax.serving.metrics import Metrics
  from eejax.serving.served_model import Numbers, ServedModel
  from eejax.serving.server_settings import ServerLimits

  with pytest.raises(ArgumentError, match='do not divide among model=8'):
    ServedModel(
      'tiny',
      dataclasses.replace(model),
      policy=Policy(),
      limits=ServerLimits(),
      watcher=Metrics().watcher('tiny', model.config),
      numbers=Numbers(mesh=devices_of('model=8')),
    )
