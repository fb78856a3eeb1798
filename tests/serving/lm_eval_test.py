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
"""Test that lm-eval's client reads from a server what the model itself says.

The requests and the reading of answers are lm-eval's own, of its model
`local-completions`; only its retries, which need another package, are left
out.
"""

import numpy as np
import pytest
from lm_eval.models.openai_completions import LocalCompletionsAPI

from eejax.evaluation.tasks import EejaxLM

pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')


@pytest.fixture(scope='module')
def requests(model):
  """Return contexts and continuations as token ids."""
  random = np.random.default_rng(0)
  draw = lambda n: random.integers(3, 290, n).tolist()
  return [(None, draw(a), draw(b)) for a, b in ((1, 3), (9, 1), (20, 12))]


def test_log_likelihoods_are_the_models_own(model, requests, http):
  client = object.__new__(LocalCompletionsAPI)
  client.model = 'tiny'
  tokens = [context + continuation for _, context, continuation in requests]
  payload = client._create_payload(tokens, generate=False)
  answer = http.post('/v1/completions', json=payload)
  assert answer.status_code == 200, answer.text
  through_server = client.parse_logprobs(
    answer.json(), tokens=tokens, ctxlens=[len(c) for _, c, _ in requests]
  )
  direct = EejaxLM(model, batch_size=2)._loglikelihood_tokens(requests)
  for (theirs, greedy), (ours, ours_greedy) in zip(
    through_server, direct, strict=True
  ):
    assert theirs == pytest.approx(ours, abs=1e-4)
    assert greedy == ours_greedy
