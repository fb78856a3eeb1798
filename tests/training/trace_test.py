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
import jax
import jax.numpy as jnp
import pytest

from eejax.errors import ArgumentError
from eejax.training.trace import StepTrace, parse_steps


@pytest.mark.parametrize('text', ['', '3', '3:', ':3', '3:3', '4:3', 'a:b'])
def test_other_texts_name_no_steps(text):
  with pytest.raises(ArgumentError, match='as in 10:13'):
    parse_steps(text)


@pytest.mark.parametrize('first, has_trace', [(0, True), (3, True), (4, False)])
def test_steps_are_traced_where_they_are_taken(
  tmp_path, monkeypatch, first, has_trace
):
  calls = []
  monkeypatch.setattr(
    jax.profiler, 'start_trace', lambda folder: calls.append(folder)
  )
  monkeypatch.setattr(
    jax.profiler, 'stop_trace', lambda: calls.append('stopped')
  )
  said = []
  trace = StepTrace(range(2, 4), folder=tmp_path, say=said.append)
  for step in range(first, 6):
    trace.before(step, jnp.zeros(()))
    calls.append(step)
    trace.after(step, jnp.zeros(()))
  trace.close()
  if not has_trace:
    assert calls == [4, 5] and not said
    return
  folder = str(tmp_path / 'profile')
  begin = calls.index(folder)
  assert calls[begin + 1] == max(first, 2)
  assert calls[calls.index(3) + 1] == 'stopped'
  assert said == [f'a trace of steps 2 to 3 is in {folder}.']


def test_a_trace_that_is_cut_short_is_ended(tmp_path, monkeypatch):
  calls = []
  monkeypatch.setattr(jax.profiler, 'start_trace', calls.append)
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append('end'))
  trace = StepTrace(range(2), folder=tmp_path, say=calls.append)
  trace.before(0, jnp.zeros(()))
  trace.close()
  trace.close()
  assert calls == [str(tmp_path / 'profile'), 'end']
